"""What was said, in the form in which telemetry carries it: only where the operator has switched it on."""

from typing import Any

from app.core.request import ChatPrompt, CompletionPrompt, Message


def messages_of(prompt: ChatPrompt | CompletionPrompt) -> list[dict[str, Any]]:
    """The prompt as messages of OpenTelemetry's GenAI conventions. Pictures are only counted."""
    if isinstance(prompt, ChatPrompt):
        return [_message(each.role, _parts(each)) for each in prompt.messages]
    found = [_message("system", [_text(prompt.system)])] if prompt.system else []
    return [*found, _message("user", [_text(prompt.prompt), *_pictures(len(prompt.images))])]


def answer_of(text: str, finish: str) -> list[dict[str, Any]]:
    """All that the model wrote, reasoning and calls included, as it wrote it."""
    return [_message("assistant", [_text(text)]) | {"finish_reason": finish}]


def _message(role: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "parts": parts}


def _parts(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if message.thinking:
        parts.append({"type": "reasoning", "content": message.thinking})
    if message.role == "tool":
        parts.append({"type": "tool_call_response", "id": message.tool_call_id, "response": message.text})
    elif message.text:
        parts.append(_text(message.text))
    for call in message.tool_calls:
        parts.append({"type": "tool_call", "name": call.name, "arguments": dict(call.arguments)})
    return [*parts, *_pictures(len(message.images))]


def _text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def _pictures(count: int) -> list[dict[str, Any]]:
    return [{"type": "image"}] * count
