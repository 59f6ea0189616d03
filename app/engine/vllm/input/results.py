"""Results of tools and the calls that they answer: by name, by id or by order, as clients have it."""

import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")


def paired(conversation: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages, each call with an id and each result with the id and the name of its call.

    A client of Ollama's API names the tool and sends no ids, one of other APIs the reverse; results with
    neither are those of the calls in their order.
    """
    names: dict[str, str] = {}
    open_calls = _OpenCalls()
    for at, message in enumerate(conversation):
        for call in message.get("tool_calls") or ():
            call["id"] = call["id"] or f"call_{len(names)}"
            names[call["id"]] = call["function"]["name"]
            open_calls.add(call["id"], call["function"]["name"])
        if message["role"] != "tool":
            continue
        given, name = message.get("tool_call_id") or "", message.get("name") or ""
        found = given or open_calls.first(name) or f"call_for_{at}"
        open_calls.answered.add(found)
        message |= {"tool_call_id": found, "name": name or names.get(found, "")}
    return list(conversation)


class _OpenCalls:
    """Calls in their order, all of them and by name; those that have a result are passed over."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self._all: deque[str] = deque()
        self._by_name: dict[str, deque[str]] = defaultdict(deque)

    def add(self, name: str, tool: str) -> None:
        self.answered.discard(name)
        self._all.append(name)
        self._by_name[tool].append(name)

    def first(self, tool: str) -> str:
        """Of that tool's calls, or of all where it is ""; "" where there is none."""
        waiting = self._by_name[tool] if tool else self._all
        while waiting and waiting[0] in self.answered:
            waiting.popleft()
        return waiting[0] if waiting else ""


def for_mistral(conversation: Sequence[dict[str, Any]], *, thinks: bool) -> list[dict[str, Any]]:
    """Messages as Mistral's own tokenizer takes them.

    Ids are nine letters and digits: others become such, the same ones each time. A tokenizer without marks
    for reasoning refuses messages that have some, so that goes.
    """
    messages = paired(conversation)
    for message in messages:
        if not thinks:
            message.pop("reasoning", None)
        for call in message.get("tool_calls") or ():
            call["id"] = _nine(call["id"])
        if message["role"] == "tool":
            message["tool_call_id"] = _nine(message["tool_call_id"])
    return messages


def _nine(name: str) -> str:
    fits = _MISTRAL_ID.fullmatch(name) is not None
    return name if fits else hashlib.sha256(name.encode(errors="replace")).hexdigest()[:9]
