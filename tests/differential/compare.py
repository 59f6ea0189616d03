"""What of two answers differs. Pure: it takes answers and says where, what here, and what there."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from tests.differential.requests import Asked
from tests.differential.servers import Answer

ABSENT = "absent"
SPACE = "(white space)"
"""Behind the path of a text that is the same but for white space around it, or between tokens of JSON."""
_TOLERANCE = 0.02
_SHOWN = 160
_OWN = frozenset({"id", "created", "created_at", "completed_at", "request_id", "call_id", "tool_call_id"})
"""Members whose values are an answer's own: only their types are compared."""
_DRAWN = frozenset(
    {
        "content",
        "reasoning",
        "reasoning_content",
        "text",
        "completion_tokens",
        "total_tokens",
        "reasoning_tokens",
        "finish_reason",
    }
)
"""What chance decides besides, where texts are drawn."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is that of a member, `[]` for each item of a list; the sides are values as short JSON."""

    request: str
    path: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.request}: {self.path}: {self.ours} here, {self.theirs} there"


def differences(asked: Asked, ours: Answer, theirs: Answer) -> list[Difference]:
    """In the order of our answer; a difference that is the same for several items is one."""
    own = _OWN | _DRAWN if asked.drawn else _OWN
    if (ours.status < _REFUSED) != (theirs.status < _REFUSED):
        return [Difference(asked.name, "status", _outcome(ours), _outcome(theirs))]
    found = _differ("", _read(ours), _read(theirs), own)
    return list(dict.fromkeys(Difference(asked.name, *each) for each in found))


_Found = Iterator[tuple[str, str, str]]


def _differ(path: str, left: Any, right: Any, own: frozenset[str]) -> _Found:
    if isinstance(left, dict) and isinstance(right, dict):
        yield from _differ_in_members(path, left, right, own)
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right) and not own >= _DRAWN:
            yield f"{path}[]", f"{len(left)} items", f"{len(right)} items"
        for one, other in zip(left, right, strict=False):
            yield from _differ(f"{path}[]", one, other, own)
    elif path.rpartition(".")[2].removesuffix("[]") in own:
        if type(left) is not type(right):
            yield path, type(left).__name__, type(right).__name__
    elif not _same(left, right):
        spaced = f" {SPACE}" if _trimmed(left) == _trimmed(right) is not None else ""
        yield path + spaced, _shown(left), _shown(right)


def _differ_in_members(
    path: str, left: Mapping[str, Any], right: Mapping[str, Any], own: frozenset[str]
) -> _Found:
    for key in (*left, *(key for key in right if key not in left)):
        below = f"{path}.{key}" if path else key
        if key in left and key in right:
            yield from _differ(below, left[key], right[key], own)
            continue
        present = left.get(key, right.get(key))
        spaced = f" {SPACE}" if _blank(present) else ""
        yield below + spaced, _shown(left.get(key, _NONE)), _shown(right.get(key, _NONE))


def _blank(text: Any) -> bool:
    """Whether it is nothing, or white space."""
    return isinstance(text, str) and not text.strip()


def _trimmed(text: Any) -> str | None:
    """A text without white space around it, or JSON without any between its tokens."""
    if not isinstance(text, str):
        return None
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return text.strip()


def _same(left: Any, right: Any) -> bool:
    if type(left) in (int, float) and type(right) in (int, float) and float in (type(left), type(right)):
        return math.isclose(left, right, abs_tol=_TOLERANCE)
    return type(left) is type(right) and left == right


_NONE = object()
_REFUSED = 400


def _outcome(answer: Answer) -> str:
    """The status, and of a refusal the text."""
    if answer.status < _REFUSED:
        return str(answer.status)
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = {}
    error = document.get("error", document)
    text = error.get("message", "") if isinstance(error, dict) else error
    return _shown(f"{answer.status} {text}".strip())


def _shown(value: Any) -> str:
    if value is _NONE:
        return ABSENT
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _read(answer: Answer) -> dict[str, Any]:
    head = {"status": answer.status, "content_type": answer.content_type}
    if answer.content_type == "text/event-stream":
        return {**head, "stream": _stream(answer.body)}
    try:
        document = json.loads(answer.body)
    except ValueError:
        return {**head, "text": answer.body}
    for item in _items(document):
        if isinstance(vector := item.get("embedding"), str):
            item["embedding"] = [float(each) for each in np.frombuffer(base64.b64decode(vector), "<f4")]
    return {**head, "document": document}


def _items(document: Any) -> Iterator[dict[str, Any]]:
    data = document.get("data") if isinstance(document, dict) else None
    return (item for item in data or () if isinstance(item, dict))


def _stream(body: str) -> dict[str, Any]:
    frames = [frame for frame in body.split("\n\n") if frame.strip()]
    data = [_data(frame) for frame in frames]
    chunks = [json.loads(each) for each in data if each and each != "[DONE]"]
    if any("type" in chunk and "error" not in chunk for chunk in chunks):
        kinds = [str(chunk.get("type")) for chunk in chunks]
        shapes = {
            kind: _shapes(chunk for chunk in chunks if chunk.get("type") == kind)
            for kind in sorted(set(kinds))
        }
        return {"order": _order(kinds), "shapes": shapes, **_events(chunks)}
    indices = sorted({choice["index"] for chunk in chunks for choice in chunk.get("choices", ())})
    kinds = [kind for index in indices for chunk in chunks for kind in _kinds(chunk, index)]
    kinds += ["usage" for chunk in chunks if chunk.get("choices") == []]
    kinds += ["error" for chunk in chunks if "error" in chunk]
    order = _order([*kinds, *(["DONE"] if "[DONE]" in data else [])])
    usage = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    return {
        "order": order,
        "shapes": _shapes(chunks),
        "choices": _choices(chunks),
        **({"usage": usage[-1]} if usage else {}),
        **({"error": chunks[-1]["error"]} if chunks and "error" in chunks[-1] else {}),
    }


def _data(frame: str) -> str:
    return "".join(
        line.removeprefix("data:").strip() for line in frame.split("\n") if line.startswith("data:")
    )


def _order(kinds: Iterable[Any]) -> str:
    return " ".join(str(kind) for kind, _ in groupby(kinds))


def _kinds(chunk: Mapping[str, Any], index: int) -> Iterator[str]:
    """What a chunk tells of a choice: of several things in one chunk, each."""
    for choice in chunk.get("choices", ()):
        if choice["index"] != index:
            continue
        delta = choice.get("delta", choice)
        for name in ("role", "reasoning", "content", "text", "tool_calls"):
            if delta.get(name) and not _blank(delta[name]):
                yield name
        if choice.get("finish_reason"):
            yield "finish"


def _shapes(chunks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Each member of any chunk, with its types. The response in an event is looked at once, at the end."""
    found: dict[str, set[str]] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            tokens = path.endswith("top_logprobs[]") and "token" not in value
            for key, item in value.items():
                if key == "response":
                    continue
                name = "TOKEN" if tokens else key
                walk(f"{path}/{name}" if path else name, item)
        elif isinstance(value, list):
            for item in value:
                walk(path + "[]", item)
        else:
            found.setdefault(path, set()).add(_TYPES[type(value)])

    for chunk in chunks:
        walk("", chunk)
    return {path: " or ".join(sorted(kinds)) for path, kinds in sorted(found.items())}


_TYPES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}


def _choices(chunks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.get("choices", ()):
            told = found.setdefault(choice["index"], {"finish_reason": None})
            delta = choice.get("delta", choice)
            for name in ("role", "reasoning", "content", "text"):
                if delta.get(name):
                    told[name] = told.get(name, "") + delta[name]
            for call in delta.get("tool_calls") or ():
                kept = told.setdefault("tool_calls", {}).setdefault(
                    call["index"], {"name": "", "arguments": ""}
                )
                kept["name"] += call["function"].get("name") or ""
                kept["arguments"] += call["function"].get("arguments") or ""
            for name, items in (choice.get("logprobs") or {}).items():
                if items:
                    told.setdefault("logprobs", {}).setdefault(name, []).extend(items)
            told["finish_reason"] = choice.get("finish_reason") or told["finish_reason"]
    return [found[index] for index in sorted(found)]


def _events(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Texts by the kind of event that tells them, and what the last whole document is."""
    texts: dict[str, str] = {}
    last: Any = None
    for chunk in chunks:
        delta = chunk.get("delta")
        if isinstance(delta, str):
            texts[chunk["type"]] = texts.get(chunk["type"], "") + delta
        elif isinstance(delta, dict):
            for name in ("text", "thinking", "partial_json"):
                if name in delta:
                    texts[name] = texts.get(name, "") + delta[name]
        last = chunk.get("response", chunk if chunk.get("type") == "message_delta" else last)
    return {"texts": texts, "last": last}
