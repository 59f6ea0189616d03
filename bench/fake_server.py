"""The whole server over an engine that waits for each token and does nothing else."""

from collections.abc import Sequence
from typing import Any

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.serve import bind, listen
from app.settings.server import read_settings
from app.settings.values import Address
from bench.servers import NAME
from harness.fake_model import fake_model


def serve(port: int, reply: Sequence[str], *, delay_s: float, slots: int = 0, **given: Any) -> None:
    """Listen on loopback until told to stop. Every answer is `reply`, with `delay_s` from token to token;
    `given` are settings."""

    async def start(_: Model) -> FakeEngine:
        return FakeEngine(default=Reply(reply), slots=slots, delay_s=delay_s)

    settings = read_settings(port=port, **given)
    lifecycle = Lifecycle(grace_s=0.0)
    app = build_app(settings, Library([fake_model(NAME)]), start, lifecycle=lifecycle)
    listen(app, settings, lifecycle, bind(Address(port=port)))
