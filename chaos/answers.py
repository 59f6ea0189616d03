"""One answer as a client got it, put together again and judged: whole, clearly failed, or lost.

A client can act on a whole answer and on a clear failure. Everything else is lost: a stream that ends without
its last line, an answer without text, silence, text that is not the model's.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

NDJSON = "application/x-ndjson"


class Outcome(Enum):
    WHOLE = "whole"
    FAILED = "failed"
    LEFT = "left"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """What arrived, as `fault` says if it broke off. Times are monotonic; `left`: by our own will. `path` is
    whose API it is in: empty is Ollama's."""

    status: int = 0
    content_type: str = ""
    body: bytes = b""
    fault: str = ""
    began: float = 0.0
    ended: float = 0.0
    left: bool = False
    path: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    reason: str = ""


class Broken(Exception):
    """An answer that breaks the API's form; the text says how."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model must say, as its transcript has it."""

    content: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Reply:
    """A chat or a generation, from its document or its lines. `error` is what a failed last line says."""

    content: str = ""
    thinking: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    error: str = ""
    reason: str = ""
    counts: tuple[int, int] = (0, 0)
    lines: int = 0

    def add(self, part: Mapping[str, Any]) -> None:
        message = part.get("message", part)
        self.content += message.get("content", message.get("response", ""))
        self.thinking += message.get("thinking", "")
        called = [call["function"] for call in message.get("tool_calls", ())]
        self.calls += [(call["name"], json.dumps(call["arguments"], sort_keys=True)) for call in called]
        self.lines += 1
        if part["done"]:
            self.reason = part["done_reason"]
            self.counts = (part["prompt_eval_count"], part["eval_count"])


def document(answer: Answer) -> dict[str, Any]:
    """The one JSON object of an answer."""
    try:
        found = json.loads(answer.body)
    except ValueError as error:
        raise Broken(f"{answer.status} without JSON: {answer.body[:80]!r}") from error
    if not isinstance(found, dict):
        raise Broken(f"{answer.status} without a JSON object: {answer.body[:80]!r}")
    return found


def lines(answer: Answer) -> list[dict[str, Any]]:
    *rows, end = answer.body.split(b"\n")
    if end or not rows:
        raise Broken(f"the stream ends within a line: {end[-80:]!r}")
    try:
        found = [json.loads(row) for row in rows]
    except ValueError as error:
        raise Broken(f"a line is not JSON: {error}") from error
    if not all(isinstance(row, dict) for row in found):
        raise Broken("a line is not an object")
    return found


def reply(answer: Answer) -> Reply:
    """What the model said by Ollama's API.

    Raises:
        Broken: where the answer is not whole and does not end with an error either.
    """
    streamed = answer.content_type == NDJSON
    parts = lines(answer) if streamed else [document(answer)]
    told = Reply()
    if streamed and list(parts[-1]) == ["error"]:
        told.error = parts.pop()["error"] or "an error without a text"
    try:
        for part in parts:
            told.add(part)
        ends = [part["done"] for part in parts]
    except (KeyError, TypeError) as error:
        raise Broken(f"a line has not the form of one: {error!r}") from error
    if told.error:
        if any(ends):
            raise Broken("an error after the last line")
    elif not ends[-1] or any(ends[:-1]):
        raise Broken("the stream ends without its last line")
    elif streamed and told.counts[1] < told.lines - 1:
        raise Broken(f"{told.lines} lines of {told.counts[1]} tokens")
    return told


def complaints(told: Reply, wanted: Said) -> Iterable[str]:
    """How a whole reply departs from the transcript."""
    for name in ("content", "thinking"):
        found, right = getattr(told, name), getattr(wanted, name)
        if found != right:
            yield f"{name} is not the transcript's: {_difference(found, right)}"
    if tuple(told.calls) != wanted.calls:
        yield f"calls {told.calls} instead of {list(wanted.calls)}"
    if told.counts[0] < 1 or told.counts[1] < 1:
        yield f"counts of {told.counts}"


def is_part(told: Reply, wanted: Said) -> bool:
    """Whether what was said before a failure is how the transcript begins."""
    return (
        wanted.content.startswith(told.content)
        and wanted.thinking.startswith(told.thinking)
        and wanted.calls[: len(told.calls)] == tuple(told.calls)
    )


def _difference(found: str, right: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(found, right, strict=False)) if a != b), None)
    at = min(len(found), len(right)) if at is None else at
    return f"at {at} {found[at : at + 30]!r} instead of {right[at : at + 30]!r}"
