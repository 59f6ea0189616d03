"""OpenAI's routes on the real engine: what only it can show, as each field that is vLLM's to honour."""

import json
import math
from typing import Any

import httpx
import pytest

from harness.models.catalogue import GREETING, PARIS_QUESTION, WEATHER, user

pytestmark = pytest.mark.engine

HELLO = [user("Hello")]
HELLO_IDS = [513, 307, 198, 430, 514, 198, 513, 311, 198]
END = 514
"""The end token of `tool`."""
NOTHING_ELSE = {"additionalProperties": False}
"""A small model has much to add."""
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def ask(client: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": HELLO, "temperature": 0, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def choice(found: dict[str, Any]) -> dict[str, Any]:
    return found["choices"][0]


def text(client: httpx.Client, model: str = "plain", **fields: Any) -> str:
    return choice(ask(client, model, **{**SHORT, **fields}))["message"]["content"]


def test_a_stream_is_the_whole_answer_and_that_of_api_chat(client: httpx.Client) -> None:
    message = choice(ask(client, "tool"))["message"]
    assert (message["content"], message["reasoning"]) == (GREETING, "A greeting.")
    body = {"model": "tool", "messages": HELLO, "temperature": 0, "stream": True}
    frames = client.post("/v1/chat/completions", json=body).text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    deltas = [json.loads(frame.removeprefix("data: "))["choices"][0]["delta"] for frame in frames]
    for name in ("content", "reasoning"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name]


@pytest.mark.parametrize("effort", ["none", "medium"])
@pytest.mark.parametrize(
    "wanted", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["any", "one"]
)
def test_a_tool_is_called_that_must_be(client: httpx.Client, wanted: Any, effort: str) -> None:
    """To a greeting no model of ours calls anything by itself."""
    tool = {"type": "function", "function": {**WEATHER["function"]}}
    fields = {"tools": [tool], "reasoning_effort": effort, "max_tokens": 256}
    assert "tool_calls" not in choice(ask(client, "tool", **fields))["message"]
    found = choice(ask(client, "tool", tool_choice=wanted, **fields))
    if found["finish_reason"] == "length":
        pytest.skip("the small model wrote no end to its argument")
    (call, *_) = found["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)
    assert bool(found["message"].get("reasoning")) == (effort != "none")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_comes_of_a_model_that_ends_within_its_reasoning(client: httpx.Client, stream: bool) -> None:
    """Its end token comes first wherever the grammar allows it, so it writes no reasoning and closes none."""
    schema: dict[str, Any] = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema | NOTHING_ELSE}}
    # One call: a small model may write white space and further calls up to the limit.
    fields: dict[str, Any] = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    fields |= {"logit_bias": {str(END): 100}, "max_tokens": 384}
    usage = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    if not stream:
        answer = ask(client, "tool", **fields)
        found, counts = choice(answer), answer["usage"]
        (call,) = found["message"]["tool_calls"]
        assert "reasoning" not in found["message"]
    else:
        body = {"model": "tool", "messages": HELLO, "temperature": 0, "max_tokens": 128, **fields, **usage}
        *frames, _ = client.post("/v1/chat/completions", json=body).text.removesuffix("\n\n").split("\n\n")
        *chunks, last, counted = [json.loads(frame.removeprefix("data: ")) for frame in frames]
        found, counts = choice(last), counted["usage"]
        (call,) = [call for chunk in chunks for call in choice(chunk)["delta"].get("tool_calls", ())]
    assert json.loads(call["function"]["arguments"])["n"] in (1, 2)
    assert found["finish_reason"] == "tool_calls"
    assert 10 < counts["completion_tokens"] < 128
    assert counts["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_behind_token_ids_comes_all_that_the_model_writes(client: httpx.Client) -> None:
    """`Hello` in the template of `tool`: it reasons first, as it was taught."""
    body: dict[str, Any] = {"model": "tool", "prompt": HELLO_IDS, "temperature": 0, "max_tokens": 40}
    (found,) = client.post("/v1/completions", json=body).json()["choices"]
    assert found["text"].startswith("<think>")
    assert found["text"].endswith(GREETING)


@pytest.mark.parametrize("model", ["llama", "fim"])
def test_a_call_that_must_be_is_read_whatever_the_models_own_format(client: httpx.Client, model: str) -> None:
    """Their own are JSON without a list around it, and tags."""
    schema: dict[str, Any] = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    schema["additionalProperties"] = False  # a small model has much to add
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("f", "g")]
    fields: dict[str, Any] = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    found = choice(ask(client, model, max_tokens=256, **fields))
    assert found["message"]["content"] == ""
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] in ("f", "g")
    assert json.loads(call["function"]["arguments"])["n"] in (1, 2)
    assert found["finish_reason"] == "tool_calls"


def test_no_tool_is_called_that_must_not_be(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"messages": [PARIS_QUESTION], "tools": [WEATHER], "max_tokens": 128}
    assert choice(ask(client, "tool", **fields))["message"]["tool_calls"]
    assert "tool_calls" not in choice(ask(client, "tool", tool_choice="none", **fields))["message"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_choice": ["purple", "green"]}, ("purple", "green")),
        ({"structured_outputs": {"choice": ['say "x"\n']}}, ('say "x"\n',)),
    ],
)
def test_an_answer_is_one_of_the_choices(client: httpx.Client, fields: Any, expected: Any) -> None:
    assert text(client, **fields) in expected


def test_an_answer_is_what_a_pattern_says(client: httpx.Client) -> None:
    found = text(client, guided_regex=r"\d{3}-[a-c]{2}")
    assert (len(found), found[3]) == (6, "-")
    assert found[:3].isdigit()


def test_logits_and_ends_are_the_clients_to_bend(client: httpx.Client) -> None:
    scored = choice(ask(client, "plain", logprobs=True, top_logprobs=3, max_tokens=1))["logprobs"]["content"]
    assert math.isclose(scored[0]["logprob"], scored[0]["top_logprobs"][0]["logprob"])
    forced = ask(client, "plain", logit_bias={"42": 100}, max_tokens=3)
    again = ask(client, "plain", logit_bias={"42": 100}, max_tokens=6)
    one = choice(forced)["message"]["content"]
    assert choice(again)["message"]["content"].startswith(one)
    stopped = ask(client, "plain", logit_bias={"42": 100}, stop_token_ids=[42], max_tokens=6)
    assert stopped["usage"]["completion_tokens"] == 1
    assert choice(stopped)["finish_reason"] == "stop"
    held = ask(client, "plain", logit_bias={"42": 100}, stop_token_ids=[42], min_tokens=3, max_tokens=6)
    assert held["usage"]["completion_tokens"] >= 3


def test_an_answer_that_may_not_end_is_as_long_as_it_may_be(client: httpx.Client) -> None:
    plain = ask(client, "tool", max_tokens=60)["usage"]["completion_tokens"]
    endless = ask(client, "tool", max_tokens=60, ignore_eos=True)
    assert plain < 60
    assert endless["usage"]["completion_tokens"] == 60
    assert choice(endless)["finish_reason"] == "length"
    assert "<|" not in choice(endless)["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"logit_bias": {"999999999": 1}}, "logit_bias"), ({"stop_token_ids": [2**40]}, "stop_token_ids")],
)
def test_tokens_that_the_model_does_not_have_are_refused(
    client: httpx.Client, fields: Any, words: str
) -> None:
    body = {"model": "plain", "messages": HELLO, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert text(client)


def test_several_answers_to_one_prompt(client: httpx.Client) -> None:
    found = ask(client, "plain", n=3, seed=1, temperature=1.5, max_tokens=8)
    assert len({each["message"]["content"] for each in found["choices"]}) > 1
    assert found["usage"]["completion_tokens"] <= 24


def test_variables_of_the_template_and_a_cut_prompt(client: httpx.Client) -> None:
    off = ask(client, "tool", chat_template_kwargs={"enable_thinking": False})
    assert "reasoning" not in choice(off)["message"]
    assert ask(client, "plain", truncate_prompt_tokens=4, max_tokens=2)["usage"]["prompt_tokens"] == 4


def test_prompts_of_token_ids(client: httpx.Client) -> None:
    body = {"model": "plain", "prompt": [[1, 2, 3], [4, 5]], "max_tokens": 2, "temperature": 0}
    found = client.post("/v1/completions", json=body).json()
    assert [each["index"] for each in found["choices"]] == [0, 1]
    assert found["usage"]["prompt_tokens"] == 5
