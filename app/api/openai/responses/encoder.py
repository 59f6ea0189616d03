"""Events in, a response out: server-sent events or one document (docs/reference 14.4 and 14.5).

A piece of text, which is nearly every event, is spliced from ready bytes; all others are made as objects,
whose keys are in the order of their names, as Ollama's are.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.api.dialect import Answer
from app.api.openai.failure import failure
from app.api.openai.responses.echo import Echo, response_object
from app.api.openai.responses.failure import stream_error
from app.api.openai.responses.output import ItemStatus, OpenItem, Output, told_logprobs
from app.api.openai.responses.tools import Toolbox
from app.api.wire import BARE_JSON, dumps, listed
from app.core.events import Content, Done, Event, Started, Thinking, ToolCall, ToolUse

EVENTS = "text/event-stream"


class ResponsesEncoder:
    """One response. `top_logprobs` alternatives are told a token."""

    media_type = EVENTS
    document_type = BARE_JSON

    def __init__(
        self,
        echo: Echo,
        toolbox: Toolbox,
        *,
        top_logprobs: int = 0,
        now: Callable[[], float] = time.time,
        number: int | None = None,
    ) -> None:
        self._echo = echo
        self._toolbox = toolbox
        self._top = top_logprobs
        self._now = now
        self._created_at = int(now())
        self._id = f"resp_{secrets.randbits(53) if number is None else number}"
        self._output = Output(self._id)
        self._sequence = 0
        self._begun = False
        self._end: Done | None = None
        self._piece: _Piece | None = None

    def feed(self, event: Event) -> bytes:
        """The events of the stream that tell this one."""
        if (type(event) is Content or type(event) is Thinking) and event.text and not event.logprobs:
            piece = self._piece
            if piece is not None and piece.event is type(event):
                piece.texts.append(event.text)
                number = self._sequence
                self._sequence = number + 1
                return b"%b%b%b%d%b" % (piece.head, dumps(event.text), piece.middle, number, piece.tail)
        return b"".join(self._told(event))

    def collect(self, event: Event) -> None:
        """Keep this event for `whole`."""
        match event:
            case Thinking():
                self._keep("reasoning", event)
            case Content():
                self._keep("message", event)
            case ToolCall():
                self._output.close()
                self._output.add_call(event, self._toolbox.callee(event.name))
            case Done():
                self._output.close("incomplete" if event.reason == "length" else "completed")
                self._end = event
                if not self._output.is_answered and event.reason != "length":
                    self._output.begin("message")
                    self._output.close()
            case ToolUse():
                self._output.close()
                if event.outcome:
                    self._output.add_search(event)
            case Started():
                pass

    def whole(self) -> bytes:
        """Everything collected, as one document."""
        return dumps(self._response(by_name=False)) + b"\n"

    def error(self, error: Exception) -> bytes:
        """The end of a stream that failed: what was wrong, and the response as far as it came."""
        told = stream_error(error)
        self._output.close("incomplete")
        failed = self._response("failed", error=told)
        return self._event("error", **told, param=None) + self._event("response.failed", response=failed)

    def failure(self, error: Exception, *, stream: bool) -> Answer:
        return failure(error)

    def _keep(self, kind: Literal["reasoning", "message"], event: Thinking | Content) -> None:
        current = self._output.open
        if current is None or current.kind != kind:
            if not event.text:
                return
            self._output.close()
            current = self._output.begin(kind)
        current.pieces.append(event.text)
        if event.logprobs:
            current.logprobs += map(dumps, told_logprobs(event.logprobs, self._top))

    # The stream.

    def _told(self, event: Event) -> Iterator[bytes]:
        if not self._begun:
            self._begun = True
            yield self._event("response.created", response=self._response("in_progress"))
            yield self._event("response.in_progress", response=self._response("in_progress"))
        match event:
            case Thinking():
                yield from self._text("reasoning", event)
            case Content():
                yield from self._text("message", event)
            case ToolCall():
                yield from self._close()
                yield from self._call(event)
            case Done():
                yield from self._finish(event)
            case ToolUse():
                yield from self._close()
                yield from self._searched(event)
            case Started():
                pass

    def _text(self, kind: Literal["reasoning", "message"], event: Thinking | Content) -> Iterator[bytes]:
        current = self._output.open
        if current is None or current.kind != kind:
            if not event.text:
                return
            yield from self._close()
            current = yield from self._open(kind)
        scored = told_logprobs(event.logprobs, self._top) if kind == "message" else []
        logprobs = [dumps(_by_name(each)) for each in scored]
        current.pieces.append(event.text)
        current.logprobs += logprobs
        told = {"logprobs": listed(logprobs)} if kind == "message" else {}
        yield self._event(_DELTA[kind], delta=event.text, **self._at(current), **told)

    def _open(self, kind: Literal["reasoning", "message"]) -> Generator[bytes, None, OpenItem]:
        opened = self._output.begin(kind)
        item = opened.item("in_progress")
        yield self._event("response.output_item.added", item=item, output_index=opened.index)
        if kind == "message":
            part = opened.part("")
            yield self._event("response.content_part.added", part=part, **self._at(opened))
        else:
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", part=part, **self._at(opened))
        self._piece = _piece_of(opened)
        return opened

    def _close(self, status: ItemStatus = "completed") -> Iterator[bytes]:
        ended = self._output.close(status)
        self._piece = None
        if ended is None:
            return
        at, text = self._at(ended), "".join(ended.pieces)
        if ended.kind == "message":
            yield self._event("response.output_text.done", text=text, logprobs=listed(ended.logprobs), **at)
            yield self._event("response.content_part.done", part=ended.part(text), **at)
        else:
            part = {"type": "summary_text", "text": text}
            yield self._event("response.reasoning_summary_text.done", text=text, **at)
            yield self._event("response.reasoning_summary_part.done", part=part, **at)
        item = self._output.items[ended.index]
        yield self._event("response.output_item.done", item=item, output_index=ended.index)

    def _call(self, event: ToolCall) -> Iterator[bytes]:
        """A call comes whole, so its argument is one piece."""
        item = self._output.add_call(event, self._toolbox.callee(event.name))
        index = len(self._output.items) - 1
        field, kind = _ARGUMENT.get(item["type"], ("", ""))
        begun = {**item, "status": "in_progress", **({field: ""} if field else {})}
        yield self._event("response.output_item.added", item=begun, output_index=index)
        if field:
            at = {"item_id": item["id"], "output_index": index}
            named = {"name": item["name"]} if field == "arguments" else {}
            yield self._event(f"response.{kind}.delta", delta=item[field], **at)
            yield self._event(f"response.{kind}.done", **{field: item[field]}, **named, **at)
        yield self._event("response.output_item.done", item=item, output_index=index)

    def _searched(self, use: ToolUse) -> Iterator[bytes]:
        """A search of the server's own: its events, once it has ended."""
        if not use.outcome:
            return
        item = self._output.add_search(use)
        index = len(self._output.items) - 1
        at = {"item_id": item["id"], "output_index": index}
        yield self._event(
            "response.output_item.added", item={**item, "status": "in_progress"}, output_index=index
        )
        for step in ("in_progress", "searching", "completed"):
            yield self._event(f"response.web_search_call.{step}", **at)
        yield self._event("response.output_item.done", item=item, output_index=index)

    def _finish(self, event: Done) -> Iterator[bytes]:
        cut = event.reason == "length"
        yield from self._close("incomplete" if cut else "completed")
        self._end = event
        if not self._output.is_answered and not cut:
            yield from self._open("message")
            yield from self._close()
        kind = "response.incomplete" if cut else "response.completed"
        yield self._event(kind, response=self._response())

    def _at(self, item: OpenItem) -> dict[str, Any]:
        part = "content_index" if item.kind == "message" else "summary_index"
        return {part: 0, "item_id": item.id, "output_index": item.index}

    def _event(self, kind: str, **fields: Any) -> bytes:
        told = _by_name({**fields, "sequence_number": self._sequence, "type": kind})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dumps(told))

    def _response(
        self, status: str = "", *, error: Mapping[str, Any] | None = None, by_name: bool = True
    ) -> dict[str, Any]:
        """The response as far as it came; at its end the end says its status."""
        end = self._end
        cut = end is not None and end.reason == "length"
        changing = {
            "id": self._id,
            "created_at": self._created_at,
            "completed_at": int(self._now()) if end is not None and not cut else None,
            "status": status or ("incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output.items,
            "error": error,
            "usage": None if end is None else usage_of(end),
        }
        return response_object(self._echo, changing, by_name=by_name)


def usage_of(end: Done) -> dict[str, Any]:
    """What an answer took."""
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens or 0},
        "output_tokens": end.output_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens or 0},
        "total_tokens": end.prompt_tokens + end.output_tokens,
    }


_DELTA = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_summary_text.delta",
}
_ARGUMENT = {
    "function_call": ("arguments", "function_call_arguments"),
    "custom_tool_call": ("input", "custom_tool_call_input"),
}
"""The field of a call that is sent in pieces, and what its events are called."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """The text that is being written: whose `event`s go on with it, and what stands around each piece of it.

    `texts` are those of the item itself. The sequence number is between `middle` and `tail`.
    """

    event: type[Content] | type[Thinking]
    texts: list[str]
    head: bytes
    middle: bytes
    tail: bytes


def _piece_of(item: OpenItem) -> _Piece:
    """The keys of a piece are in the order of their names, too."""
    says = item.kind == "message"
    name, item_id = _DELTA[item.kind].encode(), item.id.encode()
    logprobs = b'"logprobs":[],' if says else b""
    return _Piece(
        Content if says else Thinking,
        item.pieces,
        b'event: %b\ndata: {%b"delta":' % (name, b'"content_index":0,' if says else b""),
        b',"item_id":"%b",%b"output_index":%d,"sequence_number":' % (item_id, logprobs, item.index),
        b'%b,"type":"%b"}\n\n' % (b"" if says else b',"summary_index":0', name),
    )


def _by_name(value: Any) -> Any:
    """`value` with the keys of all objects in the order of their names; what was written before stays."""
    if isinstance(value, dict):
        return {key: _by_name(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [_by_name(item) for item in value]
    return value


class CompactionEncoder(ResponsesEncoder):
    """A compaction, whose payload comes as the only content (docs/reference 22.3).

    A stream is a response with one item; the document is that of `/v1/responses/compact`.
    """

    def collect(self, event: Event) -> None:
        match event:
            case Content():
                self._output.add(self._item(event.text))
            case Done():
                self._end = event
            case _:
                pass

    def whole(self) -> bytes:
        now = time.time_ns()
        document = {
            "id": f"resp_compact_{now}",
            "object": "response.compaction",
            "created_at": now // 1_000_000_000,
            "output": self._output.items,
            "usage": None if self._end is None else usage_of(self._end),
        }
        return dumps(document) + b"\n"

    def _text(self, kind: Literal["reasoning", "message"], event: Thinking | Content) -> Iterator[bytes]:
        index, item = len(self._output.items), self._item(event.text)
        yield self._event(
            "response.output_item.added", item={**item, "encrypted_content": ""}, output_index=index
        )
        self._output.add(item)
        yield self._event("response.output_item.done", item=item, output_index=index)

    def _item(self, payload: str) -> dict[str, Any]:
        return {"id": f"cmp_{self._id}", "type": "compaction", "encrypted_content": payload}
