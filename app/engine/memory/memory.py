"""The devices of this server and what models need of them: `Memory` of the ledger, for a CPU and for GPUs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.core.device import Device, Need
from app.core.model import Model
from app.engine.memory.host import read_host
from app.engine.memory.lora import Room, room
from app.engine.memory.measured import Measured
from app.engine.memory.need import Terms, need_on_gpu, need_on_host, while_asleep
from app.engine.memory.readings import Readings

RankOf = Callable[[Model], int]
"""The largest rank of the adapters that a model's engine is loaded for; 0: none."""


class HostMemory:
    """Engines that run on the CPU: one device, which is the memory of the host or of the container."""

    tells = True
    settles_s = 0.0

    def __init__(
        self,
        terms: Terms,
        measured: Measured,
        read: Callable[[], Device] = read_host,
        *,
        rank_of: RankOf = lambda _: 0,
    ) -> None:
        self._terms, self._measured, self._read, self._rank_of = terms, measured, read, rank_of

    def devices(self) -> Sequence[Device]:
        return (self._read(),)

    async def fresh(self) -> bool:
        """The kernel answers at once."""
        return True

    @property
    def is_current(self) -> bool:
        return True

    def need(self, model: Model) -> Need:
        reserved = self._room(model, self._rank_of(model))
        measured = self._measured.get(model.engine_key + reserved.label)
        return need_on_host(model, self._terms, measured, reserved=reserved)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        self._measured.put(model.engine_key + self._room(model, rank).label, bytes_each)

    def spare_host_bytes(self) -> int:
        """Nothing sleeps in the memory that it runs in."""
        return 0

    def _room(self, model: Model, rank: int) -> Room:
        return _room(model, self._terms, rank, on_cpu=True)


class GpuMemory:
    """GPUs as their driver tells of them. `shared`: whether several models that generate are served."""

    tells = True
    settles_s = 60.0

    def __init__(
        self,
        terms: Terms,
        measured: Measured,
        readings: Readings,
        shared: Callable[[], bool],
        *,
        has_fp8: bool = False,
        rank_of: RankOf = lambda _: 0,
        read_host: Callable[[], Device] = read_host,
    ) -> None:
        self._terms, self._measured, self._readings, self._shared = terms, measured, readings, shared
        self._has_fp8, self._rank_of, self._read_host = has_fp8, rank_of, read_host

    def devices(self) -> Sequence[Device]:
        return self._readings.last

    async def fresh(self) -> bool:
        return await self._readings.fresh()

    @property
    def is_current(self) -> bool:
        return self._readings.is_current

    def need(self, model: Model) -> Need:
        total = min((device.total for device in self.devices()), default=0)
        reserved = self._room(model, self._rank_of(model))
        need = need_on_gpu(
            model,
            self._terms,
            total,
            self._measured.get(model.engine_key + reserved.label),
            shared=self._shared(),
            has_fp8=self._has_fp8,
            reserved=reserved,
        )
        host, asleep = while_asleep(model, reserved, has_fp8=self._has_fp8)
        return replace(need, host=host, asleep=asleep)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None:
        self._measured.put(model.engine_key + self._room(model, rank).label, bytes_each)

    def spare_host_bytes(self) -> int:
        return self._read_host().free

    def _room(self, model: Model, rank: int) -> Room:
        return _room(model, self._terms, rank, on_cpu=False)


def _room(model: Model, terms: Terms, rank: int, *, on_cpu: bool) -> Room:
    if "embedding" in model.facts.capabilities:
        return Room()
    return room(model.spec.engine, terms.adapters, rank, on_cpu=on_cpu)
