"""vLLM's parsers behind `ReplyParser`: however a reply is cut into deltas, the same comes of it."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.decode.calls.table import READERS
from app.decode.ids import call_id
from app.decode.reply import ReplyDecoder
from app.engine.vllm.parse.hidden import hidden_tokens
from app.engine.vllm.parse.reply import Parsers
from harness.models.catalogue import (
    ADD,
    CASES,
    LONDON,
    PARIS,
    PERSON,
    SUM,
    WEATHER,
    Call,
    Case,
    Kind,
    case,
    coder_xml,
    hermes,
    llama_json,
)
from harness.models.tokens import VOCABULARIES
from tests.unit.replying import (
    Answer,
    Finish,
    Reader,
    answer_of,
    called,
    expected,
    fed,
    merged,
    parser_of,
    read,
    reader,
)

pytestmark = pytest.mark.engine

KINDS: tuple[Kind, ...] = ("qwen3", "llama", "coder")
WRITE = {"qwen3": hermes, "llama": llama_json, "coder": coder_xml}
EVERY = [
    pytest.param(kind, each, think, id=f"{kind}-{each.name}-{'think' if think else 'plain'}")
    for kind in KINDS
    for each in CASES[kind]
    for think in ((True, False) if kind == "qwen3" else (False,))
]
SHORT = [each for each in EVERY if "-story-" not in str(each.id)]
FINISHES: tuple[Finish, ...] = ("stop", "length")
PARIS_CALL, LONDON_CALL = called("get_weather", city="Paris"), called("get_weather", city="London")


class Told:
    """A transcript and fresh decoders for it."""

    def __init__(self, kind: Kind, known: Case, think: bool) -> None:
        self.reader: Reader = reader(kind)
        self.known = known
        self.think = think
        self.transcript = self.reader.transcript(known, think=think)
        self.expected = expected(known, think=think)
        self.deltas = self.reader.deltas(self.transcript.reply, self.decoder())

    def decoder(self) -> ReplyDecoder | None:
        known = self.known
        return self.reader.decoder(
            self.transcript.prompt, known.tools, think=self.think, continues=known.prefilled
        )

    def cut_at(self, tokens: int) -> Any:
        """The first deltas, as if the token limit had come after them."""
        deltas = merged(self.deltas[:tokens], range(1, tokens))
        deltas[-1].finish = "length"
        return deltas


@pytest.mark.point(128, 144, 146, 148)
@pytest.mark.parametrize(("kind", "known", "think"), EVERY)
def test_token_by_token_and_at_once(kind: Kind, known: Case, think: bool) -> None:
    told = Told(kind, known, think)
    assert read(told.decoder(), told.deltas) == told.expected
    assert read(told.decoder(), merged(told.deltas, ())) == told.expected


@pytest.mark.parametrize(("kind", "known", "think"), SHORT)
def test_in_two_pieces_wherever_the_cut_is(kind: Kind, known: Case, think: bool) -> None:
    told = Told(kind, known, think)
    for cut in range(1, len(told.deltas)):
        assert read(told.decoder(), merged(told.deltas, (cut,))) == told.expected, cut


@pytest.mark.parametrize(("kind", "known", "think"), SHORT)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_any_pieces(kind: Kind, known: Case, think: bool, data: st.DataObject) -> None:
    told = Told(kind, known, think)
    cuts = data.draw(st.sets(st.integers(1, len(told.deltas) - 1)).map(sorted))
    assert read(told.decoder(), merged(told.deltas, cuts)) == told.expected


@pytest.mark.parametrize(("kind", "known", "think"), EVERY)
def test_text_is_shown_while_it_is_made(kind: Kind, known: Case, think: bool) -> None:
    """Only a reply that may still be a call is held back, and white space that may turn out to be the end."""
    told = Told(kind, known, think)
    shown = fed(told.decoder(), told.deltas)
    found = answer_of(shown)
    assert found.calls == ()
    assert found.thinking == told.expected.thinking
    may_be_call = kind == "llama" and known.tools and known.reply.startswith("{")
    assert found.content == ("" if may_be_call else told.expected.content)
    pieces = sum(bool(delta.text) for delta in told.deltas)
    assert len(shown) > pieces / 3 or known.calls or may_be_call


def whole_calls(kind: Kind, known: Case, text: str) -> tuple[int, str]:
    """How many calls `text`, the beginning of a reply, holds, and the text without them."""
    before = known.reply.removesuffix(WRITE[kind](*known.calls)).removeprefix("<|python_tag|>")

    def bare(written: str) -> str:
        return written.rstrip("; \n").removesuffix("</tool_call>").rstrip()

    for count in range(len(known.calls), 0, -1):
        whole = before + WRITE[kind](*known.calls[:count])
        rest = text[len(whole) :]
        if text.startswith(whole) and (kind != "llama" or rest.strip("; \n")):
            return count, before + rest
        if bare(text) == bare(whole):
            return count, before
    return 0, text


def cut_answer(kind: Kind, told: Told, text: str) -> Answer:
    """What must come of a reply of which only `text` was made: half calls are text, nothing is lost."""
    thinking, answer = "", text
    if told.expected.thinking:
        opened, closed, answer = text.partition("</think>")
        thinking, answer = opened.removeprefix("<think>").strip(), answer.lstrip()
        assert closed or not answer
    count, content = whole_calls(kind, told.known, answer)
    if count:
        content = content.rstrip().lstrip() if told.think else content.rstrip()
    return Answer(thinking, content, told.expected.calls[:count])


@pytest.mark.parametrize(("kind", "known", "think"), SHORT)
def test_a_reply_that_is_cut_off_loses_nothing_and_holds_no_half_call(
    kind: Kind, known: Case, think: bool
) -> None:
    told = Told(kind, known, think)
    for tokens in range(1, len(told.deltas)):
        deltas = told.cut_at(tokens)
        wanted = cut_answer(kind, told, "".join(delta.text for delta in deltas))
        assert read(told.decoder(), deltas) == wanted, tokens
        assert read(told.decoder(), merged(deltas, ())) == wanted, tokens
        assert read(told.decoder(), merged(deltas, (tokens - 1,)[: tokens - 1])) == wanted, tokens


HM = "<think>\nHm.\n</think>\n\n"
UNREADABLE = (
    '{"name": "get_weather", "arguments": {"city": "Par',
    "not json",
    '{"name": "get_weather"}',
    '{"name": "get_weather", "arguments": null}',
    '{"name": "get_weather", "arguments": "{"}',
    '{"name": "get_weather", "arguments": {"city": NaN}}',
    '{"name": "get_weather", "arguments": {"city": 1e999}}',
    '{"name": "get_weather", "arguments": {"city": "\\ud800"}}',
    '{"name": "get_weather", "arguments": ["Paris"]}',
    '["get_weather"]',
)
ODD: list[tuple[Kind, str, str, Answer]] = [
    ("qwen3", "no_reasoning", "Hello there.", Answer("", "Hello there.")),
    ("qwen3", "no_reasoning_but_a_call", hermes(PARIS), Answer("", "", (PARIS_CALL,))),
    ("qwen3", "spaces_first", "  Hello", Answer("", "Hello")),
    ("qwen3", "empty_reasoning", "<think>\n\n</think>\n\nHello", Answer("", "Hello")),
    ("qwen3", "tight_reasoning", "<think></think>Hello", Answer("", "Hello")),
    ("qwen3", "only_reasoning", "<think>\nI wonder", Answer("I wonder")),
    ("qwen3", "only_the_tag", "<think>", Answer()),
    ("qwen3", "spaces_around", "\n\n<think>\nHm.\n</think>\n\n  Hello \n", Answer("Hm.", "Hello \n")),
    ("qwen3", "tags_in_the_answer", "Hi <think>x</think> Y", Answer("", "Hi <think>x</think> Y")),
    ("qwen3", "closed_twice", f"{HM}One.\n</think>\n\nTwo.", Answer("Hm.", "One.\n\n\nTwo.")),
    ("qwen3", "unknown_tool", HM + hermes(Call("nosuch", {"z": 1, "a": [2]})),
     Answer("Hm.", "", (called("nosuch", z=1, a=[2]),))),
    ("qwen3", "no_arguments", HM + hermes(Call("get_weather", {})),
     Answer("Hm.", "", (called("get_weather"),))),
    ("qwen3", "text_around_calls", f"{HM}Before.\n{hermes(PARIS)}\nBetween.\n{hermes(LONDON)}\nAfter.",
     Answer("Hm.", "Before.\n\nBetween.\n\nAfter.", (PARIS_CALL, LONDON_CALL))),
    ("qwen3", "call_in_open_reasoning", f"<think>\nHm.\n{hermes(PARIS)}", Answer("Hm.", "", (PARIS_CALL,))),
    ("qwen3", "one_good_one_bad", f"{HM}{hermes(PARIS)}\n<tool_call>\n{{\n</tool_call>",
     Answer("Hm.", "<tool_call>\n{\n</tool_call>", (PARIS_CALL,))),
    ("qwen3", "arguments_as_text",
     HM + '<tool_call>\n{"name": "f", "parameters": "{\\"a\\": 1}"}\n</tool_call>',
     Answer("Hm.", "", (called("f", a=1),))),
    ("qwen3", "closing_tags_in_an_argument",
     HM + hermes(Call("get_weather", {"city": "</tool_call></think>"})),
     Answer("Hm.", "", (called("get_weather", city="</tool_call></think>"),))),
    ("qwen3", "call_in_the_thinking", f"<think>\nHm.\n{hermes(PARIS)}\nNo.\n</think>\n\nHi",
     Answer(f"Hm.\n{hermes(PARIS)}\nNo.", "Hi")),
    ("llama", "text_before", f"Let me see. {llama_json(PARIS)}", Answer("", "Let me see.", (PARIS_CALL,))),
    ("llama", "text_around_calls", f"A. {llama_json(PARIS)} B. {llama_json(LONDON)} C.",
     Answer("", "A.  B.  C.", (PARIS_CALL, LONDON_CALL))),
    ("llama", "unknown_tool", llama_json(Call("nosuch", {"a": 1})), Answer("", "", (called("nosuch", a=1),))),
    ("llama", "json", PERSON, Answer("", PERSON)),
    ("llama", "json_in_text", f"It is {PERSON} and {{}}.", Answer("", f"It is {PERSON} and {{}}.")),
    ("llama", "code", "f() { return 1; }\n{ }", Answer("", "f() { return 1; }\n{ }")),
    ("llama", "half_json", '{"name": "get_weather", "parameters": {"city": "Par',
     Answer("", '{"name": "get_weather", "parameters": {"city": "Par')),
    ("llama", "text_arguments", '{"name": "get_weather", "parameters": "x"}',
     Answer("", '{"name": "get_weather", "parameters": "x"}')),
    ("llama", "spaces_around", " Hello \n", Answer("", " Hello \n")),
    ("coder", "unknown_tool", coder_xml(Call("nosuch", {"a": 1})),
     Answer("", "", (called("nosuch", a="1"),))),
    ("coder", "no_arguments", coder_xml(Call("add", {})), Answer("", "", (called("add"),))),
    ("coder", "lines", coder_xml(Call("get_weather", {"city": "a < b\n\n</param <tool"})),
     Answer("", "", (called("get_weather", city="a < b\n\n</param <tool"),))),
    ("coder", "text_around_calls", f"Before.\n{coder_xml(PARIS)}\nBetween.\n{coder_xml(LONDON)}",
     Answer("", "Before.\n\nBetween.", (PARIS_CALL, LONDON_CALL))),
    ("coder", "own_tags_in_an_argument", coder_xml(Call("get_weather", {"city": coder_xml(PARIS)})),
     Answer("", "", (called("get_weather", city=coder_xml(PARIS)),))),
    ("coder", "no_wrapper", coder_xml(PARIS)[len("<tool_call>\n"):-len("\n</tool_call>")],
     Answer("", "", (PARIS_CALL,))),
    ("coder", "half_a_parameter", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
     Answer("", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar")),
    ("coder", "no_function", "So <tool_call>\nhi\n</tool_call> it is",
     Answer("", "So <tool_call>\nhi\n</tool_call> it is")),
    ("coder", "another_format", hermes(PARIS), Answer("", hermes(PARIS))),
    ("coder", "reasoning_tags", "<think>x</think>y", Answer("", "<think>x</think>y")),
    *(("qwen3", f"unreadable_{number}", f"{HM}So:\n<tool_call>\n{body}\n</tool_call>",
       Answer("Hm.", f"So:\n<tool_call>\n{body}\n</tool_call>"))
      for number, body in enumerate(UNREADABLE)),
]  # fmt: skip


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize(
    ("kind", "reply", "wanted"),
    [pytest.param(kind, reply, wanted, id=f"{kind}-{name}") for kind, name, reply, wanted in ODD],
)
def test_replies_that_no_model_should_write(kind: Kind, reply: str, wanted: Answer, finish: Finish) -> None:
    """A stop string may end a reply anywhere, so `stop` does not mean that the model was done."""
    made = reader(kind)
    prompt = made.transcript(case(kind, "hello_with_tools"), think=True).prompt
    tools = (WEATHER, ADD)
    deltas = made.deltas(reply, made.decoder(prompt, tools), finish)
    for cuts in (range(1, len(deltas)), (), *((cut,) for cut in range(1, len(deltas)))):
        assert read(made.decoder(prompt, tools), merged(deltas, cuts)) == wanted, list(cuts)


@pytest.mark.parametrize("reply", ["Hm.\n</think>\n\nHello", "<think>\nHm.\n</think>\n\nHello", "Hm.\n"])
def test_a_prompt_that_opens_the_reasoning_itself(reply: str) -> None:
    made = reader("qwen3")
    prompt = made.transcript(case("qwen3", "hello"), think=True).prompt + "<think>\n"
    deltas = made.deltas(reply, made.decoder(prompt))
    wanted = Answer("Hm.", "Hello" if "Hello" in reply else "")
    for cuts in (range(1, len(deltas)), ()):
        assert read(made.decoder(prompt), merged(deltas, cuts)) == wanted


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
def test_a_continued_reply_is_all_answer(tools: Any) -> None:
    made = reader("qwen3")
    decoder = made.decoder("Its name", tools, continues=True)
    deltas = made.deltas("  is </think> Paris.\n", decoder)
    assert read(decoder, deltas) == Answer("", "  is </think> Paris.\n")


def test_without_reasoning_and_tools_there_is_nothing_to_read() -> None:
    assert reader("qwen3").decoder("Hello", think=False) is None
    assert reader("llama").decoder("Hello") is None
    assert reader("llama").decoder("Hello", (WEATHER,)) is not None


def test_a_constrained_reply_keeps_the_reading_of_the_constraint() -> None:
    """The constraint waits for the closing tag, so what stands before it cannot be the answer."""
    made = reader("qwen3")
    prompt = made.transcript(case("qwen3", "json"), think=True).prompt
    for reply in (f"Hm.\n</think>\n\n{PERSON}", f"<think>\nHm.\n</think>\n\n{PERSON}"):
        decoder = made.decoder(prompt, constrained=True)
        assert decoder is not None
        assert parser_of(decoder).reasoning_ended() is False
        assert read(decoder, made.deltas(reply, decoder)) == Answer("Hm.", PERSON)


@pytest.mark.parametrize("reasoning", ["qwen3", "deepseek_r1", "olmo3"])
@pytest.mark.parametrize("opened", [False, True], ids=["by the model", "by the prompt"])
@pytest.mark.parametrize(
    ("reply", "finish"),
    [
        ("Hm, 🧀.\n</think>\n\nHello", "stop"),
        ("Hm, 🧀.\n</think>", "length"),
        ("Hm, 🧀.\n", "length"),
        ("Hm, 🧀.\n", "stop"),
    ],
)
@pytest.mark.parametrize("merges", [False, True], ids=["by token", "at once"])
def test_tokens_of_the_reasoning_are_counted(
    reasoning: str, opened: bool, reply: str, finish: Finish, merges: bool
) -> None:
    made = reader("qwen3").reasoning_by(reasoning)
    prompt = made.transcript(case("qwen3", "hello"), think=True).prompt
    decoder = made.decoder(prompt + "<think>" if opened else prompt)
    assert decoder is not None
    deltas = made.deltas(reply if opened else "<think>" + reply, decoder, finish)
    read(decoder, merged(deltas, () if merges else range(1, len(deltas))))
    assert decoder.reasoning_tokens == len(made.tokenizer.encode("Hm, 🧀.\n")) > 8


@pytest.mark.parametrize("tools", [(), (WEATHER,)], ids=["no tools", "tools"])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_are_no_part_of_the_format_are_no_text(kind: Kind, tools: Any) -> None:
    """They come in the middle of a reply where a client wants no end."""
    made = reader(kind)
    end = VOCABULARIES[kind].end
    thinking = kind == "qwen3"
    reply = f"<think>\nH{end}m.\n</think>\n\n" if thinking else ""
    reply += f"Hel{end}lo{end}{end}, you{end}"
    deltas = made.deltas(reply, made.decoder("", tools), "length")
    for cuts in (range(1, len(deltas)), ()):
        wanted = Answer("Hm." if thinking else "", "Hello, you")
        assert read(made.decoder("", tools), merged(deltas, cuts)) == wanted


SPECIAL = {"<|im_start|>": 1, "<|im_end|>": 2, "<tool_call>": 3, "</think>": 4, "[TOOL_CALLS]": 5}


@pytest.mark.parametrize(
    ("tool", "reasoning", "hidden"),
    [
        ("hermes", "qwen3", {1, 2, 5}),
        ("mistral", "qwen3", {1, 2}),  # vLLM's parser of the reasoning knows the mark of Qwen's calls
        ("mistral", None, {1, 2, 3, 4}),
        ("functiongemma", None, {2}),
    ],
)
def test_special_tokens_that_a_format_needs_stay(tool: str, reasoning: str | None, hidden: set[int]) -> None:
    """Of a parser that does not say what it looks for, only ends are hidden."""
    known = reader("qwen3").tokenizer
    reading = READERS.get(tool)
    made = Parsers(known, None, tool, reasoning).get(tools=reading is None, thinking=True)
    vocabulary = SimpleNamespace(
        all_special_tokens=list(SPECIAL), all_special_ids=list(SPECIAL.values()), eos_token_id=2
    )
    found = hidden_tokens(vocabulary, None, made(known) if made else None, reading)
    assert found == hidden


def test_a_reply_without_reasoning_has_no_tokens_of_it() -> None:
    made = reader("qwen3")
    for decoder in (made.decoder("Hello"), made.decoder("Hello", (WEATHER,), think=False)):
        assert decoder is not None
        read(decoder, made.deltas("Hello there.", decoder))
        assert decoder.reasoning_tokens == 0


@pytest.mark.parametrize(("kind", "skipped"), [("qwen3", False), ("llama", True), ("coder", False)])
def test_who_needs_to_see_special_tokens(kind: Kind, skipped: bool) -> None:
    decoder = reader(kind).decoder("Hello", (WEATHER,))
    assert decoder is not None
    assert parser_of(decoder).skip_special_tokens is skipped


def test_a_pair_of_parsers_stays_as_it_was_made() -> None:
    """vLLM has one class for all pairs of this format, made anew for each."""
    parsers = Parsers(reader("qwen3").tokenizer, None, "openai", "openai_gptoss")
    both, reasoning = parsers.get(tools=True, thinking=True), parsers.get(tools=False, thinking=True)
    assert both is not None
    assert reasoning is not None
    assert (both.tool_parser_cls is None, reasoning.tool_parser_cls is None) == (False, True)
    assert parsers.get(tools=True, thinking=True) is both
    assert parsers.get(tools=False, thinking=False) is None


SPARSE: tuple[dict[str, Any], ...] = (
    {"type": "function"},
    {"type": "function", "function": {}},
    {"type": "function", "function": {"name": ""}},
    {"type": "function", "function": {"name": "add"}},
    {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}}},
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tool", SPARSE, ids=json.dumps)
def test_tools_that_say_little(kind: Kind, tool: dict[str, Any]) -> None:
    made = reader(kind)
    decoder = made.decoder("Hello", (tool,), think=False)
    wanted = called("add", a="2", b="3") if kind == "coder" else called("add", a=2, b=3)
    assert read(decoder, made.deltas(WRITE[kind](SUM), decoder)).calls == (wanted,)


@pytest.mark.point(145)
def test_the_id_of_a_call() -> None:
    ids = {call_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("call_[a-z0-9]{8}", each) for each in ids)
