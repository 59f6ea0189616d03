"""One history: the real limits, pipeline, manager and queue under a plan, watched at each turn."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Generator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass, replace

from app.access.limiter import Limiter
from app.access.store import Store, open_storage
from app.api.errors import STATUS
from app.catalogue.library import Library
from app.catalogue.parameters import read_parameters
from app.core.context import Caller, RequestContext, Reserve, Settle
from app.core.errors import (
    AppError,
    ConcurrencyExceeded,
    Draining,
    EngineDied,
    EngineFailed,
    Forbidden,
    InvalidRequest,
    LoadFailed,
    Overloaded,
    RequestRateExceeded,
    TokenRateExceeded,
)
from app.core.events import Content, Done, Event
from app.core.model import Model
from app.core.request import ChatPrompt, Deferred, Embedding, Generation, Load, Message, Unload
from app.runtime.ledger import Ledger
from app.runtime.memory import Unlimited
from app.runtime.pipeline import Pipeline
from app.runtime.policy import FlowKey
from app.runtime.recovery import Recovery
from tests.replay.books import BookedManager, Books, booked
from tests.replay.clock import ReplayLoop, turns, virtual_clocks
from tests.replay.engines import WINDOW, Fleet, ReplayEngine, deltas_of
from tests.replay.journal import Journal
from tests.replay.plan import Ask, Moment, Outage, Plan, draw
from tests.replay.probes import are_free, may_ask, tokens_of
from tests.unit.garage import model

_BOUND_S = 900.0
"""No request of any plan may take longer: that is all starts, answers and back-offs one after the other."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A history that is over."""

    plan: Plan
    lines: list[str]
    faults: list[str]

    def __str__(self) -> str:
        return "\n".join([f"seed {self.plan.seed}", *self.plan.lines(), "", *self.lines, "", *self.faults])


def replay(seed: int) -> Replay:
    """The history of a seed: the same each time."""
    plan = draw(seed)
    with quiet(), asyncio.Runner(loop_factory=ReplayLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, ReplayLoop)
        journal = Journal(loop.time, lambda: loop.selector.turns)
        with virtual_clocks(loop):
            try:
                runner.run(History(plan, journal, loop).run())
            except RuntimeError as error:
                journal.fault(str(error))
    return Replay(plan, journal.lines, journal.faults)


@contextmanager
def quiet() -> Generator[None, None, None]:
    """A history logs nothing: its engines fail all the time."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class History:
    def __init__(self, plan: Plan, journal: Journal, loop: ReplayLoop) -> None:
        self.plan = plan
        self.journal = journal
        self.loop = loop
        self.draining = False
        self.hurried = asyncio.Event()
        self.fleet = Fleet(plan, journal)
        self.books = Books(plan, self.fleet, journal, loop.time)
        self.models = {name: _model(name, key) for name, key in plan.models.items()}
        with booked(self.books, _current):
            self.manager = BookedManager(
                self.books,
                _current,
                self.fleet.start,
                keep_alive_s=plan.keep_alive_s,
                ledger=Ledger(Unlimited(), plan.max_loaded),
                load_timeout_s=plan.load_timeout_s,
                max_queue=plan.max_queue,
                max_queue_tokens=plan.max_queue_tokens,
                keyed=plan.keyed,
                default_context=WINDOW,
                recovery=Recovery(limit=plan.crash_limit, window_s=20.0, clock=loop.time, chance=lambda: 0.5),
                on_crash_loop=self._fail,
                clock=loop.time,
            )
        self.limiter = Limiter(Store(open_storage(), clock=loop.time), clock=loop.time)
        self.pipeline = Pipeline(Library(list(self.models.values())), self.manager)
        self.under_way: Counter[str] = Counter()
        self.outcomes: dict[str, str] = {}
        self.turn_asked: dict[str, int] = {}
        self.requests: dict[str, asyncio.Task[str]] = {}
        self.lost: set[str] = set()

    async def run(self) -> None:
        plan, selector = self.plan, self.loop.selector
        selector.on_turn, selector.on_rest = self._check_turn, self._check_rest
        if plan.preload:
            self.manager.preload(self.models[plan.preload])
        tasks = [asyncio.create_task(self._client(ask), name=ask.name) for ask in plan.asks]
        if plan.outage is not None:
            tasks.append(asyncio.create_task(self._outage(plan.outage)))
        closing = asyncio.create_task(self._stop())
        _, waiting = await asyncio.wait(tasks, timeout=_BOUND_S)
        for task in waiting:
            self.journal.fault(f"{task.get_name()} waits for ever")
        if not waiting:
            await self._check_over()
            await self._linger()
        if not self.draining:
            self.hurried.set()
        try:
            async with asyncio.timeout(_BOUND_S):
                await closing
        except TimeoutError:
            self.journal.fault("the server does not close")
        for task in waiting:
            task.cancel()
        self._check_closed()
        selector.on_turn = selector.on_rest = lambda: None

    # The server's end.

    async def _stop(self) -> None:
        """Drain and close at the planned moment, after a crash loop, or once all is over."""
        stop = self.plan.stop
        grace_s = 0.0
        if stop is None:
            await self.hurried.wait()
        else:
            try:
                async with asyncio.timeout(stop.at.at_s):
                    await self.hurried.wait()
            except TimeoutError:
                await turns(stop.at.turns)
            grace_s = stop.grace_s
        self.draining = True
        self.journal.note("drains")
        try:
            async with asyncio.timeout(grace_s):
                await self.manager.wait_idle()
            self.journal.expect(self.manager.in_use == 0, "the server is not idle")
        except TimeoutError:
            pass
        self.fleet.ending = True
        self.journal.note("closes")
        begun, before = self.loop.time(), [engine for engine in self.fleet.engines if engine.gone]
        await self.manager.close()
        most_s = sum(engine.start.close_s for engine in self.fleet.engines if engine not in before)
        self.journal.expect(self.loop.time() <= begun + most_s + 0.001, "the server closes late")
        self.journal.note("is closed")

    def _fail(self, why: str) -> None:
        self.journal.note(f"hopeless: {why}")
        self.journal.expect(why.startswith("gave up on"), why)
        self.draining = True
        self.hurried.set()

    async def _linger(self) -> None:
        """Time for engines to go by themselves."""
        if not self.draining:
            await asyncio.sleep(100.0)

    # One client.

    async def _client(self, ask: Ask) -> None:
        await _until(ask.arrives)
        request = self.requests[ask.name] = asyncio.create_task(self._request(ask), name=ask.name)
        if ask.leave is not None and ask.leave.events is None:
            leaving = asyncio.create_task(self._leave(ask, request))
            await asyncio.wait({request, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
        await asyncio.wait({request})
        outcome = "left" if request.cancelled() else request.result()
        self.journal.note(f"{ask.name} ends: {outcome}")
        self.journal.expect(ask.name not in self.outcomes, f"{ask.name} ends twice")
        self.outcomes[ask.name] = outcome

    async def _leave(self, ask: Ask, request: "asyncio.Task[str]") -> None:
        assert ask.leave is not None
        await _until(ask.leave.after)
        self.journal.note(f"{ask.name} leaves")
        request.cancel()
        if ask.leave.twice:
            await turns(1)
            request.cancel()

    async def _outage(self, outage: Outage) -> None:
        await _until(outage.at)
        for name in (self.plan.asks[number].name for number in outage.numbers):
            if name in self.requests and not self.requests[name].done():
                self.journal.note(f"{name} is lost")
                self.lost.add(name)
                self.requests[name].cancel()

    async def _request(self, ask: Ask) -> str:
        """One request as the API handles it; returns how it ended."""
        caller = self.plan.callers[ask.key]
        ctx = RequestContext(caller=caller)
        self.journal.note(f"{ask.name} asks")
        try:
            if self.draining:
                raise Draining
            async with self.limiter.admit(ctx) if self.plan.keyed else nullcontext():
                self.under_way[caller.key_id] += 1
                try:
                    self._check_at_once(caller)
                    ctx.reserve = self._noting(ask, ctx.reserve, caller)
                    return await self._serve(ask, ctx)
                finally:
                    self.under_way[caller.key_id] -= 1
        except asyncio.CancelledError:
            left = ask.leave is not None or ask.name in self.lost
            self.journal.expect(left, f"{ask.name} is cancelled though its client waits")
            return "left"
        except AppError as error:
            self._check_error(ask, error)
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            self.journal.fault(f"{ask.name} raises {error!r}")
            return "fault"
        finally:
            if (engine := self.books.leases.get(ask.name)) is not None:
                engine.fairness.ends(ask.name)
            await self._check_budget(caller)

    def _noting(self, ask: Ask, reserve: Reserve, caller: Caller) -> Reserve:
        async def noting(prompt: int, room: int, *, exact: bool) -> tuple[int, Settle]:
            granted = await reserve(prompt, room, exact=exact)
            flow = FlowKey(caller.priority, caller.key_id)
            self.books.leases[ask.name].fairness.waits(ask.name, flow, prompt)
            self.turn_asked[ask.name] = self.journal.turn()
            return granted

        return noting

    async def _serve(self, ask: Ask, ctx: RequestContext) -> str:
        words = " ".join([ask.name, *("x" for _ in range(ask.words))])
        if ask.kind == "embed":
            asked = Embedding(ask.model, (words, words), 0, keep_alive_s=ask.keep_alive_s)
            found = await self.pipeline.embed(asked, ctx)
            self.journal.expect(len(found.vectors) == 2, f"{ask.name} has {len(found.vectors)} vectors")
            return "vectors"
        if ask.kind == "unload":
            self.pipeline.unload(Unload(ask.model), ctx)
            return "unloaded"
        options = {} if ask.num_predict is None else {"num_predict": ask.num_predict}
        asked = Generation(
            ask.model,
            ChatPrompt((Message.of("user", words),)),
            0,
            sampling=Deferred(read_parameters, options),
            keep_alive_s=ask.keep_alive_s,
        )
        if ask.kind != "chat":
            await self.pipeline.load(Load(asked), ctx)
            return "loaded"
        events: list[Event] = []
        async with aclosing(self.pipeline.run(asked, ctx)) as stream:
            async for item in stream:
                events += item
                if ask.leave is not None and ask.leave.events == len(events):
                    return "left"
        return self._answer(ask, events)

    def _answer(self, ask: Ask, events: list[Event]) -> str:
        """What an answer is called; it must be whole."""
        match events:
            case [*parts, Done() as done]:
                text = "".join(part.text for part in parts if isinstance(part, Content))
                wanted = "".join(deltas_of(ask))
                whole = text == wanted if done.reason == "stop" else wanted.startswith(text)
                self.journal.expect(whole, f"{ask.name} has the answer {text!r}")
                return f"{done.reason} after {done.output_tokens}"
            case _:
                self.journal.fault(f"{ask.name} has no end: {events}")
                return "no end"

    # Checks.

    def _check_error(self, ask: Ask, error: AppError) -> None:
        """An error is in the table, and has a cause."""
        journal, engine = self.journal, self.books.leases.get(ask.name)
        journal.expect(type(error).__mro__[0] in STATUS, f"{ask.name}: {type(error)} is in no table")
        limits = self.plan.callers[ask.key].limits
        match error:
            case Draining():
                fine = self.draining
            case Overloaded():
                fine = engine is None or self._may_be_turned_away(ask, engine)
            case LoadFailed():
                timed_out = math.isfinite(self.plan.load_timeout_s) and "timed out" in str(error)
                fine = timed_out or str(error) in ("it does not fit", "no such file")
            case EngineDied():
                fine = engine is not None and (engine.dead or self.fleet.ending)
            case EngineFailed():
                fine = ask.fault == "fails"
            case InvalidRequest():
                fine = ask.fault == "raises"
            case ConcurrencyExceeded():
                fine = limits.concurrent_requests is not None
            case RequestRateExceeded():
                fine = limits.requests_per_minute is not None
            case TokenRateExceeded() | Forbidden():
                fine = limits.tokens_per_minute is not None
            case _:
                fine = False
        journal.expect(fine, f"{ask.name}: {type(error).__name__} ({error}) has no cause")

    def _may_be_turned_away(self, ask: Ask, engine: ReplayEngine) -> bool:
        """Its prompt is too long for the queue; or, later, another key needs its place in the queue."""
        if self.journal.turn() == self.turn_asked[ask.name]:
            return engine.fairness.tokens > self.plan.max_queue_tokens > 0
        return len(self.plan.callers) > 1

    def _check_at_once(self, caller: Caller) -> None:
        most = caller.limits.concurrent_requests
        self.journal.expect(
            most is None or self.under_way[caller.key_id] <= most,
            f"{caller.key_id} has too many requests at once",
        )

    async def _check_budget(self, caller: Caller) -> None:
        """What a key without requests under way has set aside is free again."""
        limit, key_id = caller.limits.tokens_per_minute, caller.key_id
        if limit is None or self.under_way[key_id]:
            return
        used, free = await tokens_of(self.limiter, key_id, limit)
        self.journal.expect(used <= limit, f"{key_id} has used {used} tokens of {limit}")
        self.journal.expect(
            free == limit - used, f"{key_id}: {limit - used - free} tokens are not given back"
        )

    def _check_turn(self) -> None:
        """What holds at any time."""
        fleet, plan = self.fleet, self.plan
        count = len(fleet.alive) + bool(fleet.loading)
        self.journal.expect(not plan.max_loaded or count <= plan.max_loaded, "too many engines are alive")
        self.journal.expect(self.manager.waiting <= max(1, plan.max_queue), "too many wait for loads")

    def _check_rest(self) -> None:
        """What holds whenever nothing can happen but time passing."""
        fleet = self.fleet
        self.books.check_rest(not fleet.moves)
        held = {engine for _, engine in self.manager.engines()}
        for engine in fleet.alive:
            engine.fairness.check_rest()
            self.journal.expect(
                fleet.moves or engine in held, f"{engine.name} is in no books and is not closed"
            )
            self.journal.expect(not engine.metrics()["waiting"], f"{engine.name} has a queue of its own")

    async def _check_over(self) -> None:
        """What is left once every request has ended: nothing, so every place and turn is free again."""
        manager = self.manager
        self.journal.expect((manager.in_use, manager.waiting) == (0, 0), "the manager still counts requests")
        self.journal.expect(set(self.outcomes) == {ask.name for ask in self.plan.asks}, "not all have ended")
        self.journal.expect(not sum(count for _, count in manager.queued()), "a queue still counts requests")
        for engine in self.fleet.alive:
            self.journal.expect(not engine.holders, f"{engine.name} is still held by {engine.holders}")
            self.journal.expect(not engine.metrics()["running"], f"{engine.name} still runs something")
        for _, engine in manager.engines():
            assert isinstance(engine, ReplayEngine)
            if engine.turns is not None:
                self.journal.expect(await are_free(engine.turns, engine.slots), f"{engine.name} lost a place")
        for caller in self.plan.callers:
            self.journal.expect(
                await may_ask(self.limiter, caller), f"{caller.key_id} lost a request at once"
            )

    def _check_closed(self) -> None:
        """What is left once the server has closed."""
        self.journal.expect(self.manager.loaded() == [], "something is still loaded")
        for engine in self.fleet.alive:
            self.journal.fault(f"{engine.name} was never closed")
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        left = sorted(str(task.get_coro()).partition(" at 0x")[0] for task in tasks)
        left = [what for what in left if " MemoryStorage." not in what]  # The library's own.
        self.journal.expect(not left, f"tasks are left: {left}")


def _model(name: str, engine_key: str) -> Model:
    """One that can be asked for everything."""
    made = model(name, engine_key)
    return replace(made, facts=replace(made.facts, capabilities=("completion", "embedding")))


def _current() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


async def _until(moment: Moment) -> None:
    """A moment from now."""
    if moment.at_s:
        await asyncio.sleep(moment.at_s)
    await turns(moment.turns)
