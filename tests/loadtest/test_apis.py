"""An answer counts only if it is whole and what was asked for."""

import json
import random
from typing import Any

import pytest

from loadtest.apis import APIS
from loadtest.apis.base import Ask, BadAnswer
from loadtest.lengths import Lengths, distributions
from loadtest.questions import MOST_SILENT, SCHEMA, TOOL, Models, Questions, check

pytestmark = pytest.mark.row("C6")

CHAT = Ask("chat", "m", messages=[{"role": "user", "content": "Hi"}], most_tokens=9)
DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 4, "eval_count": 2}


def ndjson(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "done": False} | more


def sse(*chunks: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def delta(finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": more, "finish_reason": finish}], "usage": None}


USAGE = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}


def test_whole_answers() -> None:
    ours = APIS["ollama"].reply(CHAT, ndjson(says("Hel"), says("lo"), says("", **DONE)))
    theirs = APIS["openai"].reply(CHAT, sse(delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE))
    assert ours == theirs
    assert (ours.text, ours.prompt_tokens, ours.output_tokens) == ("Hello", 4, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        ndjson(says("Hel"), says("lo")),
        ndjson(says("Hel"), says("", **DONE))[:-9],
        ndjson(says("Hel"), {"error": "gone"}),
        ndjson(says("", **DONE), says("Hel")),
        ndjson(says("", **DONE), says("", **DONE)),
        ndjson(says("Hel"), says("", **DONE | {"eval_count": 0})),
        ndjson(says("Hel"), says("", **DONE | {"prompt_eval_count": None})),
        b"[]\n",
    ],
)
def test_ndjson_that_is_not_whole(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        APIS["ollama"].reply(CHAT, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        sse(delta(content="Hel"), delta("stop"), USAGE, end=b""),
        sse(delta(content="Hel"), delta("stop")),
        sse(delta(content="Hel"), USAGE),
        sse(delta(content="Hel"), {"error": {"message": "gone"}}),
        sse(delta("stop"), USAGE).replace(b'"choices"', b'choices"', 1),
    ],
)
def test_server_sent_events_that_are_not_whole(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        APIS["openai"].reply(CHAT, body)


def test_the_first_line_with_text() -> None:
    for api, empty, full in (
        ("ollama", ndjson(says("")), ndjson(says("x"))),
        ("ollama", ndjson({"response": ""}), ndjson({"response": "x"})),
        ("openai", sse(delta(role="assistant", content="")), sse(delta(content="x"))),
        ("openai", sse({"choices": [{"text": ""}]}), sse({"choices": [{"text": "x"}]})),
        ("openai", sse(delta(tool_calls=[])), sse(delta(tool_calls=[{"index": 0}]))),
    ):
        assert not APIS[api].has_text.search(empty), empty
        assert APIS[api].has_text.search(full), full


def test_tool_calls_in_pieces_are_the_call() -> None:
    ask = Ask("tools", "m", messages=CHAT.messages, most_tokens=9, tools=[TOOL])
    pieces = [
        delta(tool_calls=[{"index": 0, "function": {"name": "get_weather", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"Paris"}'}}]),
    ]
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    theirs = APIS["openai"].reply(ask, sse(*pieces, delta("tool_calls"), USAGE))
    ours = APIS["ollama"].reply(ask, ndjson(says("", **DONE, message={"content": "", "tool_calls": [call]})))
    assert theirs.calls == ours.calls == [("get_weather", {"city": "Paris"})]
    check(ask, ours)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"mood": "good", "stars": 5, "urgent": false}', True),
        ('{"mood": "good", "stars": 6, "urgent": false}', False),
        ('{"mood": "good", "stars": 5}', False),
        ('{"mood": "good", "st', False),
    ],
)
def test_an_answer_keeps_its_schema(text: str, right: bool) -> None:
    ask = Ask("schema", "m", messages=CHAT.messages, most_tokens=9, schema=SCHEMA)
    reply = APIS["ollama"].reply(ask, ndjson(says(text), says("", **DONE)))
    if right:
        check(ask, reply)
    else:
        with pytest.raises(BadAnswer, match="schema"):
            check(ask, reply)


def test_an_answer_of_many_tokens_has_text() -> None:
    ask = Ask("chat", "m", messages=CHAT.messages, most_tokens=20)
    for tokens in (1, MOST_SILENT):
        check(ask, APIS["ollama"].reply(ask, ndjson(says("", **DONE | {"eval_count": tokens}))))
    silent = ndjson(says("", **DONE | {"eval_count": MOST_SILENT + 1}))
    with pytest.raises(BadAnswer, match="without text"):
        check(ask, APIS["ollama"].reply(ask, silent))


def test_other_things_that_were_not_asked_for() -> None:
    with pytest.raises(BadAnswer, match="more tokens"):
        check(CHAT, APIS["ollama"].reply(CHAT, ndjson(says("x", **DONE | {"eval_count": 10}))))
    call = {"function": {"name": "rm", "arguments": {}}}
    with pytest.raises(BadAnswer, match="does not exist"):
        check(CHAT, APIS["ollama"].reply(CHAT, ndjson(says("", **DONE, message={"tool_calls": [call]}))))
    embed = Ask("embed", "m", "some text")
    with pytest.raises(BadAnswer, match="one vector"):
        check(embed, APIS["ollama"].reply(embed, b'{"embeddings": [], "prompt_eval_count": 2}'))


def test_a_chat_grows_by_its_answers_and_begins_anew() -> None:
    questions = Questions(random.Random(0), Lengths(*distributions("90/5")), Models("m", "e", "t"), turns=3)
    sent: list[list[str]] = []
    for number in range(4):
        ask = questions.ask("chat")
        reply = APIS["ollama"].reply(ask, ndjson(says(f"answer {number}"), says("", **DONE)))
        questions.answered(ask, reply)
        sent.append([message["content"] for message in ask.messages])
        assert [message["role"] for message in ask.messages] == ["user", "assistant"] * number + [
            "user"
        ] or number > 2
    assert [len(each) for each in sent] == [1, 3, 5, 1]
    assert sent[2][:3] == [*sent[1][:1], "answer 0", sent[1][2]]
    assert sent[2][3] == "answer 1"
    assert all(len(text.split()) == 30 for each in sent for text in each[::2])
    assert sent[3][0] != sent[0][0]


def test_a_failed_turn_is_asked_anew_from_the_same_history() -> None:
    questions = Questions(random.Random(0), Lengths(*distributions("90/5")), Models("m", "e", "t"), turns=3)
    assert len(questions.ask("chat").messages) == len(questions.ask("chat").messages) == 1


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_each_kind_goes_to_its_path_with_its_model(api: str) -> None:
    questions = Questions(random.Random(0), Lengths(*distributions("9/5")), Models("m", "e", "t"), turns=3)
    asked = {
        kind: APIS[api].request(questions.ask(kind))
        for kind in ("chat", "generate", "embed", "schema", "tools")
    }
    assert [body["model"] for _, body in asked.values()] == ["m", "m", "e", "m", "t"]
    assert len({path for path, _ in asked.values()}) == 3
    assert len(asked["generate"][1]["prompt"].split()) == 9
    assert asked["tools"][1]["tools"][0]["function"]["name"] == "get_weather"
    assert ("format" in asked["schema"][1]) is (api == "ollama")


def events(*documents: dict[str, Any]) -> bytes:
    """Events as the Responses and the Messages API send them."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in documents
    )


CALLED = {"city": "Paris"}


def response(*deltas: str, kind: str = "completed", call: bool = False, **more: Any) -> list[dict[str, Any]]:
    """The events of a response of these texts."""
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "".join(deltas)}]},
    ]
    if call:
        output.append({"type": "function_call", "name": "get_weather", "arguments": json.dumps(CALLED)})
    whole = {"output": output, "usage": {"input_tokens": 4, "output_tokens": 2}, "incomplete_details": None}
    told = [{"type": "response.output_text.delta", "delta": delta} for delta in deltas]
    made = [{"type": "response.created"}, *told, {"type": f"response.{kind}", "response": whole | more}]
    return [{**event, "sequence_number": number} for number, event in enumerate(made)]


def block(index: int, kind: str, *deltas: dict[str, Any], **begun: Any) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **begun}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_delta(text: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": text}


def message(*blocks: list[dict[str, Any]], reason: str = "end_turn") -> list[dict[str, Any]]:
    usage = {"input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": 0}
    return [
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "ping"},
        *(event for each in blocks for event in each),
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]


HELLO = block(0, "text", text_delta("Hel"), text_delta("lo"), text="")
WEATHER = block(
    1,
    "tool_use",
    {"type": "input_json_delta", "partial_json": '{"city": '},
    {"type": "input_json_delta", "partial_json": '"Paris"}'},
    id="t",
    name="get_weather",
    input={},
)


def test_events_are_the_same_answer() -> None:
    ours = APIS["ollama"].reply(CHAT, ndjson(says("Hel"), says("lo"), says("", **DONE)))
    assert APIS["responses"].reply(CHAT, events(*response("Hel", "lo"))) == ours
    assert APIS["anthropic"].reply(CHAT, events(*message(HELLO))) == ours


def test_events_of_calls_and_of_what_was_cut() -> None:
    called = APIS["responses"].reply(CHAT, events(*response("Hello", call=True)))
    assert called == APIS["anthropic"].reply(CHAT, events(*message(HELLO, WEATHER, reason="tool_use")))
    assert called.calls == [("get_weather", CALLED)]
    details = {"reason": "max_output_tokens"}
    cut = events(*response("Hello", kind="incomplete", incomplete_details=details))
    assert APIS["responses"].reply(CHAT, cut).cut_at_limit
    assert APIS["anthropic"].reply(CHAT, events(*message(HELLO, reason="max_tokens"))).cut_at_limit


@pytest.mark.parametrize(
    ("api", "sent"),
    [
        ("responses", []),
        ("responses", response("Hello")[:-1]),
        ("responses", response("Hel", "lo")[1:]),
        ("responses", [*response("Hel", "lo")[:1], *response("Hel", "lo")[2:]]),
        ("responses", response("Hello", kind="failed", error={"code": "server_error", "message": "gone"})),
        ("responses", response("Hello", output=[])),
        ("anthropic", []),
        ("anthropic", message(HELLO)[:-1]),
        ("anthropic", message(HELLO)[1:]),
        ("anthropic", message(HELLO[:-1])),
        ("anthropic", message(HELLO[1:])),
        ("anthropic", message(HELLO[:-1], WEATHER)),
        ("anthropic", message(HELLO, reason="")),
        ("anthropic", [*message(HELLO)[:3], {"type": "error", "error": {"message": "gone"}}]),
    ],
)
def test_events_that_are_no_whole_answer(api: str, sent: list[dict[str, Any]]) -> None:
    with pytest.raises((BadAnswer, KeyError, IndexError)):
        APIS[api].reply(CHAT, events(*sent))


def test_the_first_event_with_text() -> None:
    called = {"type": "response.function_call_arguments.delta", "delta": "{}"}
    for api, empty, full in (
        ("responses", response()[:1], response("x")[1:2]),
        ("responses", response()[:1], [called]),
        ("anthropic", message()[:2] + HELLO[:1], HELLO[1:2]),
        ("anthropic", WEATHER[:1], WEATHER[1:2]),
    ):
        assert not APIS[api].has_text.search(events(*empty)), empty
        assert APIS[api].has_text.search(events(*full)), full


@pytest.mark.parametrize(("api", "path"), [("responses", "/v1/responses"), ("anthropic", "/v1/messages")])
def test_kinds_of_the_apis_that_only_chat(api: str, path: str) -> None:
    questions = Questions(random.Random(0), Lengths(*distributions("9/5")), Models("m", "e", "t"), turns=3)
    kinds = sorted(APIS[api].kinds)
    asked = {kind: APIS[api].request(questions.ask(kind)) for kind in kinds}
    assert kinds == ["chat", "schema", "tools"]
    assert {found for found, _ in asked.values()} == {path}
    assert [body["model"] for _, body in asked.values()] == ["m", "m", "t"]
    assert asked["tools"][1]["tools"][0]["name"] == "get_weather"
    assert "json_schema" in json.dumps(asked["schema"][1])
    assert "json_schema" not in json.dumps(asked["chat"][1])
