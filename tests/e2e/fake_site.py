"""The whole server in this process, behind real sockets, with scripted engines in place of vLLM's."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.api.connection import connection_class
from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.main import build_app
from app.runtime.ledger import Ledger
from app.settings.server import read_settings
from app.telemetry.report import Telemetry
from tests.api.live import serving

WAIT_S = 30.0


@dataclass
class FakeSite:
    """A running server: its port, a client of it and the engines it has started so far."""

    port: int
    client: httpx.Client
    engines: list[FakeEngine] = field(default_factory=list[FakeEngine])

    @property
    def running(self) -> float:
        """How many requests run or wait in any engine."""
        return sum(sum(engine.metrics().values()) for engine in self.engines)


@contextmanager
def fake_site(
    *models: Model,
    engine: Callable[[], FakeEngine] = FakeEngine,
    telemetry: Telemetry | None = None,
    ledger: Ledger | None = None,
    **settings: Any,
) -> Generator[FakeSite]:
    """Serve `models`, each on an `engine` of its own."""
    started: list[FakeEngine] = []

    async def start_engine(_: Model) -> FakeEngine:
        started.append(engine())
        return started[-1]

    read = read_settings(preload=False, **settings)
    app = build_app(read, Library(models), start_engine, telemetry, ledger=ledger)
    connections = connection_class(
        read.headers_timeout, send_timeout_s=read.send_timeout, head_bytes=read.limits.head_bytes
    )
    with (
        serving(app, connections) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client,
    ):
        yield FakeSite(port, client, started)
