"""Replicas as processes: the whole server, signals and drain included, over a scripted engine.

The replies of a replica begin with its name, so that a client sees who answered.
"""

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.serve import bind, listen
from app.settings.server import read_settings
from harness.fake_model import fake_model
from harness.nursery import raise_them

MODEL = "qwen3"
WORDS = 200
TOKEN_S = 0.02
GRACE_S = 60.0
DRAIN_S = 3.0
"""Long enough for the gateway to see that the replica goes: two health checks, a second apart."""


def reply(name: str) -> list[str]:
    """What a replica says, word by word, until it may say no more."""
    return [name, *(f" {number}" for number in range(1, WORDS))]


def serve(name: str, port: int) -> None:
    async def start(_: Model) -> FakeEngine:
        return FakeEngine(default=Reply(reply(name)), delay_s=TOKEN_S)

    settings = read_settings(port=port)
    lifecycle = Lifecycle(grace_s=GRACE_S, delay_s=DRAIN_S)
    app = build_app(settings, Library([fake_model(MODEL)]), start, lifecycle=lifecycle)
    listen(app, settings, lifecycle, bind(settings.host))


if __name__ == "__main__":
    raise_them(serve)
