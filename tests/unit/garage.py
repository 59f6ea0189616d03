"""What the manager's tests need: models, engines that say what happens to them, and a manager over these."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.entry import Lease, LoadedModel
from app.runtime.ledger import Ledger
from app.runtime.manager import Manager
from app.runtime.memory import Unlimited
from app.runtime.observer import Recorder
from app.runtime.recovery import Recovery
from harness.fake_model import fake_model
from tests.unit.virtual_time import now


def model(name: str, engine_key: str = "") -> Model:
    return replace(fake_model(name, "completion"), engine_key=engine_key or name)


A, B, C = model("a"), model("b"), model("c")
A2 = model("a2", engine_key="a")
SPANNING = replace(A, spec=replace(A.spec, engine={"nnodes": 2}))
"""A model whose engine spans two nodes."""


class TrackedEngine(FakeEngine):
    """A fake that says what it goes through and whose closing can be held back."""

    def __init__(self, garage: "Garage", key: str, adapter_rank: int) -> None:
        super().__init__(
            window=8192,
            slots=garage.slots,
            adapter_rank=adapter_rank,
            memory_bytes=1000,
            vram_bytes=10,
            can_sleep=garage.can_sleep,
        )
        self.nap_errors += garage.nap_errors
        garage.nap_errors.clear()
        self.key = key
        self._own_bytes = garage.own_bytes
        self.device = garage.device_of(key)
        self._garage = garage

    async def own_bytes(self) -> int:
        return self._own_bytes

    async def sleep(self) -> None:
        self._garage.log.append(f"sleep {self.key}")
        await super().sleep()

    async def wake(self) -> None:
        self._garage.log.append(f"wake {self.key}")
        await super().wake()

    async def close(self) -> None:
        self._garage.log.append(f"close {self.key}")
        with self._garage.moving():
            await self._garage.may_close.wait()
            await super().close()
            if self._garage.close_errors:
                raise self._garage.close_errors.pop(0)
        self._garage.log.append(f"closed {self.key}")


class Garage:
    """Starts engines, as slowly as wanted, and sees that no two moves ever overlap.

    They take adapters up to the rank of the model's own, or where that is larger, to `adapter_rank`.
    """

    def __init__(self, slots: int = 0) -> None:
        self.slots = slots
        self.adapter_rank = 0
        self.can_sleep = False
        self.own_bytes = 1000
        """What the processes of the next engine have."""
        self.device_of: Callable[[str], int] = lambda _: 0
        self.nap_errors: list[Exception] = []
        """What the next engine raises when it is to fall asleep or wake."""
        self.log: list[str] = []
        self.observed = Recorder()
        self.hopeless: list[str] = []
        self.engines: list[TrackedEngine] = []
        self.errors: list[Exception] = []
        self.close_errors: list[Exception] = []
        self.may_start, self.may_close = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.may_close.set()
        self.starts_ignore_cancel = False
        self._loads = 0
        self._closes = 0

    @contextmanager
    def moving(self, *, load: bool = False) -> Generator[None, None, None]:
        assert not self._loads, "a move overlaps a load"
        assert not (load and self._closes), "a load overlaps an unload"
        self._loads += load
        self._closes += not load
        try:
            yield
        finally:
            self._loads -= load
            self._closes -= not load

    async def start(self, wanted: Model) -> TrackedEngine:
        self.log.append(f"start {wanted.name.model}")
        with self.moving(load=True):
            rank = max(self.adapter_rank, wanted.adapter.rank if wanted.adapter else 0)
            try:
                await self.may_start.wait()
            except asyncio.CancelledError:
                self.log.append(f"cancelled {wanted.name.model}")
                if not self.starts_ignore_cancel:
                    raise
            if self.errors:
                raise self.errors.pop(0)
            engine = TrackedEngine(self, wanted.engine_key, rank)
            self.engines.append(engine)
            return engine

    @property
    def alive(self) -> list[str]:
        return [engine.key for engine in self.engines if not engine.closed]


@asynccontextmanager
async def managed(
    *,
    keep_alive_s: float = 300,
    max_loaded: int = 0,
    load_timeout_s: float = math.inf,
    max_queue: int = 512,
    keyed: bool = False,
    default_context: int = 4096,
    slots: int = 0,
    crash_limit: int = 5,
    crash_window_s: float = 300,
    ledger: Ledger | None = None,
    patience_s: float = math.inf,
    heir: Callable[[Model], Model | None] = lambda model: model,
) -> AsyncGenerator[tuple[Manager, Garage], None]:
    """A manager and its engines; nothing may be left of them at the end."""
    garage = Garage(slots)
    manager = Manager(
        garage.start,
        keep_alive_s=keep_alive_s,
        load_timeout_s=load_timeout_s,
        max_queue=max_queue,
        keyed=keyed,
        default_context=default_context,
        ledger=ledger or Ledger(Unlimited(), max_loaded),
        patience_s=patience_s,
        observer=garage.observed,
        recovery=Recovery(limit=crash_limit, window_s=crash_window_s, clock=now, chance=lambda: 0.5),
        on_crash_loop=garage.hopeless.append,
        heir=heir,
        clock=now,
    )
    yield manager, garage
    await manager.close()
    assert garage.alive == []
    assert (manager.in_use, manager.waiting, manager.loaded()) == (0, 0, [])
    assert asyncio.all_tasks() == {asyncio.current_task()}


def lease(
    manager: Manager, wanted: Model, *, keep_alive_s: float | None = None, num_ctx: int | None = None
) -> AbstractAsyncContextManager[Lease]:
    return manager.lease(wanted, keep_alive_s=keep_alive_s, num_ctx=num_ctx)


async def touch(
    manager: Manager, wanted: Model, *, keep_alive_s: float | None = None, num_ctx: int | None = None
) -> Lease:
    """A request that ends at once."""
    async with lease(manager, wanted, keep_alive_s=keep_alive_s, num_ctx=num_ctx) as held:
        return held


def names(rows: Iterable[LoadedModel]) -> list[str]:
    return [row.model.name.model for row in rows]


def seconds_left(row: LoadedModel) -> float:
    return (row.expires_at - datetime.now(UTC)).total_seconds()
