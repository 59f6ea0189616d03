"""Two front ends and their manager in one process, over scripted engines: one server to whoever asks."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.access.keys import new_key
from app.catalogue.library import Library
from app.core.model import Model
from app.engine.base import Engine
from app.engine.fake.engine import FakeEngine
from app.fronts.hub import EngineState
from app.fronts.peer import Peer
from app.fronts.remote import RemoteManager
from app.fronts.workers import Workers
from app.main import build_app, build_front
from app.runtime.lifecycle import Lifecycle
from app.settings.server import Settings, read_settings
from app.telemetry.setup import start as start_telemetry
from harness.fake_model import fake_model
from tests.api.managed import inside

ASKED = {"model": "plain", "prompt": "Hi", "stream": False}


class Shared(FakeEngine):
    attachment = b""
    served_name = "plain:latest"
    told_at = 0.0

    async def abandon(self, request_ids: Sequence[str]) -> None:
        """Nothing runs here."""

    def hear(self, worker: int, state: EngineState, requests: int) -> None:
        """Nobody watches it."""


class InProcess(Workers):
    """Front ends that are no processes."""

    def __init__(self) -> None:
        super().__init__(2, (), 0, b"", "", print)

    async def run(self) -> None:
        assert self._publish is not None
        await self._publish()


class FrontEnd:
    def __init__(self, settings: Settings, end: socket.socket) -> None:
        self.remote = RemoteManager(self._attach, 4096)
        telemetry = start_telemetry()
        self.app = build_front(settings, self.remote, telemetry, Lifecycle())

        async def metrics() -> tuple[list[Any], dict[str, float]]:
            telemetry.flush()
            return list(telemetry.registry.collect()), {}

        self.remote.peer = Peer(end, asks=self.remote.asks | {"metrics": metrics})
        self.remote.peer.open()

    async def _attach(self, number: int, attachment: bytes) -> Engine:
        return FakeEngine()


@asynccontextmanager
async def several(folder: Path, **given: Any) -> AsyncGenerator[tuple[httpx.AsyncClient, ...]]:
    """A client of the manager, and one of each front end."""
    settings = read_settings(
        preload=False, models_dir=folder / "models", cache_dir=folder / "cache", front_ends=2, **given
    )
    fronts = InProcess()

    async def start(_: Model) -> Engine:
        engine = Shared()
        await fronts.opened(engine)
        return engine

    app = build_app(settings, Library([fake_model("plain", "completion")]), start, fronts=fronts)
    async with AsyncExitStack() as held:
        inner = inside(app)
        await held.enter_async_context(inner.router.lifespan_context(inner))
        apps = [app]
        for index in (1, 2):
            ours, its = socket.socketpair()
            front = FrontEnd(settings, its)
            serving = asyncio.create_task(fronts.hub.run(index, ours))
            held.push_async_callback(asyncio.wait, {serving})
            held.callback(front.remote.peer.close)  # type: ignore[union-attr]
            await front.remote.serving.wait()
            apps.append(front.app)
        yield tuple(
            [
                await held.enter_async_context(
                    httpx.AsyncClient(transport=httpx.ASGITransport(each), base_url="http://127.0.0.1")
                )
                for each in apps
            ]
        )


async def test_both_answer_and_one_has_the_books(tmp_path: Path) -> None:
    async with several(tmp_path) as (manager, *fronts):
        for front in fronts:
            answer = await front.post("/api/generate", json=ASKED)
            assert (answer.status_code, answer.json()["response"]) == (200, "Hello from the scripted engine.")
        (row,) = (await manager.get("/api/ps")).json()["models"]
        assert row["name"] == "plain:latest"
        answer = await fronts[1].post("/api/generate", json={"model": "plain", "keep_alive": 0})
        assert answer.json()["done_reason"] == "unload"
        await asyncio.sleep(0.05)
        assert (await manager.get("/api/ps")).json()["models"] == []


async def test_a_model_that_is_made_can_be_asked_at_once_and_one_that_is_deleted_cannot(
    tmp_path: Path,
) -> None:
    async with several(tmp_path) as (manager, *fronts):
        made = await manager.post("/api/create", json={"model": "new", "from": "plain", "stream": False})
        assert made.json() == {"status": "success"}
        for front in fronts:
            assert (await front.post("/api/generate", json=ASKED | {"model": "new"})).status_code == 200
        deleted = await manager.request("DELETE", "/api/delete", json={"model": "new"})
        assert deleted.status_code == 200
        for front in fronts:
            answer = await front.post("/api/generate", json=ASKED | {"model": "new"})
            assert (answer.status_code, answer.json()) == (404, {"error": "model 'new' not found"})


async def test_the_metrics_of_all_are_those_of_the_server(tmp_path: Path) -> None:
    async with several(tmp_path) as (manager, *fronts):
        for front, times in zip(fronts, (1, 2), strict=True):
            for _ in range(times):
                await front.post("/api/generate", json=ASKED)
        families = text_string_to_metric_families((await manager.get("/metrics")).text)
        samples = {
            (sample.name, sample.labels.get("front_end", "")): sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("http_route", "/api/generate") == "/api/generate"
        }
    assert samples["http_server_request_duration_seconds_count", "1"] == 1
    assert samples["http_server_request_duration_seconds_count", "2"] == 2
    assert samples["caravan_front_ends", ""] == 2


@pytest.mark.parametrize(
    ("limits", "served"), [({"requests_per_minute": 3}, 3), ({"tokens_per_minute": 2000}, 3)]
)
async def test_a_key_has_its_limits_once(tmp_path: Path, limits: dict[str, int], served: int) -> None:
    shown, stored = new_key("k")
    file = tmp_path / "keys.yaml"
    file.write_text(
        yaml.safe_dump({"keys": [{"id": "k", "hash": stored, "scopes": ["inference"], "limits": limits}]})
    )
    asked = ASKED | {"prompt": "word " * 600, "options": {"num_predict": 10}}
    async with several(tmp_path, keys_file=file) as (_, *fronts):
        head = {"Authorization": f"Bearer {shown}"}
        statuses = [
            (await front.post("/api/generate", json=asked, headers=head)).status_code
            for front in (*fronts, *fronts, *fronts)
        ]
    assert statuses == [200] * served + [429] * (6 - served)
