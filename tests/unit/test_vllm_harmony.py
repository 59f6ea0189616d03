"""gpt-oss: prompts and replies in its own format, with its own vocabulary. No engine is started."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from app.constrain.compile import written
from app.core.errors import InvalidRequest
from app.core.events import Delta
from app.core.request import ChatPrompt, Constraint, Message, PastToolCall, Sampling, Think
from app.engine.base import Prompt, Run
from tests.unit.replying import Answer, called, read

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from app.engine.vllm.input.harmony import effort_of, harmony_tokens, in_channels
    from app.engine.vllm.parse.choice import bound, decoder_of, parser_for
    from app.engine.vllm.parse.reply import Parsers

pytestmark = pytest.mark.filterwarnings("ignore")

ENCODING = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
PARSERS = Parsers(None, None, "openai", "openai_gptoss")
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
THOUGHT = "<|channel|>analysis<|message|>We think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Paris.<|return|>"
CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Par\\u00eds"}<|call|>'
)


def answer_to(
    reply: str,
    *,
    think: Think = None,
    tools: Sequence[Mapping[str, Any]] = (),
    opened: str = "",
    sampling: Sampling | None = None,
    finish: Any = "stop",
    at_once: int = 1,
) -> Answer:
    sampling = sampling or Sampling()
    run = Run(sampling, max_tokens=1, think=think, chat=ChatPrompt((), tuple(tools)))
    prompt = Prompt(
        f"<|start|>user<|message|>Hi<|end|><|start|>assistant{opened}", (), continues=bool(opened)
    )
    decoder = decoder_of(parser_for(PARSERS, run, prompt, {}))
    ids = ENCODING.encode(reply, allowed_special="all")
    pieces = [ids[at : at + at_once] for at in range(0, len(ids), at_once)]
    deltas = [Delta(_plain(piece), piece) for piece in pieces]
    deltas[-1].finish = finish
    return read(decoder, deltas)  # pyright: ignore[reportArgumentType]


def _plain(ids: Sequence[int]) -> str:
    return ENCODING.decode([each for each in ids if not ENCODING.is_special_token(each)])


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("think", [None, True, "low"])
def test_reasoning_and_answer_are_told_apart(think: Think, at_once: int) -> None:
    assert answer_to(THOUGHT + FINAL, think=think, at_once=at_once) == Answer("We think.", "Paris.")


@pytest.mark.parametrize("reply", [THOUGHT + FINAL, FINAL])
def test_without_thinking_no_channel_is_shown(reply: str) -> None:
    """It came as `analysisWe think.assistantfinalParis.`"""
    assert answer_to(reply, think=False) == Answer("", "Paris.")


@pytest.mark.parametrize("think", [None, False])
def test_a_call_is_read_with_and_without_thinking(think: Think) -> None:
    found = answer_to(THOUGHT + CALL, think=think, tools=(TOOL,))
    assert found == Answer("" if think is False else "We think.", "", (called("get_weather", city="París"),))


@pytest.mark.parametrize(
    ("header", "end"),
    [
        (" to=functions.get_weather<|channel|>commentary json<|message|>", "<|call|>"),
        ("<|channel|>analysis to=functions.get_weather code<|message|>", "<|call|>"),
        ("<|channel|>commentary to=get_weather<|message|>", ""),
    ],
)
def test_every_way_to_address_a_tool(header: str, end: str) -> None:
    found = answer_to(f'{header}{{"city": "Rome"}}{end}', tools=(TOOL,))
    assert found.calls == (called("get_weather", city="Rome"),)


def test_words_before_a_call_are_content() -> None:
    said = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
    found = answer_to(THOUGHT + said + CALL, tools=(TOOL,))
    assert (found.content, len(found.calls)) == ("I look it up.", 1)


@pytest.mark.parametrize("cut", range(1, 22))
def test_a_reply_cut_anywhere_shows_no_mark_and_no_half_call(cut: int) -> None:
    ids = ENCODING.encode(THOUGHT + CALL, allowed_special="all")
    found = answer_to(ENCODING.decode(ids[:cut]), tools=(TOOL,), finish="length")
    assert "We think.".startswith(found.thinking)
    assert "<|" not in found.content
    assert "analysis" not in found.content + found.thinking
    assert len(found.calls) == (cut >= len(ids) - 1)


def test_marks_that_are_text_are_text() -> None:
    """The engine's text could not tell them apart, its tokens can."""
    text = "The format has <|end|> and <|channel|>."
    ids = [
        *ENCODING.encode("<|channel|>final<|message|>", allowed_special="all"),
        *ENCODING.encode(text, disallowed_special=()),
        *ENCODING.encode("<|return|>", allowed_special="all"),
    ]
    run = Run(Sampling(), max_tokens=1)
    decoder = decoder_of(parser_for(PARSERS, run, Prompt("<|start|>assistant", ()), {}))
    assert read(decoder, [Delta("", ids, finish="stop")]).content == text  # pyright: ignore[reportArgumentType]


def test_a_stop_string_ends_the_answer_and_is_not_shown() -> None:
    reply = "<|channel|>final<|message|>One, two, STOP"
    stops = Sampling(stop=("STOP",))
    for at_once in (1, 50):
        assert answer_to(reply, sampling=stops, at_once=at_once).content.rstrip() == "One, two,"
    assert answer_to("<|channel|>final<|message|>One, ST<|return|>", sampling=stops).content == "One, ST"


def test_what_has_no_channel_at_all_is_the_answer() -> None:
    assert answer_to("Paris is the capital.").content == "Paris is the capital."


def test_an_answer_goes_on_where_the_prompt_left_it() -> None:
    found = answer_to("is.<|return|>", opened="<|channel|>final<|message|>Par")
    assert found == Answer("", "is.")


def test_a_raw_prompt_without_a_turn_is_read_as_it_comes() -> None:
    assert parser_for(PARSERS, Run(Sampling(), max_tokens=1), Prompt("Once", ()), {}) is None


# Prompts.


def prompt_of(*messages: Message, think: Think = None, tools: Sequence[Any] = (), more: bool = False) -> str:
    chat = ChatPrompt(messages, tuple(tools))
    return ENCODING.decode(harmony_tokens(chat, effort_of(think, {}), continue_last=more))


@pytest.mark.parametrize(
    ("think", "level"), [(None, "medium"), (True, "medium"), (False, "low"), ("high", "high"), ("low", "low")]
)
def test_the_level_stands_in_the_prompt(think: Think, level: str) -> None:
    prompt = prompt_of(Message.of("user", "Hello"), think=think)
    assert f"Reasoning: {level}" in prompt
    assert prompt.endswith("<|start|>user<|message|>Hello<|end|><|start|>assistant")


def test_instructions_and_tools_are_the_developers() -> None:
    prompt = prompt_of(Message.of("system", "Be brief."), Message.of("user", "Hello"), tools=(TOOL,))
    _, _, developer = prompt.partition("<|start|>developer")
    assert "Be brief." in developer
    assert "type get_weather" in developer


HISTORY = (
    Message.of("user", "Weather?"),
    Message.of("assistant", thinking="I need it.", tool_calls=(PastToolCall("get_weather", {"city": "P"}),)),
    Message.of("tool", "Sunny"),
)


def test_reasoning_stays_between_calls_and_results_have_their_tools_name() -> None:
    prompt = prompt_of(*HISTORY, tools=(TOOL,))
    assert "<|channel|>analysis<|message|>I need it.<|end|>" in prompt
    assert "<|start|>functions.get_weather<|channel|>commentary to=assistant<|message|>Sunny" in prompt
    answered = (*HISTORY, Message.of("assistant", "Sunny."), Message.of("user", "And Rome?"))
    assert "I need it." not in prompt_of(*answered, tools=(TOOL,))


def test_the_last_message_is_left_open() -> None:
    prompt = prompt_of(Message.of("user", "Hello"), Message.of("assistant", "Par"), more=True)
    assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>Par")


def test_variables_that_have_no_place_are_refused() -> None:
    assert effort_of(None, {"reasoning_effort": "high"}) == "high"
    with pytest.raises(InvalidRequest, match="takes no enable_thinking"):
        effort_of(None, {"enable_thinking": True})


# Constraints, by the vocabulary of bytes and the format's tokens.


MARKS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|return|>", "<|call|>")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def allows(grammar: str, reply: str) -> bool:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(MARKS))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|return|>")
    matcher = LLMatcher(from_tokenizer(tokenizer, len(tokenizer)), LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(reply)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


JSON = '{"name": "Ann"}'


@pytest.mark.parametrize(
    ("reply", "fits"),
    [
        (f"<|channel|>final<|message|>{JSON}", True),
        (f"<|channel|>final <|constrain|>json<|message|>{JSON}", True),
        (f"{THOUGHT}<|channel|>final json<|message|>{JSON}", True),
        (JSON, False),
        (f"{THOUGHT}<|channel|>final<|message|>Ann", False),
        (f"<|channel|>commentary<|message|>{JSON}", False),
    ],
)
def test_a_constraint_is_of_the_last_message_alone(reply: str, fits: bool) -> None:
    """It bound the first token, so no channel could be written and nothing was streamed."""
    run = Run(Sampling(), max_tokens=1, constraint=Constraint(SCHEMA, grammar=written(Constraint(SCHEMA))))
    whole = bound(run, parser_for(PARSERS, run, Prompt("<|start|>assistant", ()), {})).constraint
    assert whole is not None
    assert allows(whole.grammar, reply) is fits
    begun = Prompt("<|start|>assistant<|channel|>final<|message|>", ())
    assert bound(run, parser_for(PARSERS, run, begun, {})) is run


@pytest.mark.parametrize("wanted", [Constraint(choices=("a", "b")), Constraint(regex="[ab]"), Constraint()])
def test_every_kind_of_constraint_finds_its_place(wanted: Constraint) -> None:
    text = "a" if not wanted.is_json else "{}"
    assert allows(in_channels(written(wanted)), f"<|channel|>final<|message|>{text}")
