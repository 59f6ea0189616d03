"""The items of an answer, as they come to be: reasoning, messages and calls in the model's order."""

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

from app.api.openai.responses.tools import Callee
from app.api.wire import dumps, listed
from app.core.events import TokenLogprob, ToolCall, ToolUse

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON cannot say."""

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class OpenItem:
    """A text that is being written; `index` counts over the answer's items."""

    kind: Literal["reasoning", "message"]
    id: str
    index: int
    pieces: list[str] = field(default_factory=list[str])
    logprobs: list[bytes] = field(default_factory=list[bytes])
    """Each as JSON: they are a hundred times the text, and a stream tells them four times at its end."""

    def item(self, status: ItemStatus) -> dict[str, Any]:
        text = "" if status == "in_progress" else "".join(self.pieces)
        if self.kind == "reasoning":
            summary = [{"type": "summary_text", "text": text}] if status != "in_progress" else []
            return {"id": self.id, "type": "reasoning", "summary": summary, "encrypted_content": text}
        content = [self.part(text)] if status != "in_progress" else []
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def part(self, text: str) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": listed(self.logprobs) if text else [],
        }


class Output:
    """What an answer holds so far. Ids count on from that of the response."""

    def __init__(self, response_id: str) -> None:
        self._response_id = response_id
        self._number = itertools.count()
        self.items: list[dict[str, Any]] = []
        self.open: OpenItem | None = None

    def begin(self, kind: Literal["reasoning", "message"]) -> OpenItem:
        """Only where nothing is open."""
        index, number = len(self.items), next(self._number)
        prefix = "rs" if kind == "reasoning" else "msg"
        self.open = OpenItem(kind, f"{prefix}_{self._response_id}_{number}", index)
        return self.open

    def close(self, status: ItemStatus = "completed") -> OpenItem | None:
        """What was open, which is an item of the answer now."""
        ended, self.open = self.open, None
        if ended is not None:
            self.items.append(ended.item(status))
        return ended

    def add_call(self, call: ToolCall, callee: Callee) -> dict[str, Any]:
        """The item of a call; only where nothing is open."""
        item = call_item(call, callee, f"{self._response_id}_{next(self._number)}")
        self.items.append(item)
        return item

    def add_search(self, use: ToolUse) -> dict[str, Any]:
        """The item of a search that the server ran; only where nothing is open."""
        item = {
            "id": f"ws_{self._response_id}_{next(self._number)}",
            "type": "web_search_call",
            "status": "completed" if use.found else "failed",
            "action": {
                "type": "search",
                "query": use.target,
                "sources": [{"type": "url", "url": each.url} for each in use.found],
            },
        }
        self.items.append(item)
        return item

    def add(self, item: dict[str, Any]) -> None:
        self.items.append(item)

    @property
    def is_answered(self) -> bool:
        """Whether there is more than reasoning."""
        return any(item["type"] not in ("reasoning", "web_search_call") for item in self.items)


def call_item(call: ToolCall, callee: Callee, number: str) -> dict[str, Any]:
    """A call as the client declared the tool."""
    call_id = call.id or f"call_{secrets.token_hex(12)}"
    namespace = {"namespace": callee.namespace} if callee.namespace else {}
    match callee.kind:
        case "function":
            return {
                "id": f"fc_{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": call_id,
                "name": callee.name,
                **namespace,
                "arguments": dumps(call.arguments).decode(),
            }
        case "custom":
            return {
                "id": f"ctc_{number}",
                "type": "custom_tool_call",
                "status": "completed",
                "call_id": call_id,
                "name": callee.name,
                **namespace,
                "input": _input(call),
            }
        case "tool_search":
            return {
                "id": f"tsc_{number}",
                "type": "tool_search_call",
                "call_id": call_id,
                "execution": "client",
                "status": "completed",
                "arguments": orjson.Fragment(dumps(call.arguments)),
            }
        case "local_shell":
            return {
                "id": f"lsh_{number}",
                "type": "local_shell_call",
                "call_id": call_id,
                "status": "completed",
                "action": _action(call),
            }


def _input(call: ToolCall) -> str:
    """The text of a free-form call; of arguments that are none, all of them, so that nothing is lost."""
    text = call.arguments.get("input")
    return text if isinstance(text, str) else dumps(call.arguments).decode()


def _action(call: ToolCall) -> dict[str, Any]:
    command = call.arguments.get("command", [])
    words = [command] if isinstance(command, str) else command
    return {
        "type": "exec",
        "command": [str(word) for word in words] if isinstance(words, list) else [],
        "env": {},
        "timeout_ms": call.arguments.get("timeout_ms"),
        "user": None,
        "working_directory": call.arguments.get("workdir"),
    }


def told_logprobs(logprobs: Sequence[TokenLogprob] | None, top: int) -> list[dict[str, Any]]:
    """Log-probabilities as OpenAI tells them, with at most `top` alternatives."""
    return [
        {**_token(each), "top_logprobs": [_token(other) for other in each.top[:top]]}
        for each in logprobs or ()
    ]


def _token(each: TokenLogprob) -> dict[str, Any]:
    score = max(each.logprob, LEAST_LOGPROB)
    return {"token": each.token, "bytes": list(each.token_bytes), "logprob": score}
