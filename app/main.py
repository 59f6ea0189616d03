"""The composition root: the one place where concrete classes meet."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp

from app import __version__
from app.access.limiter import Limiter
from app.access.ring import KeyRing
from app.access.store import Store, open_storage
from app.api import guard, ops, transport, unserved
from app.api.anthropic import routes as anthropic_routes
from app.api.anthropic.failure import ANTHROPIC
from app.api.body import OpenBodies, Uploads
from app.api.context import RequestContextMiddleware
from app.api.drain import Drain
from app.api.ollama import failure as ollama_failure
from app.api.ollama import manage, models, routes, web
from app.api.ollama import unserved as ollama_unserved
from app.api.ollama.variant import Variant
from app.api.openai import models as openai_models
from app.api.openai import routes as openai_routes
from app.api.openai import unserved as openai_unserved
from app.api.openai.failure import OPENAI
from app.api.openai.responses import routes as responses
from app.api.quota import Quota
from app.api.services import Services
from app.api.stream import RawSend
from app.catalogue.adaptercopies import FOLDER as ADAPTERS
from app.catalogue.library import Library
from app.catalogue.stored import StoredModels
from app.core.model import Model, ModelName
from app.core.pool import Pool
from app.core.tasks import supervise
from app.engine.base import Engine
from app.peers.peers import Peers
from app.registry.challenge import Login
from app.registry.progress import Progress
from app.runtime.creation import Creator
from app.runtime.ledger import Ledger
from app.runtime.lifecycle import Lifecycle
from app.runtime.manager import Manager
from app.runtime.pipeline import Pipeline
from app.runtime.recovery import Recovery
from app.runtime.toolloop import ToolLoop
from app.runtime.transfers import HUB, Transfers, hub_cache, policy_of
from app.runtime.watch import watch
from app.settings.server import Settings
from app.store.store import Store as ModelStore
from app.telemetry import instruments
from app.telemetry.engines import EngineEvents
from app.telemetry.report import Telemetry
from app.telemetry.setup import start as start_telemetry
from app.tools.base import Budget
from app.tools.setup import open_toolbox
from app.tools.toolbox import Toolbox

_log = logging.getLogger("caravan")
DEFAULT_CONTEXT = 4096
API_VERSION = "0.34.4"
"""The release of Ollama whose API is spoken; clients ask for it to see what they may use."""

ROUTERS = (
    routes.router,
    models.router,
    manage.router,
    web.router,
    openai_routes.router,
    openai_models.router,
    responses.router,
    anthropic_routes.router,
    ops.router,
    *(unserved.refusing(each.ROUTES) for each in (ollama_unserved, openai_unserved)),
)

StartEngine = Callable[[Model], Awaitable[Engine]]


def build_app(
    settings: Settings,
    library: Library,
    start_engine: StartEngine,
    telemetry: Telemetry | None = None,
    lifecycle: Lifecycle | None = None,
    toolbox: Toolbox | None = None,
    *,
    ledger: Ledger | None = None,
    on_gpu: bool = False,
) -> ASGIApp:
    """The whole server as one ASGI application; `start_engine` is how a model gets its engine, and `ledger`
    the memory that engines share, where it is known.

    Raises:
        BadKeys: for key files that cannot be used.
    """
    telemetry = telemetry or start_telemetry()
    keys = _keys(settings, telemetry)
    lifecycle = lifecycle or Lifecycle()
    url = base_url(settings.host.host, settings.host.port)
    start_engine = _logged(start_engine, url, keyed=keys is not None)
    manager = _manager(settings, start_engine, telemetry, lifecycle, ledger, keyed=keys is not None)
    served = _services(
        settings, library, manager, telemetry, lifecycle, toolbox or _toolbox(settings, telemetry), on_gpu
    )
    store = _store(settings, telemetry)
    app = FastAPI(
        title="Caravan",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(settings, served, keys, store),
    )
    app.state.services = served
    app.state.ollama = Variant(
        settings.stream_default, settings.repeat_text, settings.tool_calls_done_reason == "tool_calls"
    )
    watch(telemetry, library, manager, lifecycle)
    for router in ROUTERS:
        app.include_router(router)
    if keys is not None:
        app.add_middleware(Quota, limiter=Limiter(store, fail_open=settings.limits_redis_fail == "open"))
        guard.install(app, keys, open_paths=settings.open_paths)
    app.add_middleware(Drain, lifecycle=lifecycle)
    transport.install(app, origins=settings.origins, loopback=is_loopback(settings.host.host))
    dialects = (ollama_failure.dialect(settings.signin_url), OPENAI, ANTHROPIC)
    return RawSend(RequestContextMiddleware(app, telemetry, dialects))


def _manager(
    settings: Settings,
    start_engine: StartEngine,
    telemetry: Telemetry,
    lifecycle: Lifecycle,
    ledger: Ledger | None,
    *,
    keyed: bool,
) -> Manager:
    manager = Manager(
        start_engine,
        keep_alive_s=settings.keep_alive,
        max_loaded=settings.max_loaded_models,
        load_timeout_s=settings.load_timeout,
        load_total_s=settings.load_total_timeout,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        keyed=keyed,
        default_context=settings.context_length or DEFAULT_CONTEXT,
        ledger=ledger,
        patience_s=settings.load_patience,
        observer=EngineEvents(telemetry.metrics),
        recovery=Recovery(limit=settings.crash_limit, window_s=settings.crash_window),
        on_crash_loop=lifecycle.fail,
    )
    lifecycle.ends_with(manager.close)
    return manager


def _services(
    settings: Settings,
    library: Library,
    manager: Manager,
    telemetry: Telemetry,
    lifecycle: Lifecycle,
    toolbox: Toolbox,
    on_gpu: bool,
) -> Services:
    # As many jobs may wait as requests: each of these has one at a time.
    pool = Pool(waiting=max(settings.max_queue, 64))
    transfers = _transfers(settings, library)
    limits = settings.limits
    bodies = OpenBodies(_at_least(limits.open_body_bytes, settings.max_body_bytes))
    pipeline = Pipeline(library, manager, pool=pool, cache_per_key=settings.cache_per_key)
    return Services(
        library,
        manager,
        pipeline,
        telemetry,
        settings.max_body_bytes,
        settings.body_timeout,
        settings.request_timeout,
        API_VERSION,
        lifecycle,
        Peers(
            settings.peers,
            settings.peer_timeout,
            pools=settings.peer_pools,
            on_failure=telemetry.metrics.peer_left_out,
        ),
        limits,
        pool,
        bodies,
        ToolLoop(pipeline, toolbox, pool),
        toolbox,
        _creator(settings, library, manager, transfers, on_gpu=on_gpu),
        transfers,
        Uploads(bodies, limits.uploads, limits.uploads_per_key),
    )


def _transfers(settings: Settings, library: Library) -> Transfers:
    policy = policy_of(
        settings.registry_allow,
        enabled=settings.pull,
        insecure=settings.registry_insecure,
        quota_bytes=settings.models_max_bytes,
    )
    return Transfers(
        ModelStore(
            settings.models_dir,
            {ADAPTERS: lambda: settings.cache_dir.resolve() / ADAPTERS, HUB: hub_cache},
        ),
        library,
        policy,
        allow=settings.fetch_allow,
        deny=settings.fetch_deny,
        proxy=settings.fetch_proxy,
        hub_token=settings.hub_token,
    )


def _creator(
    settings: Settings, library: Library, manager: Manager, transfers: Transfers, *, on_gpu: bool
) -> Creator:
    stored = StoredModels(transfers.store, settings.cache_dir, limits=settings.limits)
    library.open(stored)
    library.on_gone, library.on_left = manager.forget, manager.left
    library.running_adapters = manager.running_adapters

    def pull(name: ModelName) -> AsyncGenerator[Progress]:
        return transfers.pull(name, insecure=False, login=Login())

    quota_bytes = settings.models_max_bytes
    return Creator(transfers.store, stored, library, pull, on_gpu=on_gpu, quota_bytes=quota_bytes)


def _keys(settings: Settings, telemetry: Telemetry) -> KeyRing | None:
    """The keys in force; None where everybody may come in, which is said if others than us can."""
    if settings.keys_file is None:
        if not is_loopback(settings.host.host):
            _log.warning(
                "no API keys are configured: whoever reaches %s may use this server (CARAVAN_KEYS_FILE)",
                base_url(settings.host.host, settings.host.port),
            )
        return None
    keys = KeyRing(settings.keys_file, on_reload=telemetry.metrics.keys_reloaded)
    _log.info("%d API keys from %s are in force", len(keys), settings.keys_file)
    return keys


def _toolbox(settings: Settings, telemetry: Telemetry) -> Toolbox:
    return open_toolbox(
        settings.tools,
        allow=settings.fetch_allow,
        deny=settings.fetch_deny,
        proxy=settings.fetch_proxy,
        search_url=settings.search_url,
        browser_url=settings.browser_url,
        browser_pages=settings.browser_pages,
        on_refused=telemetry.metrics.page_refused,
        obeys_robots=settings.fetch_robots,
        budget=Budget(
            turns=settings.tools_turns,
            calls=settings.tools_calls,
            seconds=settings.tools_timeout,
            received_bytes=settings.tools_max_bytes,
        ),
        any_url=settings.tools_urls == "any",
    )


def _at_least(limit_bytes: int, least_bytes: int) -> int:
    """A limit under which what takes `least_bytes` still fits; 0 stays no limit."""
    return limit_bytes and max(limit_bytes, least_bytes)


def _store(settings: Settings, telemetry: Telemetry) -> Store:
    """Where the limits of keys are counted, each failure of which is counted too."""
    answer_s = settings.limits_redis_timeout
    storage = open_storage(settings.limits_redis_url, answer_s)
    count = partial(telemetry.metrics.count, instruments.STORE_FAILURES)
    return Store(storage, answer_s=answer_s, on_failure=count)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def base_url(host: str, port: int) -> str:
    """Where a client on this machine finds a server bound to `host`."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _lifespan(
    settings: Settings, served: Services, keys: KeyRing | None, store: Store
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await served.library.reload()
        models = served.library.all() if settings.preload else []
        for model in models[:1]:
            served.manager.preload(model)
        watching = [supervise("model store", served.library.watch)]
        if keys is not None:
            watching.append(supervise("key files", keys.watch))
        yield
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        served.library.close()
        await served.manager.close()
        await served.toolbox.aclose()
        await served.transfers.aclose()
        await store.close()
        served.telemetry.flush()  # here, where the requests ended: a thread has no part in it
        await asyncio.to_thread(served.telemetry.close)

    return lifespan


def _logged(start_engine: StartEngine, url: str, *, keyed: bool) -> StartEngine:
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
            "%s is ready after %.1f s and takes %d MB",
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
