"""What is logged of loads: that one begins, how long it took, and how to try the first."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from app.core.model import Model
from app.engine.base import Engine

StartEngine: TypeAlias = Callable[[Model], Awaitable[Engine]]
_log = logging.getLogger("caravan")


def logged(start_engine: StartEngine, url: str, *, keyed: bool) -> StartEngine:
    """Says what is being loaded, how long it took and, for the first model, how to try it."""
    examples = iter((_example,))

    async def start(model: Model) -> Engine:
        facts = model.facts
        _log.info(
            "loading %s (%s, %s parameters, %s, up to %d tokens of context)",
            model.name,
            facts.family,
            facts.parameter_size,
            facts.quantization,
            facts.context_length,
        )
        begun = time.monotonic()
        engine = await start_engine(model)
        _log.info(
            "%s is ready after %.1f s and takes %d MiB",
            model.name,
            time.monotonic() - begun,
            engine.memory_bytes >> 20,
        )
        for example in examples:
            _log.info("try it: %s", example(url, model, keyed=keyed))
        return engine

    return start


def _example(url: str, model: Model, *, keyed: bool) -> str:
    """A command line that asks `model` something."""
    if model.can("completion"):
        path, body = "chat", {"messages": [{"role": "user", "content": "Hello"}]}
    else:
        path, body = "embed", {"input": "Hello"}
    key = "-H 'Authorization: Bearer KEY' " if keyed else ""
    return f"curl -N {url}/api/{path} {key}-d '{json.dumps({'model': str(model.name), **body})}'"
