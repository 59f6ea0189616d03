"""The words of `/v1/chat/completions` (docs/reference 13.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.openai.encoder import FINGERPRINT, Choice, Form, OpenAIEncoder, frame, head_of
from app.api.wire import dumps, listed
from app.core.events import Content, Event, Thinking, TokenLogprob, ToolCall

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON cannot say."""


def chat_encoder(form: Form) -> OpenAIEncoder:
    return OpenAIEncoder(form, ChatWords(form))


class ChatWords:
    """Chunks have an object of their own; the first of a choice has the role."""

    tells_thinking = True

    def __init__(self, form: Form) -> None:
        self._top = form.top_logprobs
        self.head: Mapping[str, Any] = head_of("chatcmpl", "chat.completion")
        named = {"model": form.model, "system_fingerprint": FINGERPRINT}
        self._chunk_head = {**self.head, "object": "chat.completion.chunk", **named}

    def text(self, index: int) -> tuple[bytes, bytes]:
        ready = frame({**self._chunk_head, "choices": []}).removesuffix(b"]}\n\n")
        return ready + b'{"index":%d,"delta":{"content":' % index, b'},"finish_reason":null}]}\n\n'

    def chunk(self, index: int, event: Event, *, first: bool) -> bytes:
        delta: dict[str, Any] = {"content": event.text if isinstance(event, Content) else ""}
        if isinstance(event, Thinking):
            delta |= _reasoning(event.text)
        if isinstance(event, ToolCall):
            delta["tool_calls"] = [_call(event)]
        scored = event.logprobs if isinstance(event, Content | Thinking) else None
        return self._delta(index, delta, None, scored, first=first)

    def finish(self, index: int, reason: str, *, first: bool) -> bytes:
        empty = self._delta(index, {"content": ""}, None, first=True) if first else b""
        return empty + self._delta(index, {}, reason)

    def counted(self, counts: Mapping[str, Any]) -> bytes:
        return frame({**self._chunk_head, "choices": [], **counts})

    def kept(self, logprobs: Sequence[TokenLogprob]) -> Sequence[bytes]:
        return [dumps(item) for item in _scored(logprobs, self._top)]

    def document(self, index: int, choice: Choice) -> dict[str, Any]:
        thinking = "".join(choice.thinking)
        message = {
            "role": "assistant",
            "content": "".join(choice.content),
            **(_reasoning(thinking) if thinking else {}),
            **({"tool_calls": [_call(call) for call in choice.calls]} if choice.calls else {}),
        }
        scored = {"logprobs": {"content": listed(choice.logprobs)}} if choice.logprobs else {}
        return {"index": index, "message": message, **scored}

    def _delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None,
        scored: Sequence[TokenLogprob] | None = None,
        *,
        first: bool = False,
    ) -> bytes:
        role = {"role": "assistant"} if first else {}
        choice: dict[str, Any] = {"index": index, "delta": {**role, **delta}, "finish_reason": reason}
        if scored:
            choice["logprobs"] = {"content": _scored(scored, self._top)}
        return frame({**self._chunk_head, "choices": [choice]})


def _reasoning(text: str) -> dict[str, str]:
    """By Ollama's name and by the one that clients of other servers read."""
    return {"reasoning": text, "reasoning_content": text}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": dumps(call.arguments).decode()}
    return {"id": call.id, "index": call.index, "type": "function", "function": function}


def _scored(logprobs: Sequence[TokenLogprob], top: int) -> list[dict[str, Any]]:
    return [
        {**_token(item), "top_logprobs": [_token(other) for other in item.top[:top]]} for item in logprobs
    ]


def _token(item: TokenLogprob) -> dict[str, Any]:
    score = max(item.logprob, LEAST_LOGPROB)
    return {"token": item.token, "logprob": score, "bytes": list(item.token_bytes)}
