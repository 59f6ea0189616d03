"""The readers of tool calls: what a model wrote comes out exactly, or stays text."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.catalogue.parsers import TOOL_RULES
from app.core.events import Content, Delta, Event, ToolCall
from app.decode.calls.base import Reading
from app.decode.calls.table import READERS
from app.decode.reply import ParsedReply, ReplyDecoder
from tests.unit.calling import FORMATS, Call, Format
from tests.unit.growth import least_cpu_s

TOOLS: dict[str, Any] = {
    "write": {"type": "object", "properties": {"text": {"type": "string"}, "path": {"type": "string"}}}
}
DIFFERENT = sorted({id(READERS[name]): name for name in FORMATS}.values())
"""A name for each reader."""
FAMILIES = {
    family: [name for name in DIFFERENT if FORMATS[name].family == family]
    for family in ("json", "tagged", "pythonic")
}
UNBOUNDED = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
EXACT = [*FAMILIES["json"], *FAMILIES["pythonic"]]


def texts(form: Format) -> st.SearchStrategy[str]:
    """Text full of the format's own marks."""
    pieces = st.one_of(
        st.sampled_from(form.marks),
        st.sampled_from(
            ("\n", '"', "'", "\\", "\\n", "{", "}", "[", "]", "</", "<", "a", " ", "<think>", "</think>")
        ),
        st.characters(exclude_categories=["Cs"]),
    )
    return st.lists(pieces, max_size=8).map("".join)


def values(form: Format) -> st.SearchStrategy[Any]:
    numbers = st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from((2**53 + 1, -(2**63), 2**64, 10**300, 1.7976931348623157e308, 5e-324)),
    )
    leaves = st.one_of(st.none(), st.booleans(), numbers, texts(form))
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(form), inner, max_size=3),
        max_leaves=6,
    )


def calls(form: Format) -> st.SearchStrategy[list[Call]]:
    names = st.sampled_from(("write", "f", "get_weather"))
    if form.family == "tagged":
        arguments: Any = st.fixed_dictionaries({"text": texts(form)}, optional={"path": texts(form)})
        names = st.just("write")
    else:
        arguments = st.dictionaries(st.sampled_from(("a", "b", "text")), values(form), max_size=3)
    return st.lists(st.tuples(names, arguments), min_size=1, max_size=3)


def read(name: str, text: str, *, cut: bool = False) -> Reading:
    return READERS[name].read(text, TOOLS, cut=cut)


def found(reading: Reading) -> list[Call]:
    return [(call.name, call.arguments) for call in reading.calls]


def deep(levels: int) -> Any:
    value: Any = "x"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize("name", EXACT)
@UNBOUNDED
@given(data=st.data())
def test_what_says_where_it_ends_is_read_exactly(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    wanted = data.draw(calls(form))
    reading = read(name, form.write(wanted))
    assert found(reading) == wanted
    assert json.dumps(found(reading)) == json.dumps(wanted), "1 is not 1.0, nor is it true"
    assert not reading.content.strip()


@pytest.mark.parametrize("name", FAMILIES["tagged"])
@UNBOUNDED
@given(data=st.data())
def test_what_has_no_certain_end_is_exact_or_text(name: str, data: st.DataObject) -> None:
    """Where other calls come out, they are written as these characters: nothing could tell them apart."""
    form = FORMATS[name]
    wanted = data.draw(calls(form))
    text = form.write(wanted)
    reading = read(name, text)
    if not reading.calls:
        assert reading.content == text
        assert reading.unread
    elif stripped(found(reading)) != stripped(wanted):
        again = form.write(found(reading)) + reading.content
        assert _characters(again, form) == _characters(text, form)


def stripped(listed: Sequence[Call]) -> list[Call]:
    """Formats whose templates pad a value cannot tell white space around it from padding."""
    return [(name, {key: str(value).strip() for key, value in given.items()}) for name, given in listed]


def _characters(text: str, form: Format) -> list[str]:
    """What is no markup: of a wrapper that the text left open, the writer writes both ends."""
    for mark in sorted(form.marks, key=len, reverse=True):
        text = text.replace(mark, "")
    return sorted(character for character in text if character not in " \t\r\n")


@pytest.mark.parametrize("name", FAMILIES["tagged"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        "a < b && c > d",
        'say "hi"',
        "line\n\n  line",
        "\u00e9\u4e16\U0001f600",
        "{}",
        "null",
        "true",
        "12",
        "</",
        "<",
    ],
)
def test_values_without_the_formats_marks_are_never_left_as_text(name: str, value: str) -> None:
    wanted = [("write", {"text": value, "path": "x"}), ("write", {"text": value})]
    assert found(read(name, FORMATS[name].write(wanted))) == wanted


@pytest.mark.parametrize("name", FAMILIES["tagged"])
@UNBOUNDED
@given(data=st.data())
def test_a_half_call_is_never_one(name: str, data: st.DataObject) -> None:
    """Cut at every position, what is read is the beginning of what was written."""
    form = FORMATS[name]
    plain = st.lists(st.sampled_from(("a", " b", "\n", '"', "<", "{")), max_size=5).map("".join)
    wanted = [("write", {"text": data.draw(plain), "path": data.draw(plain)}), ("write", {"text": "last"})]
    text = form.write(wanted)
    for at in range(len(text)):
        listed = stripped(found(read(name, text[:at], cut=True)))
        assert listed == stripped(wanted)[: len(listed)]


@pytest.mark.parametrize("name", EXACT)
@settings(parent=UNBOUNDED, max_examples=4)
@given(data=st.data())
def test_a_call_of_which_a_part_is_missing_is_never_one(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    wanted = data.draw(calls(form))
    text = form.write(wanted)
    for at in range(len(text)):
        reading = read(name, text[:at], cut=True)
        assert found(reading) == wanted[: len(reading.calls)]
        if not reading.calls:
            assert reading.content == text[:at]


GOOD: list[Call] = [("write", {"text": "one"}), ("write", {"text": "two"}), ("write", {"text": "three"})]
AMONG = [
    pytest.param(name, broken, id=f"{name}-{number}")
    for name in DIFFERENT
    for number, broken in enumerate(FORMATS[name].broken)
]


@pytest.mark.parametrize(("name", "broken"), AMONG)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_bad_call_takes_no_good_one_with_it(name: str, broken: str, place: int) -> None:
    write = FORMATS[name].write
    pieces = [write([call]) for call in GOOD]
    pieces.insert(place, broken)
    reading = read(name, "\n".join(pieces))
    assert "".join(reading.content.split()) == "".join(broken.split())
    assert found(reading) == GOOD
    assert reading.unread


@pytest.mark.parametrize("name", DIFFERENT)
def test_text_around_calls_is_content(name: str) -> None:
    form = FORMATS[name]
    between = "" if form.only_first else "Between."
    before = "" if form.only_first else "Before."
    text = f"{before}\n{form.write(GOOD[:1])}\n{between}\n{form.write(GOOD[1:]) if between else ''}\nAfter."
    reading = read(name, text)
    assert reading.content.split() == [*filter(None, (before, between)), "After."]
    assert found(reading) == (GOOD if between else GOOD[:1])


LISTED = [
    (
        "jamba",
        '<tool_calls>[{}, {"name": 1}, {}]</tool_calls>',
        '{"name": "write", "arguments": {"text": "x"}}',
    ),
    ("pythonic", "[{}, f(1), {}]", "write(text='x')"),
    ("lfm2", "<|tool_call_start|>[{}, f(a=1e999), {}]<|tool_call_end|>", "write(text='x')"),
    ("olmo3", "<function_calls>{}\nf(a=-1e-999)\n{}</function_calls>", "write(text='x')"),
]


@pytest.mark.parametrize(("name", "text", "good"), LISTED)
def test_a_bad_call_in_a_list_takes_no_good_one_with_it(name: str, text: str, good: str) -> None:
    reading = read(name, text.replace("{}", good))
    assert found(reading) == [("write", {"text": "x"})] * 2
    assert reading.content
    assert "write" not in reading.content


class Plain:
    """Replies without reasoning, read as `VllmReplyParser` reads them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._passage = READERS[name].passage()

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        return "", self._passage.push(text)

    def parse(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        reading = read(self._name, text, cut=cut)
        return ParsedReply("", reading.content, reading.calls)

    def reasoning_tokens(self, token_ids: list[int]) -> int:
        del token_ids
        return 0


def events(name: str, pieces: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    decoder = ReplyDecoder(Plain(name), trims_content=False, make_id=lambda: "id")
    made: list[Event] = [event for piece in pieces for event in decoder.feed(Delta(piece, []))]
    made += decoder.flush()
    shown = "".join(event.text for event in made if isinstance(event, Content))
    return shown, [(event.name, event.arguments) for event in made if isinstance(event, ToolCall)]


@pytest.mark.parametrize("name", DIFFERENT)
@settings(parent=UNBOUNDED, max_examples=8)
@given(data=st.data())
def test_a_stream_in_any_pieces_is_the_whole(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    prose = texts(form)
    text = data.draw(prose) + form.write(data.draw(calls(form))) + data.draw(prose)
    assume(text)
    whole = events(name, [text])
    assert events(name, text) == whole
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)) | {0, len(text)})
    assert events(name, [text[start:end] for start, end in pairwise(cuts)]) == whole


def test_text_without_marks_passes_at_once() -> None:
    for name in FORMATS:
        passage = READERS[name].passage()
        text = "Plain text, a (b) c.\nMore."
        assert "".join(passage.push(char) for char in text) == text


def spent_s(name: str, text: str) -> float:
    def run() -> None:
        passage = READERS[name].passage()
        for at in range(0, len(text), 64):
            passage.push(text[at : at + 64])
        read(name, text)

    return least_cpu_s(run)


def repeated(head: str, unit: str, size: int) -> str:
    return head + unit * ((size - len(head)) // len(unit))


ESCAPED = ('\\"', "\\'", 'print(\\"a\\")\\n', "it\\'s ", "\\\"\\'", '\\\\\\"')
"""Of strings that never end, as a model writes a program without the quote that ends it."""


@pytest.mark.parametrize("name", DIFFERENT)
def test_work_grows_with_the_length_of_the_reply(name: str) -> None:
    """F25: eight times the text may cost twenty times the processor time, not sixty-four times."""
    form = FORMATS[name]
    good = form.write([("write", {"text": "x"})])
    units = {
        *filter(None, form.marks),
        "".join(form.marks),
        good,
        good[: len(good) // 2],
        good[: len(good) * 3 // 4],
        *form.broken,
    }
    call = form.write([("write", {"text": "@"})])
    opening = call[: call.index("@")]
    shapes = [("", unit) for unit in units] + [
        (head, unit) for head in (opening, opening[:-1] + '"') for unit in ESCAPED
    ]
    if form.family == "pythonic":
        shapes += [(f"{call}# {quote}", unit) for quote in "'\"" for unit in ESCAPED]
        shapes += [(call.replace("'@'", f"1) # {quote}"), unit) for quote in "'\"" for unit in ESCAPED]
    for head, unit in shapes:
        small, large = (repeated(head, unit, size) for size in (4_000, 32_000))
        assert spent_s(name, large) < 20 * spent_s(name, small) + 0.1, (head, unit)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_run_of_one_character_within_the_markup_costs_no_more_than_its_length(name: str) -> None:
    """A part of the markup that takes any run must not share it with the part before it."""
    whole = FORMATS[name].write([("write", {"text": "x"})])
    texts = (whole, whole.replace('"', ""), whole.replace('"', "'"))
    heads = {text[: at + 1] for text in texts for at in range(len(text)) if not text[at].isalpha()}
    for head in sorted(heads):
        for unit in (" ", "\n", "a", "1", "_"):
            small, large = head + unit * 500, head + unit * 4_000
            assert spent_s(name, large) < 20 * spent_s(name, small) + 0.05, (head, unit)


def test_every_format_that_the_catalogue_knows_is_read_by_someone() -> None:
    """Those that vLLM's parsers read are listed here, so that a new rule is a decision."""
    assert {rule.parser for rule in TOOL_RULES} - set(READERS) == BY_VLLM
    assert set(READERS) == set(FORMATS)


BY_VLLM = {
    "openai",
    "minimax_m3",
    "k2_horizon",
    "muse_glimmer",
    "functiongemma",
    "gemma4",
    "cohere_command3",
    "cohere_command4",
    "kimi_k3",
    "xlam",
    "plamo3",
    "inkling",
}
