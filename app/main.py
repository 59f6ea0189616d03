"""The composition root: the one place where concrete classes meet."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
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
from app.api.places import Places
from app.api.quota import Limits, Quota
from app.api.services import Services
from app.api.stream import RawSend
from app.catalogue.adaptercopies import FOLDER as ADAPTERS
from app.catalogue.library import Library
from app.catalogue.stored import StoredModels
from app.core.model import ModelName
from app.core.pool import Pool
from app.core.tasks import supervise
from app.fronts.remote import RemoteLimiter, RemoteManager
from app.fronts.workers import Workers
from app.peers.peers import Peers
from app.registry.challenge import Login
from app.registry.progress import Progress
from app.runtime.creation import Creator
from app.runtime.leases import Leases
from app.runtime.ledger import Ledger
from app.runtime.lifecycle import Lifecycle
from app.runtime.loadlog import StartEngine, logged
from app.runtime.manager import Manager
from app.runtime.memory import Unlimited
from app.runtime.pipeline import Pipeline
from app.runtime.reach import Reach
from app.runtime.recovery import Recovery
from app.runtime.toolloop import ToolLoop
from app.runtime.transfers import HUB, Transfers, hub_cache, policy_of
from app.runtime.watch import watch, watch_requests
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
    fronts: Workers | None = None,
) -> ASGIApp:
    """The whole server as one ASGI application; `start_engine` is how a model gets its engine, `ledger` the
    memory that engines share, where it is known, and `fronts` other processes that take its requests.

    Raises:
        BadKeys: for key files that cannot be used.
    """
    telemetry = telemetry or start_telemetry()
    keys = _keys(settings, telemetry)
    lifecycle = lifecycle or Lifecycle()
    url = base_url(settings.host.host, settings.host.port)
    start_engine = logged(start_engine, url, keyed=keys is not None)
    manager = _manager(settings, library, start_engine, telemetry, lifecycle, ledger, keyed=keys is not None)
    served = _services(
        settings, library, manager, telemetry, lifecycle, toolbox or _toolbox(settings, telemetry), on_gpu
    )
    store = _store(settings, telemetry)
    limiter = Limiter(store, fail_open=settings.limits_redis_fail == "open")
    watch(telemetry, library, manager, lifecycle)
    if fronts is not None:
        fronts.join(manager, limiter if keys is not None else None, library, telemetry.metrics)
        served = replace(served, others=fronts)
    return _wired(settings, served, keys, store, limiter, fronts)


def build_front(
    settings: Settings, remote: RemoteManager, telemetry: Telemetry, lifecycle: Lifecycle
) -> ASGIApp:
    """What a process that has no engines serves, for the manager of another.

    Raises:
        BadKeys: for key files that cannot be used.
    """
    lifecycle.ends_with(remote.close)
    keys = _keys(settings, telemetry)
    served = _services(
        settings, remote.library, remote, telemetry, lifecycle, _toolbox(settings, telemetry), on_gpu=False
    )
    watch_requests(telemetry, remote.library)
    return _wired(settings, served, keys, _store(settings, telemetry), RemoteLimiter(remote))


def _wired(
    settings: Settings,
    served: Services,
    keys: KeyRing | None,
    store: Store,
    limiter: Limits,
    fronts: Workers | None = None,
) -> ASGIApp:
    """The routes, and the layers around them."""
    app = FastAPI(
        title="Caravan",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(settings, served, keys, store, fronts),
    )
    app.state.services = served
    app.state.ollama = Variant(
        settings.stream_default, settings.repeat_text, settings.tool_calls_done_reason == "tool_calls"
    )
    for router in ROUTERS:
        app.include_router(router)
    if keys is not None:
        app.add_middleware(Quota, limiter=limiter)
        guard.install(app, keys, open_paths=settings.open_paths)
    app.add_middleware(Drain, lifecycle=served.lifecycle)
    transport.install(app, origins=settings.origins, loopback=is_loopback(settings.host.host))
    dialects = (ollama_failure.dialect(settings.signin_url), OPENAI, ANTHROPIC)
    return RawSend(RequestContextMiddleware(app, served.telemetry, dialects))


def _manager(
    settings: Settings,
    library: Library,
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
        load_timeout_s=settings.load_timeout,
        load_total_s=settings.load_total_timeout,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        keyed=keyed,
        default_context=settings.context_length or DEFAULT_CONTEXT,
        ledger=ledger or Ledger(Unlimited(), settings.max_loaded_models),
        patience_s=settings.load_patience,
        observer=EngineEvents(telemetry.metrics),
        recovery=Recovery(limit=settings.crash_limit, window_s=settings.crash_window),
        on_crash_loop=lifecycle.fail,
        heir=library.heir,
    )
    lifecycle.ends_with(manager.close)
    return manager


def _services(
    settings: Settings,
    library: Library,
    manager: Leases,
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
    changes = Places("changes of models", limits.model_changes, limits.model_changes_per_key)
    lifecycle.ends_with(changes.end)
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
        changes,
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
    settings: Settings, library: Library, manager: Leases, transfers: Transfers, *, on_gpu: bool
) -> Creator:
    stored = StoredModels(transfers.store, settings.cache_dir, limits=settings.limits)
    library.open(stored)
    library.on_gone, library.on_left = manager.forget, manager.left
    library.running_adapters = manager.running_adapters

    def pull(name: ModelName, reach: Reach) -> AsyncGenerator[Progress]:
        return transfers.pull(
            name, insecure=False, login=Login(), lacking=reach.lacking, may_use=reach.caller.may_use
        )

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
    settings: Settings, served: Services, keys: KeyRing | None, store: Store, fronts: Workers | None
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
        if fronts is not None:
            watching.append(supervise("front ends", fronts.run))
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
