"""Long conversations in the shape in which coding agents send them, as public reports describe it."""

import itertools
import secrets
from typing import Any

import pytest

from app.core.events import Content, ToolCall
from app.core.limits import DEFAULTS
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from tests.api.messages_site import Site, assistant, site, user

pytestmark = pytest.mark.row("A9", "C7")

TURNS = 20
INSTRUCTIONS = "You are an agent. " + "Follow the rules of the house, whatever they are. " * 400
TOOLS = [
    {
        "name": name,
        "description": f"{name} something. " * 40,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"path": {"type": "string", "description": "Where."}},
            "required": ["path"],
            "additionalProperties": False,
        },
    }
    for name in ("Read", "Edit", "Bash", "Grep")
]
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def system() -> list[dict[str, Any]]:
    """The first block differs in every request, in its version too where the client was started anew."""
    version, cch = secrets.token_hex(2)[:3], secrets.token_hex(3)[:5]
    billing = f"x-anthropic-billing-header: cc_version=2.1.207.{version}; cc_entrypoint=cli; cch={cch};"
    return [
        {"type": "text", "text": billing},
        {"type": "text", "text": "You are Claude Code, Anthropic's official CLI for Claude.", **CACHED},
        {"type": "text", "text": INSTRUCTIONS, **CACHED},
    ]


def reminder(turn: int) -> dict[str, Any]:
    """What is left of the budget, told after every result of a tool."""
    text = f"<total_tokens>{900_000 - 1_000 * turn} tokens left</total_tokens>"
    return {"role": "system", "content": [{"type": "text", "text": text}]}


def with_breakpoint(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mark for the cache stands on the last block and moves on with it."""
    *before, last = messages
    *blocks, block = last["content"]
    return [*before, {**last, "content": [*blocks, {**block, **CACHED}]}]


async def ask(here: Site, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One turn; its answer as it comes back in the history."""
    told = await here.told(
        path="/v1/messages?beta=true",
        max_tokens=32_000,
        system=system(),
        tools=TOOLS,
        messages=with_breakpoint(messages),
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "user_x_account__session_y"},
    )
    assert told["stop_reason"] == "tool_use"
    return told["content"]


def calls(_: Prompt, run: Run) -> Reply:
    """The model looks at one file after another."""
    turn = sum(message.role == "assistant" for message in run.chat.messages)
    call = ToolCall(0, f"call_{turn}", "Read", {"path": f"/src/{turn}.py"})
    return Reply(("Next.",), events=((Content("Next."),), (call,)))


@pytest.mark.parametrize("late", [True, False])
async def test_every_turn_begins_with_the_prompt_of_the_one_before(late: bool) -> None:
    window = 200_000
    async with site(FakeEngine(calls, window=window), context_length=window) as here:
        here.client.headers["anthropic-beta"] = "claude-code-20250219,context-management-2025-06-27"
        first = [
            {"type": "text", "text": "<system-reminder>\nToday is Monday.\n</system-reminder>"},
            {"type": "text", "text": "Read everything."},
        ]
        messages = [user(first), *([reminder(0)] if late else [])]
        for turn in range(1, TURNS + 1):
            content = await ask(here, messages)
            [call] = [block for block in content if block["type"] == "tool_use"]
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"line {turn}\n" * 50}
            messages += [assistant(content), user([result]), *([reminder(turn)] if late else [])]
        prompts = [asked.prompt.text for asked in here.engine.asked]
    assert len(prompts) == TURNS
    assert "billing" not in prompts[0]
    assert f"{900_000 - 1_000 * (TURNS - 1)} tokens left" in prompts[-1] or not late
    for earlier, later in itertools.pairwise(prompts):
        kept = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(earlier, later, strict=False))
        )
        assert kept >= 0.95 * len(earlier)


async def test_a_long_conversation_of_an_agent_is_within_the_limits() -> None:
    """Two thirds of the characters that a request may have, in many blocks."""
    window = 400_000
    async with site(FakeEngine(window=window), context_length=window) as here:
        messages: list[dict[str, Any]] = [user("Read everything.")]
        size = DEFAULTS.text_chars * 2 // 3
        for turn in range(1_000):
            call = {"type": "tool_use", "id": f"t{turn}", "name": "Read", "input": {"path": f"/{turn}"}}
            result = {"type": "tool_result", "tool_use_id": f"t{turn}", "content": "x" * (size // 1_000)}
            thought = {"type": "thinking", "thinking": "Hm.", "signature": "s" * 1_000}
            messages += [assistant([thought, call]), user([result]), reminder(turn)]
        assert (await here.told(messages=messages, tools=TOOLS))["stop_reason"] == "end_turn"
