"""A `pattern` means what ECMA-262 says: each is asked of a JavaScript engine as well, where there is one."""

import json
import random
import shutil
import subprocess
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.constrain.budget import Budget
from app.constrain.metaschema import check_metaschema
from app.core.errors import InvalidRequest
from tests.unit.json_grammar import PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

MEANT: dict[str, tuple[list[str], list[str]]] = {
    "^[[a]]$": (["[]", "a]"], ["a", "[a]"]),
    "^[a-z&&b]+$": (["a", "&", "b"], ["A", ""]),
    "^[a~~b]$": (["a", "~", "b"], ["c"]),
    "^[+--]$": (["+", ",", "-"], ["."]),
    "^[--a]$": (["-", "A", "a"], ["b", "+"]),
    r"^[\w-.]+$": (["a-b.c"], ["a b"]),
    "^[^]$": (["a", "\n", "😀"], ["", "aa"]),
    "^a{,3}$": (["a{,3}"], ["a", "aaa", ""]),
    "^a{x$": (["a{x"], ["a"]),
    "^]}$": (["]}"], ["]"]),
    r"^\/\-\_$": (["/-_"], ["/-"]),
    r"^\u0041\x42\cA\0$": (["AB\x01\x00"], ["AB"]),
    r"^\u{1F600}\uD83D\uDE00$": (["😀😀"], ["😀"]),
    r"^\d\w$": (["1a", "1_"], ["٣a", "1é"]),
    r"^\s$": ([" ", "\u00a0", "\ufeff", "\u2028", "\t"], ["\u0085", "a"]),
    r"^\S\D\W$": (["a--", "é٣é"], ["a1-", "a -a"]),
    "^.$": (["a", "😀", "\u0085"], ["\n", "\r", "\u2028", ""]),
    r"^[\b]$": (["\b"], ["b"]),
    r"^[\d-x]$": (["1", "-", "x"], ["y"]),
    r"^(?<year>\d{4})-(?:x|y)+?$": (["2020-x", "2020-xy"], ["2020-"]),
    r"^\p{Lu}\P{L}$": (["A1", "É-"], ["a1"]),
    r"^\p{Script=Greek}$": (["\u03b1"], ["a"]),
    "a|^b$": (["a", "xax", "b"], ["xb", ""]),
    "": (["", "x"], []),
}
REFUSED = {
    r"\Aa": "\\A is no escape of ECMA-262",
    r"a\z": "\\z is no escape",
    r"^a\Z$": "\\Z is no escape",
    "(?i)a": "flags are not supported",
    "(?x) a": "flags are not supported",
    "(?i:a)": "flags are not supported",
    r"\bx": "word boundaries are not supported",
    "(?<!a)b": "look-around is not supported",
    "^[b-a]$": "the ends of a range are out of order",
    "a**": "nothing before '*' to repeat",
    "^*": "nothing before '*' to repeat",
    "a{3,1}": "are out of order",
    "a{99999999}": "repetitions are supported up to 1000000",
    "a\\": "it ends with a backslash",
    "[a": "there is an unclosed class",
    "a)": "unopened group",
    r"\uD800": "U+D800 is no character",
    "a$b": '"^" and "$" are supported only where the text begins and ends',
    "(a{3})(?=": "look-around is not supported",
}


@pytest.mark.parametrize("pattern", MEANT)
def test_a_pattern_is_read_as_ecma_262_has_it(pattern: str) -> None:
    grammar = PreparedGrammar({"type": "string", "pattern": pattern})
    right, wrong = MEANT[pattern]
    assert [text for text in right if not grammar.accepts(_quoted(text))] == []
    assert [text for text in wrong if grammar.accepts(_quoted(text))] == []


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_no_pattern_of_ecma_262_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PreparedGrammar({"type": "string", "pattern": pattern})
    assert REFUSED[pattern] in str(caught.value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_ATOMS = [
    *(
        "a",
        "b",
        "x",
        "-",
        "&",
        "~",
        "1",
        "_",
        "é",
        "😀",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\D",
        r"\W",
        r"\S",
        r"\-",
        r"\.",
    ),
    *(
        "[ab]",
        "[^a]",
        "[a-c]",
        "[a&&b]",
        "[[a]",
        "[a~~b]",
        "[+--]",
        r"[\d-x]",
        r"[^\w]",
        r"[\]a]",
        "[^]",
        "[a^]",
    ),
    *(
        "(a|b)",
        "(?:x)",
        r"\u0061",
        r"\x31",
        r"\u{1F600}",
        r"\p{L}",
        "{",
        "a{,2}",
        "]",
        r"\/",
        r"[\-a]",
    ),
]
_QUANTIFIERS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "{2}?"]
_LETTERS = "abx-&~1_é😀[]^+,{}. \n\r\u2028\u00a0\ufeff\u0085A\\/"
_ASK = r"""
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const read = (source) => {
  for (const flags of ["u", ""]) try { return new RegExp(source, flags) } catch {}
};
console.log(JSON.stringify(asked.map(([source, texts]) => {
  const made = read(source);
  // Without the flag a pattern is of halves of characters.
  const whole = made && (made.unicode || !/[^\0-\uFFFF]/u.test(source));
  return made ? texts.map((text) => (whole && (made.unicode || !/[^\0-\uFFFF]/u.test(text))
    ? made.test(text) : null)) : null;
})));
"""


def test_patterns_mean_what_a_javascript_engine_takes_them_for() -> None:
    program = shutil.which("node")
    if not program:
        pytest.skip("there is no node to ask")
    chooser = random.Random(9)
    asked: list[tuple[str, list[str]]] = []
    for _ in range(400):
        parts = [chooser.choice(_ATOMS) + chooser.choice(_QUANTIFIERS) for _ in range(chooser.randint(1, 4))]
        texts = ["".join(chooser.choices(_LETTERS, k=chooser.randint(0, 4))) for _ in range(25)]
        asked.append((f"^{''.join(parts)}$" if chooser.random() < 0.8 else "".join(parts), texts))
    done = subprocess.run(
        [program, "-e", _ASK], input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    taken = 0
    for (pattern, texts), answers in zip(asked, json.loads(done.stdout), strict=True):
        try:
            grammar = PreparedGrammar({"type": "string", "pattern": pattern})
        except InvalidRequest:
            continue
        taken += 1
        assert answers is not None, f"{pattern} is no pattern of JavaScript's"
        differing = [
            text
            for text, answer in zip(texts, answers, strict=True)
            if answer is not None and grammar.accepts(_quoted(text)) != answer
        ]
        assert differing == [], pattern
    assert taken > 0.8 * len(asked)


_KEYWORDS = [
    *("type", "enum", "const", "required", "properties", "items", "prefixItems", "allOf", "not", "minimum"),
    *(
        "exclusiveMinimum",
        "maxLength",
        "multipleOf",
        "minItems",
        "uniqueItems",
        "pattern",
        "$defs",
        "$ref",
        "$id",
    ),
    *("$anchor", "title", "examples", "dependentRequired", "dependencies", "additionalProperties", "default"),
    *("other", "propertyNames", "contains", "definitions", "deprecated", "$vocabulary"),
]


def test_the_metaschema_is_the_standard_one() -> None:
    chooser, standard = random.Random(3), Draft202012Validator(Draft202012Validator.META_SCHEMA)
    some: list[Any] = [
        None,
        True,
        False,
        0,
        1,
        -1,
        1.0,
        1.5,
        "x",
        "string",
        "#a",
        "",
        [],
        {},
        [1],
        ["a", "b"],
    ]
    some += [["a", "a"], ["string", "null"], {"a": ["x"]}, {"k": True}, {"k": 1}]

    def schema(depth: int) -> Any:
        if not depth:
            return chooser.choice([True, {}, {"type": "string"}])
        return {keyword: value(depth) for keyword in chooser.sample(_KEYWORDS, chooser.randint(0, 3))}

    def value(depth: int) -> Any:
        inner = schema(depth - 1)
        return chooser.choice([chooser.choice(some), inner, [inner], {"a": inner}])

    agreed = 0
    for _ in range(3000):
        asked = schema(3)
        errors = [(tuple(error.absolute_path)[-1:], error.instance) for error in standard.iter_errors(asked)]
        older = any(path and path[0] in ("items", "exclusiveMinimum") for path, _ in errors)
        fault = _fault(asked)
        assert errors or not fault, (asked, fault)
        assert fault or older or not errors, (asked, errors)
        agreed += not fault
    assert agreed > 300


def _fault(schema: Any) -> str:
    try:
        check_metaschema(schema, (), Budget())
    except InvalidRequest as error:
        return str(error)
    return ""
