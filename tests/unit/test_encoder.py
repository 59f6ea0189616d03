import json
import math
from dataclasses import replace

import pytest

from app.api.ollama.encoder import ChatEncoder, GenerateEncoder
from app.core.errors import InvalidRequest
from app.core.events import (
    Content,
    Done,
    Event,
    Started,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCall,
)
from app.engine.base import Prompt

STAMP = "2026-11-21T21:06:25.5Z"
HEAD = f'{{"model":"M","created_at":"{STAMP}"'
METRICS = (
    '"total_duration":3831119,"load_duration":1352773,"prompt_eval_count":7,'
    '"prompt_eval_duration":12500000,"eval_count":3,"eval_duration":30250000'
)
DONE = Done("stop", 3_831_119, 1_352_773, 7, 3, Timings(12_500_000, 30_250_000))
CALLS = [
    ToolCall(0, "call_2b5c0u9g", "get_weather", {"city": "Paris", "n": 1}),
    ToolCall(1, "", "now", {}),
]
CALLS_WIRE = (
    '{"id":"call_2b5c0u9g","function":{"index":0,"name":"get_weather","arguments":{"city":"Paris","n":1}}}',
    '{"function":{"index":1,"name":"now","arguments":{}}}',
)


def now() -> int:
    return 1_795_295_185_500_000_000


def chat(model: str = "M", top_logprobs: int = 0) -> ChatEncoder:
    return ChatEncoder(model, top_logprobs=top_logprobs, now=now)


def generate(model: str = "M", top_logprobs: int = 0) -> GenerateEncoder:
    return GenerateEncoder(model, top_logprobs=top_logprobs, now=now)


def stream(encoder: ChatEncoder | GenerateEncoder, *events: Event) -> str:
    return b"".join(map(encoder.feed, events)).decode()


def whole(encoder: ChatEncoder | GenerateEncoder, *events: Event) -> str:
    for event in events:
        encoder.collect(event)
    return encoder.whole().decode()


def scored() -> list[TokenLogprob]:
    top = [
        TokenLogprob(text, score, text.encode()) for text, score in (("x", -1.5), ("y", -2.0), ("z", -3.0))
    ]
    return [TokenLogprob(" é", -0.5, " é".encode(), top)]


@pytest.mark.point(131, 132)
def test_a_chat_stream() -> None:
    assert stream(chat(), Content("Hello"), Content(" <b>"), DONE) == (
        f'{HEAD},"message":{{"role":"assistant","content":"Hello"}},"done":false}}\n'
        f'{HEAD},"message":{{"role":"assistant","content":" \\u003cb\\u003e"}},"done":false}}\n'
        f'{HEAD},"message":{{"role":"assistant","content":""}},"done":true,"done_reason":"stop",{METRICS}}}\n'
    )


@pytest.mark.point(65, 66, 67, 69)
def test_a_generate_stream() -> None:
    done = Done("length", 3_831_119, 1_352_773, 7, 3, Timings(12_500_000, 30_250_000), context=[104, 105])
    assert stream(generate(), Content("Hello"), Content(' "w"'), done) == (
        f'{HEAD},"response":"Hello","done":false}}\n'
        f'{HEAD},"response":" \\"w\\"","done":false}}\n'
        f'{HEAD},"response":"","done":true,"done_reason":"length","context":[104,105],{METRICS}}}\n'
    )


@pytest.mark.point(133)
def test_a_whole_chat_joins_everything() -> None:
    events = [Thinking("h"), Thinking("m"), Content("a"), Content("b"), *CALLS, DONE]
    assert whole(chat(), *events) == (
        f'{HEAD},"message":{{"role":"assistant","content":"ab","thinking":"hm",'
        f'"tool_calls":[{",".join(CALLS_WIRE)}]}},"done":true,"done_reason":"stop",{METRICS}}}'
    )


@pytest.mark.point(68)
def test_a_whole_generate_joins_everything() -> None:
    assert whole(generate(), Thinking("h"), Thinking("m"), Content("a"), Content("b"), DONE) == (
        f'{HEAD},"response":"ab","thinking":"hm","done":true,"done_reason":"stop",{METRICS}}}'
    )


def test_thinking_lines_have_empty_content() -> None:
    assert stream(chat(), Thinking("hm")) == (
        f'{HEAD},"message":{{"role":"assistant","content":"","thinking":"hm"}},"done":false}}\n'
    )
    assert stream(generate(), Thinking("hm")) == f'{HEAD},"response":"","thinking":"hm","done":false}}\n'


@pytest.mark.point(144, 146, 147)
def test_each_tool_call_is_a_whole_line_before_the_last() -> None:
    assert stream(chat(), *CALLS) == "".join(
        f'{HEAD},"message":{{"role":"assistant","content":"","tool_calls":[{call}]}},"done":false}}\n'
        for call in CALLS_WIRE
    )


def test_generate_tells_tool_calls_on_the_last_line() -> None:
    assert stream(generate(), *CALLS, DONE) == (
        f'{HEAD},"response":"","done":true,"done_reason":"stop",{METRICS},'
        f'"tool_calls":[{",".join(CALLS_WIRE)}]}}\n'
    )


@pytest.mark.point(61, 62, 63, 129)
def test_loading_and_unloading_is_told_in_a_document() -> None:
    tail = '"done":true,"done_reason":'
    for encoder, text in (
        (chat(), '"message":{"role":"assistant","content":""}'),
        (generate(), '"response":""'),
    ):
        assert encoder.loaded().decode() == f'{HEAD},{text},{tail}"load"}}'
        assert encoder.unloaded().decode() == f'{HEAD},{text},{tail}"unload"}}'


@pytest.mark.point(158)
@pytest.mark.parametrize(("images", "count"), [(0, ""), (2, ',"image_count":2')])
def test_a_rendered_prompt(images: int, count: str) -> None:
    tail = f'"done":false,"_debug_info":{{"rendered_template":"\\u003cs\\u003ehi"{count}}}}}'
    prompt = Prompt("<s>hi", [1, 2], images)
    assert chat().rendered(prompt).decode() == f'{HEAD},"message":{{"role":"","content":""}},{tail}'
    assert generate().rendered(prompt).decode() == f'{HEAD},"response":"",{tail}'


@pytest.mark.point(86)
def test_a_line_has_the_logprobs_of_its_tokens() -> None:
    logprobs = '"logprobs":[{"token":" é","logprob":-0.5,"bytes":[32,195,169]}]'
    assert stream(generate(), Content(" é", scored())) == (
        f'{HEAD},"response":" é","done":false,{logprobs}}}\n'
    )
    assert stream(chat(), Thinking(" é", scored())) == (
        f'{HEAD},"message":{{"role":"assistant","content":"","thinking":" é"}},"done":false,{logprobs}}}\n'
    )


@pytest.mark.point(87, 157)
def test_where_logprobs_stand_in_a_whole_answer() -> None:
    item = (
        '{"token":" é","logprob":-0.5,"bytes":[32,195,169],"top_logprobs":'
        '[{"token":"x","logprob":-1.5,"bytes":[120]},{"token":"y","logprob":-2.0,"bytes":[121]}]}'
    )
    events = [Thinking(" é", scored()), Content(" é", scored()), DONE]
    assert whole(generate(top_logprobs=2), *events).endswith(f'{METRICS},"logprobs":[{item},{item}]}}')
    assert whole(chat(top_logprobs=2), *events).endswith(
        f'"done_reason":"stop","logprobs":[{item},{item}],{METRICS}}}'
    )


def test_the_bytes_of_a_token_may_be_half_a_character_or_none() -> None:
    tokens = [TokenLogprob("\ufffd", -1.0, b"\xf0\x9f"), TokenLogprob("", -math.inf, b"")]
    (line,) = stream(chat(), Content("", tokens)).splitlines()
    assert json.loads(line)["logprobs"] == [
        {"token": "\ufffd", "logprob": -1.0, "bytes": [0xF0, 0x9F]},
        {"token": "", "logprob": -9999.0},
    ]


@pytest.mark.parametrize("event", [Content(""), Thinking(""), Content("", []), Thinking("", [])])
def test_nothing_is_said_for_no_text(event: Event) -> None:
    assert stream(chat(), event) == stream(generate(), event) == ""


@pytest.mark.parametrize("cached", [None, 0, 6])
def test_cached_tokens_stand_after_the_prompt_s_and_zero_is_told(cached: int | None) -> None:
    done = replace(DONE, cached_tokens=cached)
    told = "" if cached is None else f'"prompt_eval_cached_count":{cached},'
    for encoder in (chat(), generate()):
        line = encoder.feed(done).decode()
        assert f'"prompt_eval_count":7,{told}"prompt_eval_duration":12500000' in line
        assert ("cached" in line) is (cached is not None)


def test_zero_metrics_and_an_empty_context_are_left_out() -> None:
    done = Done("stop", 5, 0, 0, 0, Timings(), context=[])
    for encoder in (chat(), generate()):
        last = json.loads(encoder.feed(done))
        assert list(last)[-2:] == ["done_reason", "total_duration"]


@pytest.mark.point(55, 56)
def test_the_model_is_echoed_as_it_was_sent() -> None:
    for encoder in (chat('  A"<b> '), generate('  A"<b> ')):
        lines = stream(encoder, Content("a"), DONE).splitlines()
        assert [json.loads(line)["model"] for line in lines] == ['  A"<b> '] * 2
        assert all(line.startswith(r'{"model":"  A\"\u003cb\u003e ","created_at":"') for line in lines)


def test_text_that_is_no_unicode_is_still_sent() -> None:
    assert json.loads(stream(chat(), Content("a\ud800")))["message"]["content"] == "a\ufffd"


@pytest.mark.row("B7")
@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (
            ChatEncoder("M", repeats_text=True, now=now),
            '"message":{"role":"assistant","content":"Hello you"}',
        ),
        (GenerateEncoder("M", repeats_text=True, now=now), '"response":"Hello you"'),
    ],
    ids=["chat", "generate"],
)
def test_the_last_line_may_have_the_whole_text(encoder: ChatEncoder | GenerateEncoder, text: str) -> None:
    lines = stream(
        encoder, Thinking("hm"), Content("Hello"), Content(" you", scored()), ToolCall(0, "", "now", {}), DONE
    )
    first, last = lines.splitlines()[0], lines.splitlines()[-1]
    assert text not in first
    assert last.startswith(f"{HEAD},{text}"[:-1])
    assert "hm" not in last
    assert "logprobs" not in last
    assert f'"done":true,"done_reason":"stop",{METRICS}' in last


@pytest.mark.row("B7")
def test_a_whole_answer_has_its_text_once_even_so() -> None:
    events = (Content("Hello"), Content(" you"), DONE)
    assert whole(ChatEncoder("M", repeats_text=True, now=now), *events) == whole(chat(), *events)


@pytest.mark.point(95)
def test_an_error_is_a_line() -> None:
    assert chat().error(InvalidRequest("a < b")) == b'{"error":"a \\u003c b"}\n'


@pytest.mark.point(75)
def test_lines_are_stamped_with_the_time_they_were_made() -> None:
    times = iter((1_000_000_000, 2_250_000_000, 3_000_000_001))
    encoder = ChatEncoder("M", now=lambda: next(times))
    lines = stream(encoder, Content("a"), Content("b"), DONE).splitlines()
    assert [json.loads(line)["created_at"] for line in lines] == [
        "1970-01-01T00:00:01Z",
        "1970-01-01T00:00:02.25Z",
        "1970-01-01T00:00:03.000000001Z",
    ]


@pytest.mark.row("A8")
@pytest.mark.parametrize(("told", "reason"), [(False, "stop"), (True, "tool_calls")])
def test_the_reason_of_a_reply_that_calls_tools(told: bool, reason: str) -> None:
    end = replace(DONE, called_tools=True)
    for kind in (ChatEncoder, GenerateEncoder):
        encoder = kind("M", calls_reason=told)
        assert json.loads(encoder.feed(end))["done_reason"] == reason
        encoder.collect(end)
        assert json.loads(encoder.whole())["done_reason"] == reason


def test_the_start_of_a_reply_is_told_by_no_line() -> None:
    assert chat().feed(Started(3, 1)) == b""
    assert json.loads(whole(chat(), Started(3, 1), DONE))["done"] is True
