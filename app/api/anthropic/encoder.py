"""Events in, Anthropic's answers out: server-sent events or one document (docs/reference 15.4 and 15.5).

A piece of text, which is nearly every frame, is spliced from ready bytes; all else is written as JSON.
"""

import secrets
from collections.abc import Collection, Mapping
from typing import Any

from app.api.anthropic.failure import error_document, failure
from app.api.dialect import Answer
from app.api.wire import JSON, dumps
from app.core.events import Content, Done, Event, Started, Thinking, ToolCall, ToolUse

EVENTS = "text/event-stream"
_REASONS: Mapping[str, str] = {"stop": "end_turn", "length": "max_tokens"}
_AFTER = b"}}\n\n"
_UNSIGNED = "unsigned"
"""The signature of every thinking block, which nobody checks. Clients hand thoughts back only with one, and
some, as the Vercel AI SDK, take no block without."""
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class MessagesEncoder:
    """One answer. `model` is echoed as the client sent it, `stops` are the client's own stop sequences.

    Reasoning is left out unless `shows_thinking`; `request_id` is told where the answer fails.
    """

    media_type = EVENTS
    document_type = JSON

    def __init__(
        self, model: str, request_id: str, *, stops: Collection[str] = (), shows_thinking: bool = True
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._stops = frozenset(stops)
        self._shows_thinking = shows_thinking
        self._id = f"msg_{secrets.token_hex(12)}"
        self._open: type[Event] | None = None
        self._before = b""
        self._blocks = 0
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []
        self._uses: list[ToolUse] = []
        self._searches = 0
        self._end: Done | None = None

    def feed(self, event: Event) -> bytes:
        """The frames that tell this event; none for text that is empty."""
        if type(event) is Content or type(event) is Thinking:
            kind = type(event)
            if not event.text or (kind is Thinking and not self._shows_thinking):
                return b""
            if self._open is kind:
                return b"".join((self._before, dumps(event.text), _AFTER))
            return b"".join((self._close(), self._opened(kind), self._before, dumps(event.text), _AFTER))
        match event:
            case Started():
                return self._started(event)
            case ToolCall():
                return self._close() + self._called(event)
            case ToolUse():
                return self._close() + self._used(event)
            case Done():
                return self._close() + self._ended(event)
            case _:
                return b""

    def collect(self, event: Event) -> None:
        """Keep this event for `whole`."""
        match event:
            case Content():
                self._text.append(event.text)
            case Thinking():
                self._thinking.append(event.text)
            case ToolCall():
                self._calls.append(event)
            case Done():
                self._end = event
            case ToolUse():
                self._uses.append(event)
            case Started():
                pass

    def whole(self) -> bytes:
        """Everything collected, as one document."""
        end = self._end
        content: list[dict[str, Any]] = []
        if (thinking := "".join(self._thinking)) and self._shows_thinking:
            content.append({"type": "thinking", "thinking": thinking, "signature": _UNSIGNED})
        content += map(self._use, self._uses)
        if text := "".join(self._text):
            content.append({"type": "text", "text": text})
        content += ({**_call(call), "input": call.arguments} for call in self._calls)
        usage = _usage(0, None, 0) if end is None else self._usage_at(end)
        stop = {"stop_reason": "stop_sequence"} if end is None else self._stop(end)
        return dumps({**self._head(content), **stop, "usage": usage})

    def loaded(self, *, stream: bool) -> bytes:
        """The answer to a request without messages, for which the model was only loaded."""
        if not stream:
            return self.whole()
        delta = {"stop_reason": "stop_sequence"}
        return self._started(Started(0)) + self._last(delta, _usage(0, None, 0))

    def error(self, error: Exception) -> bytes:
        """The end of a stream that failed, which Ollama leaves without a word."""
        return _frame("error", error_document(error, self._request_id))

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        return failure(error, self._request_id)

    def _head(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
        }

    def _started(self, event: Started) -> bytes:
        usage = _usage(event.prompt_tokens, event.cached_tokens, 0)
        message = {**self._head([]), "usage": usage}
        return _frame("message_start", {"type": "message_start", "message": message}) + _PING

    def _opened(self, kind: type[Content] | type[Thinking]) -> bytes:
        name = "text" if kind is Content else "thinking"
        index = self._blocks
        self._open = kind
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b_delta","%b":' % (index, name.encode(), name.encode())
        )
        signature = {"signature": ""} if kind is Thinking else {}
        return _block_start(index, {"type": name, name: "", **signature})

    def _close(self) -> bytes:
        """The end of the block that is open, if any."""
        if self._open is None:
            return b""
        signed = self._signed() if self._open is Thinking else b""
        self._open = None
        return signed + self._stopped()

    def _signed(self) -> bytes:
        delta = {"type": "signature_delta", "signature": _UNSIGNED}
        document = {"type": "content_block_delta", "index": self._blocks, "delta": delta}
        return _frame("content_block_delta", document)

    def _stopped(self) -> bytes:
        self._blocks += 1
        document = {"type": "content_block_stop", "index": self._blocks - 1}
        return _frame("content_block_stop", document)

    def _called(self, call: ToolCall) -> bytes:
        index = self._blocks
        delta = {"type": "input_json_delta", "partial_json": dumps(call.arguments).decode()}
        document = {"type": "content_block_delta", "index": index, "delta": delta}
        return b"".join(
            (
                _block_start(index, {**_call(call), "input": {}}),
                _frame("content_block_delta", document),
                self._stopped(),
            )
        )

    def _used(self, use: ToolUse) -> bytes:
        """A built-in tool's call or its result, whole."""
        return _block_start(self._blocks, self._use(use)) + self._stopped()

    def _use(self, use: ToolUse) -> dict[str, Any]:
        """The block of a built-in tool's call, or of what came of it."""
        use_id = f"srvtoolu_{use.id}"
        if not use.outcome:
            self._searches += use.tool == "web_search"
            argument = "query" if use.tool == "web_search" else "url"
            return {
                "type": "server_tool_use",
                "id": use_id,
                "name": use.tool,
                "input": {argument: use.target},
            }
        kind = f"{use.tool}_tool_result"
        return {"type": kind, "tool_use_id": use_id, "content": _found(use)}

    def _usage_at(self, end: Done) -> dict[str, Any]:
        usage = _usage(end.prompt_tokens, end.cached_tokens, end.output_tokens)
        searched = {"web_search_requests": self._searches}
        return {**usage, "server_tool_use": searched} if self._searches else usage

    def _ended(self, end: Done) -> bytes:
        return self._last(self._stop(end), self._usage_at(end))

    def _last(self, delta: Mapping[str, Any], usage: Mapping[str, Any]) -> bytes:
        document = {"type": "message_delta", "delta": delta, "usage": usage}
        return _frame("message_delta", document) + _frame("message_stop", {"type": "message_stop"})

    def _stop(self, end: Done) -> dict[str, Any]:
        """Why the answer ended. A stop string of the model's own is no sequence that the client knows of."""
        if end.called_tools:
            return {"stop_reason": "tool_use"}
        if end.matched_stop and end.matched_stop in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": end.matched_stop}
        return {"stop_reason": _REASONS[end.reason]}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _found(use: ToolUse) -> Any:
    """What a built-in tool found, as Anthropic tells it; an excerpt stands where Anthropic encrypts it."""
    if not use.found:
        kind = "web_search_tool_result_error" if use.tool == "web_search" else "web_fetch_tool_error"
        return {"type": kind, "error_code": "unavailable"}
    if use.tool == "web_search":
        return [
            {
                "type": "web_search_result",
                "title": each.title,
                "url": each.url,
                "encrypted_content": each.content,
            }
            for each in use.found
        ]
    (page,) = use.found
    source = {"type": "text", "media_type": "text/plain", "data": page.content}
    document = {"type": "document", "title": page.title, "source": source}
    return {"type": "web_fetch_result", "url": page.url, "content": document}


def _usage(prompt_tokens: int, cached_tokens: int | None, output_tokens: int) -> dict[str, int]:
    """Input tokens are those that were read anew; the cached ones stand apart, where they are known."""
    if cached_tokens is None:
        return {"input_tokens": prompt_tokens, "output_tokens": output_tokens}
    cached_tokens = min(max(cached_tokens, 0), prompt_tokens)
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
    }


def _block_start(index: int, block: Mapping[str, Any]) -> bytes:
    document = {"type": "content_block_start", "index": index, "content_block": block}
    return _frame("content_block_start", document)


def _frame(event: str, document: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), dumps(document))
