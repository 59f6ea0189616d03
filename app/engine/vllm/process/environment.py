"""The environment that vLLM and its processes read, the same on every platform."""

import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CACHES = {
    "VLLM_CACHE_ROOT": "vllm",  # torch.compile, autotuning, DeepGEMM; what it knows of models' classes
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
_OURS = "VLLM_"
_OVERRIDES_KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
_log = logging.getLogger(__name__)


def prepare(more: Mapping[str, str], *, debug: bool, spawns: bool) -> None:
    """Set what this process' own import of vLLM and every engine process are to read; call it before either.

    What the operator has set stays. `spawns` is for where there is no fork server: a child that is forked
    from this process would keep its sockets open, and can use no GPU that was looked at before.
    """
    for name, value in {
        **more,
        "VLLM_LOGGING_LEVEL": "INFO" if debug else "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "default" if debug else "ignore",
        **({"VLLM_WORKER_MULTIPROC_METHOD": "spawn"} if spawns else {}),
    }.items():
        os.environ.setdefault(name, value)  # noqa: TID251  # inherited by processes, not read by us
    # vLLM would take it for every model, whatever the model's own arguments say.
    if os.environ.pop(_OVERRIDES_KV_CACHE, None) is not None:  # noqa: TID251
        _log.warning(
            "%s is ignored: set CARAVAN_KV_CACHE_BYTES, or kv_cache_memory_bytes of a model, instead",
            _OVERRIDES_KV_CACHE,
        )


def compile_caches(folder: Path) -> dict[str, str]:
    """Where compilers keep what they make: by default in the home folder, which ends with a container."""
    return {name: str(folder.absolute() / below) for name, below in _CACHES.items()}


def writable(folder: Path) -> bool:
    """Whether files can be put into `folder`, which is made; not so where a volume is mounted read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def environment_of_a_load() -> Generator[None]:
    """While a model loads vLLM may set variables for it and its processes; the next model finds none of them.

    In between vLLM is told that they are final: it would read some of them for every token.
    """
    from vllm.envs import disable_envs_cache, enable_envs_cache

    disable_envs_cache()
    before = _of_vllm()
    try:
        yield
    finally:
        for name in _of_vllm().keys() - before.keys():
            del os.environ[name]  # noqa: TID251
        os.environ.update(before)  # noqa: TID251
        enable_envs_cache()


def _of_vllm() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_OURS)}  # noqa: TID251
