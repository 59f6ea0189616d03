"""Engine processes that start in seconds: a fork server that has vLLM imported before it is needed.

A fresh interpreter spends 6 to 9 s importing vLLM, and a spawned engine pays that twice. The fork server
pays once, while this process imports vLLM itself, and every later load forks from it.
"""

import logging
import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from app.engine.vllm import cores, output

_PRELOAD = [
    "app.engine.vllm.forked",
    "app.engine.vllm.binding",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "app.engine.vllm.logits",
    "app.engine.vllm.output",
]
_OVERRIDES_KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
_log = logging.getLogger(__name__)


def start(*, debug: bool) -> ForkServerContext:
    """Start the fork server; call it before anything imports torch. Returns its context.

    What is set here reaches this process's own import of vLLM and every engine process; later changes of the
    environment would not. What the operator has set stays.
    """
    of_cores = cores.environment(os.environ, len(os.sched_getaffinity(0)), cores.quota())  # noqa: TID251
    for name, value in {
        **of_cores,
        "VLLM_LOGGING_LEVEL": "INFO" if debug else "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "default" if debug else "ignore",
    }.items():
        os.environ.setdefault(name, value)  # noqa: TID251  # inherited by processes, not read by us
    # vLLM would take it for every model, whatever the model's own arguments say.
    if os.environ.pop(_OVERRIDES_KV_CACHE, None) is not None:  # noqa: TID251
        _log.warning(
            "%s is ignored: set CARAVAN_KV_CACHE_BYTES, or kv_cache_memory_bytes of a model, instead",
            _OVERRIDES_KV_CACHE,
        )
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
        captured = output.current.get()
        return chosen if captured is None else output.CapturingContext(chosen, captured)

    engine_utils.get_mp_context = choose  # type: ignore[assignment]
