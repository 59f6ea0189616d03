"""The seam between requests and loaded engines: what the rest of a server may ask for of a manager."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.core.context import ANYBODY, Caller
from app.core.device import Device
from app.core.model import Model
from app.engine.base import Engine
from app.runtime.entry import Lease, LoadedModel
from app.runtime.recovery import Down


class Leases(Protocol):
    """`Manager`, or that of another process."""

    default_context: int

    def lease(
        self, model: Model, *, keep_alive_s: float | None, num_ctx: int | None, caller: Caller = ANYBODY
    ) -> AbstractAsyncContextManager[Lease]: ...

    def unload(self, model: Model) -> None: ...

    def preload(self, model: Model) -> None: ...

    def forget(self, models: Iterable[Model]) -> None: ...

    def left(self, model: Model, is_shared: bool) -> None: ...

    def ready(self, model: Model) -> bool: ...

    def loaded(self) -> list[LoadedModel]: ...

    def engines(self) -> list[tuple[Model, Engine]]: ...

    def queued(self) -> list[tuple[Model, float]]: ...

    def running_adapters(self) -> Iterable[str]: ...

    def asleep(self) -> list[Model]: ...

    def asleep_bytes(self) -> tuple[int, int]: ...

    def memory(self) -> list[tuple[Device, int]]: ...

    @property
    def waiting(self) -> int: ...

    @property
    def down(self) -> list[Down]: ...

    @property
    def started(self) -> bool: ...

    async def close(self) -> None: ...
