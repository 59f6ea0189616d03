"""`POST /api/chat` as Ollama answers it (ollama-api 7): documents, lines, roles, history, refusals."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
from ollama_lines import JSON, NDJSON, Line, in_engines, lines, text
from PIL import Image

from tests.models.catalogue import CASES, WEATHER, case

pytestmark = pytest.mark.engine

SHORT = {"num_predict": 3, "temperature": 0}
METRICS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
HELLO = case("qwen3", "hello")


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def chat(client: httpx.Client, model: str = "plain", **fields: Any) -> httpx.Response:
    return client.post("/api/chat", json={"model": model, **fields})


def whole(client: httpx.Client, model: str = "plain", **fields: Any) -> Line:
    answer = chat(client, model, stream=False, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rendered(client: httpx.Client, model: str, messages: list[dict[str, Any]], **fields: Any) -> str:
    """The prompt as the model would get it."""
    answer = chat(client, model, messages=messages, _debug_render_only=True, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["_debug_info"]["rendered_template"]


def assert_refused(answer: httpx.Response, error: str) -> None:
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.point(129)
@pytest.mark.parametrize("fields", [{}, {"messages": []}, {"messages": None}, {"stream": True}])
def test_a_chat_without_messages_loads_the_model(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = chat(client, **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    document = answer.json()
    assert list(document) == ["model", "created_at", "message", "done", "done_reason"]
    assert document["message"] == {"role": "assistant", "content": ""}
    assert (document["done"], document["done_reason"]) == (True, "load")


@pytest.mark.point(131, 132)
@pytest.mark.row("A4", "A8", "C6")
def test_a_stream_is_lines_of_the_assistants_and_a_last_one_with_metrics(client: httpx.Client) -> None:
    answer = chat(client, messages=[user("Hi")], options=SHORT)
    assert answer.headers["content-type"] == NDJSON
    *texts, last = lines(answer)
    assert texts
    for part in texts:
        assert list(part) == ["model", "created_at", "message", "done"]
        assert list(part["message"]) == ["role", "content"]
        assert (part["message"]["role"], part["done"]) == ("assistant", False)
    assert list(last) == ["model", "created_at", "message", "done", "done_reason", *METRICS]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 3)
    assert all(isinstance(last[name], int) and last[name] > 0 for name in METRICS)


@pytest.mark.point(133)
@pytest.mark.row("B1", "B3")
def test_a_document_joins_what_the_stream_has_in_pieces(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"messages": [user("Hi")], "options": SHORT}
    answer = chat(client, stream=False, **asked)
    assert answer.headers["content-type"] == JSON
    assert not answer.content.endswith(b"\n")
    document = answer.json()
    assert list(document) == ["model", "created_at", "message", "done", "done_reason", *METRICS]
    assert document["message"]["content"] == text(lines(chat(client, **asked)))


@pytest.mark.point(134)
def test_roles_are_lowered_and_any_is_taken(client: httpx.Client) -> None:
    assert rendered(client, "plain", [{"role": "USER", "content": "x"}]) == rendered(
        client, "plain", [user("x")]
    )
    assert "<|im_start|>narrator\nx" in rendered(client, "plain", [{"role": "narrator", "content": "x"}])
    assert "x" in rendered(client, "plain", [{"content": "x"}])


@pytest.mark.point(135)
@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": None}])
def test_a_message_may_have_no_content(client: httpx.Client, message: dict[str, Any]) -> None:
    assert whole(client, messages=[message], options=SHORT)["done"] is True


@pytest.mark.point(136, 137)
def test_the_models_system_prompt_gives_way_only_to_one_that_comes_first(client: httpx.Client) -> None:
    system = {"role": "system", "content": "OWN"}
    assert "<|im_start|>system\nSYS<|im_end|>" in rendered(client, "sys", [user("x")])
    assert "SYS" not in rendered(client, "sys", [system, user("x")])
    assert "SYS" in rendered(client, "sys", [user("x"), system, user("y")])


@pytest.mark.point(138)
@pytest.mark.row("B2")
def test_a_top_level_system_prompt_is_honoured(client: httpx.Client) -> None:
    found = rendered(client, "sys", [user("x")], system="TOP")
    assert "TOP" in found
    assert "SYS" not in found
    first = {"role": "system", "content": "OWN"}
    assert "TOP" not in rendered(client, "sys", [first, user("x")], system="TOP")


@pytest.mark.point(139)
def test_the_models_messages_come_before_the_requests_system_prompt(client: httpx.Client) -> None:
    found = rendered(client, "msgs", [{"role": "system", "content": "OWN"}, user("asked")])
    places = [found.index(part) for part in ("U0", "A0", "OWN", "asked")]
    assert places == sorted(places)


@pytest.mark.point(130)
def test_no_messages_and_no_keep_alive_unload(client: httpx.Client) -> None:
    document = chat(client, "llama", messages=[], keep_alive="0s").json()
    assert (document["done_reason"], document["message"]) == ("unload", {"role": "assistant", "content": ""})


@pytest.mark.point(140)
def test_an_embedding_model_does_not_chat(client: httpx.Client) -> None:
    assert_refused(chat(client, "emb", messages=[user("x")]), '"emb" does not support chat')
    assert_refused(chat(client, "emb"), '"emb" does not support chat')


@pytest.mark.point(141)
def test_tools_need_a_model_that_calls_them(client: httpx.Client) -> None:
    answer = chat(client, messages=[user("x")], tools=[WEATHER])
    assert_refused(answer, "registry.ollama.ai/library/plain:latest does not support tools")


@pytest.mark.point(142)
def test_an_empty_list_of_tools_is_none(client: httpx.Client) -> None:
    assert whole(client, messages=[user("x")], tools=[], options=SHORT)["done"] is True


@pytest.mark.point(143, 152)
def test_tools_of_the_wrong_shape(client: httpx.Client) -> None:
    refused = chat(client, "tool", messages=[user("x")], tools={})
    assert refused.status_code == 400
    assert "ChatRequest.tools of type api.Tools" in refused.json()["error"]
    assert chat(client, "tool", messages=[user("x")], tools=[_tool({"type": 5})]).status_code == 400


def _tool(city: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    properties = {"type": "object", "required": ["city"], "properties": {"city": city}, **parameters}
    return {"type": "function", "function": {"name": "get_weather", "parameters": properties}}


@pytest.mark.point(151, 152)
def test_a_template_sees_the_keys_that_ollama_keeps(client: httpx.Client) -> None:
    tool = _tool({"type": ["string", "null"], "pattern": "P"}, additionalProperties=False)
    found = rendered(client, "tool", [user("x")], tools=[tool])
    assert '"type": ["string", "null"]' in found
    assert "pattern" not in found
    assert "additionalProperties" not in found


@pytest.mark.point(145)
@pytest.mark.row("A8")
def test_a_reply_with_a_call_ends_for_that_reason(client: httpx.Client) -> None:
    one = next(each for each in CASES["qwen3"] if len(each.calls) == 1)
    body = {"messages": list(one.messages), "tools": list(one.tools), "think": False}
    document = whole(client, "tool", options={"temperature": 0}, **body)
    assert document["done_reason"] == "tool_calls"
    assert document["message"]["tool_calls"][0]["id"]


@pytest.mark.point(149)
def test_arguments_in_the_history_are_an_object_or_null(client: httpx.Client) -> None:
    def history(arguments: Any) -> list[dict[str, Any]]:
        call = {"function": {"name": "get_weather", "arguments": arguments}}
        return [user("x"), {"role": "assistant", "content": "", "tool_calls": [call]}, user("y")]

    assert chat(client, "tool", messages=history('{"city":"Paris"}')).status_code == 400
    assert "get_weather" in rendered(client, "tool", history(None))
    assert '{"city": "Paris"}' in rendered(client, "tool", history({"city": "Paris"}))


@pytest.mark.point(150)
@pytest.mark.parametrize("more", [{"tool_name": "get_weather"}, {"tool_call_id": "call_1"}, {}])
def test_a_tool_result_may_name_its_call_or_not(client: httpx.Client, more: dict[str, str]) -> None:
    history = [user("x"), {"role": "tool", "content": "22 degrees", **more}]
    assert "<tool_response>\n22 degrees" in rendered(client, "tool", history)
    assert whole(client, "tool", messages=history, options=SHORT)["done"] is True


@pytest.mark.point(153)
def test_a_last_message_of_the_assistants_is_continued(client: httpx.Client) -> None:
    prefill = next(each for each in CASES["qwen3"] if each.prefilled)
    for think in (True, False):
        answer = whole(
            client, "tool", messages=list(prefill.messages), think=think, options={"temperature": 0}
        )
        assert answer["message"]["content"] == prefill.content
    history = [user("Name a colour."), {"role": "assistant", "content": "My favourite colour is"}]
    assert rendered(client, "plain", history).endswith("<|im_start|>assistant\nMy favourite colour is")
    reply = whole(client, messages=history, options=SHORT)["message"]["content"]
    assert not reply.lstrip().startswith("My favourite")


def _turns(count: int) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "KEEP"},
        *(user(f"turn {turn} " + "word " * 20) for turn in range(count)),
        user("LAST"),
    ]


@pytest.mark.point(154)
def test_what_does_not_fit_the_window_is_dropped_from_the_front(client: httpx.Client) -> None:
    found = rendered(client, "plain", _turns(12), options={"num_ctx": 150})
    assert "turn 0 " not in found
    assert "turn 11 " in found
    assert found.index("KEEP") < found.index("turn 11 ") < found.index("LAST")
    answer = whole(client, messages=_turns(12), options={"num_ctx": 150, **SHORT})
    assert 0 < answer["prompt_eval_count"] <= 150


@pytest.mark.point(155)
def test_nothing_is_dropped_where_the_client_forbids_it(client: httpx.Client) -> None:
    assert "turn 0 " in rendered(client, "plain", _turns(3), truncate=False)
    refused = chat(client, messages=_turns(12), truncate=False, options={"num_ctx": 150})
    assert refused.status_code == 400
    assert "context length" in refused.json()["error"]


@pytest.mark.point(156)
def test_a_message_longer_than_the_window_is_cut_or_refused(client: httpx.Client) -> None:
    long = [user("word " * 400)]
    refused = chat(client, messages=long, shift=False, options={"num_ctx": 100})
    assert refused.status_code == 400
    assert "longer than the context length" in refused.json()["error"]
    answer = whole(client, messages=long, options={"num_ctx": 100, **SHORT})
    assert answer["prompt_eval_count"] < 100


@pytest.mark.point(157)
def test_log_probabilities_come_before_the_metrics(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"messages": list(HELLO.messages), "think": False, "logprobs": True}
    answer = chat(client, "tool", stream=False, options={"temperature": 0}, **asked)
    keys = list(answer.json())
    assert keys.index("logprobs") < keys.index("total_duration")
    streamed = lines(chat(client, "tool", options={"temperature": 0}, **asked))
    pieces = [item["token"] for part in streamed for item in part.get("logprobs", [])]
    assert "".join(pieces).startswith(HELLO.content)


@pytest.mark.point(158)
def test_a_render_for_debugging_generates_nothing(client: httpx.Client) -> None:
    document = chat(client, messages=[user("x")], _debug_render_only=True).json()
    assert list(document) == ["model", "created_at", "message", "done", "_debug_info"]
    assert document["message"] == {"role": "", "content": ""}
    assert document["done"] is False
    assert list(document["_debug_info"]) == ["rendered_template"]


@pytest.mark.row("A3")
def test_a_text_model_refuses_pictures_and_goes_on(client: httpx.Client) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    images = [base64.b64encode(picture.getvalue()).decode()]
    refused = chat(client, messages=[user("x") | {"images": images}])
    assert refused.status_code == 400
    assert "does not support image input" in refused.json()["error"]
    assert whole(client, messages=[user("x")], options=SHORT)["done"] is True
    assert in_engines(client) == 0


def test_a_long_history_is_answered(client: httpx.Client) -> None:
    turns = [{"role": ("user", "assistant")[turn % 2], "content": f"m{turn}"} for turn in range(201)]
    answer = whole(client, messages=turns, options=SHORT)
    assert answer["prompt_eval_count"] > 201


@pytest.mark.row("A7")
@pytest.mark.point(92)
def test_a_schema_constrains_a_chat(client: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 12}},
        "required": ["capital"],
    }
    answer = whole(
        client,
        messages=[user("Capital of France, as JSON")],
        format=schema,
        options={"temperature": 0, "num_predict": 64},
    )
    assert list(json.loads(answer["message"]["content"])) == ["capital"]
