"""What the probes say, and what a server that is to end still answers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.settings.server import read_settings
from harness.fake_model import fake_model

SHUTTING_DOWN = {"error": "the server is shutting down"}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "stream": False}


@dataclass
class Site:
    """The whole application over fake engines, in process."""

    client: httpx.AsyncClient
    lifecycle: Lifecycle
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    errors: list[Exception] = field(default_factory=list[Exception])
    engines: list[FakeEngine] = field(default_factory=list[FakeEngine])

    async def start(self, _: Model) -> FakeEngine:
        await self.may_start.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.engines.append(FakeEngine(default=Reply(("all", " well"))))
        return self.engines[-1]

    async def probe(self, name: str) -> tuple[int, str]:
        answer = await self.client.get(f"/{name}")
        return answer.status_code, answer.text


@asynccontextmanager
async def running(*, preload: bool = False, **settings: Any) -> AsyncGenerator[Site]:
    lifecycle = Lifecycle()
    site = Site(httpx.AsyncClient(base_url="http://localhost"), lifecycle)
    app = build_app(
        read_settings(preload=preload, **settings),
        Library([fake_model("fake")]),
        site.start,
        lifecycle=lifecycle,
    )
    events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: asyncio.Queue[str] = asyncio.Queue()

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        await said.put(message["type"])

    lifespan = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, events.get, send))
    await events.put({"type": "lifespan.startup"})
    assert await said.get() == "lifespan.startup.complete"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as site.client:
        yield site
    await events.put({"type": "lifespan.shutdown"})
    await lifespan


async def settle() -> None:
    """Let the tasks of this loop come to rest: nothing here waits for anything else."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_without_anything_to_load_all_is_well_at_once() -> None:
    async with running() as site:
        for probe in ("livez", "readyz", "startupz"):
            assert await site.probe(probe) == (200, "ok")


async def test_the_first_load_makes_it_started_and_ready() -> None:
    async with running(preload=True) as site:
        await settle()
        assert await site.probe("readyz") == (503, "fake:latest: loading")
        assert await site.probe("startupz") == (503, "fake:latest: loading")
        assert await site.probe("livez") == (200, "ok")
        site.may_start.set()
        await settle()
        assert [await site.probe(each) for each in ("startupz", "readyz")] == [(200, "ok")] * 2


async def test_a_first_load_that_failed_is_named() -> None:
    async with running(preload=True, crash_limit=0) as site:
        site.errors = [OSError("no memory")] * 2
        site.may_start.set()
        await settle()
        assert await site.probe("readyz") == (503, "fake:latest: failed to load")
        assert (await site.probe("startupz"))[0] == 503


async def test_a_death_is_red_until_the_engine_is_back() -> None:
    async with running() as site:
        site.may_start.set()
        assert (await site.client.post("/api/chat", json=CHAT)).status_code == 200
        site.may_start.clear()
        site.engines[0].die()
        await settle()
        assert await site.probe("readyz") == (503, "fake:latest: restarting")
        assert await site.probe("startupz") == (200, "ok"), "it has started, whatever happened since"
        site.may_start.set()
        await settle()
        assert (await site.probe("readyz"), len(site.engines)) == ((200, "ok"), 2)


async def test_a_crash_loop_drains_the_server() -> None:
    async with running(preload=True, crash_limit=1) as site:
        site.errors = [OSError("no memory")]
        site.may_start.set()
        await settle()
        assert site.lifecycle.failure == "gave up on fake:latest: no memory"
        assert (await site.client.post("/api/chat", json=CHAT)).status_code == 503


async def test_a_draining_server_refuses_work_but_answers_probes() -> None:
    async with running() as site:
        site.lifecycle.stop()
        for answer in (
            await site.client.post("/api/chat", json=CHAT),
            await site.client.get("/api/tags"),
            await site.client.get("/"),
        ):
            assert (answer.status_code, answer.json()) == (503, SHUTTING_DOWN)
            assert answer.headers["connection"] == "close"
        assert await site.probe("readyz") == (503, "the server is shutting down")
        assert await site.probe("livez") == (200, "ok")
        assert (await site.client.get("/metrics")).status_code == 200
