"""The GPUs that this process may use, by the driver's own library, without a CUDA context."""

import os
from collections.abc import Sequence
from typing import Any

from app.core.device import Device

OLDEST_DRIVER = 580
"""The first release of the driver that runs CUDA 13, for which torch is built."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Gpus:
    """Reads total and free memory. An index is the place among those visible, as in vLLM's `device_ids`."""

    def __init__(self, nvml: Any = None, visible: str | None = None) -> None:
        if nvml is None:
            from vllm.third_party import pynvml as nvml
        self._nvml = nvml
        nvml.nvmlInit()
        names = os.environ.get(_VISIBLE) if visible is None else visible  # noqa: TID251  # the driver's own
        self._handles = [self._handle(name) for name in _names(names, nvml.nvmlDeviceGetCount())]

    @property
    def kind(self) -> str:
        """What measurements hold for: a driver's name of the first device."""
        name = self._nvml.nvmlDeviceGetName(self._handles[0]) if self._handles else "none"
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def driver(self) -> str:
        """The driver's version, as `580.65.06`."""
        version = self._nvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)

    @property
    def driver_is_old(self) -> bool:
        """Whether torch finds no device by it, unless CUDA's package for older drivers is there."""
        number = self.driver.partition(".")[0]
        return number.isdigit() and int(number) < OLDEST_DRIVER

    @property
    def has_fp8(self) -> bool:
        """Whether all compute with 8-bit floats, as vLLM's `supports_fp8` has it: from capability 8.9 on."""
        each = [tuple(self._nvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in self._handles]
        return bool(each) and min(each) >= (8, 9)

    def read(self) -> Sequence[Device]:
        found = [self._nvml.nvmlDeviceGetMemoryInfo(handle) for handle in self._handles]
        return [Device(index, int(each.total), int(each.free)) for index, each in enumerate(found)]

    def utilisation(self) -> Sequence[int]:
        """Of each device the share in percent of the last moment, a second at most, in which it computed.

        Whoever computed is not told. A part of a device (MIG) tells none, which is 0.
        """
        return [self._utilisation(handle) for handle in self._handles]

    def _utilisation(self, handle: Any) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except self._nvml.NVMLError:
            return 0

    def _handle(self, name: str) -> Any:
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)


def _names(visible: str | None, count: int) -> list[str]:
    """As CUDA reads the variable: an index that is none ends the list."""
    if visible is None:
        return [str(index) for index in range(count)]
    names: list[str] = []
    for name in (each.strip() for each in visible.split(",")):
        if not name or (name.lstrip("-").isdigit() and not 0 <= int(name) < count):
            break
        names.append(name)
    return names
