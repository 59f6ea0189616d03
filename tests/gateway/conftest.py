"""The gateway that the chart renders, as a real Envoy in front of real servers over scripted engines."""

import asyncio
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

import httpx
import pytest

from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.envoy import HOST, Gateway, gateway
from harness.fake_model import fake_model
from tests.e2e.fake_site import FakeSite, fake_site

MIB = 1 << 20
TOKEN_S = 0.02
WORDS = tuple(f" {n}" for n in range(20))
HELD = "Begin, and go on when told to."
VALUES: dict[str, Any] = {
    "models": [
        {"name": "qwen3", "source": "x/qwen3", "aliases": [{"name": "pirate", "system": "Arr."}]},
        {"name": "llama", "source": "x/llama"},
        {"name": "narrow", "source": "x/narrow"},
    ],
    "gateway": {"maxBodyBytes": MIB},
}

OPEN: dict[str, Any] = {"host": "0.0.0.0", "max_body_bytes": MIB}


@dataclass
class Cluster:
    """Two replicas of `qwen3` (`pirate` is the same), one of `llama`, the directory and the gateway.

    Each of the two replicas of `narrow` runs one request while three others wait. The answer to `HELD` goes
    on after its first word once `release` is set.
    """

    gateway: Gateway
    client: httpx.Client
    replicas: list[FakeSite]
    other: FakeSite
    release: Event

    def chat(self, text: str = "Hi", model: str = "qwen3", **more: Any) -> httpx.Response:
        asked = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False, **more}
        return self.client.post("/api/chat", json=asked)

    def served(self) -> list[int]:
        """Requests that each replica has had."""
        return [sum(len(engine.asked) for engine in site.engines) for site in self.replicas]


def engine(release: Event, slots: int = 0) -> FakeEngine:
    async def gate(word: int) -> None:
        while word and not release.is_set():  # noqa: ASYNC110  # it is set from another thread
            await asyncio.sleep(TOKEN_S)

    script = {HELD: Reply(WORDS, gate=gate)}
    return FakeEngine(script, default=Reply(WORDS), delay_s=TOKEN_S, slots=slots)


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    release = Event()
    with ExitStack() as stack:

        def site(*names: str, slots: int = 0, **settings: Any) -> FakeSite:
            models = (fake_model(name) for name in names)
            made = partial(engine, release, slots)
            return stack.enter_context(fake_site(*models, **OPEN, engine=made, **settings))

        replicas, other = [site("qwen3", "pirate") for _ in range(2)], site("llama")
        narrow = [site("narrow", slots=1, max_queue=3) for _ in range(2)]
        peers = [f"http://{HOST}:{each.port}" for each in (*replicas, other)]
        directory = stack.enter_context(fake_site(**OPEN, peers=peers))
        servers = {"qwen3": [each.port for each in replicas], "llama": [other.port]}
        servers["narrow"] = [each.port for each in narrow]
        made = stack.enter_context(
            gateway(VALUES, servers, directory.port, tmp_path_factory.mktemp("gateway"))
        )
        client = stack.enter_context(httpx.Client(base_url=made.url, timeout=30))
        yield Cluster(made, client, replicas, other, release)
