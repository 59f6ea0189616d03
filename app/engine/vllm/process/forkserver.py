"""Engine processes that start in seconds: a fork server that has vLLM imported before it is needed.

A fresh interpreter spends 6 to 9 s importing vLLM, and a spawned engine pays that twice. The fork server
pays once, while this process imports vLLM itself, and every later load forks from it.
"""

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from app.engine.vllm.process import cpu_quota, environment, stderr

_PRELOAD = ["app.engine.vllm.process.preload"]


def start(more: Mapping[str, str], *, debug: bool) -> ForkServerContext:
    """Start the fork server; call it before anything imports torch. Returns its context.

    `more` is set besides what the number of cores asks for. Later changes of the environment would not reach
    the engine processes.
    """
    of_cores = cpu_quota.environment(os.environ, len(os.sched_getaffinity(0)), cpu_quota.quota())  # noqa: TID251
    environment.prepare({**of_cores, **more}, debug=debug, spawns=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    return context


def adopt(context: ForkServerContext | None) -> None:
    """Make vLLM start its engine cores from the fork server, where there is one, and note what they write.

    vLLM 0.32 has a setting for neither (on CPU it falls back to spawn), so its hook is replaced; the version
    is pinned, and the engine tests fail if the hook moves.
    """
    import vllm.v1.engine.utils as engine_utils
    from vllm.utils.system_utils import get_mp_context

    def choose() -> Any:
        chosen = context or get_mp_context()
        captured = stderr.current.get()
        return chosen if captured is None else stderr.CapturingContext(chosen, captured)

    engine_utils.get_mp_context = choose  # type: ignore[assignment]
