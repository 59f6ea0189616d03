"""`ReplyDecoder`: what a parser finds in a stream and in the whole becomes one reply."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.events import Content, Delta, Event, Thinking, TokenLogprob, ToolCall
from app.decode.forced import ForcedCalls, OneCall
from app.decode.reply import ParsedCall, ParsedReply, ReplyDecoder

Piece = tuple[str, str]
CALL = ParsedCall("f", {"b": 1, "a": [None]})


@dataclass
class Scripted:
    """A parser that says what it is told to: a piece of thinking and content per delta, then the whole."""

    pieces: Sequence[Piece]
    whole: ParsedReply
    heard: list[tuple[str, list[int], bool]] = field(default_factory=list[tuple[str, list[int], bool]])
    parsed: list[tuple[str, list[int], bool]] = field(default_factory=list[tuple[str, list[int], bool]])

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> Piece:
        self.heard.append((text, token_ids, last))
        return self.pieces[len(self.heard) - 1]

    def parse(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        self.parsed.append((text, token_ids, cut))
        return self.whole

    def reasoning_tokens(self, token_ids: list[int]) -> int:
        return len(token_ids) - 1


def decoder(parser: Scripted, *, trims_content: bool = True) -> ReplyDecoder:
    numbers = count(1)
    return ReplyDecoder(parser, trims_content=trims_content, make_id=lambda: f"made_{next(numbers)}")


def decoded(pieces: Sequence[Piece], whole: ParsedReply, *, trims_content: bool = True) -> list[list[Event]]:
    """The events of each piece and, last, those of the end."""
    made = decoder(Scripted(pieces, whole), trims_content=trims_content)
    last = len(pieces) - 1
    events = [
        made.feed(Delta("", [at], finish="stop" if at == last else None)) for at, _ in enumerate(pieces)
    ]
    return [*events, made.flush()]


def texts(events: list[list[Event]]) -> tuple[str, str]:
    flat = [event for group in events for event in group]
    return (
        "".join(event.text for event in flat if isinstance(event, Thinking)),
        "".join(event.text for event in flat if isinstance(event, Content)),
    )


def test_each_piece_is_an_event_at_once() -> None:
    pieces = [("Hm", ""), (".", ""), ("", "Hel"), ("", "lo")]
    assert decoded(pieces, ParsedReply("Hm.", "Hello")) == [
        [Thinking("Hm")],
        [Thinking(".")],
        [Content("Hel")],
        [Content("lo")],
        [],
    ]


def test_a_piece_of_both_is_two_events_thinking_first() -> None:
    assert decoded([("Hm.", "Hello")], ParsedReply("Hm.", "Hello"))[0] == [Thinking("Hm."), Content("Hello")]


def test_a_parser_hears_every_token_and_at_the_end_the_whole() -> None:
    parser = Scripted([("", ""), ("", ""), ("", "")], ParsedReply())
    made = decoder(parser)
    for delta in (Delta("a", [1]), Delta("", [2, 3]), Delta("b", [4], finish="length")):
        made.feed(delta)
    made.flush()
    assert parser.heard == [("a", [1], False), ("", [2, 3], False), ("b", [4], True)]
    assert parser.parsed == [("ab", [1, 2, 3, 4], True)]


@pytest.mark.parametrize(("finish", "cut"), [("stop", False), ("length", True)])
def test_only_a_limit_cuts_a_reply_off(finish: str, cut: bool) -> None:
    parser = Scripted([("", "")], ParsedReply())
    made = decoder(parser)
    made.feed(Delta("a", [1], finish="length" if finish == "length" else "stop"))
    made.flush()
    assert parser.parsed == [("a", [1], cut)]


@pytest.mark.point(128)
def test_white_space_around_the_reasoning_is_dropped() -> None:
    pieces = [("\n", ""), ("\n Hm", ""), (" \n", ""), (" so.", ""), ("\n", ""), ("", "\n\n"), ("", " Hi")]
    whole = ParsedReply("\n\n Hm \n so.\n", "\n\n Hi")
    events = decoded(pieces, whole)
    assert texts(events) == ("Hm \n so.", "Hi")
    assert events[2] == [], "it may have been the end"


@pytest.mark.parametrize("trims", [True, False])
def test_white_space_at_the_end_of_an_answer_stays(trims: bool) -> None:
    events = decoded([("", "Hi \n")], ParsedReply("", "Hi \n"), trims_content=trims)
    assert events == [[Content("Hi")], [Content(" \n")]]


def test_where_no_reasoning_is_expected_the_answer_is_not_touched() -> None:
    events = decoded([("", " \n"), ("", " Hi")], ParsedReply("", " \n Hi"), trims_content=False)
    assert texts(events) == ("", " \n Hi")


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
def test_a_blank_answer(trims: bool, blank: str) -> None:
    assert texts(decoded([("", blank)], ParsedReply("", blank), trims_content=trims)) == (
        "",
        "" if trims else blank,
    )


@pytest.mark.point(148)
def test_white_space_before_a_call_is_dropped() -> None:
    events = decoded([("", "So:"), ("", "\n\n")], ParsedReply("", "So:\n\n", [CALL]))
    assert events == [[Content("So:")], [], [ToolCall(0, "made_1", "f", CALL.arguments)]]


def test_what_the_stream_did_not_show_comes_at_the_end_and_once() -> None:
    events = decoded([("H", ""), ("", "Hel")], ParsedReply("Hm.", "Hello"))
    assert events[-1] == [Thinking("m."), Content("lo")]


def test_what_the_stream_showed_amiss_stays_and_the_rest_follows() -> None:
    """Nothing can be taken back; the parsers see to it that this does not happen."""
    events = decoded([("", "Hello, {")], ParsedReply("", "Hello, Ann"))
    assert texts(events) == ("", "Hello, {Ann")


def test_a_stream_that_showed_more_than_there_is() -> None:
    assert texts(decoded([("", "Hi [call]")], ParsedReply("", "Hi", [CALL]))) == ("", "Hi [call]")


@pytest.mark.point(145, 146, 147)
def test_calls_come_last_with_an_index_and_an_id() -> None:
    whole = ParsedReply("Hm.", "So:", [CALL, ParsedCall("g", {}, "theirs"), ParsedCall("f", {})])
    assert decoded([("", "")], whole)[-1] == [
        Thinking("Hm."),
        Content("So:"),
        ToolCall(0, "made_1", "f", {"b": 1, "a": [None]}),
        ToolCall(1, "theirs", "g", {}),
        ToolCall(2, "made_2", "f", {}),
    ]


def numbered(*numbers: int) -> list[TokenLogprob]:
    return [TokenLogprob(str(number), -1.0, b"") for number in numbers]


def test_logprobs_wait_for_the_next_event() -> None:
    pieces = [("", ""), ("Hm", ""), ("", ""), ("", "Hi"), ("", "")]
    made = decoder(Scripted(pieces, ParsedReply("Hm", "Hi", [CALL])))
    events = [event for at in range(5) for event in made.feed(Delta("", [at], numbered(at)))]
    assert events == [Thinking("Hm", numbered(0, 1)), Content("Hi", numbered(2, 3))]
    assert made.flush() == [Content("", numbered(4)), ToolCall(0, "made_1", "f", CALL.arguments)]


def test_logprobs_of_a_reply_that_comes_at_the_end() -> None:
    made = decoder(Scripted([("", "")], ParsedReply("Hm", "Hi")))
    assert made.feed(Delta("", [1], numbered(1))) == []
    assert made.flush() == [Thinking("Hm", numbered(1)), Content("Hi")]


WORDS = st.text(alphabet="ab \n", max_size=8)


@given(thinking=WORDS, content=WORDS, calls=st.booleans(), trims=st.booleans(), data=st.data())
def test_however_much_a_stream_shows_the_reply_is_the_same(
    thinking: str, content: str, calls: bool, trims: bool, data: st.DataObject
) -> None:
    """Pieces of any size, and a stream that stops anywhere: the rest is made up for at the end."""
    whole = ParsedReply(thinking, content, [CALL] if calls else [])
    pieces = [(char, "") for char in thinking] + [("", char) for char in content]
    shown = pieces[: data.draw(st.integers(0, len(pieces)))]
    made = decoder(Scripted(shown, whole), trims_content=trims)
    events = [event for at, _ in enumerate(shown) for event in made.feed(Delta("", [at], numbered(at)))]
    events += made.flush()
    wanted = content.rstrip() if calls else content
    assert texts([events]) == (thinking.strip(), wanted.lstrip() if trims else wanted)
    texted = [event for event in events if isinstance(event, Thinking | Content)]
    assert [item for event in texted for item in event.logprobs or ()] == numbered(*range(len(shown)))


def test_the_parser_counts_the_tokens_of_all_deltas() -> None:
    made = decoder(Scripted((("a", ""), ("b", "c")), ParsedReply("ab", "c")))
    made.feed(Delta("x", [1, 2]))
    made.feed(Delta("y", [3], finish="stop"))
    assert made.reasoning_tokens == 2
    assert (ForcedCalls(made).reasoning_tokens, OneCall(made).reasoning_tokens) == (2, 2)
    assert ForcedCalls(None).reasoning_tokens == 0
