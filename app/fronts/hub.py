"""The manager's side of all workers: what each knows of models and engines, and what one leaves behind."""

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from prometheus_client import Metric

from app.access.limiter import Limiter
from app.core.errors import AppError
from app.core.model import Model
from app.engine.base import Engine
from app.fronts.peer import Peer
from app.fronts.session import Session
from app.runtime.manager import Manager

_ATTACH_S = 300.0
_TELL_S = 30.0
_COUNT_S = 5.0
_log = logging.getLogger("caravan")


@dataclass(frozen=True, slots=True)
class EngineState:
    """What a worker has seen of an engine. `told_at` is when the engine last told of itself there, by the
    clock that all processes of a machine share; its gauges hold for then."""

    outputs: int = 0
    running: float = 0.0
    waiting: float = 0.0
    told_at: float = 0.0


class SharedEngine(Engine, Protocol):
    """An engine that workers attach to."""

    @property
    def attachment(self) -> bytes:
        """What a worker needs for that."""
        ...

    @property
    def served_name(self) -> str:
        """What its metrics call it."""
        ...

    @property
    def told_at(self) -> float:
        """When it last told of itself here, as in `EngineState`."""
        ...

    async def abandon(self, request_ids: Sequence[str]) -> None:
        """End requests of a worker that has died."""
        ...

    def hear(self, worker: int, state: EngineState, requests: int) -> None:
        """What a worker has seen, and how many requests it has here."""
        ...


@dataclass(slots=True)
class _Worker:
    peer: Peer
    requests: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    """Those under way, by the number of their engine."""
    states: dict[int, EngineState] = field(default_factory=dict[int, EngineState])
    is_serving: bool = False


class Hub:
    """Numbers models and engines, and tells the workers of them before anybody can ask for one."""

    def __init__(self, manager: Manager, limiter: Limiter | None) -> None:
        self._manager, self._limiter = manager, limiter
        self._numbers = itertools.count(1)
        self._models: dict[int, Model] = {}
        self._before: dict[int, Model] = {}
        self._engines: dict[int, SharedEngine] = {}
        self._workers: dict[int, _Worker] = {}

    # What a session asks.

    def model(self, number: int) -> Model:
        return self._models.get(number) or self._before[number]

    def number_of(self, engine: Engine) -> int:
        """0 for one that has just gone."""
        return next((number for number, each in self._engines.items() if each is engine), 0)

    # Workers come and go.

    @property
    def serving(self) -> int:
        """Workers that take requests."""
        return sum(each.is_serving for each in self._workers.values())

    async def run(self, index: int, end: socket.socket) -> None:
        """Serve one worker until it has ended; what it had is given back then."""
        session = Session(self._manager, self._limiter, self)
        worker = _Worker(
            Peer(
                end,
                asks=session.asks,
                holds=session.holds,
                tells=session.tells
                | {
                    "began": lambda engine, request_id: self._began(index, worker, engine, request_id),
                    "state": lambda engine, state, ended: self._state(index, engine, state, ended),
                },
            )
        )
        self._workers[index] = worker
        worker.peer.open()
        try:
            await worker.peer.ask("models", self._listed())
            for number, engine in list(self._engines.items()):
                await _in_time(worker.peer, _ATTACH_S, "opened", number, engine.attachment)
            await worker.peer.ask("serve")
            worker.is_serving = True
            await worker.peer.ended.wait()
        except AppError as error:
            if not worker.peer.ended.is_set():
                _log.error("front end %d cannot begin: %s", index, error)
        finally:
            worker.peer.close()
            del self._workers[index]
            await self._clear_up(index, worker)

    async def _clear_up(self, index: int, worker: _Worker) -> None:
        for number, request_ids in worker.requests.items():
            if (engine := self._engines.get(number)) is not None:
                engine.hear(index, EngineState(), 0)
                if request_ids:
                    _log.info("requests that front end %d has left: %d", index, len(request_ids))
                    await engine.abandon(sorted(request_ids))

    def stop(self, *, now: bool = False) -> None:
        """Have the workers take no more requests and end; `now`: wait for none."""
        for each in self._workers.values():
            each.peer.tell("stop", now)

    # Models and engines come and go.

    async def publish(self, models: Iterable[Model]) -> None:
        """Return once every worker knows what there is now."""
        known = {id(model): number for number, model in self._models.items()}
        self._before = self._models
        self._models = {known.get(id(model)) or next(self._numbers): model for model in models}
        await self._ask_all(_TELL_S, "models", self._listed())

    async def opened(self, engine: SharedEngine) -> None:
        """An engine is loaded: return once every worker has attached to it.

        Raises:
            AppError: one could not.
        """
        number = next(self._numbers)
        self._engines[number] = engine
        await self._ask_all(_ATTACH_S, "opened", number, engine.attachment)

    async def closed(self, engine: SharedEngine) -> None:
        """An engine is gone, or is to go: requests that have it end."""
        for number in [number for number, each in self._engines.items() if each is engine]:
            del self._engines[number]
            for worker in self._workers.values():
                worker.requests.pop(number, None)
                worker.states.pop(number, None)
            with suppress(AppError):
                await self._ask_all(_TELL_S, "closed", number)

    @property
    def told_at(self) -> dict[str, float]:
        """When each engine last told of itself to this process, by what its metrics call it."""
        return {engine.served_name: engine.told_at for engine in self._engines.values()}

    async def metrics(self) -> list[tuple[int, list[Metric], dict[str, float]]]:
        """What each worker counts; and by model, when its engine last told it of itself."""
        serving = [(index, each.peer) for index, each in self._workers.items() if each.is_serving]
        answers = await asyncio.gather(*(_counted(peer) for _, peer in serving))
        return [(index, *answer) for (index, _), answer in zip(serving, answers, strict=True) if answer]

    def _listed(self) -> list[tuple[int, Model]]:
        return [(number, _lean(model)) for number, model in self._models.items()]

    async def _ask_all(self, limit_s: float, name: str, *arguments: Any) -> None:
        """Ask every worker; one that ends meanwhile, or is too slow, is told when it comes again."""
        peers = [each.peer for each in self._workers.values()]
        for answer in await asyncio.gather(
            *(_in_time(peer, limit_s, name, *arguments) for peer in peers), return_exceptions=True
        ):
            if isinstance(answer, BaseException):
                raise answer

    def _began(self, index: int, worker: _Worker, engine: int, request_id: str) -> None:
        if (known := self._engines.get(engine)) is None:
            return
        requests = worker.requests.setdefault(engine, set())
        requests.add(request_id)
        # One that hangs from here on gives no output that would be told of.
        known.hear(index, worker.states.get(engine, EngineState()), len(requests))

    def _state(self, index: int, engine: int, state: EngineState, ended: Sequence[str]) -> None:
        if (worker := self._workers.get(index)) is None or engine not in self._engines:
            return
        requests = worker.requests.setdefault(engine, set())
        requests.difference_update(ended)
        worker.states[engine] = state
        self._engines[engine].hear(index, state, len(requests))


def _lean(model: Model) -> Model:
    """Without what only descriptions of a model show, which may be the words of a whole vocabulary."""
    return replace(model, facts=replace(model.facts, info={}, tensors=()))


async def _counted(peer: Peer) -> Any:
    """What one worker counts; None where it does not say so soon."""
    try:
        async with asyncio.timeout(_COUNT_S):
            return await peer.ask("metrics")
    except (TimeoutError, AppError):
        return None


async def _in_time(peer: Peer, limit_s: float, name: str, *arguments: Any) -> Any:
    """The answer of one worker; None where it has ended or does not answer, which ends it."""
    asking: Awaitable[Any] = peer.ask(name, *arguments)
    try:
        async with asyncio.timeout(limit_s):
            return await asking
    except TimeoutError:
        _log.error("a front end does not answer and is ended")
        peer.close()
        return None
    except AppError:
        if peer.ended.is_set():
            return None
        raise
