import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalogue.parameters import OPTIONS
from app.core.errors import InvalidRequest
from app.store.modelfile import Command, format_modelfile, parse_modelfile, quoted, read_requires, read_values

TYPES = {key: option.type for key, option in OPTIONS.items()}
FROM = Command("from", "x")
BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
    '"parser", "parameter", "message", or "requires"'
)

WHOLE = '''
# a comment
FROM llama3.2 # not a comment
  adapter ./lora\t
Template """{{ .System }}
"quoted" {{ .Prompt }}
"""
SYSTEM "spans
two lines"
PARAMETER temperature 0.5
PARAMETER stop "<|end|>"
PARAMETER stop  </s>
MESSAGE user why is the "sky" blue?
MESSAGE assistant """
because
"""
LICENSE MIT
RENDERER r
PARSER p
DRAFT ./draft
REQUIRES v0.14.0
'''

COMMANDS = [
    Command("from", "llama3.2 # not a comment"),
    Command("adapter", "./lora"),
    Command("template", '{{ .System }}\n"quoted" {{ .Prompt }}\n'),
    Command("system", "spans\ntwo lines"),
    Command("parameter", "0.5", "temperature"),
    Command("parameter", "<|end|>", "stop"),
    Command("parameter", "</s>", "stop"),
    Command("message", 'why is the "sky" blue?', "user"),
    Command("message", "\nbecause\n", "assistant"),
    Command("license", "MIT"),
    Command("renderer", "r"),
    Command("parser", "p"),
    Command("draft", "./draft"),
    Command("requires", "v0.14.0"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_modelfile(encoding: str) -> None:
    assert parse_modelfile(WHOLE.encode(encoding)) == COMMANDS
    assert parse_modelfile(format_modelfile(COMMANDS)) == COMMANDS


def test_lines_that_end_as_on_windows() -> None:
    text = 'FROM x\r\n# c\r\nSYSTEM """a\r\nb"""\r\nLICENSE MIT'
    assert parse_modelfile(text) == [FROM, Command("system", "a\r\nb"), Command("license", "MIT")]
    assert parse_modelfile(b"\xfe\xff" + "FROM ä".encode("utf-16-be")) == [Command("from", "ä")]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("plain", "plain"),
        ("  spaces around\t ", "spaces around"),
        ('"one"', "one"),
        ('" kept "', " kept "),
        ('"""three"""', "three"),
        ('"""a "quote" in it"""', 'a "quote" in it'),
        ('""""ends in one""""', '"ends in one"'),
        ('""', ""),
        ('""""""', ""),
        ("", ""),
        ("'single'", "'single'"),
        ('a "quote" inside', 'a "quote" inside'),
        ('"no escapes \\n"', "no escapes \\n"),
        ('"a\nb"', "a\nb"),
        ('"""\na\n\n  \n"""   ', "\na\n\n  \n"),
        ('"goes on" here\nto the "end"', 'goes on" here\nto the "end'),
        ("zero\u200bwidth and \x07bell", "zerowidth and bell"),
        ("# no comment", "# no comment"),
        ("emoji \U0001f600", "emoji \U0001f600"),
    ],
)
def test_values(value: str, read: str) -> None:
    assert parse_modelfile(f"FROM x\nSYSTEM {value}\nLICENSE y") == [
        FROM,
        Command("system", read),
        Command("license", "y"),
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "no FROM line"),
        ("# nothing\n\n", "no FROM line"),
        ("SYSTEM x", "no FROM line"),
        ("FROM x\nBADCOMMAND a b", f"(line 2): {BAD_COMMAND}"),
        ("FROM x\n\nFRO1M x", f"(line 3): {BAD_COMMAND}"),
        ("FROM\nSYSTEM x", f"(line 1): {BAD_COMMAND}"),
        ("FROM x\r\n\r\n? y", f"(line 3): {BAD_COMMAND}"),
        ("FROM", "unexpected EOF"),
        (
            "FROM x\nMESSAGE bad hello",
            '(line 2): message role must be one of "system", "user", or "assistant"',
        ),
        (
            "FROM x\nMESSAGE User hello",
            '(line 2): message role must be one of "system", "user", or "assistant"',
        ),
        ("FROM x\nMESSAGE user\n", "unexpected EOF: user"),
        ("FROM x\nPARAMETER seed", "unexpected EOF"),
        ("FROM x\nPARAMETER se-ed 1", "unexpected EOF: se"),
        ('FROM x\nSYSTEM "open', "unexpected EOF"),
        ('FROM x\nSYSTEM "', "unexpected EOF"),
        ('FROM x\nSYSTEM """open"', "unexpected EOF"),
        ('FROM x\nSYSTEM """""', "unexpected EOF"),
        ('FROM x\nSYSTEM """a\n"" "', "unexpected EOF"),
    ],
)
def test_what_is_no_modelfile(text: str, answer: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_modelfile(text)
    assert str(refusal.value) == answer


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ('a "quote"', 'a "quote"'),
        (" edge", '" edge"'),
        ("two\nlines", '"two\nlines"'),
        ('two "quoted"\nlines', '"""two "quoted"\nlines"""'),
        ('"begins', '""""begins"""'),
        ("\ttab", '"\ttab"'),
        ("cr\rin it", '"cr\rin it"'),
        ('ends """\n"""', '"""ends """\n""""""'),
    ],
)
def test_values_are_quoted_where_they_must_be(value: str, written: str) -> None:
    assert quoted(value) == written


values = st.text(
    st.sampled_from("ab \"\n\t#'\\:{}") | st.characters(exclude_categories=("C", "Z")), max_size=30
)
commands = st.one_of(
    st.builds(
        Command, st.sampled_from(["license", "template", "system", "adapter", "renderer", "parser"]), values
    ),
    st.builds(Command, st.just("message"), values, st.sampled_from(["system", "user", "assistant"])),
    st.builds(Command, st.just("parameter"), values, st.sampled_from(sorted(TYPES))),
)


def holds(value: str) -> bool:
    """Whether quotes can hold a value: no line in it ends in what would close them."""
    lines = value.split("\n")[:-1]
    return not any(line.rstrip().endswith('"""') for line in lines) and not (
        any(line.rstrip().endswith('"') for line in lines) and value.startswith('"""')
    )


@given(st.lists(commands, max_size=5))
def test_what_is_written_reads_as_it_was(written: list[Command]) -> None:
    kept = [FROM, *(command for command in written if holds(command.value))]
    assert parse_modelfile(format_modelfile(kept)) == kept


@given(st.text(st.sampled_from('FROMx \n\r\t"#') | st.characters(), max_size=60))
def test_any_text_is_a_modelfile_or_refused(text: str) -> None:
    try:
        read = parse_modelfile(text)
    except InvalidRequest:
        return
    assert any(command.name == "from" for command in read)


@pytest.mark.parametrize("text", ['FROM x\nSYSTEM """' + "a\n" * 200_000, "FROM x\n" * 100_000, "\n" * 10**6])
def test_a_long_text_takes_its_length(text: str) -> None:
    started = time.monotonic()
    with suppress(InvalidRequest):
        parse_modelfile(text)
    assert time.monotonic() - started < 10


def test_parameters_are_typed() -> None:
    text = "FROM x\n" + "".join(
        f"PARAMETER {line}\n"
        for line in ("seed 42", "temperature 1", "stop a", 'stop " b"', "seed 7", "use_mmap T", "mirostat 1")
    )
    assert read_values(parse_modelfile(text), TYPES) == {
        "seed": 7,
        "temperature": 1.0,
        "stop": ["a", " b"],
        "use_mmap": True,
    }


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("seed 1.5", "invalid int value [1.5]"),
        ("seed 9223372036854775808", "invalid int value [9223372036854775808]"),
        ("temperature abc", "invalid float value [abc]"),
        ("use_mmap yes", "invalid bool value [yes]"),
        ("x 1", "unknown parameter 'x'"),
    ],
)
def test_parameters_of_another_type(line: str, answer: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_values(parse_modelfile(f"FROM x\nPARAMETER {line}"), TYPES)
    assert str(refusal.value) == answer


def test_required_versions() -> None:
    assert [read_requires(text) for text in ("0.14.0", "v1.2.3-rc1+x", "v1")] == [
        "0.14.0",
        "1.2.3-rc1+x",
        "1",
    ]
    for text in ("", "x", "1.2.3.4", "01.2.3", "1.2-rc"):
        with pytest.raises(InvalidRequest, match=r"^requires must be a valid semver \(e\.g\. 0\.14\.0\)$"):
            read_requires(text)
