"""The engines that the contract is checked on. An engine is added by one factory and one row below it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeAlias

import pytest
import pytest_asyncio

from app.engine.base import Engine
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from tests.real_engine import loaded

EngineFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Engine]]
"""Starts an engine and closes it again. It has more than 64 tokens to say to "Once upon a time"."""


@asynccontextmanager
async def fake_engine() -> AsyncGenerator[Engine, None]:
    engine = FakeEngine(default=Reply((" there was",) * 200), window=512)
    yield engine
    await engine.close()


# vLLM and what it is built on warn of much that is theirs to mend.
REAL = (pytest.mark.engine, pytest.mark.filterwarnings("ignore"))
GENERATORS = [
    pytest.param(fake_engine, id="fake"),
    pytest.param(partial(loaded, "tool"), id="vllm", marks=REAL),
]
EMBEDDERS = [
    pytest.param(fake_engine, id="fake"),
    pytest.param(partial(loaded, "emb"), id="vllm", marks=REAL),
]


@pytest.fixture(scope="module", params=GENERATORS)
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    """For tests that use an engine up."""
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(factory: EngineFactory) -> AsyncGenerator[Engine, None]:
    """One engine for all tests of the module: a real one takes long to start."""
    async with factory() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=EMBEDDERS)
async def embedder(request: pytest.FixtureRequest) -> AsyncGenerator[Engine, None]:
    async with request.param() as started:
        yield started
