"""Doubles each field of a request until it is refused, and watches the event loop, the memory and the time.

`python -m chaos.fuzz --grow` runs it. `--without ROW` sets rows of the table of limits to unlimited, or all
those that stand before a fault of this kind (`FAULTS`): growing must then find something.
"""

import json
import resource
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.core.limits import DEFAULTS, InputLimits
from harness.models.build import build
from harness.requests.oversize import CASES, Case
from harness.server import MIB, embedding_model, serving

LOOP_S = 0.5
GROWS_BYTES = 256 * MIB
ANSWER_S = 20.0
"""Within this a request of any size is served or refused."""
_LOOK_S = 0.02
_HALVED = 4
"""How often a limit is halved for the size that is sent first."""
_MOST_BODY = 64 * MIB
_MEMORY_BYTES = 10 << 30
"""Of the server and each engine, in address space beyond what vLLM maps at its start: more ends it."""

_VALUES = ("json_values", "json_containers", "body_bytes")
FAULTS: Mapping[str, Sequence[str]] = {
    "F1": ("messages", "text_chars", *_VALUES),
    "F4": ("options", "small_body_bytes", "text_chars", *_VALUES),
    "F5": ("image_pixels",),
    "F7": ("tools", "tool_bytes", *_VALUES),
    "F8": ("embed_inputs", *_VALUES),
    "F15": ("images", "text_chars", *_VALUES),
    "F16": ("stop", "stop_chars", "options", *_VALUES),
    "F24": ("image_ratio",),
}
"""Rows that stand before a fault. Most have the count of all values behind a count of their own."""


@dataclass(slots=True)
class Watch:
    """A thread that looks at a server: the longest wait for `/livez`, and its memory at the highest."""

    url: str
    process: psutil.Process
    longest_s: float = 0.0
    highest_bytes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=ANSWER_S) as client:
            while not self._over.wait(_LOOK_S):
                began_s = time.monotonic()
                with suppress(httpx.HTTPError):
                    client.get("/livez")
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
                self.look()

    def look(self) -> int:
        try:
            used_bytes = self.process.memory_info().rss
        except psutil.NoSuchProcess:
            used_bytes = 0
        self.highest_bytes = max(self.highest_bytes, used_bytes)
        return used_bytes

    @contextmanager
    def watching(self) -> Generator[int]:
        """Look at the server meanwhile; yields what memory it has at first."""
        self.longest_s, self.highest_bytes = 0.0, 0
        self._over.clear()
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self.look()
        finally:
            self._over.set()
            thread.join()


@dataclass(frozen=True, slots=True)
class Step:
    """One request and what it did to the server."""

    row: str
    size: int
    status: int
    took_s: float
    loop_s: float
    grown_bytes: int
    refused: bool
    """For being too much; other mistakes in what is sent are none here."""

    @property
    def complaint(self) -> str:
        found = [
            f"the loop was held for {self.loop_s:.1f} s" if self.loop_s > LOOP_S else "",
            f"memory grew by {self.grown_bytes // MIB} MiB" if self.grown_bytes > GROWS_BYTES else "",
            f"the answer took {self.took_s:.0f} s" if self.took_s >= ANSWER_S else "",
            f"the answer was {self.status or 'none'}" if self.status not in (200, 400, 413) else "",
        ]
        return "; ".join(each for each in found if each)

    def __str__(self) -> str:
        what = "refused" if self.refused else str(self.status or "no answer")
        return (
            f"{self.row} = {self.size:,}: {what} in {self.took_s:.2f} s, loop {self.loop_s:.2f} s, "
            f"{self.grown_bytes / MIB:+.0f} MiB"
        )


@dataclass(frozen=True, slots=True)
class Server:
    """What grows is sent to it; `models` says which model answers on a path."""

    watch: Watch

    def send(self, case: Case, size: int) -> Step:
        body = case.build(size).replace(b'"model":"m"', f'"model":"{_model(case)}"'.encode(), 1)
        with self.watch.watching() as before:
            began_s = time.monotonic()
            try:
                answer = httpx.post(f"{self.watch.url}{case.path}", content=body, timeout=ANSWER_S)
                status, text = answer.status_code, answer.text[:200]
            except httpx.HTTPError:
                status, text = 0, ""
            took_s = time.monotonic() - began_s
        grown = self.watch.highest_bytes - before
        return Step(
            case.row, size, status, took_s, self.watch.longest_s, grown, status == 413 or "at most" in text
        )


def _model(case: Case) -> str:
    if case.path == "/api/embed":
        return "emb"
    return {"image_pixels": "see", "image_ratio": "see", "images": "go"}.get(case.row, "tool")


def sizes(row: str, limits: InputLimits) -> Iterator[int]:
    """Doubled up to the limit, met exactly, and past it; without a limit for as long as anybody asks."""
    most = getattr(limits, row)
    size = max(1, getattr(DEFAULTS, row) >> _HALVED)
    while not most or size < most:
        yield size
        size *= 2
    yield most
    yield most + 1


def grow(server: Server, limits: InputLimits, only: Sequence[str]) -> list[str]:
    """What was wrong, row by row; a row is left once something is wrong or refused."""
    problems: list[str] = []
    for case in CASES:
        if only and case.row not in only:
            continue
        for size in sizes(case.row, limits):
            step = server.send(case, size)
            print(step, flush=True)
            if step.complaint:
                problems.append(f"{step}: {step.complaint}")
            if step.complaint or step.refused:
                break
        else:
            problems.append(f"{case.row}: nothing is refused")
        if not server.watch.process.is_running():
            return [*problems, "the server is gone"]
    return problems


def without(names: Sequence[str]) -> tuple[InputLimits, list[str]]:
    """The table less these rows or those before these faults, and the rows to grow then."""
    rows = [row for name in names for row in FAULTS.get(name, [name])]
    known = {row.name for row in fields(InputLimits)}
    if strange := [row for row in rows if row not in known]:
        raise SystemExit(f"no row and no fault: {', '.join(strange)}")
    grown = [FAULTS[name][0] if name in FAULTS else name for name in names]
    return InputLimits(**dict.fromkeys(rows, 0)), grown


def run(names: Sequence[str]) -> list[str]:
    """Grow on a real server of its own, less the rows that are named; what was wrong."""
    limits, only = without(names)
    changed = {name: 0 for row in fields(InputLimits) if not getattr(limits, name := row.name)}
    with tempfile.TemporaryDirectory(prefix="caravan-grow-") as folder:
        scratch = Path(folder)
        environment: dict[str, Any] = {
            "CARAVAN_LIMITS": json.dumps(changed),
            "CARAVAN_KEEP_ALIVE": "-1",
            "CARAVAN_MAX_LOADED_MODELS": "0",
            "CARAVAN_MAX_BODY_BYTES": str(_MOST_BODY),
        }
        with serving(_models(), scratch, **environment) as live:
            process = psutil.Process(live.pid)
            for model in ("tool", "emb", "see", "go"):
                path = "embed" if model == "emb" else "generate"
                httpx.post(f"{live.url}/api/{path}", json={"model": model}, timeout=120).raise_for_status()
            _cap(process)
            problems = grow(Server(Watch(live.url, process)), limits, only)
    print("\n".join(problems) or "every field is refused before it does harm", flush=True)
    return problems


def _cap(process: psutil.Process) -> None:
    """A server that takes all memory must not take this machine with it."""
    most = process.memory_info().vms + _MEMORY_BYTES
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))


def _models() -> list[dict[str, Any]]:
    tiny = {"dtype": "float32", "kv_cache_memory_bytes": 64 * MIB}
    chat = {"source": str(build("qwen3")), "engine": tiny}
    sees = {"source": str(build("vision")), "engine": tiny}
    return [
        {"name": "tool", **chat},
        {"name": "see", **sees},
        {"name": "go", "template": "{{ range .Messages }}{{ .Content }}{{ end }}", **sees},
        {"name": "emb", "source": str(embedding_model())},
    ]
