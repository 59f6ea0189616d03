"""A pod of a pool: the whole server over a store and scripted engines, without models of its own.

The store is where the environment says (`CARAVAN_MODELS_DIR`, `CARAVAN_CACHE_DIR`). Replies begin with the
server's name, so that a client sees who answered, and go on for `WORDS` words of `TOKEN_S` each.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.runtime.lifecycle import Lifecycle
from app.serve import bind, listen
from app.settings.server import read_settings
from harness.nursery import Nursery, nursery, raise_them

WORDS = 500
TOKEN_S = 0.02
GRACE_S = 5.0


def serve(name: str, port: int) -> None:
    async def start(_: Model) -> FakeEngine:
        return FakeEngine(default=Reply([name, *(f" {number}" for number in range(WORDS))]), delay_s=TOKEN_S)

    settings = read_settings(port=port)
    lifecycle = Lifecycle(grace_s=GRACE_S, delay_s=0)
    app = build_app(settings, Library([]), start, lifecycle=lifecycle)
    listen(app, settings, lifecycle, bind(settings.host))


def pool_nursery(store: Path, **environment: str) -> AbstractContextManager[Nursery]:
    """Servers on the store in the folder `store`, each with an engine for every model that it loads."""
    return nursery(
        "harness.pool_server",
        CARAVAN_MODELS_DIR=str(store / "models"),
        CARAVAN_CACHE_DIR=str(store / "cache"),
        HF_HOME=str(store / "huggingface"),
        CARAVAN_MODELS="[]",
        CARAVAN_PRELOAD="false",
        CARAVAN_PULL="false",
        **environment,
    )


if __name__ == "__main__":
    raise_them(serve)
