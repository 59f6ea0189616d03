"""Requests in the shapes that coding agents send, turn by turn."""

from typing import Any

Json = dict[str, Any]

TURNS = 20
MARK = {"cache_control": {"type": "ephemeral"}}
INSTRUCTIONS = "You are an agent. " * 400
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def claude(turn: int, *, system: str = INSTRUCTIONS, question: str = "Mend the test.", **more: Any) -> Json:
    """A request of Claude Code: its first line differs each time, its marks move on, reminders come later."""
    billing = f"x-anthropic-billing-header: cc_version=2.1.207.{turn:03x}; cc_entrypoint=cli; cch={turn:05x};"
    messages: list[Json] = [{"role": "user", "content": [text("<system-reminder>"), text(question)]}]
    for number in range(turn):
        called = {"type": "tool_use", "id": f"t{number}", "name": "Read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "..."}
        messages += [
            {"role": "assistant", "content": [called]},
            {"role": "user", "content": [result]},
            {"role": "system", "content": [text(f"{900 - number} tokens left")]},
        ]
    messages[-1] = {
        **messages[-1],
        "content": [*messages[-1]["content"][:-1], messages[-1]["content"][-1] | MARK],
    }
    return {
        "model": "qwen3",
        "max_tokens": 32_000,
        "system": [text(billing), text("You are Claude Code.", **MARK), text(system, **MARK)],
        "tools": [{"name": "Read", "input_schema": {"type": "object"}}],
        "messages": messages,
        **more,
    }


def codex(turn: int, question: str = "Mend the test.", **more: Any) -> Json:
    """A request of Codex: what it says of its surroundings is a message of the user's too."""

    def said(role: str, words: str) -> Json:
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": words}]}

    items = [
        said("developer", "<permissions>"),
        said("user", "<environment_context>"),
        said("user", question),
    ]
    for number in range(turn):
        items += [
            {"type": "reasoning", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "call_id": f"c{number}", "name": "exec", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{number}", "output": "a.py"},
        ]
    tools = [{"type": "function", "name": "exec", "parameters": {"type": "object"}}]
    return {"model": "qwen3", "instructions": INSTRUCTIONS, "input": items, "tools": tools, **more}
