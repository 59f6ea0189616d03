"""An engine for several processes: one starts, watches and ends it, the others attach to it."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from vllm.config import VllmConfig
from vllm.envs import enable_envs_cache
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.exceptions import EngineDeadError

from app.core.errors import LoadFailed
from app.core.model import Adapter, Model
from app.engine.vllm.adapters import Adapters
from app.engine.vllm.config import EngineDefaults
from app.engine.vllm.engine import VllmEngine
from app.engine.vllm.process.stderr import ChildOutput
from app.engine.vllm.process.tree import trim_heap
from app.engine.vllm.process.watchdog import Look
from app.engine.vllm.start import Started, interval_of
from app.engine.vllm.stream.client import StreamingLLM
from app.engine.vllm.stream.metrics import EngineRegistry, TellingMetrics, stat_logger
from app.engine.vllm.stream.pace import Pace
from app.engine.vllm.stream.sharing import AttachedClient, Endpoint, attached_to, endpoints, open_to
from app.engine.vllm.stream.tracing import trace_requests

_ONE_CORE = ("data_parallel_size", "nnodes")
_NO_ADAPTERS = "CARAVAN_FRONT_ENDS above 1 serves no adapters"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is needed to attach to an engine: its configuration as it came to be, and the addresses."""

    model: Model
    config: VllmConfig
    windowed: bool
    endpoints: tuple[Endpoint, ...]


class SharedVllmEngine(VllmEngine):
    """The engine where it is started. What workers do with it is told here, for the watchdog and the gauges.

    `on_end` is called before the engine is closed and after it has died.
    """

    attachment: bytes

    @classmethod
    async def share(
        cls,
        model: Model,
        defaults: EngineDefaults,
        workers: int,
        on_end: Callable[["SharedVllmEngine"], Awaitable[None]],
    ) -> Self:
        """Load it for as many workers.

        Raises:
            LoadFailed: with vLLM's own reason, or for what is not combined with workers.
        """
        for name in _ONE_CORE:
            if (given := model.spec.engine.get(name, 1)) != 1:
                raise LoadFailed(f"engine arguments: {name} {given} is for CARAVAN_FRONT_ENDS of 1 alone")
        others = endpoints(workers)
        with open_to(others):
            engine = await cls.load(model, replace(defaults, front_ends=workers))
        engine._on_end = on_end
        engine.attachment = pickle.dumps(
            Attachment(model, engine._llm.vllm_config, engine._windowed, tuple(others))
        )
        return engine

    def __init__(self, model: Model, started: Started, defaults: EngineDefaults) -> None:
        super().__init__(model, started, defaults)
        self._seen: dict[int, Any] = {}
        self._requests: dict[int, int] = {}
        self._outputs = 0
        self._on_end: Callable[[SharedVllmEngine], Awaitable[None]] = _nobody

    @property
    def served_name(self) -> str:
        """What its metrics call it."""
        return str(self._model.name)

    @property
    def told_at(self) -> float:
        """See `AttachedEngine.told_at`."""
        return self._registry.told_at

    def takes(self, adapter: Adapter | None) -> bool:
        if adapter is not None:
            raise LoadFailed(_NO_ADAPTERS)
        return True

    def hear(self, worker: int, state: Any, requests: int) -> None:
        """See `fronts.hub.SharedEngine`."""
        before = self._seen.get(worker)
        self._outputs += max(0, state.outputs - (before.outputs if before else 0))
        self._seen[worker], self._requests[worker] = state, requests

    async def abandon(self, request_ids: Sequence[str]) -> None:
        with suppress(EngineDeadError):
            await self._llm.engine_core.abort_requests_async(list(request_ids))

    def metrics(self) -> Mapping[str, float]:
        latest = max(self._seen.values(), key=lambda state: state.told_at, default=None)
        if latest is None or latest.told_at <= self.told_at:
            return super().metrics()
        return {"running": latest.running, "waiting": latest.waiting}

    def _look(self) -> Look:
        seen = super()._look()
        owes = seen.owes or any(self._requests.values())
        return replace(seen, outputs=seen.outputs + self._outputs, owes=owes)

    async def wait_dead(self) -> None:
        await super().wait_dead()
        await self._on_end(self)

    async def close(self) -> None:
        await self._on_end(self)
        await super().close()


async def _nobody(_: SharedVllmEngine) -> None:
    """No worker knows of it yet."""


class AttachedLLM(StreamingLLM):
    """vLLM's client in a worker. `note` is told of each request before the core is."""

    note: Callable[[str], None] = staticmethod(lambda _: None)

    async def _add_request(self, request: EngineCoreRequest, *args: Any, **kwargs: Any) -> None:
        self.note(request.request_id)
        await super()._add_request(request, *args, **kwargs)


class AttachedEngine(VllmEngine):
    """The engine in a worker."""

    @classmethod
    async def attach(
        cls, attachment: bytes, index: int, defaults: EngineDefaults, note: Callable[[str], None]
    ) -> Self:
        """Attach as client number `index`, from 1 on. `note` is told the id of each request before the
        engine has it.

        Raises:
            LoadFailed: it cannot be reached.
        """
        found: Attachment = await asyncio.to_thread(pickle.loads, attachment)
        config, registry = found.config, EngineRegistry()
        config.parallel_config._api_process_rank = index  # type: ignore[reportPrivateUsage]

        def make() -> AttachedLLM:
            count = len(found.endpoints) + 1
            with attached_to(found.endpoints[index - 1], index, count):
                loggers: Any = [stat_logger(registry, TellingMetrics)]
                return cast(AttachedLLM, AttachedLLM.from_vllm_config(config, stat_loggers=loggers))

        llm = await asyncio.to_thread(make)
        llm.output_processor.pace = Pace(interval_of(found.model, defaults))
        output = ChildOutput()
        with output.of_what_starts():
            pass  # It has no processes here.
        adapters = Adapters(llm, fault=_NO_ADAPTERS)
        started = Started(llm, cast(Any, None), found.windowed, registry, output, adapters)
        try:
            await cast(AttachedClient, llm.engine_core).connected()
        except TimeoutError as error:
            llm.shutdown()
            raise LoadFailed(f"the engine of {found.model.name} does not connect") from error
        engine = cls(found.model, started, defaults)
        llm.note = engine._note(note)
        await asyncio.to_thread(engine._token_bytes.read)
        await engine._warm_up()
        if defaults.traces:
            trace_requests(llm)
        enable_envs_cache()  # It would read some variables for every token, and none changes here.
        freeze_gc_heap()
        await asyncio.to_thread(trim_heap)
        return engine

    def __init__(self, model: Model, started: Started, defaults: EngineDefaults) -> None:
        super().__init__(model, started, defaults)
        self._noted: set[str] = set()

    def _note(self, note: Callable[[str], None]) -> Callable[[str], None]:
        def noted(request_id: str) -> None:
            self._noted.add(request_id)
            note(request_id)

        return noted

    @property
    def served_name(self) -> str:
        """What its metrics call it."""
        return str(self._model.name)

    @property
    def told_at(self) -> float:
        """When the engine last told of itself to this process and not to another, by `time.monotonic`."""
        return self._registry.told_at

    @property
    def outputs(self) -> int:
        return self._registry.outputs

    def ended(self) -> list[str]:
        """The requests that have ended since this was last asked."""
        under_way = self._llm.output_processor.request_states.keys()
        ended = [each for each in self._noted if each not in under_way]
        self._noted.difference_update(ended)
        return ended
