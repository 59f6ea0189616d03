"""What the Messages API makes of a request: checks, conversion, and what is refused or changes nothing."""

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from app.api.anthropic import codec
from app.core.request import ChatPrompt, Image, Text, ToolChoice
from app.engine.fake.engine import Asked
from app.runtime.choice import calls_constraint
from tests.api.messages_site import IMAGE, PNG, Site, assistant, site, user

pytestmark = pytest.mark.row("A9", "C7")

WEATHER = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
EMPTY = "unexpected end of JSON input"
INT = "json: cannot unmarshal string into Go struct field MessagesRequest.max_tokens of type int"
BLOCKS = (
    "json: cannot unmarshal number into Go struct field MessagesRequest.messages of type "
    "[]anthropic.ContentBlock"
)
TEXT = "json: cannot unmarshal number into Go struct field MessagesRequest.messages.text of type string"


@pytest.fixture
async def here() -> AsyncGenerator[Site]:
    async with site() as made:
        yield made


def run(here: Site) -> Asked:
    return here.engine.asked[-1]


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **more}


def said(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


# Checks


@pytest.mark.point(231)
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": None, "max_tokens": None, "messages": None}, "model is required"),
        ({"max_tokens": None, "messages": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": None}, "messages is required"),
        ({"messages": []}, "messages is required"),
        ({"max_tokens": "many"}, INT),
        ({"messages": [user(1)]}, BLOCKS),
        ({"messages": [user([{"type": "text", "text": 1}])]}, TEXT),
        ({"messages": [{"role": "user"}]}, EMPTY),
        ({"messages": [None]}, EMPTY),
        # What is found when decoding is told before what is missing.
        ({"model": None, "messages": [{"role": "user"}]}, EMPTY),
    ],
)
async def test_checks_come_in_ollamas_order_with_its_texts(
    here: Site, changes: dict[str, Any], text: str
) -> None:
    answer = await here.ask(**changes)
    assert answer.status_code == 400
    told = answer.json()
    assert told == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": text},
        "request_id": answer.headers["request-id"],
    }
    assert told["request_id"].startswith("req_")
    assert len(told["request_id"]) == 28


async def test_an_empty_body_is_told_as_go_does(here: Site) -> None:
    answer = await here.client.post("/v1/messages", content=b"")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "EOF")


async def test_headers_and_the_query_of_anthropics_clients_change_nothing(here: Site) -> None:
    headers = {
        "x-api-key": "any",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "context-management-2025-06-27,interleaved-thinking-2025-05-14",
    }
    here.client.headers.update(headers)
    assert (await here.told(path="/v1/messages?beta=true"))["content"]


# Sampling


async def test_only_what_is_given_takes_the_place_of_the_models_own_parameters(here: Site) -> None:
    await here.told(max_tokens=7)
    plain = run(here).run.sampling
    assert (plain.num_predict, plain.temperature, plain.top_p, plain.top_k, plain.stop) == (
        7,
        0.8,
        0.9,
        40,
        (),
    )
    await here.told(temperature=0, top_p=0.5, top_k=3, stop_sequences=["END"])
    named = run(here).run.sampling
    assert (named.temperature, named.top_p, named.top_k, named.stop) == (0.0, 0.5, 3, ("END",))


@pytest.mark.parametrize(
    "field",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "auto"},
        {"service_tier": "standard_only"},
        {"speed": "fast"},
        {"inference_geo": "eu"},
        {"diagnostics": {"previous_message_id": None}},
        {"cache_control": {"type": "ephemeral"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"container": None},
        {"mcp_servers": []},
        {"user_profile_id": "p"},
        {"fallbacks": "default"},
        {"billing_policy": {"type": "billing_policy", "bill_to": "self"}},
        {"output_config": {"task_budget": {"type": "tokens", "total": 1000}}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_fields_that_change_nothing_are_let_pass(here: Site, field: dict[str, Any]) -> None:
    answer = await here.client.post(
        "/v1/messages", json={"model": "m", "max_tokens": 9, "messages": [user("Hi")], **field}
    )
    assert answer.status_code == 200, answer.text
    assert here.engine.asked[-1].prompt.text == said("user", "Hi") + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"container": "c"}, "container: this server has no containers"),
        ({"container": {"skills": []}}, "container: this server has no containers"),
        (
            {"mcp_servers": [{"url": "https://x"}]},
            "mcp_servers: this server calls no MCP servers: give their tools as `tools`",
        ),
        (
            {"datai": {"tools": {"net": True}}},
            "datai: built-in tools are asked for on /api; here give web_search or web_fetch as a tool",
        ),
        ({"thread": {"type": "create"}}, "thread: this server holds no conversations: send the whole of it"),
        ({"output_format": {"type": "xml"}}, 'output_config.format: type must be json_schema, not "xml"'),
        (
            {"output_config": {"format": {"type": "json_schema"}}},
            "output_config.format: schema is required and must be an object",
        ),
        (
            {"tool_choice": {"type": "any"}},
            "tool_choice: any needs tools, and this request has none",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
            'tool_choice: this request has no tool "x"',
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "some"}},
            'tool_choice: type must be auto, any, tool or none, not "some"',
        ),
    ],
)
async def test_what_cannot_be_had_is_refused_by_name(here: Site, field: dict[str, Any], text: str) -> None:
    assert await here.refused(**field) == text


# System


@pytest.mark.parametrize(
    ("system", "shown"),
    [
        ("Be brief.", "Be brief."),
        ([{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}], "Be brief."),
        ([{"type": "text", "text": "A", "cache_control": {"type": "ephemeral", "ttl": "1h"}}], "A"),
        (
            [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0;"},
                {"type": "text", "text": "B"},
            ],
            "B",
        ),
        ("x-anthropic-billing-header: cc_version=2.1; cch=00000;\nC", "C"),
        (
            "Of x-anthropic-billing-header: nothing is dropped.",
            "Of x-anthropic-billing-header: nothing is dropped.",
        ),
    ],
)
async def test_system_is_text_or_blocks_less_the_line_for_billing(
    here: Site, system: Any, shown: str
) -> None:
    assert await here.shown(user("Hi"), system=system) == said("system", shown) + said("user", "Hi")


@pytest.mark.parametrize("system", ["", [], "x-anthropic-billing-header: cch=1;"])
async def test_without_a_system_prompt_there_is_no_system_message(here: Site, system: Any) -> None:
    assert await here.shown(user("Hi"), system=system) == said("user", "Hi")


async def test_a_system_message_before_the_first_turn_is_part_of_the_system_prompt(here: Site) -> None:
    shown = await here.shown({"role": "system", "content": "B"}, user("Hi"), system="A")
    assert shown == said("system", "A\n\nB") + said("user", "Hi")


async def test_a_later_system_message_joins_the_message_before_it(here: Site) -> None:
    late = {"role": "system", "content": [{"type": "text", "text": "Plan first."}]}
    reminder = "<system-reminder>\nPlan first.\n</system-reminder>"
    assert await here.shown(user("Hi"), late, system="A") == (
        said("system", "A") + said("user", f"Hi\n\n{reminder}")
    )
    turns = [user("Hi"), assistant([CALL]), user([result("9 degrees")]), late]
    shown = await here.shown(*turns, tools=[WEATHER])
    assert shown.endswith(said("tool", f"[weather] 9 degrees\n\n{reminder}"))


async def test_a_system_message_after_an_answer_begins_the_users_turn(here: Site) -> None:
    late = {"role": "system", "content": "<system-reminder>Be kind.</system-reminder>"}
    shown = await here.shown(user("Hi"), assistant("Hello"), late, user("Bye"))
    said_last = "<system-reminder>Be kind.</system-reminder>\n\nBye"
    assert shown == said("user", "Hi") + said("assistant", "Hello") + said("user", said_last)


async def test_a_system_message_is_shown_until_the_user_speaks_where_it_says_so(here: Site) -> None:
    def late(**fields: Any) -> dict[str, Any]:
        return {"role": "system", "content": "<system-reminder>Now.</system-reminder>", **fields}

    said_now = "Hi\n\n<system-reminder>Now.</system-reminder>"
    once = late(clear_at="next_user_message")
    assert await here.shown(user("Hi"), once) == said("user", said_now)
    again = [assistant("Yes"), user("And?")]
    shown = await here.shown(user("Hi"), once, *again)
    assert shown == said("user", "Hi") + said("assistant", "Yes") + said("user", "And?")
    shown = await here.shown(user("Hi"), late(clear_at="never"), *again)
    assert shown.startswith(said("user", said_now))
    text = await here.refused(messages=[user("Hi"), late(clear_at="soon")])
    assert text == 'clear_at: must be "next_user_message" or "never", not "soon"'


@pytest.mark.parametrize("kind", ["tool_addition", "tool_removal"])
async def test_a_system_message_that_changes_the_tools_is_refused(here: Site, kind: str) -> None:
    change = {"type": kind, "tool": {"type": "tool_reference", "name": "w"}}
    for body in (
        {"messages": [user("Hi"), {"role": "system", "content": [change]}]},
        {"system": [change]},
    ):
        assert (await here.refused(**body)).startswith(f"{kind}: tools do not change")


# Content


async def test_text_blocks_are_joined_with_nothing_between(here: Site) -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert await here.shown(user(blocks)) == said("user", "ab")


async def test_pictures_and_texts_keep_their_order(here: Site) -> None:
    texts = [{"type": "text", "text": text} for text in ("One", ":", "?")]
    late = {"role": "system", "content": "Look."}
    await here.told(messages=[user([*texts[:2], IMAGE, texts[2]]), late])
    [message] = here.engine.renderings[-1].chat.messages
    before, picture, after = message.parts
    assert (before, type(picture)) == (Text("One:"), Image)
    assert after == Text("?\n\n<system-reminder>\nLook.\n</system-reminder>")
    assert run(here).prompt.image_count == 1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            {"type": "url", "url": "https://x/y.png"},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        ({"type": "base64", "data": "!"}, "invalid base64 image data: illegal base64 data at input byte 0"),
        ("x", "invalid image source"),
        (None, "invalid image source"),
    ],
)
async def test_other_sources_of_pictures_are_refused(here: Site, source: Any, text: str) -> None:
    assert await here.refused(messages=[user([{"type": "image", "source": source}])]) == text
    inner = [{"type": "image", "source": source}]
    assert await here.refused(messages=[user([result(inner)])]) == text


async def test_a_picture_that_must_not_be_made_smaller_is_refused(here: Site) -> None:
    image = {**IMAGE, "transformations": {"oversized_image": "error"}}
    text = "image: transformations.oversized_image: every picture is made to fit here"
    assert await here.refused(messages=[user([image])]) == text
    await here.told(messages=[user([{**IMAGE, "transformations": {"oversized_image": "downsize"}}])])


async def test_a_call_and_its_result_come_back_in_the_history(here: Site) -> None:
    question = {"type": "text", "text": "And now?"}
    turns = [
        user("Weather?"),
        assistant([{"type": "text", "text": "Let me see."}, CALL]),
        user([question, result("9 degrees")]),
    ]
    shown = await here.shown(*turns, tools=[WEATHER])
    called = json.dumps({"name": "weather", "arguments": {"city": "Paris"}})
    assert shown.endswith(
        said("user", "Weather?")
        + said("assistant", f"Let me see.<tool_call>{called}</tool_call>")
        # The result stands before what the user says beside it.
        + said("tool", "[weather] 9 degrees")
        + said("user", "And now?")
    )
    [_, past, answer, _] = here.engine.renderings[-1].chat.messages
    assert past.tool_calls[0].id == answer.tool_call_id == "toolu_1"


@pytest.mark.parametrize(
    ("content", "more", "shown"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {}, "ab"),
        (None, {}, ""),
        ("no such city", {"is_error": True}, "Error: no such city"),
        ([IMAGE, {"type": "text", "text": "a map"}], {}, "<|image|>a map"),
        ([{"type": "tool_reference", "tool_name": "x"}], {}, ""),
    ],
)
async def test_a_result_is_text_or_blocks(here: Site, content: Any, more: Any, shown: str) -> None:
    turns = [user("Hi"), assistant([CALL]), user([result(content, **more)])]
    assert (await here.shown(*turns, tools=[WEATHER])).endswith(
        f"<|im_start|>tool\n{shown}<|im_end|>\n".replace("\n<|image|>", "\n<|image|>[weather] ")
        if shown.startswith("<|image|>")
        else said("tool", f"[weather] {shown}")
    )


@pytest.mark.parametrize("missing", ["id", "name"])
async def test_a_call_without_an_id_or_a_name_is_refused(here: Site, missing: str) -> None:
    call = {key: value for key, value in CALL.items() if key != missing}
    text = f"tool_use block missing required '{missing}' field"
    assert await here.refused(messages=[assistant([call])]) == text


async def test_past_thinking_is_shown_without_its_signature(here: Site) -> None:
    thought = {"type": "thinking", "thinking": "A greeting.", "signature": "c2lnbmVk"}
    hidden = {"type": "redacted_thinking", "data": "xxxx"}
    shown = await here.shown(
        user("Hi"), assistant([thought, hidden, {"type": "text", "text": "Hello"}]), user("?")
    )
    assert said("assistant", "<think>A greeting.</think>\nHello") in shown


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ({"source": {"type": "text", "media_type": "text/plain", "data": "words"}}, "words"),
        ({"source": {"type": "text", "data": "words"}, "title": "T", "context": "C"}, "T\nC\n\nwords"),
        ({"source": {"type": "content", "content": "words"}, "citations": {"enabled": True}}, "words"),
        ({"source": {"type": "content", "content": [{"type": "text", "text": "w"}, IMAGE]}}, "<|image|>w"),
    ],
)
async def test_documents_of_text_are_shown(here: Site, block: dict[str, Any], shown: str) -> None:
    assert await here.shown(user([{"type": "document", **block}])) == said("user", shown)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": PNG}, "application/pdf"),
        ({"type": "url", "url": "https://x/y.pdf"}, "url"),
        ({"type": "file", "file_id": "f"}, "file"),
    ],
)
async def test_other_documents_are_refused(here: Site, source: dict[str, Any], kind: str) -> None:
    text = await here.refused(messages=[user([{"type": "document", "source": source}])])
    assert text == f"invalid document source: {kind}. Only the source types text and content are supported."


async def test_a_search_result_is_shown_with_its_title_and_source(here: Site) -> None:
    block = {
        "type": "search_result",
        "title": "T",
        "source": "https://x",
        "content": [{"type": "text", "text": "words"}],
    }
    assert await here.shown(user([block])) == said("user", "T\nhttps://x\n\nwords")


async def test_a_search_that_a_server_ran_is_a_call_and_its_result_in_their_place(here: Site) -> None:
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}
    found = {
        "type": "web_search_tool_result",
        "tool_use_id": "s1",
        "content": [
            {"type": "web_search_result", "title": "T", "url": "https://x", "encrypted_content": "e"}
        ],
    }
    shown = await here.shown(
        user("Hi"), assistant([search, found, {"type": "text", "text": "So."}]), user("?")
    )
    called = json.dumps({"name": "web_search", "arguments": {"query": "q"}})
    assert shown == (
        said("user", "Hi")
        + said("assistant", f"<tool_call>{called}</tool_call>")
        + said("tool", "[web_search] - T: https://x\n")
        + said("assistant", "So.")
        + said("user", "?")
    )


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("text", "text"),
        (
            {"type": "web_search_tool_result_error", "error_code": "max_uses"},
            "web_search_tool_result_error: max_uses",
        ),
        ([{"type": "web_search_tool_result_error"}], "web_search_tool_result_error"),
        ([{"type": "other"}, 1], ""),
    ],
)
async def test_what_a_search_came_to(here: Site, content: Any, shown: str) -> None:
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": content}
    assert (await here.shown(user("Hi"), assistant([found]))).endswith(said("tool", shown))


async def test_another_result_of_a_server_is_shown_as_it_came(here: Site) -> None:
    found = {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"stdout": "1"}}
    assert (await here.shown(user("Hi"), assistant([found]))).endswith(said("tool", '{"stdout":"1"}'))


async def test_a_block_of_an_unknown_type_is_nothing(here: Site) -> None:
    blocks = [{"type": "hologram", "text": "x"}, {"type": "text", "text": "y"}]
    assert await here.shown(user(blocks)) == said("user", "y")


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "container_upload", "file_id": "f"}, "this server has no containers; send the file's text"),
        (
            {"type": "compaction", "content": None, "encrypted_content": "e"},
            "its text is encrypted; send the messages that it stands for",
        ),
        (
            {"type": "tool_addition", "tool": {}},
            "tools do not change within a conversation; send all of them as `tools`",
        ),
        (
            {"type": "tool_removal", "tool": {}},
            "tools do not change within a conversation; send those that are left as `tools`",
        ),
    ],
)
async def test_a_block_that_cannot_be_shown_is_refused(here: Site, block: dict[str, Any], text: str) -> None:
    assert await here.refused(messages=[user([block])]) == f"{block['type']}: {text}"


async def test_a_summary_that_can_be_read_is_shown(here: Site) -> None:
    blocks = [{"type": "compaction", "content": "They greeted."}]
    assert await here.shown(user(blocks)) == said("user", "They greeted.")


async def test_a_summary_is_not_made_and_does_not_change_the_count(here: Site) -> None:
    text = await here.refused(compaction={"type": "auto"})
    assert text == "compaction: this server sums up no conversations: ask the model for it"
    counted = await here.ask(path="/v1/messages/count_tokens", compaction={"type": "auto"})
    assert counted.json() == {"input_tokens": 8}


async def test_a_conversation_for_the_server_to_hold_is_refused_as_clients_understand(here: Site) -> None:
    answer = await here.ask(thread={"type": "create"})
    assert answer.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}


async def test_the_last_turn_of_the_assistant_is_gone_on_with(here: Site) -> None:
    await here.told(messages=[user("Hi"), assistant("Well,")])
    assert run(here).prompt.text.endswith("<|im_start|>assistant\nWell,")


# Tools


async def test_a_tool_of_the_clients_own_is_a_function(here: Site) -> None:
    await here.told(
        tools=[{**WEATHER, "type": "custom", "strict": True, "defer_loading": True}, {"name": "now"}]
    )
    [weather, now] = here.engine.renderings[-1].chat.tools
    assert weather == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {"city": {"type": "string"}},
            },
        },
    }
    assert now["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


async def test_a_schema_that_is_none_is_refused_with_the_name_of_the_tool(here: Site) -> None:
    text = await here.refused(tools=[{"name": "t", "input_schema": {"type": 1}}])
    assert text.startswith('invalid input_schema for tool "t": json: cannot unmarshal number into Go')


@pytest.mark.parametrize(
    ("kind", "name", "commands"),
    [
        ("bash_20250124", "bash", None),
        ("text_editor_20250728", "str_replace_based_edit_tool", ["view", "create", "str_replace", "insert"]),
        ("memory_20250818", "memory", ["view", "create", "str_replace", "insert", "delete", "rename"]),
    ],
)
async def test_tools_that_the_client_runs_are_described_to_the_model(
    here: Site, kind: str, name: str, commands: list[str] | None
) -> None:
    await here.told(tools=[{"type": kind, "name": name}])
    [tool] = here.engine.renderings[-1].chat.tools
    function = tool["function"]
    assert function["name"] == name
    assert function["description"]
    assert function["parameters"]["required"] == ["command"]
    assert function["parameters"]["properties"]["command"].get("enum") == commands


@pytest.mark.parametrize(
    "kind",
    [
        "code_execution_20250825",
        "tool_search_tool_regex_20251119",
        "mcp_toolset",
        "advisor_20260301",
    ],
)
async def test_tools_that_a_server_runs_are_refused_by_name(here: Site, kind: str) -> None:
    text = await here.refused(tools=[WEATHER, {"type": kind, "name": "x"}])
    assert text == f"tools: {kind} is run by the server, and this one does not have it; leave it out"


@pytest.mark.parametrize(
    "kind", ["computer_20250124", "computer_toolset_20260801", "browser_toolset_20260801"]
)
async def test_tools_for_a_screen_are_refused_by_name(here: Site, kind: str) -> None:
    text = await here.refused(tools=[{"type": kind, "name": "x"}])
    assert text == f"tools: {kind} is not offered here: it takes a model trained for it"


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto"}, ToolChoice(), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(), False),
        ({"type": "any"}, ToolChoice("required"), True),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", "weather"), True),
        ({"type": "none"}, ToolChoice("none"), True),
    ],
)
def test_tool_choice_is_handed_on(choice: Any, wanted: ToolChoice, parallel: bool) -> None:
    asked = asked_for(tools=[WEATHER], tool_choice=choice).generation
    assert (asked.tool_choice, asked.parallel_tool_calls) == (wanted, parallel)


def test_a_call_that_must_be_keeps_to_the_schema_as_the_client_wrote_it() -> None:
    """The model sees less of it than what binds the call."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    tools = [{"name": "w", "input_schema": schema}, {"type": "bash_20250124", "name": "bash"}]
    asked = asked_for(tools=tools, tool_choice={"type": "any"}).generation
    constraint = calls_constraint(asked)
    assert constraint is not None
    assert '"minimum": 1' in json.dumps(constraint.schema)
    assert '"command"' in json.dumps(constraint.schema)


def asked_for(**body: Any) -> codec.Asked:
    whole = {"model": "m", "max_tokens": 9, "messages": [user("Hi")], **body}
    return codec.to_message(json.dumps(whole).encode(), 0)


# Thinking


@pytest.mark.point(234)
@pytest.mark.parametrize(
    ("model", "body", "think"),
    [
        ("m", {}, None),
        ("m", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, True),
        ("m", {"thinking": {"type": "disabled"}}, False),
        ("m", {"thinking": {"type": "adaptive"}}, None),
        ("m", {"thinking": {"type": "between_tools"}}, None),
        ("m", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ("m", {"thinking": {"type": "enabled"}, "output_config": {"effort": "low"}}, True),
        ("m", {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, False),
        ("m", {"output_config": {"effort": " Max "}}, "max"),
        ("m", {"output_config": {"effort": "xhigh"}}, "high"),
        ("m", {"output_config": {"effort": "vast"}}, None),
        ("levels", {"output_config": {"effort": "xhigh"}}, "xhigh"),
        ("levels", {"output_config": {"effort": "vast"}}, "low"),
        ("plain", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, None),
        ("plain", {"thinking": {"type": "disabled"}}, None),
        ("plain", {"output_config": {"effort": "high"}}, None),
    ],
)
async def test_what_a_model_is_asked_to_think(here: Site, model: str, body: Any, think: Any) -> None:
    """A model that cannot think is not asked to, and nobody is told."""
    await here.told(model=model, **body)
    assert run(here).run.think == think


# Structured outputs


@pytest.mark.parametrize("place", ["output_config", "output_format"])
async def test_a_schema_binds_the_answer(here: Site, place: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "schema": schema}
    body: dict[str, Any] = {place: {"format": wanted} if place == "output_config" else wanted}
    answer = await here.ask(**body)
    assert answer.status_code == 500, "the scripted engine does not keep to it, which is noticed"
    constraint = run(here).run.constraint
    assert constraint is not None
    assert constraint.schema == schema
    assert constraint.grammar


# Limits


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [user("x")] * 10_001}, "messages: at most 10000, this request has 10001"),
        ({"tools": [{"name": "t"}] * 1_025}, "tools: at most 1024, this request has 1025"),
        ({"stop_sequences": ["x"] * 65}, "stop_sequences: at most 64, this request has 65"),
        ({"messages": [user([IMAGE] * 65)]}, "images: at most 64, this request has 65"),
        (
            {"messages": [user([{"type": "image", "source": {"type": "url", "url": "http://x"}}] * 65)]},
            "images: at most 64, this request has 65",
        ),
        (
            {"messages": [user([result([IMAGE] * 65)])]},
            "images: at most 64, this request has 65",
        ),
        (
            {"messages": [assistant([CALL])] * 9_000 + [assistant([CALL] * 12_000)]},
            "tool_use: at most 20000, this request has 21000",
        ),
        (
            {"system": "x" * 600_000, "messages": [user([result("x" * 600_000)])]},
            "text: at most 1048576 characters, this request has 1200000",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"x": "y" * 262_144}}}},
            "output_config: at most 262144 bytes of JSON, this request has",
        ),
    ],
)
async def test_what_is_too_much_is_refused_with_the_limit(here: Site, body: Any, text: str) -> None:
    assert (await here.refused(**body)).startswith(text)


@pytest.mark.parametrize("kind", ["blocks", "reminders"])
def test_texts_in_thousands_of_pieces_are_put_together_once(kind: str) -> None:
    blocks = user([{"type": "text", "text": "x" * 16}] * 60_000)
    reminders = [user("x"), *[{"role": "system", "content": "y" * 90}] * 9_900]
    begun = time.process_time()
    prompt = asked_for(messages=[blocks] if kind == "blocks" else reminders).generation.prompt
    assert time.process_time() - begun < 3
    assert isinstance(prompt, ChatPrompt)
    (message,) = prompt.messages
    (part,) = message.parts
    assert isinstance(part, Text)
    assert len(part.text) > 900_000


@pytest.mark.parametrize("place", ["tools", "messages", "output_format"])
async def test_what_is_nested_too_deeply_is_refused(here: Site, place: str) -> None:
    deep: Any = {}
    for _ in range(201):
        deep = {"x": deep}
    value: Any = {
        "tools": [{"name": "t", "input_schema": deep}],
        "messages": [assistant([{**CALL, "input": deep}])],
        "output_format": {"type": "json_schema", "schema": deep},
    }[place]
    text = f"{place}: at most 200 levels of nesting, this request has more"
    assert await here.refused(**{place: value}) == text
