"""Signs that an engine computes although it gives no output: its workers' CPU time, and its GPUs at work."""

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any

from vllm.platforms import current_platform

from app.engine.vllm.gpus import Gpus
from app.engine.vllm.process.watchdog import Look

_WORKING_PERCENT = 5

_log = logging.getLogger(__name__)


class Work:
    """What was read last; each look begins the next reading.

    Reading walks all processes of the machine and asks a driver, which may never answer again once a device
    has failed: that is done in a thread, and what has not been answered is no sign of anything.
    """

    def __init__(self, cpu_s: Callable[[], float], computing: Callable[[], bool]) -> None:
        self._read_cpu_s, self._read_computing = cpu_s, computing
        self._cpu_s, self._computing = 0.0, False
        self._reading = self._failed = False

    def look(self, outputs: int, *, owes: bool) -> Look:
        """For an engine that owes nothing nothing is read."""
        seen = Look(outputs, owes, self._cpu_s, self._computing)
        self._computing = False  # of one moment, and not of the next look
        if owes and not self._reading:
            self._reading = True
            Thread(target=self._read, name="engine work", daemon=True).start()
        return seen

    def _read(self) -> None:
        try:
            self._cpu_s = self._read_cpu_s()
            self._computing = self._read_computing()
            self._failed = False
        except Exception as error:  # a driver's library has errors of its own for each thing that is amiss
            if not self._failed:  # once, and not at each look
                _log.warning("the engine's work cannot be read", extra={"error": repr(error)})
            self._failed = True
        finally:
            self._reading = False


def computing_on(parallel: Any, nvml: Any = None) -> Callable[[], bool]:
    """Whether one of the GPUs computes that an engine with vLLM's `ParallelConfig` has; never without any."""
    if nvml is None and current_platform.is_cpu():
        return lambda: False
    count = parallel.local_world_size * parallel.data_parallel_size_local
    assigned = parallel.assigned_physical_gpu_ids
    try:
        gpus = Gpus(nvml, ",".join(map(str, assigned)) if assigned else None)
    except Exception:  # a driver's library has errors of its own for each thing that is amiss
        return lambda: False
    return lambda: any(percent >= _WORKING_PERCENT for percent in gpus.utilisation()[:count])
