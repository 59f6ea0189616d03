"""The real server seen from outside while it works: what its engines count, its processes, its log."""

import json
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from harness.models.catalogue import case
from harness.server import LiveServer

T = TypeVar("T")
STORY: dict[str, Any] = {
    "model": "tool",
    "messages": list(case("qwen3", "story").messages),
    "think": False,
    "options": {"temperature": 0},
}
"""A chat whose answer takes a second or more."""

DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check the server logs for details"
)
_LOOK_S = 0.02


def eventually(look: Callable[[], T], within_s: float) -> T:
    """What `look` sees, once that is true. Another process changes it, so there is nothing to wait on."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {within_s} s"
        time.sleep(_LOOK_S)
    return seen


def metric(client: httpx.Client, name: str, model: str) -> float | None:
    """The value of one of vLLM's own metrics for a model; None while no engine has it."""
    samples = [
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == f"vllm:{name}" and sample.labels["model_name"] == f"{model}:latest"
    ]
    return sum(samples) if samples else None


def busy(client: httpx.Client, model: str) -> float:
    """The requests that the model's engine works on or has waiting, as it counts them itself."""
    counts = (metric(client, f"num_requests_{state}", model) for state in ("running", "waiting"))
    return sum(count or 0 for count in counts)


def served(client: httpx.Client, model: str) -> float:
    """The requests to a model that are being served, as the server counts them.

    An engine reads texts to embed in one step, after which it has none running and few waiting.
    """
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "caravan_requests_active"
        and sample.labels["gen_ai_request_model"] == f"{model}:latest"
    )


def loaded(client: httpx.Client) -> list[str]:
    return [row["name"].removesuffix(":latest") for row in client.get("/api/ps").json()["models"]]


def load(client: httpx.Client, model: str, **fields: Any) -> None:
    answer = client.post("/api/embed" if model == "emb" else "/api/generate", json={"model": model, **fields})
    assert answer.status_code == 200, answer.text


def unload(client: httpx.Client, model: str) -> None:
    client.post("/api/generate", json={"model": model, "keep_alive": 0}).raise_for_status()
    eventually(lambda: model not in loaded(client), 30)


@contextmanager
def asking(url: str, path: str, body: Any, *, key: str = "") -> Generator[socket.socket]:
    """A client that has asked and reads only what the test has it read; it leaves at the end of the block."""
    place = urlsplit(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(data)}\r\n"
    head += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
    with socket.create_connection((place.hostname or "", place.port or 80), timeout=60) as connection:
        connection.sendall(head.encode() + data)
        yield connection


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that a module has for itself, so it may be disturbed and stopped."""

    live: LiveServer
    client: httpx.Client
    log_file: Path

    @property
    def url(self) -> str:
        return self.live.url

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.live.pid)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def family(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def engines(self) -> list[psutil.Process]:
        """The cores and workers of vLLM that live now."""
        return [process for process in self.family() if _name(process).startswith("VLLM::")]

    def engine(self, part: str) -> psutil.Process:
        """The core or the worker of the only engine."""
        (found,) = (process for process in self.engines() if part in _name(process))
        return found


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def own(live: LiveServer, scratch: Path) -> Generator[OwnServer]:
    with httpx.Client(base_url=live.url, timeout=120) as client:
        yield OwnServer(live, client, scratch / "server.log")
