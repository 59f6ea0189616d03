"""The real engine in the process of the tests, for what no client of the server can see."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.catalogue.names import parse_name
from app.catalogue.preparation import prepare
from app.core.model import Model, ModelSpec
from app.engine.vllm.process import forkserver
from harness.server import models


@cache
def model(name: str, **engine: Any) -> Model:
    """A model of the test server; `engine` are vLLM arguments besides its own."""
    (given,) = (each for each in models() if each["name"] == name)
    spec = ModelSpec(parse_name(name), given["source"], engine=given.get("engine", {}) | engine)
    with TemporaryDirectory() as scratch:
        return prepare([spec], Path(scratch)).all()[0]


@cache
def start_fork_server() -> None:
    context = forkserver.start({}, debug=False)
    forkserver.adopt(context)


async def load(wanted: Model, *, adapter_rank: int = 0, **defaults: Any) -> Any:
    """The started engine; `defaults` are those of `EngineDefaults`.

    vLLM writes to the environment, which servers that are tested later inherit.
    """
    before = dict(os.environ)
    try:
        start_fork_server()
        from app.engine.vllm.config import EngineDefaults
        from app.engine.vllm.engine import VllmEngine

        return await VllmEngine.load(wanted, EngineDefaults(**defaults), adapter_rank=adapter_rank)
    finally:
        os.environ.clear()
        os.environ.update(before)


@asynccontextmanager
async def loaded(name: str, *, adapter_rank: int = 0, **engine: Any) -> AsyncGenerator[Any, None]:
    started = await load(model(name, **engine), adapter_rank=adapter_rank)
    try:
        yield started
    finally:
        await started.close()
