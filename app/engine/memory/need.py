"""What a model's engine will take of a device, predicted from what its files and arguments say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.device import GIB, Need
from app.core.model import Model
from app.engine.memory.lora import Room, room_bytes

_HOST_OVERHEAD = GIB // 2
"""Core and worker beside weights and cache: interpreter, torch and vLLM, and what a batch computes in.

With tiny models they had 385 to 485 MiB, pages that they share with the fork server counted in part, and an
unload gave 220 to 260 back. What is measured at a load takes its place.
"""
_HOST_OWN = GIB // 4
"""Of that, what is an engine's own. The more engines there are, the smaller is the part that each has of
pages that all share."""
_GPU_OVERHEAD = 5 * GIB // 2
"""CUDA context, workspaces, graphs and activations on each GPU."""
_EMBEDDING_OVERHEAD = 3 * GIB // 2
_GPU_ASLEEP = 2 * GIB
"""CUDA context and graphs, which stay while an engine sleeps: 1 to 3 GiB until it is measured."""
_LENDS_CACHE = ("kv_transfer_config", "kv_offloading_size")
"""Arguments with which something else may hold on to the cache's memory, which goes with a sleep."""
_SLACK = 1.05
"""Weights in memory beside those in files: padding, and buffers that are no parameters."""
_WIDTHS = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
_WHOLE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_CONTEXTS = 64
"""Sequences of the default context for which an engine on a GPU that it shares has room in its cache."""
_FEWEST = 4
"""Of the same, at least: below it a model is not worth its place."""
_EMBEDDING_CACHE = 64 << 20
_UTILIZATION = 0.92
"""vLLM's own share of a GPU that it has alone."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator has set for all engines."""

    kv_cache_bytes: int
    default_context: int
    adapters: int = 4


def need_on_host(
    model: Model, terms: Terms, measured: int | None = None, *, reserved: Room | None = None
) -> Need:
    """Bytes of host memory. `measured` is what its engine took before, its cache included, which vLLM fills
    with zeros at the load; `reserved` is the room for adapters that it is loaded with."""
    engine = model.spec.engine
    embedding = "embedding" in model.facts.capabilities
    cache = _number(engine, "kv_cache_memory_bytes") or (
        _EMBEDDING_CACHE if embedding else terms.kv_cache_bytes
    )
    weights = int(weights_bytes(model, "float32" if embedding else "bfloat16") * _SLACK)
    weights += _room_bytes(model, reserved)
    ranks = _ranks(engine) * (_number(engine, "data_parallel_size") or 1)
    overhead = _HOST_OVERHEAD * ranks
    if measured:
        known = max(weights + cache + _HOST_OWN * ranks, measured)
        return Need(known, known, in_processes=True)
    predicted = weights + cache + overhead
    return Need(predicted, predicted, in_processes=True)


def need_on_gpu(
    model: Model,
    terms: Terms,
    total: int,
    measured: int | None = None,
    *,
    shared: bool = False,
    has_fp8: bool = False,
    reserved: Room | None = None,
) -> Need:
    """Bytes on each GPU of `total` bytes, which a model has alone unless it is `shared` with others that
    generate. What an operator gives in engine arguments holds as it is."""
    engine = model.spec.engine
    ranks = _ranks(engine) * (_number(engine, "data_parallel_size") or 1)
    only = _device_ids(engine)
    share = engine.get("gpu_memory_utilization")
    if model.nodes > 1:  # All nodes are given the same, so each takes what vLLM takes by itself.
        share = share or _UTILIZATION
        ranks = max(1, ranks // model.nodes)
    if isinstance(share, int | float) and not isinstance(share, bool):
        given = int(total * share)
        return Need(given, given, ranks, only)
    embedding = "embedding" in model.facts.capabilities
    weights = int(weights_bytes(model, "auto", has_fp8=has_fp8) * _SLACK) // _ranks(engine)
    weights += _room_bytes(model, reserved)
    if embedding:
        least = max(weights + _EMBEDDING_OVERHEAD, measured or 0)
        return Need(least, least, ranks, only)
    fixed = weights + _GPU_OVERHEAD
    each = cache_bytes_per_token(model.facts.info) * terms.default_context // _ranks(engine)
    cache = _number(engine, "kv_cache_memory_bytes")
    least = fixed + (cache or _FEWEST * each)
    most = max(least, fixed + (cache or _CONTEXTS * each)) if shared or cache else int(total * _UTILIZATION)
    return Need(least, max(least, most), ranks, only)


def while_asleep(model: Model, reserved: Room, *, has_fp8: bool = False) -> tuple[int, int]:
    """Bytes of the host's memory that an engine takes while it sleeps, and those that stay on each GPU.

    Weights are copied piece by piece, and torch rounds what it pins for each up to a power of two: twice as
    much at the most (ATen's `CachingHostAllocator`). Nothing sleeps that spans nodes, nor what has its cache
    in use by others than itself, unless the operator says so.
    """
    engine = model.spec.engine
    asked = engine.get("enable_sleep_mode")
    if model.nodes > 1 or asked is False or (not asked and any(engine.get(name) for name in _LENDS_CACHE)):
        return 0, 0
    copies = _number(engine, "data_parallel_size") or 1
    slots = _room_bytes(model, reserved) * _ranks(engine)
    return 2 * copies * (int(weights_bytes(model, "auto", has_fp8=has_fp8) * _SLACK) + slots), _GPU_ASLEEP


def weights_bytes(model: Model, dtype: str, *, has_fp8: bool = False) -> int:
    """Bytes of a model's weights in memory, all ranks together; `dtype` is what they are loaded as if the
    operator has not chosen; `has_fp8` is whether the device computes with that."""
    facts, asked = model.facts, model.spec.engine.get("quantization")
    if isinstance(asked, str) and asked.startswith("fp8"):  # made at the load, whatever the files hold
        return facts.parameter_count
    width = _WHOLE.get(facts.quantization)
    if facts.format == "gguf":
        width = 1 if has_fp8 and width is None else 2  # what it is made into, see `engine/vllm/weights.py`
    elif width is None:
        return facts.size_bytes
    if asked:
        return facts.parameter_count * min(width, 1)
    chosen = str(model.spec.engine.get("dtype") or dtype)
    return facts.parameter_count * _WIDTHS.get(dtype if chosen == "auto" else chosen, width)


def cache_bytes_per_token(info: Mapping[str, Any]) -> int:
    """Keys and values of one token in 16 bits, by the numbers of `/api/show`; 0 where they are not told."""
    family = info.get("general.architecture", "")

    def number(name: str) -> int:
        value = info.get(f"{family}.{name}")
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count")
    width = number("attention.key_length") or (number("embedding_length") // heads if heads else 0)
    return 2 * 2 * number("block_count") * (number("attention.head_count_kv") or heads) * width


def _room_bytes(model: Model, reserved: Room | None) -> int:
    """Of each device, in the type of the weights."""
    if reserved is None:
        return 0
    width = _WIDTHS.get(str(model.spec.engine.get("dtype")), 2)
    return room_bytes(model.facts.info, reserved, width)


def _ranks(engine: Mapping[str, Any]) -> int:
    """Devices that have one copy of the weights among them."""
    return (_number(engine, "tensor_parallel_size") or 1) * (_number(engine, "pipeline_parallel_size") or 1)


def _device_ids(engine: Mapping[str, Any]) -> tuple[int, ...]:
    given = engine.get("device_ids")
    return tuple(each for each in given if isinstance(each, int)) if isinstance(given, list | tuple) else ()


def _number(engine: Mapping[str, Any], name: str) -> int:
    value = engine.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
