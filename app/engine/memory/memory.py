"""The devices of this server and what models need of them: `Memory` of the ledger, for a CPU and for GPUs."""

from collections.abc import Callable, Sequence

from app.core.device import Device, Need
from app.core.model import Model
from app.engine.memory.host import read_host
from app.engine.memory.measured import Measured
from app.engine.memory.need import Terms, need_on_gpu, need_on_host


class HostMemory:
    """Engines that run on the CPU: one device, which is the memory of the host or of the container."""

    settles_s = 0.0

    def __init__(self, terms: Terms, measured: Measured, read: Callable[[], Device] = read_host) -> None:
        self._terms, self._measured, self._read = terms, measured, read

    def devices(self) -> Sequence[Device]:
        return (self._read(),)

    def need(self, model: Model) -> Need:
        return need_on_host(model, self._terms, self._measured.get(model.engine_key))

    def measured(self, model: Model, bytes_each: int) -> None:
        self._measured.put(model.engine_key, bytes_each)


class GpuMemory:
    """GPUs as their driver tells of them. `shared`: whether several models that generate are served."""

    settles_s = 60.0

    def __init__(
        self,
        terms: Terms,
        measured: Measured,
        read: Callable[[], Sequence[Device]],
        shared: Callable[[], bool],
        *,
        has_fp8: bool = False,
    ) -> None:
        self._terms, self._measured, self._read, self._shared = terms, measured, read, shared
        self._has_fp8 = has_fp8

    def devices(self) -> Sequence[Device]:
        return self._read()

    def need(self, model: Model) -> Need:
        total = min((device.total for device in self._read()), default=0)
        measured = self._measured.get(model.engine_key)
        return need_on_gpu(model, self._terms, total, measured, shared=self._shared(), has_fp8=self._has_fp8)

    def measured(self, model: Model, bytes_each: int) -> None:
        self._measured.put(model.engine_key, bytes_each)
