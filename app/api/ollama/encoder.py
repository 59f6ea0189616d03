"""Events in, Ollama's answers out: NDJSON lines or one document, for chat and for generate.

A line is the document of a reply that holds a single event. Plain text, which is nearly every line, is
spliced from ready bytes instead.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.api.dialect import Answer
from app.api.errors import text_of
from app.api.ollama.failure import failure
from app.api.ollama.wire import NDJSON, utc_stamp
from app.api.wire import BARE_JSON, JSON, dumps, listed
from app.core.errors import AppError, EngineFailed
from app.core.events import (
    Content,
    Done,
    Event,
    Started,
    Thinking,
    TokenLogprob,
    ToolCall,
    ToolUse,
)
from app.engine.base import Prompt

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON cannot say."""


@dataclass(slots=True)
class _Reply:
    """What a document tells. Of log-probabilities, `top` alternatives are.

    They are a hundred times the text: written all at the end they would hold the event loop for seconds.
    """

    top: int = 0
    content: list[str] = field(default_factory=list[str])
    thinking: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    uses: list[ToolUse] = field(default_factory=list[ToolUse])
    logprobs: list[bytes] = field(default_factory=list[bytes])
    end: Done | None = None
    reason: str = ""
    rendered: Prompt | None = None

    def add(self, event: Event) -> None:
        match event:
            case Content():
                self.content.append(event.text)
                self.logprobs += _logprobs(event.logprobs or (), self.top)
            case Thinking():
                self.thinking.append(event.text)
                self.logprobs += _logprobs(event.logprobs or (), self.top)
            case ToolCall():
                self.calls.append(event)
            case ToolUse():
                self.uses.append(event)
            case Done():
                self.end, self.reason = event, event.reason
            case Started():
                pass


@dataclass(frozen=True, slots=True)
class _Form:
    """How a route words a reply.

    `content` and `thinking` are what a line of plain text has between its time and the text, and after.
    """

    content: tuple[bytes, bytes]
    thinking: tuple[bytes, bytes]
    calls_on_last_line: bool
    document: Callable[[_Reply], dict[str, Any]]


class OllamaEncoder:
    """One answer. `model` is echoed as the client sent it; `top_logprobs` alternatives are told a token.

    With `repeats_text` the last line of a stream has the whole text instead of none.
    """

    media_type = NDJSON
    document_type = JSON
    _form: ClassVar[_Form]

    def __init__(
        self,
        model: str,
        *,
        top_logprobs: int = 0,
        repeats_text: bool = False,
        calls_reason: bool = False,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._model = model
        self._top = top_logprobs
        self._calls_reason = calls_reason
        self._now = now
        self._reply = _Reply(self._top)
        self._said: list[str] | None = [] if repeats_text else None
        self._head = b'{"model":' + dumps(model) + b',"created_at":"'

    def feed(self, event: Event) -> bytes:
        """The line that tells this event; empty where a later line or `whole` does."""
        if self._said is not None and type(event) is Content:
            self._said.append(event.text)
        if (type(event) is Content or type(event) is Thinking) and not event.logprobs:
            if not event.text:
                return b""
            before, after = self._form.content if type(event) is Content else self._form.thinking
            stamp = utc_stamp(self._now()).encode()
            return b"".join((self._head, stamp, before, dumps(event.text), after))
        if isinstance(event, Started):
            return b""
        if self._is_held(event):
            self.collect(event)
            return b""
        reply = _Reply(self._top)
        if isinstance(event, Done):
            reply = _Reply(self._top, content=self._said or [], calls=self._reply.calls)
        self._add(event, reply)
        return self._document(reply) + b"\n"

    def collect(self, event: Event) -> None:
        """Keep this event for `whole`."""
        self._add(event, self._reply)

    def whole(self) -> bytes:
        """Everything collected, as one document."""
        return self._document(self._reply)

    def loaded(self) -> bytes:
        """The document of a request that only had its model loaded."""
        return self._document(_Reply(reason="load"))

    def unloaded(self) -> bytes:
        return self._document(_Reply(reason="unload"))

    def rendered(self, prompt: Prompt) -> bytes:
        """The document of a `_debug_render_only` request."""
        return self._document(_Reply(rendered=prompt))

    def error(self, error: Exception) -> bytes:
        """The last line of a stream that failed."""
        return dumps({"error": text_of(error)}) + b"\n"

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        answer = failure(error)
        # What is found wrong before generation answers as any route does (docs/reference 1.9).
        if stream and (isinstance(error, EngineFailed) or not isinstance(error, AppError)):
            return answer._replace(headers={**answer.headers, "content-type": BARE_JSON})
        return answer

    def _add(self, event: Event, reply: _Reply) -> None:
        reply.add(event)
        if self._calls_reason and isinstance(event, Done) and event.called_tools:
            reply.reason = "tool_calls"

    def _is_held(self, event: Event) -> bool:
        return self._form.calls_on_last_line and isinstance(event, ToolCall)

    def _document(self, reply: _Reply) -> bytes:
        named = {"model": self._model, "created_at": utc_stamp(self._now())}
        return dumps(named | self._form.document(reply))


def _chat_document(reply: _Reply) -> dict[str, Any]:
    message = {
        "role": "assistant" if reply.rendered is None else "",
        "content": "".join(reply.content),
        **_nonzero({"thinking": "".join(reply.thinking), "tool_calls": _tool_calls(reply)}),
    }
    reason = reply.reason
    optional = {
        "done_reason": reason,
        "_debug_info": _debug_info(reply),
        "logprobs": listed(reply.logprobs) if reply.logprobs else None,
        "datai": _tool_uses(reply),
    }
    return {"message": message, "done": bool(reason), **_nonzero(optional), **_metrics(reply)}


def _generate_document(reply: _Reply) -> dict[str, Any]:
    reason = reply.reason
    context = reply.end.context if reply.end is not None else None
    optional = {
        "tool_calls": _tool_calls(reply),
        "_debug_info": _debug_info(reply),
        "logprobs": listed(reply.logprobs) if reply.logprobs else None,
        "datai": _tool_uses(reply),
    }
    return {
        "response": "".join(reply.content),
        **_nonzero({"thinking": "".join(reply.thinking)}),
        "done": bool(reason),
        **_nonzero({"done_reason": reason, "context": context}),
        **_metrics(reply),
        **_nonzero(optional),
    }


class ChatEncoder(OllamaEncoder):
    """One answer of `/api/chat` (docs/reference 7.5)."""

    _form = _Form(
        content=(b'","message":{"role":"assistant","content":', b'},"done":false}\n'),
        thinking=(b'","message":{"role":"assistant","content":"","thinking":', b'},"done":false}\n'),
        calls_on_last_line=False,
        document=_chat_document,
    )


class GenerateEncoder(OllamaEncoder):
    """One answer of `/api/generate` (docs/reference 6.5)."""

    _form = _Form(
        content=(b'","response":', b',"done":false}\n'),
        thinking=(b'","response":"","thinking":', b',"done":false}\n'),
        calls_on_last_line=True,
        document=_generate_document,
    )


def _nonzero(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def _tool_uses(reply: _Reply) -> dict[str, Any]:
    """What built-in tools do (in a stream) or did; told only where `datai.progress` asks for it."""
    told = [
        {"id": use.id, "tool": use.tool, "target": use.target, **_nonzero({"outcome": use.outcome})}
        for use in reply.uses
    ]
    return {"tool_uses": told} if told else {}


def _metrics(reply: _Reply) -> dict[str, int]:
    """Counters that are zero are left out, save that of cached tokens, which is told wherever it is known."""
    end = reply.end
    if end is None:
        return {}
    return {
        **_nonzero({"total_duration": end.total_ns, "load_duration": end.load_ns}),
        **_nonzero({"prompt_eval_count": end.prompt_tokens}),
        **({} if end.cached_tokens is None else {"prompt_eval_cached_count": end.cached_tokens}),
        **_nonzero({"prompt_eval_duration": end.timings.prompt_eval_ns}),
        **_nonzero({"eval_count": end.output_tokens, "eval_duration": end.timings.eval_ns}),
    }


def _debug_info(reply: _Reply) -> dict[str, Any] | None:
    prompt = reply.rendered
    if prompt is None:
        return None
    return {"rendered_template": prompt.text, **_nonzero({"image_count": prompt.image_count})}


def _tool_calls(reply: _Reply) -> list[dict[str, Any]]:
    return [
        {
            **_nonzero({"id": call.id}),
            "function": {"index": call.index, "name": call.name, "arguments": call.arguments},
        }
        for call in reply.calls
    ]


def _logprobs(logprobs: Sequence[TokenLogprob], top: int) -> list[bytes]:
    """Each as JSON."""
    return [
        dumps({**_token(item), **_nonzero({"top_logprobs": [_token(other) for other in item.top[:top]]})})
        for item in logprobs
    ]


def _token(item: TokenLogprob) -> dict[str, Any]:
    score = max(item.logprob, LEAST_LOGPROB)
    return {"token": item.token, "logprob": score, **_nonzero({"bytes": list(item.token_bytes)})}
