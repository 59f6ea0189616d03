"""The server that is put to the test: started with two tiny models, seen from outside, and given to harm."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from chaos.observed import TASKS_FILE
from chaos.requests import EMBEDDED, MAX_BODY_BYTES
from harness.models.build import build
from harness.server import MIB, embedding_model, serving

LOAD_S = 120.0
_LOOK_S = 0.05
_BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Unsettled(Exception):
    """Something that had to come did not come in time."""


@dataclass(frozen=True, slots=True)
class Site:
    """A running server. `tool` talks, `emb` embeds; each has an engine of a core and a worker."""

    url: str
    process: psutil.Process
    client: httpx.AsyncClient
    scratch: Path

    @property
    def log(self) -> str:
        return (self.scratch / "server.log").read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def engines(self, part: str = "") -> list[psutil.Process]:
        """The living cores or workers of vLLM, or both."""
        return [
            each for each in self.family() if name_of(each).startswith("VLLM::") and part in name_of(each)
        ]

    async def metrics(self) -> dict[str, float]:
        """The sum of every metric over its labels."""
        text = (await self.client.get("/metrics", timeout=30)).text
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def busy(self) -> float:
        """How many requests the engines run or have waiting, as vLLM counts them."""
        found = await self.metrics()
        return sum(found.get(name, 0.0) for name in _BUSY)

    async def is_ready(self) -> bool:
        return (await self.client.get("/readyz", timeout=30)).status_code == 200

    async def load(self) -> None:
        """Have both models loaded, by asking them."""
        for path, model in (("/api/generate", "tool"), ("/api/embed", "emb")):
            answer = await self.client.post(path, json={"model": model}, timeout=LOAD_S)
            answer.raise_for_status()

    async def vectors(self) -> dict[str, Sequence[float]]:
        """What `emb` makes of each text when nothing else goes on."""
        body = {"model": "emb", "input": list(EMBEDDED)}
        answer = await self.client.post("/api/embed", json=body, timeout=LOAD_S)
        return dict(zip(EMBEDDED, answer.json()["embeddings"], strict=True))

    async def tasks(self) -> int:
        """How many asyncio tasks the server has; one of them is this question's answer."""
        path = self.scratch / "tasks"
        path.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await eventually(path.exists, 10, "a count of tasks")
        return int(path.read_text())


def name_of(process: psutil.Process) -> str:
    """Its name; empty once it has ended, reaped or not."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


async def eventually(look: Callable[[], Any], within_s: float, what: str) -> float:
    """Wait until `look` (or the coroutine it makes) is true; returns the seconds it took.

    Raises:
        Unsettled: when it takes longer.
    """
    began = time.monotonic()
    while True:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return time.monotonic() - began
        if time.monotonic() - began > within_s:
            raise Unsettled(f"{what} within {within_s:g} s")
        await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def serving_site(*, kv_cache_bytes: int = 64 * MIB, **environment: str) -> AsyncGenerator[Site, None]:
    engine = {"dtype": "float32", "kv_cache_memory_bytes": kv_cache_bytes}
    served: list[dict[str, Any]] = [
        {"name": "tool", "source": str(build("qwen3")), "engine": engine},
        {"name": "emb", "source": str(embedding_model())},
    ]
    given: dict[str, Any] = {
        "CARAVAN_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "CARAVAN_KEEP_ALIVE": "-1",
        "CARAVAN_CRASH_LIMIT": "0",
        "CARAVAN_ENGINE_HANG_TIMEOUT": "10s",
        **environment,
    }
    with TemporaryDirectory(prefix="caravan-chaos-") as folder:
        scratch = Path(folder)
        given[TASKS_FILE] = str(scratch / "tasks")
        with serving(served, scratch, program="chaos.observed", **given) as live:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=2)
            async with httpx.AsyncClient(base_url=live.url, timeout=None, limits=limits) as client:
                site = Site(live.url, psutil.Process(live.pid), client, scratch)
                await site.load()
                yield site
