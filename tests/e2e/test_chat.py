"""`POST /api/chat` as Ollama answers it (docs/reference 7): documents, lines, order of messages, refusals."""

import re
from copy import deepcopy
from typing import Any

import httpx
import pytest

from app.core.events import Content, ToolCall
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from harness.models.catalogue import GREETING, WEATHER, assistant, case, system, user
from tests.e2e.chats import GREEDY, METRICS, STAMP, ask, assert_refused, chat, rendered, reply_of
from tests.e2e.fake_site import fake_site
from tests.e2e.ollama_lines import JSON, NDJSON, lines, text

pytestmark = pytest.mark.engine

HI = (user("hi"),)
SHORT = {"num_predict": 3, "temperature": 0}
TURN = re.compile(r"<\|im_start\|>(\w*)\n(.*?)(?:<\|im_end\|>\n|$)", re.DOTALL)


def turns(client: httpx.Client, model: str, *messages: Any, **fields: Any) -> list[tuple[str, str]]:
    """Role and content of what the model would read, less the opening of the answer."""
    *found, opened = TURN.findall(rendered(client, model, messages, **fields))
    assert opened == ("assistant", "")
    return found


def assert_document(answer: httpx.Response, pattern: str) -> None:
    """The whole body, byte by byte but for the time, and the headers of an ordinary answer."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert re.fullmatch(pattern, answer.text), answer.text


def head(model: str) -> str:
    return rf'\{{"model":"{model}","created_at":"{STAMP}","message":'


METRICS_JSON = "".join(
    rf',"{name}":' + (r"\d+" if name == "prompt_eval_cached_count" else r"[1-9]\d*") for name in METRICS
)

# plain: a stream and the same as a document, asked for once.


@pytest.fixture(scope="module")
def streamed(client: httpx.Client) -> httpx.Response:
    chat(client, "plain", [])
    return chat(client, "plain", HI, options=SHORT)


@pytest.fixture(scope="module")
def document(client: httpx.Client, streamed: httpx.Response) -> httpx.Response:
    return chat(client, "plain", HI, options=SHORT, stream=False)


@pytest.mark.point(129)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("sent", [{}, {"messages": []}, {"messages": None}])
def test_a_chat_without_messages_loads_the_model(client: httpx.Client, sent: Any, stream: bool) -> None:
    answer = client.post("/api/chat", json={"model": "plain", "stream": stream, **sent})
    assert_document(
        answer, head("plain") + r'\{"role":"assistant","content":""\},"done":true,"done_reason":"load"\}'
    )


@pytest.mark.point(131, 132)
@pytest.mark.row("A8", "B1", "B6")
def test_every_line_of_a_stream(streamed: httpx.Response) -> None:
    assert streamed.headers["content-type"] == NDJSON
    assert streamed.headers["transfer-encoding"] == "chunked"
    *first, last, end = streamed.text.split("\n")
    assert end == ""
    assert 1 <= len(first) <= SHORT["num_predict"], "a slow reader gets more than one token on a line"
    for line in first:
        assert re.fullmatch(
            head("plain") + r'\{"role":"assistant","content":"[^"]+"\},"done":false\}', line
        ), line
    assert re.fullmatch(
        head("plain")
        + r'\{"role":"assistant","content":""\},"done":true,"done_reason":"length"'
        + METRICS_JSON
        + r"\}",
        last,
    ), last


@pytest.mark.point(132, 133)
@pytest.mark.row("A4", "B1")
def test_a_document_is_the_stream_in_one_piece(streamed: httpx.Response, document: httpx.Response) -> None:
    parts = lines(streamed)
    content = re.escape(text(parts))
    assert_document(
        document,
        head("plain")
        + rf'\{{"role":"assistant","content":"{content}"\}},"done":true,"done_reason":"length"'
        + METRICS_JSON
        + r"\}",
    )
    assert text(parts) != ""
    for key in ("prompt_eval_count", "eval_count"):
        assert document.json()[key] == parts[-1][key]


@pytest.mark.point(134)
@pytest.mark.parametrize("role", ["USER", "User", "uSeR"])
def test_roles_in_any_case(client: httpx.Client, role: str) -> None:
    upper = {"role": role, "content": "hi"}
    assert turns(client, "sys", upper) == turns(client, "sys", *HI) == [("system", "SYS"), ("user", "hi")]


@pytest.mark.point(134, 135)
@pytest.mark.parametrize(
    ("message", "seen"),
    [
        ({"role": "weird", "content": "hi"}, ("weird", "hi")),
        ({"content": "hi"}, ("", "hi")),
        ({"role": "", "content": ""}, ("", "")),
        ({"role": None, "content": "hi"}, ("", "hi")),
        ({"role": "user"}, ("user", "")),
        ({"role": "user", "content": None}, ("user", "")),
        ({}, ("", "")),
    ],
)
def test_messages_that_say_little(client: httpx.Client, message: Any, seen: tuple[str, str]) -> None:
    assert turns(client, "sys", message) == [("system", "SYS"), seen]
    assert ask(client, "sys", [message], options={"num_predict": 1, "stop": []}).tokens == 1


@pytest.mark.point(136, 137)
def test_the_system_prompt_of_the_model(client: httpx.Client) -> None:
    own, later = system("OWN"), system("LATER")
    assert turns(client, "sys", *HI) == [("system", "SYS"), ("user", "hi")]
    assert turns(client, "sys", own, *HI) == [("system", "OWN"), ("user", "hi")]
    assert turns(client, "sys", *HI, later) == [("system", "SYS"), ("user", "hi"), ("system", "LATER")]


@pytest.mark.point(138)
@pytest.mark.row("B2")
def test_a_system_prompt_beside_the_messages_departs_from_ollama(client: httpx.Client) -> None:
    """Honoured where the messages do not start with one of their own, and then it replaces the model's."""
    assert turns(client, "plain", *HI, system="TOP") == [("system", "TOP"), ("user", "hi")]
    assert turns(client, "sys", *HI, system="TOP") == [("system", "TOP"), ("user", "hi")]
    assert turns(client, "sys", system("OWN"), *HI, system="TOP")[0] == ("system", "OWN")
    assert turns(client, "sys", *HI, system="")[0] == ("system", "SYS")
    assert turns(client, "sys", *HI, system=None)[0] == ("system", "SYS")
    assert chat(client, "sys", [], system="TOP").json()["done_reason"] == "load"


@pytest.mark.point(139)
def test_the_messages_of_the_model_come_first(client: httpx.Client) -> None:
    preset = [("user", "U0"), ("assistant", "A0")]
    assert turns(client, "msgs", *HI) == [("system", "MSYS"), *preset, ("user", "hi")]
    with_own = turns(client, "msgs", system("OWN"), *HI)
    assert with_own[-4:] == [*preset, ("system", "OWN"), ("user", "hi")]
    assert ("system", "MSYS") not in with_own


@pytest.mark.point(140)
@pytest.mark.parametrize("messages", [HI, ()])
def test_a_model_that_only_embeds(client: httpx.Client, messages: Any) -> None:
    assert_refused(chat(client, "emb", messages), '"emb" does not support chat')


@pytest.mark.point(141)
@pytest.mark.row("A6")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("messages", [HI, ()])
def test_tools_for_a_model_that_cannot_call_them(client: httpx.Client, messages: Any, stream: bool) -> None:
    answer = chat(client, "plain", messages, tools=[WEATHER], stream=stream)
    assert_refused(answer, "registry.ollama.ai/library/plain:latest does not support tools")


@pytest.mark.point(142)
@pytest.mark.parametrize("tools", [[], None])
def test_no_tools_for_a_model_that_cannot_call_them(
    client: httpx.Client, document: httpx.Response, tools: Any
) -> None:
    found = ask(client, "plain", HI, tools=tools, options=SHORT, stream=False)
    assert found.content == document.json()["message"]["content"]


@pytest.mark.point(143)
@pytest.mark.parametrize("model", ["plain", "nosuch"])
@pytest.mark.parametrize(("tools", "kind"), [({}, "object"), ("x", "string"), (1, "number")])
def test_tools_that_are_no_list(client: httpx.Client, model: str, tools: Any, kind: str) -> None:
    error = f"json: cannot unmarshal {kind} into Go struct field ChatRequest.tools of type api.Tools"
    assert_refused(chat(client, model, HI, tools=tools), error)


def called_with(arguments: Any) -> dict[str, Any]:
    calls = [{"function": {"name": "get_weather", "arguments": arguments}}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


@pytest.mark.point(149)
@pytest.mark.parametrize("model", ["plain", "nosuch"])
@pytest.mark.parametrize("arguments", ['{"city":"Paris"}', "", ["Paris"], 5])
def test_arguments_in_the_history_that_are_no_object(
    client: httpx.Client, model: str, arguments: Any
) -> None:
    answer = chat(client, model, [*HI, called_with(arguments), *HI])
    assert_refused(answer, "Value looks like object, but can't find closing '}' symbol")


@pytest.mark.point(157)
@pytest.mark.parametrize("stream", [True, False])
def test_logprobs_come_before_the_metrics(
    client: httpx.Client, document: httpx.Response, stream: bool
) -> None:
    found = ask(client, "plain", HI, logprobs=True, top_logprobs=2, options=SHORT, stream=stream)
    entries = [entry for part in found.parts for entry in part.get("logprobs", ())]
    assert "".join(entry["token"] for entry in entries) == found.content
    assert found.content == document.json()["message"]["content"]
    assert len(entries) == found.tokens
    assert {tuple(entry) for entry in entries} == {("token", "logprob", "bytes", "top_logprobs")}
    opening = ["model", "created_at", "message", "done"]
    if stream:
        assert {tuple(part) for part in found.parts[:-1]} == {(*opening, "logprobs")}
        assert list(found.parts[-1]) == [*opening, "done_reason", *METRICS]
    else:
        assert list(found.parts[0]) == [*opening, "done_reason", "logprobs", *METRICS]


@pytest.mark.point(158)
@pytest.mark.parametrize("stream", [True, False])
def test_the_prompt_can_be_looked_at(client: httpx.Client, stream: bool) -> None:
    answer = chat(client, "sys", HI, _debug_render_only=True, stream=stream)
    prompt = (
        r"\\u003c\|im_start\|\\u003esystem\\nSYS\\u003c\|im_end\|\\u003e\\n"
        r"\\u003c\|im_start\|\\u003euser\\nhi\\u003c\|im_end\|\\u003e\\n"
        r"\\u003c\|im_start\|\\u003eassistant\\n"
    )
    assert_document(
        answer,
        head("sys")
        + r'\{"role":"","content":""\},"done":false,'
        + rf'"_debug_info":\{{"rendered_template":"{prompt}"\}}\}}',
    )


@pytest.mark.point(130)
@pytest.mark.parametrize("sent", ["0s", 0, "0"])
def test_a_chat_without_messages_and_time_unloads_the_model(client: httpx.Client, sent: Any) -> None:
    unloaded = head("plain") + r'\{"role":"assistant","content":""\},"done":true,"done_reason":"unload"\}'
    assert_document(chat(client, "plain", [], keep_alive=sent), unloaded)
    assert "plain:latest" not in [row["name"] for row in client.get("/api/ps").json()["models"]]
    assert_refused(chat(client, "nosuch", [], keep_alive=sent), "model 'nosuch' not found", 404)


# tool: a model that calls tools.


def test_a_chat_of_several_turns(client: httpx.Client) -> None:
    known = case("qwen3", "turns")
    for stream in (True, False):
        found = ask(client, "tool", known.messages, stream=stream, options=GREEDY)
        assert (found.thinking, found.content, found.reason) == (known.thinking, known.content, "stop")


@pytest.mark.point(149)
@pytest.mark.parametrize("arguments", [None, {}])
def test_arguments_in_the_history_that_are_none(client: httpx.Client, arguments: Any) -> None:
    shown = rendered(client, "tool", [*HI, called_with(arguments), *HI], tools=[WEATHER])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call><|im_end|>' in shown


@pytest.mark.point(150)
@pytest.mark.parametrize(
    "named", [{}, {"tool_name": "get_weather"}, {"tool_call_id": "call_abcdefgh"}, {"tool_name": ""}]
)
def test_a_result_with_and_without_a_name(client: httpx.Client, named: dict[str, str]) -> None:
    known = case("qwen3", "tool_result")
    asked, called, result = known.messages
    result = {"role": "tool", "content": result["content"], **named}
    found = ask(client, "tool", (asked, called, result), tools=known.tools, options=GREEDY)
    assert (found.thinking, found.content, found.calls) == (known.thinking, known.content, [])


@pytest.mark.point(151)
def test_unknown_keys_of_a_tool_are_not_shown(client: httpx.Client) -> None:
    more = deepcopy(WEATHER)
    more["function"]["parameters"] |= {"additionalProperties": False, "minimum": 3, "title": "T"}
    more["function"]["parameters"]["properties"]["city"] |= {"minLength": 2, "examples": ["Paris"]}
    more["function"] |= {"strict": True}
    more["extra"] = {"a": 1}
    assert rendered(client, "tool", HI, tools=[more]) == rendered(client, "tool", HI, tools=[WEATHER])


@pytest.mark.point(152)
def test_the_type_of_a_property(client: httpx.Client) -> None:
    def tools(kind: Any) -> list[Any]:
        tool = deepcopy(WEATHER)
        tool["function"]["parameters"]["properties"]["city"]["type"] = kind
        return [tool]

    assert '"city": {"type": ["string", "null"]}' in rendered(
        client, "tool", HI, tools=tools(["string", "null"])
    )
    assert rendered(client, "tool", HI, tools=tools(["string"])) == rendered(
        client, "tool", HI, tools=[WEATHER]
    )
    answer = chat(client, "tool", HI, tools=tools(5))
    assert answer.status_code == 400
    assert "json: cannot unmarshal number" in answer.json()["error"]


@pytest.mark.point(153)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("think", [None, True, False])
def test_the_answer_goes_on_where_the_last_message_ends(
    client: httpx.Client, stream: bool, think: bool | None
) -> None:
    known = case("qwen3", "prefill")
    found = ask(client, "tool", known.messages, stream=stream, think=think, options=GREEDY)
    assert (found.thinking, found.content, found.reason) == ("", known.content, "stop")
    assert rendered(client, "tool", known.messages, think=think).endswith("<|im_start|>assistant\nIts name")


@pytest.mark.point(153)
def test_an_empty_last_answer_is_not_gone_on_with(client: httpx.Client) -> None:
    found = ask(client, "tool", [user("Hello")], think=False, options=GREEDY)
    assert found.content == GREETING
    shown = rendered(client, "tool", [user("Hello"), assistant("")], think=False)
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


# A scripted engine: what the settings of the server change.


@pytest.mark.point(145)
@pytest.mark.row("A8")
@pytest.mark.parametrize("setting", ["tool_calls", "stop"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_reason_of_a_reply_that_calls_is_a_setting(setting: str, stream: bool) -> None:
    call = ToolCall(0, "call_abcdefgh", "get_weather", {"city": "Paris"})
    scripted = {"call": Reply(("x",), events=((Content("So:"),), (call,))), "say": Reply(("Hi",))}
    model = fake_model("m")
    with fake_site(model, engine=lambda: FakeEngine(scripted), tool_calls_done_reason=setting) as site:
        found = ask(site.client, "m", [user("call")], tools=[WEATHER], stream=stream)
        assert (found.content, found.called) == ("So:", [("get_weather", '{"city": "Paris"}')])
        assert found.reason == setting
        assert ask(site.client, "m", [user("say")], tools=[WEATHER], stream=stream).reason == "stop"


@pytest.mark.point(145)
def test_a_reply_to_a_chat_that_calls_ends_with_tool_calls_by_default(client: httpx.Client) -> None:
    known = case("qwen3", "call")
    asked = {"model": "tool", "messages": list(known.messages), "tools": [WEATHER], "options": GREEDY}
    assert reply_of(client.post("/api/chat", json=asked)).reason == "tool_calls"
