"""`POST /v1/chat/completions` (docs/reference 13.1): what is asked for, and answers that come whole."""

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from app.core.events import Content, Thinking, ToolCall
from app.core.request import Constraint, Image, Text
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.openai_site import CITY, DATA_URL, HI, WEATHER, chunks, levelled, refused, site

CALLED = Reply(("x",), events=((), (ToolCall(0, "call_1", "weather", {"city": "Rome"}),)))
THOUGHT = Reply(("a", "b"), events=((Thinking("hm"),), (Content("so"),)))


@pytest.mark.point(214, 215)
async def test_a_whole_answer() -> None:
    async with site() as served:
        answer = await served.chat()
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("}\n")
    found = answer.json()
    assert list(found) == [
        *("id", "object", "created", "model", "system_fingerprint", "choices", "usage", "timings")
    ]
    assert re.fullmatch(r"chatcmpl-\d+", found["id"])
    assert (found["object"], found["model"]) == ("chat.completion", "m")
    assert found["system_fingerprint"] == "fp_ollama"
    assert isinstance(found["created"], int)
    message = {"role": "assistant", "content": "Hello from the scripted engine."}
    assert found["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]


async def test_usage_names_the_cached_tokens() -> None:
    async with site({"hi": Reply(("a", "b"), cached_tokens=3)}) as served:
        found = (await served.chat()).json()["usage"]
    assert list(found) == [
        *("prompt_tokens", "prompt_tokens_details"),
        *("completion_tokens", "completion_tokens_details", "total_tokens"),
    ]
    assert found["prompt_tokens_details"] == {"cached_tokens": 3}
    assert found["total_tokens"] == found["prompt_tokens"] + 2


async def test_usage_counts_the_tokens_of_the_reasoning_over_all_answers() -> None:
    reasoned = Reply(("a b", " c", " d"), events=([Thinking("a b")], [Thinking(" c")], [Content(" d")]))
    async with site({"hi": reasoned}) as served:
        one = (await served.chat()).json()["usage"]
        *_, counted = chunks(await served.chat(n=2, stream=True, stream_options={"include_usage": True}))
    assert one["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert counted["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}


@pytest.mark.parametrize("count", [1, 5])
async def test_a_prompt_is_rendered_once_for_all_answers_to_it(count: int) -> None:
    async with site() as served:
        assert len((await served.chat(n=count)).json()["choices"]) == count
        assert len(served.engine.renderings) == 1
        assert len({id(asked.prompt) for asked in served.engine.asked}) == 1


async def test_a_model_that_cannot_reason_has_no_tokens_of_reasoning_to_tell() -> None:
    async with site() as served:
        assert "completion_tokens_details" not in (await served.chat(model="plain")).json()["usage"]


async def test_timings_are_told_behind_usage() -> None:
    async with site() as served:
        found = (await served.chat()).json()["timings"]
    assert list(found) == [
        f"{part}_{name}"
        for part in ("prompt", "predicted")
        for name in ("n", "ms", "per_token_ms", "per_second")
    ]
    assert found["predicted_n"] == 5


@pytest.mark.point(211, 212, 213)
async def test_what_is_refused_first() -> None:
    async with site() as served:
        for body in ({"model": "m"}, {"model": "m", "messages": []}):
            refused(
                await served.client.post("/v1/chat/completions", json=body), "[] is too short - 'messages'"
            )
        empty = await served.client.post("/v1/chat/completions", content=b"")
        refused(empty, "EOF")
        assert empty.headers["content-type"] == "application/json; charset=utf-8"
        unknown = await served.chat(model="nosuch")
        refused(unknown, "model 'nosuch' not found", 404)
        assert unknown.headers["content-type"] == "application/json"
        assert unknown.text.endswith("}\n")
        refused(await served.chat(model=""), "model is required")
        refused(
            await served.chat(max_tokens="1"),
            "json: cannot unmarshal string into Go struct field ChatCompletionRequest.max_tokens of type int",
        )


@pytest.mark.point(218)
async def test_a_tool_call_has_its_arguments_as_text() -> None:
    async with site({"hi": CALLED}) as served:
        choice = (await served.chat(tools=[WEATHER])).json()["choices"][0]
    function = {"name": "weather", "arguments": '{"city":"Rome"}'}
    call = {"id": "call_1", "index": 0, "type": "function", "function": function}
    assert choice["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.point(219)
async def test_reasoning_has_both_of_its_names() -> None:
    async with site({"hi": THOUGHT}) as served:
        message = (await served.chat()).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "so", "reasoning": "hm", "reasoning_content": "hm"}


# What is asked of the engine


@pytest.mark.point(220)
async def test_temperature_and_top_p_are_1_against_the_models_own() -> None:
    model = replace(fake_model("own"), sampling={"temperature": 0.1, "top_p": 0.2, "top_k": 3})
    async with site(models=(model,)) as served:
        await served.chat(model="own")
        found = served.run.sampling
    assert (found.temperature, found.top_p, found.top_k) == (1.0, 1.0, 3)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 3}, {"num_predict": 3}),
        ({"max_tokens": 3, "max_completion_tokens": 2}, {"num_predict": 2}),
        ({"MAX_TOKENS": 3}, {"num_predict": 3}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
        ({"seed": 7, "frequency_penalty": 1, "presence_penalty": -1}, {"seed": 7, "frequency_penalty": 1.0}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", 1, "y"]}, {"stop": ("x", "y")}),
        ({"stop": 5}, {"stop": ()}),
        ({"top_k": -1, "min_p": 0.25}, {"top_k": -1, "min_p": 0.25}),
        ({"repetition_penalty": 1.5}, {"repeat_penalty": 1.5, "repeat_last_n": -1}),
        ({"min_tokens": 4, "ignore_eos": True}, {"min_tokens": 4, "ignore_eos": True}),
        ({"stop_token_ids": [1, 2]}, {"stop_token_ids": (1, 2)}),
        ({"logit_bias": {"5": -100, "6": 1.5}}, {"logit_bias": {5: -100.0, 6: 1.5}}),
        ({"n": None, "logit_bias": None, "top_k": None}, {"top_k": 40}),
        ({"keep_alive": 0, "options": {"seed": 9}, "think": True, "format": "json"}, {"seed": -1}),
    ],
)
async def test_sampling_fields_reach_the_engine(fields: Any, expected: dict[str, Any]) -> None:
    async with site() as served:
        answer = await served.chat(**fields)
        assert answer.status_code == 200, answer.text
        found = served.run.sampling
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"n": 0}, "n must be an integer from 1 to 2147483648"),
        ({"n": 129}, "n: at most 128 answers, this request has 129"),
        (
            {
                "n": 33,
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": DATA_URL}] * 2}],
            },
            "images: at most 64 for all answers together, this request has 66",
        ),
        (
            {"N": 100, "messages": [{"role": "user", "content": "x" * 50_000}]},
            "n: at most 4194304 characters for all answers, this request has 5000400",
        ),
        ({"logit_bias": {"a": 1}}, "logit_bias: its keys must be token ids"),
        ({"logit_bias": {"1": 101}}, "logit_bias: its values must be numbers from -100 to 100"),
        ({"logit_bias": [1]}, "logit_bias must be an object"),
        (
            {"logit_bias": {str(token): 1 for token in range(1025)}},
            "logit_bias: at most 1024, this request has 1025",
        ),
        ({"top_k": 1.5}, "top_k must be an integer from -1 to 2147483647"),
        ({"min_p": "x"}, "min_p must be a number"),
        ({"ignore_eos": 1}, "ignore_eos must be a boolean"),
        ({"stop_token_ids": [-1]}, "stop_token_ids must be a list of token ids"),
        ({"max_completion_tokens": 0}, "max_completion_tokens must be an integer from 1 to 2147483647"),
        ({"temperature": 1e39}, 'option "temperature" must be of type float32'),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"stop": ["x"] * 65}, "stop: at most 64, this request has 65"),
        ({"use_beam_search": True}, "use_beam_search: the engine does not do this"),
        ({"modalities": ["text", "audio"]}, "modalities: models of this server write text alone"),
        ({"functions": [{}]}, "functions: use tools"),
        (
            {"datai": {"tools": {"net": True}}},
            "datai: built-in tools are asked for on /api, or as web_search on /v1/responses and /v1/messages",
        ),
        ({"web_search_options": {}}, "web_search_options: this server has no web search"),
        (
            {"moderation": {"model": "omni-moderation-latest"}},
            "moderation: nothing that is asked or answered here is moderated",
        ),
        ({"chat_template": "x"}, "chat_template: templates are set with the model"),
        ({"prompt_logprobs": 1}, "prompt_logprobs: is not supported by this server"),
        (
            {"service_tier": "scale"},
            'service_tier: "scale" is not supported; use "auto", "default", "priority" or "flex"',
        ),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens must be an integer from -1 to 2147483648"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids: use top_logprobs"),
        ({"truncation_side": "right"}, "truncation_side: the last tokens of a prompt are kept"),
        ({"return_prompt_text": True}, "return_prompt_text: use _debug_render_only"),
        ({"min_p": 1.5}, "min_p must be from 0 to 1"),
        ({"echo": True}, "echo: continue_final_message goes on with the last message"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields: Any, text: str) -> None:
    async with site() as served:
        refused(await served.chat(**fields), text)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "prediction": {}, "safety_identifier": "s"},
        {
            "use_beam_search": False,
            "length_penalty": 1.0,
            "modalities": ["text"],
            "skip_special_tokens": True,
        },
        {"audio": None, "functions": None, "function_call": "auto", "verbosity": "medium"},
        {"prompt_cache_key": "k", "include_reasoning": False, "guided_decoding_backend": "x"},
        {"stream_options": {"continuous_usage_stats": True}},
        {"session_id": "s", "stream_interval": 4, "echo": False, "truncation_side": "left"},
        {"anything": {"else": 1}},
    ],
)
async def test_what_has_no_effect_is_taken(fields: Any) -> None:
    async with site() as served:
        assert (await served.chat(**fields)).status_code == 200


async def test_a_request_may_wait_longer_than_others_of_its_key_and_never_less() -> None:
    async with site() as served:
        answer = await served.chat(service_tier="flex")
        assert answer.json()["service_tier"] == "flex"
        assert (await served.chat(service_tier="priority")).json()["service_tier"] == "default"
        assert "service_tier" not in (await served.chat()).json()
        assert (await served.chat(priority=-5)).status_code == 200


async def test_what_may_wait_longer_is_served_last() -> None:
    gate = asyncio.Event()
    async with site(engine=FakeEngine(slots=1, gate=gate)) as served:

        async def ask(name: str, **fields: Any) -> None:
            await served.chat({"role": "user", "content": name}, **fields)

        async with asyncio.TaskGroup() as group:
            for name, fields in (
                ("running", {}),
                ("flex", {"service_tier": "flex"}),
                ("later", {"priority": 5}),
                ("default", {"service_tier": "priority"}),
            ):
                group.create_task(ask(name, **fields))
                for _ in range(50):
                    await asyncio.sleep(0)
            gate.set()
        order = [each.run.chat.messages[0].text for each in served.engine.asked]
    assert order == ["running", "default", "flex", "later"]


# Messages


@pytest.mark.point(221)
async def test_parts_stay_one_message_in_the_clients_order() -> None:
    text, picture = {"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": DATA_URL}}
    parts = [picture, text, {"type": "text", "text": "two"}, {"type": "image_url", "image_url": DATA_URL}]
    async with site() as served:
        await served.chat({"role": "user", "content": parts})
        (message,) = served.engine.renderings[0].chat.messages
        image = message.parts[0]
        assert isinstance(image, Image)
        assert message.parts == (image, Text("one"), Text("\ntwo"), image)
        part = {"type": "image_url", "image_url": {"url": "http://a/b.png"}}
        refused(
            await served.chat({"role": "user", "content": [part]}),
            "image URLs are not currently supported, please use base64 encoded data instead",
        )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:image/gif;base64,AA=="}}], "invalid image input"),
        ([{"type": "image_url", "image_url": {"url": "data:;base64,!"}}], "invalid image input"),
        ([{"type": "image_url"}], "invalid message format"),
        (["x"], "invalid message format"),
        ([{"type": "file"}], "invalid message format"),
        ([{"type": "text", "text": 5}], "invalid message format"),
        (5, "invalid message content type: float64"),
        ({}, "invalid message content type: map[string]interface {}"),
        ([{"type": "input_audio"}], "invalid input_audio format"),
        ([{"type": "input_audio", "input_audio": {}}], "invalid input_audio format: missing data"),
        (
            [{"type": "input_audio", "input_audio": {"data": "!"}}],
            "invalid input_audio base64 data: illegal base64 data at input byte 0",
        ),
        (
            [{"type": "input_audio", "input_audio": {"data": "AA=="}}],
            "input_audio: models of this server do not hear",
        ),
    ],
)
async def test_what_is_no_content_is_refused(content: Any, text: str) -> None:
    async with site() as served:
        refused(await served.chat({"role": "user", "content": content}), text)


@pytest.mark.point(222)
async def test_content_may_be_null_with_calls_alone() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    history = (
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "other", "content": "rain"},
    )
    async with site() as served:
        refused(await served.chat({"role": "assistant"}), "invalid message content type: <nil>")
        await served.chat(HI, *history)
        _, first, second, third = served.engine.renderings[0].chat.messages
        assert [(each.name, each.arguments, each.id) for each in first.tool_calls] == [
            ("weather", {"city": "Rome"}, "c1")
        ]
        assert first.thinking == "hm"
        assert (second.tool_name, second.tool_call_id, third.tool_name) == ("weather", "c1", "")
        for arguments in ("", "{", "[]", "1"):
            call["function"] = {"name": "weather", "arguments": arguments}
            refused(await served.chat(HI, *history), "invalid tool call arguments")


async def test_a_refusal_is_what_the_assistant_said() -> None:
    async with site() as served:
        for said in (
            {"content": None, "refusal": "No."},
            {"content": "", "refusal": "No."},
            {"content": [{"type": "refusal", "refusal": "No."}]},
            {"content": [], "refusal": "No."},
        ):
            await served.chat(HI, {"role": "assistant", **said}, HI)
            assert served.engine.renderings[-1].chat.messages[1].parts == (Text("No."),)
        both = {"role": "assistant", "content": "Well.", "refusal": "No."}
        await served.chat(HI, both, {**both, "content": [{"type": "text", "text": "Well."}]}, HI)
        _, *told, _ = served.engine.renderings[-1].chat.messages
        assert [message.text for message in told] == ["Well.\nNo."] * 2


async def test_the_result_of_a_function_has_its_name() -> None:
    async with site() as served:
        await served.chat(HI, {"role": "function", "name": "weather", "content": "9"})
        assert served.engine.renderings[-1].chat.messages[1].tool_name == "weather"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"audio": {"id": "a"}}, "messages.audio: models of this server do not hear"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "messages.function_call: use tool_calls"),
        (
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
            'messages.tool_calls: "custom" is no kind of call here; use functions',
        ),
    ],
)
async def test_what_a_model_could_not_be_shown_of_a_message_is_refused(message: Any, text: str) -> None:
    async with site() as served:
        refused(await served.chat(HI, {"role": "assistant", "content": "x", **message}), text)
        nothing = dict.fromkeys(message)
        assert (await served.chat(HI, {"role": "assistant", "content": "x", **nothing})).status_code == 200


async def test_what_changes_nothing_in_a_message_is_let_pass() -> None:
    plain = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    part = {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}
    async with site() as served:
        for message in (plain, {"role": "user", "content": [part], "name": "Ann"}):
            assert (await served.chat(message)).status_code == 200
        first, second = (each.chat.messages for each in served.engine.renderings)
        assert first == second


async def test_messages_without_any_part_only_load_the_model() -> None:
    async with site() as served:
        answer = await served.chat({"role": "user", "content": []})
        assert answer.json()["choices"][0]["finish_reason"] == "load"
        assert not served.engine.asked


async def test_the_prompt_can_be_seen_without_an_answer() -> None:
    async with site() as served:
        found = (await served.chat(_debug_render_only=True)).json()
        assert "hi" in found["_debug_info"]["rendered_template"]
        assert not served.engine.asked


# Reasoning


@pytest.mark.point(223)
async def test_effort_of_a_model_whose_levels_are_not_known() -> None:
    async with site() as served:
        assert (await served.chat(model="plain", reasoning_effort="none")).status_code == 200
        refused(
            await served.chat(model="plain", reasoning_effort="high"), '"plain" does not support thinking'
        )
        refused(
            await served.chat(reasoning_effort="bogus"),
            'invalid reasoning value: "bogus" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")',
        )


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("m", {"reasoning_effort": "minimal"}, "low"),
        ("m", {"reasoning_effort": "ultra"}, "max"),
        ("m", {"reasoning_effort": "none"}, False),
        ("m", {"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, "high"),
        ("m", {"reasoning": {}, "reasoning_effort": "low"}, None),
        ("m", {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ("m", {"chat_template_kwargs": {"thinking": True, "reasoning_effort": "low"}}, "low"),
        ("switch", {"reasoning_effort": "xhigh"}, True),
        ("switch", {"reasoning_effort": "none"}, False),
        ("names", {"reasoning_effort": "xhigh"}, "xhigh"),
        ("names", {"reasoning_effort": "bogus"}, "medium"),
        ("names", {"reasoning_effort": "none"}, False),
    ],
)
async def test_effort_is_read_by_the_models_levels(model: str, fields: Any, expected: Any) -> None:
    others = (levelled("switch", False, True), levelled("names", False, "low", "xhigh", "medium"))
    async with site(models=others) as served:
        answer = await served.chat(model=model, **fields)
        assert answer.status_code == 200, answer.text
        assert served.run.think == expected


async def test_variables_reach_the_template_and_the_last_message_may_be_continued() -> None:
    async with site() as served:
        await served.chat(
            HI,
            {"role": "assistant", "content": "well"},
            chat_template_kwargs={"style": "short", "enable_thinking": False},
            continue_final_message=True,
            add_generation_prompt=False,
        )
        found = served.engine.renderings[-1]
        assert (found.variables, found.continue_last, found.think) == ({"style": "short"}, True, False)
        await served.chat(HI, {"role": "assistant", "content": "well"}, add_generation_prompt=True)
        assert not served.engine.renderings[-1].continue_last
        refused(
            await served.chat(continue_final_message=True, add_generation_prompt=True),
            "set one of add_generation_prompt and continue_final_message",
        )
        refused(
            await served.chat(chat_template_kwargs={"messages": []}),
            'chat_template_kwargs: "messages" is no variable of a template',
        )
        refused(
            await served.chat(chat_template_kwargs={"a": "x" * 16_384}),
            "chat_template_kwargs: at most 16384 bytes of JSON, this request has 16392",
        )


async def test_the_prompt_is_cut_to_its_last_tokens() -> None:
    async with site() as served:
        await served.chat(truncate_prompt_tokens=3)
        assert len(served.engine.asked[-1].prompt.token_ids) == 3


# Constraints


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "Unknown"}}, None),
        ({"response_format": {"type": " JSON_object "}}, Constraint()),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
            Constraint(SCHEMA),
        ),
        ({"guided_json": SCHEMA}, Constraint(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, Constraint(SCHEMA)),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, Constraint(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, Constraint()),
    ],
)
async def test_an_answer_is_kept_to_a_schema(fields: Any, expected: Constraint | None) -> None:
    async with site({"hi": Reply(('{"a":1}',))}) as served:
        answer = await served.chat(**fields)
        assert answer.status_code == 200, answer.text
        found = served.run.constraint
    assert (found and replace(found, grammar="")) == expected


@pytest.mark.parametrize(
    ("fields", "text", "wrong"),
    [
        ({"guided_choice": ["yes", "no"]}, "yes", "maybe"),
        ({"structured_outputs": {"choice": ["yes"]}}, "yes", "maybe"),
        ({"guided_regex": r"\d+"}, "42", "x"),
        ({"structured_outputs": {"regex": r"\d+"}}, "42", ""),
    ],
)
async def test_an_answer_is_kept_to_texts(fields: Any, text: str, wrong: str) -> None:
    async with site({"hi": Reply((text,)), "wrong": Reply((wrong,))}) as served:
        assert (await served.chat(**fields)).json()["choices"][0]["message"]["content"] == text
        assert served.run.constraint.grammar
        answer = await served.chat({"role": "user", "content": "wrong"}, **fields)
        assert answer.status_code == 500


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"guided_choice": []}, "guided_choice must be a list of strings"),
        ({"guided_regex": 5}, "guided_regex must be a string"),
        ({"guided_regex": "("}, "invalid regex: there is an unclosed group"),
        ({"guided_json": "{"}, "guided_json is no JSON"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar: use guided_json, guided_regex or guided_choice"),
        (
            {"structured_outputs": {"grammar": "x"}},
            "structured_outputs.grammar is not supported; use json, regex or choice",
        ),
        (
            {"guided_regex": "a", "guided_choice": ["b"]},
            "guided_regex and guided_choice: an answer can be kept to one of them",
        ),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "an answer can be kept to one of response_format, tool_choice and guided fields",
        ),
        ({"guided_choice": ["x"] * 1025}, "guided_choice: at most 1024, this request has 1025"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
            None,
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format: json_schema needs a schema, which must be an object",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": "json"}}},
            "response_format: json_schema needs a schema, which must be an object",
        ),
        (
            {"response_format": {"type": "structural_tag"}},
            'response_format.type: "structural_tag" is not supported; use "json_object" or "json_schema"',
        ),
    ],
)
async def test_a_constraint_that_cannot_be_kept_is_refused(fields: Any, text: str | None) -> None:
    async with site() as served:
        answer = await served.chat(**fields)
        refused(answer, text or answer.json()["error"]["message"])


# Tools


CALLS = Reply((json.dumps([{"name": "weather", "arguments": {"city": "Rome"}}]),))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_choice_of_tools_is_enforced(choice: Any) -> None:
    """By the client's whole schema, which a template does not see."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {**CITY, "maxProperties": 1}}}
    async with site({"hi": CALLS}) as served:
        answer = (await served.chat(tools=[tool], tool_choice=choice)).json()
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
        assert re.fullmatch("call_[a-z0-9]{8}", call["id"])
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert served.run.constraint.schema["$defs"]["tool0"] == {**CITY, "maxProperties": 1}


async def test_no_tool_may_be_called_where_none_is_chosen() -> None:
    async with site() as served:
        await served.chat(tools=[WEATHER], tool_choice="none")
        assert served.engine.renderings[-1].chat.tools == ()
        await served.chat(tools=[WEATHER], tool_choice="auto")
        assert len(served.engine.renderings[-1].chat.tools) == 1


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_of_some_tools_only_those_that_are_allowed_are_told(mode: str) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [WEATHER]}}
    async with site({"hi": CALLS}) as served:
        await served.chat(tools=[other, WEATHER], tool_choice=choice)
        (tool,) = served.engine.renderings[-1].chat.tools
        assert tool["function"]["name"] == "weather"
        assert (served.run.constraint is not None) == (mode == "required")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"tools": [WEATHER], "tool_choice": "any"},
            'tool_choice must be "none", "auto", "required" or '
            '{"type": "function", "function": {"name": ...}}',
        ),
        ({"tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            'tool_choice: there is no tool "x"',
        ),
        ({"tools": [{"type": "custom"}]}, 'tools[0]: "custom" is no kind of tool here; use functions'),
        (
            {"model": "plain", "tools": [WEATHER]},
            "registry.ollama.ai/library/plain:latest does not support tools",
        ),
    ],
)
async def test_a_choice_that_cannot_be_is_refused(fields: Any, text: str) -> None:
    async with site() as served:
        refused(await served.chat(**fields), text)


async def test_without_parallel_calls_one_comes_out() -> None:
    two = (ToolCall(0, "a", "weather", {}), ToolCall(1, "b", "weather", {}))
    async with site({"hi": Reply(("x",), events=((), two))}) as served:
        both = (await served.chat(tools=[WEATHER])).json()
        one = (await served.chat(tools=[WEATHER], parallel_tool_calls=False)).json()
    assert [len(each["choices"][0]["message"]["tool_calls"]) for each in (both, one)] == [2, 1]


# Several answers, log-probabilities


def by_seed(_: Prompt, run: Run) -> Reply:
    return Reply((f"seed {run.sampling.seed}",))


async def test_several_answers_share_a_prompt_and_differ_by_their_seeds() -> None:
    async with site(by_seed) as served:
        found = (await served.chat(n=3, seed=5)).json()
    assert [each["message"]["content"] for each in found["choices"]] == ["seed 5", "seed 6", "seed 7"]
    assert [each["index"] for each in found["choices"]] == [0, 1, 2]
    async with site(by_seed) as served:
        one = (await served.chat(seed=5)).json()["usage"]
    assert found["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert found["usage"]["completion_tokens"] == 3 * one["completion_tokens"]


async def test_log_probabilities_are_told_as_openai_has_them() -> None:
    async with site({"hi": Reply(("a",))}) as served:
        choice = (await served.chat(logprobs=True, top_logprobs=2)).json()["choices"][0]
    (item,) = choice["logprobs"]["content"]
    assert list(item) == ["token", "logprob", "bytes", "top_logprobs"]
    assert (item["token"], item["bytes"], len(item["top_logprobs"])) == ("a", [97], 2)
    async with site({"hi": Reply(("a",))}) as served:
        choice = (await served.chat(logprobs=True)).json()["choices"][0]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []
