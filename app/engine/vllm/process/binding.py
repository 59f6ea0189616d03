"""Binds a worker to the cores that vLLM has chosen for it. Only the fork server imports this.

vLLM tells OpenMP of them by variables of the environment, which OpenMP reads when it is loaded. A worker that
is forked has it loaded already, so the core that forks it sets the number of threads, and the worker binds
itself; unbound it is moved from core to core. The version is pinned, and the engine tests fail if what is
used here moves.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.v1.executor import multiproc_executor

_chosen: Sequence[int] = ()
"""The cores of the worker that is being forked."""


class Cores(OMPProcessManager):
    """Notes what is chosen while the worker starts that it is chosen for."""

    @contextmanager
    def configure_omp_envs(self, rank: int, local_rank: int) -> Generator[None]:
        global _chosen
        if self.skip_setup:
            yield
            return
        _chosen = self.cpu_lists[local_rank]
        torch.set_num_threads(len(_chosen))  # here, since a child may not: OpenMP is not made for forks
        try:
            with super().configure_omp_envs(rank, local_rank):
                yield
        finally:
            _chosen = ()
            torch.set_num_threads(1)  # this process only schedules


def bind() -> None:
    """Threads are made later, and stay on the same cores."""
    if _chosen:
        os.sched_setaffinity(0, _chosen)


multiproc_executor.OMPProcessManager = Cores  # type: ignore[misc]
os.register_at_fork(after_in_child=bind)
