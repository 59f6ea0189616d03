"""The models that the settings name, and what is told while they are made ready."""

import logging
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.catalogue import bundled, preparation
from app.catalogue.library import Library
from app.catalogue.names import parse_name
from app.core.model import ModelSpec
from app.core.request import Message
from app.settings.models import ModelConfig
from app.settings.server import Settings

# In bfloat16 the two likeliest first tokens of this small model can tie; float32 keeps them apart.
BUNDLED = ModelConfig(name="smollm2:135m", source=bundled.SOURCE, engine={"dtype": "float32"})
"""What is served where no model is configured."""

_log = logging.getLogger("caravan")


def served(settings: Settings) -> list[ModelConfig]:
    """The configured models; the bundled one where neither models, an empty list included, nor peers are."""
    is_set = "models" in settings.model_fields_set or lists_others(settings)
    return settings.models or ([] if is_set else [BUNDLED])


def lists_others(settings: Settings) -> bool:
    """Whether the models of other servers are listed."""
    return bool(settings.peers or settings.peer_pools)


def engine_terms(settings: Settings) -> dict[str, Any]:
    """What the settings say of every engine, by the names of `EngineDefaults`: on each node the same."""
    return {
        "kv_cache_bytes": settings.kv_cache_bytes,
        "stream_interval": settings.stream_interval,
        "max_num_seqs": settings.num_parallel,
        "adapters": settings.adapters,
        "limits": settings.limits,
    }


def prepare(settings: Settings) -> Library:
    """Fetch and convert whatever of the models the cache lacks; `LoadFailed` says which cannot be had."""
    specs = [_spec(model) for model in served(settings)]
    with _Bars() as bars:
        return preparation.prepare(specs, settings.cache_dir, bars.show)


def _spec(model: ModelConfig) -> ModelSpec:
    return ModelSpec(
        parse_name(model.name),
        model.source,
        system=model.system,
        template=model.template,
        chat_template=model.chat_template,
        parameters=model.parameters,
        messages=tuple(Message.of(role, content) for role, content in model.messages),
        license=tuple(model.license),
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        engine=model.engine,
        adapter=model.adapter,
    )


class _Bars:
    """Progress bars on a terminal; a line per phase where there is none."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, model: str, phase: str, fraction: float) -> None:
        label = f"{model}: {phase}"
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=1.0)
            if not sys.stderr.isatty():
                _log.info("%s", label)
        self._progress.update(self._tasks[label], completed=fraction)
