"""A model's engine arguments: vLLM's own names, our defaults, the operator's last word."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from vllm.config import StructuredOutputsConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext

from app.core.device import Placement
from app.core.errors import LoadFailed
from app.core.limits import InputLimits
from app.core.model import Model
from app.core.pool import Pool
from app.engine.memory.lora import room
from app.engine.vllm.weights import device_of, gguf_arguments

AS_FITS = -1
"""The length of context for which vLLM finds room on the device, up to the model's own."""
NO_DEVICE = (
    "vLLM finds nothing to compute on: this is its build for GPUs, and no driver of theirs answers "
    "(nvidia-smi); for a CPU install Caravan where there is no nvidia-smi"
)
_NO_OTHERS = {"video": 0, "audio": 0}
"""Of the modalities those that no request can have."""

_BACKEND = "guidance"
_LOGITS = "app.engine.vllm.input.logits:OllamaLogits"
_LOGITS_V2 = "app.engine.vllm.input.logits_v2:GpuOllamaLogits"


async def _at_once() -> None: ...


@dataclass(frozen=True, slots=True)
class EngineDefaults:
    """What every engine starts from.

    `kv_cache_bytes` is used on CPU, where vLLM would claim nearly all memory. `stream_interval` is the
    number of tokens per streamed output, 0 goes by load; `max_num_seqs` is that of the requests an engine
    works on at once, 0 leaves it to vLLM. `adapters` are those that one batch may hold. An engine without
    progress for `hang_timeout_s` is taken for hung (`inf`: never). `traces` has vLLM make a span of each
    request that ends. `limits` are those of the inputs of a request, which are made into prompts in `pool`.
    `placement` is where the engine goes, and `sleeps` whether it is to be able to sleep, which both count on
    GPUs. `turn` is held while its processes are begun, and `freed` waits until a start that failed has given
    its memory back. `front_ends` other processes attach to it (0: none).
    """

    kv_cache_bytes: int = 1 << 30
    stream_interval: int = 0
    max_num_seqs: int = 0
    adapters: int = 4
    hang_timeout_s: float = math.inf
    traces: bool = False
    limits: InputLimits = field(default_factory=InputLimits)
    pool: Pool = field(default_factory=Pool)
    placement: Placement | None = None
    sleeps: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    freed: Callable[[], Awaitable[None]] = _at_once
    front_ends: int = 0


def engine_args(model: Model, defaults: EngineDefaults, adapter_rank: int = 0) -> AsyncEngineArgs:
    """Arguments for `model`. CPU defaults are the ones measured to be right and to start fast.

    With an `adapter_rank` there is room for adapters up to it.

    Raises:
        LoadFailed: for an argument that vLLM does not have, for a GGUF file that does not fit, and where vLLM
            has no device.
    """
    if current_platform.is_unspecified():
        raise LoadFailed(NO_DEVICE)
    facts = model.facts
    embedding = "embedding" in facts.capabilities
    reasoning = facts.reasoning_parser if "thinking" in facts.capabilities else None
    chosen: dict[str, Any] = {
        "model": str(facts.path),
        "served_model_name": [str(model.name)],
        "enable_prefix_caching": not embedding,
        "enable_chunked_prefill": not embedding,
        # Always: keys with priorities may come while the engine runs, and without any it is first come, first
        # served all the same. Its queue costs 2 us a request at 512 waiting, and nothing per token.
        "scheduling_policy": "priority",
    }
    if defaults.max_num_seqs:
        chosen["max_num_seqs"] = defaults.max_num_seqs
    chosen |= _of_platform(defaults, embedding=embedding)
    chosen |= facts.engine
    given = dict(model.spec.engine)
    if facts.format == "gguf":
        chosen |= gguf_arguments(model, device_of(given))
    if "vision" in facts.capabilities:
        # Nothing of them is ever taken in, and vLLM would keep memory for the largest there can be.
        given["limit_mm_per_prompt"] = _NO_OTHERS | dict(given.get("limit_mm_per_prompt") or {})
    if current_platform.is_cpu() and given.get("dtype") == "auto":
        # vLLM would take the type of the file, and a float16 model is a tenth as fast on a CPU.
        del given["dtype"]
    chosen |= given
    if not embedding:
        chosen |= _room(given, defaults, adapter_rank)
    if not embedding:
        chosen["structured_outputs_config"] = _structured(chosen.get("structured_outputs_config"), reasoning)
    try:
        args = AsyncEngineArgs(**chosen)
    except TypeError as error:
        raise LoadFailed(f"engine arguments of {model.name}: {error}") from error
    if defaults.front_ends:
        # What vLLM's own server sets for `--api-server-count`; this process is a client too.
        args._api_process_count = defaults.front_ends + 1  # type: ignore[reportPrivateUsage]
        args._api_process_rank = 0  # type: ignore[reportPrivateUsage]
    return args


def _of_platform(defaults: EngineDefaults, *, embedding: bool) -> dict[str, Any]:
    """What is right on a CPU, or on GPUs, where an engine has a place."""
    if current_platform.is_cpu():
        return {
            "dtype": "float32" if embedding else "bfloat16",
            "enforce_eager": True,
            "use_tqdm_on_load": False,
            "kv_cache_memory_bytes": (64 << 20) if embedding else defaults.kv_cache_bytes,
        }
    chosen = {} if defaults.placement is None else _placed(defaults.placement)
    if defaults.sleeps:
        chosen["enable_sleep_mode"] = True
    if not embedding:
        # vLLM would refuse a model whose whole context finds no room, however little of it is ever asked for.
        chosen["max_model_len"] = AS_FITS
    return chosen


def _placed(placement: Placement) -> dict[str, Any]:
    """vLLM takes a share of all of a device, and refuses to start where less than that is free."""
    chosen: dict[str, Any] = {"gpu_memory_utilization": math.floor(placement.share * 1e4) / 1e4}
    if placement.devices != tuple(range(len(placement.devices))):
        chosen["device_ids"] = list(placement.devices)
    return chosen


def engine_config(args: AsyncEngineArgs) -> tuple[VllmConfig, bool]:
    """vLLM's configuration, and whether the engine honours Ollama's windowed penalties and `typical_p`."""
    # The context decides the limits of a batch: without it they would be those of no device.
    config = args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    return config, add_ollama_logits(config)


def device_bytes(config: VllmConfig) -> int:
    """What an engine has of the memory of all its GPUs; 0 on a CPU."""
    if current_platform.is_cpu():
        return 0
    share = config.cache_config.gpu_memory_utilization
    return int(current_platform.get_device_total_memory() * share) * config.parallel_config.world_size


def check_own(model: Model, config: VllmConfig) -> None:
    """Whether vLLM is to load the model that was asked for: its files may have led it to another.

    Configuration may name what it likes, and is not looked at.

    Raises:
        LoadFailed: for a folder outside of the model's, and for a draft model.
    """
    if not model.foreign_files:
        return
    own = str(model.facts.path)
    named = [config.model_config.model, config.model_config.tokenizer]
    for part in (config.model_config, config.load_config):
        named += [value for each in fields(part) if _is_path(value := getattr(part, each.name, None))]
    if config.speculative_config is not None or any(
        name and name != own and not str(name).startswith(f"{own}/") for name in named
    ):
        raise LoadFailed(f"failed to load model {model.name}: its files name another model")


def _is_path(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(("/", "~", "."))


def add_ollama_logits(config: VllmConfig) -> bool:
    """Add what makes Ollama's windowed penalties and `typical_p`; whether that can be had.

    Which model runner there is, is known only once the configuration is made, and each has an interface of
    its own. V1's cannot be had with speculation.
    """
    model = config.model_config
    if model.runner_type == "pooling" or (not config.use_v2_model_runner and config.speculative_config):
        return False
    ours = _LOGITS_V2 if config.use_v2_model_runner else _LOGITS
    model.logits_processors = [ours, *(model.logits_processors or ())]
    return True


def _room(given: Mapping[str, Any], defaults: EngineDefaults, rank: int) -> dict[str, Any]:
    """What vLLM needs for adapters."""
    reserved = room(given, defaults.adapters, rank, on_cpu=current_platform.is_cpu())
    if not reserved.slots:
        return {}
    return {
        "enable_lora": True,
        "max_loras": reserved.slots,
        "max_lora_rank": reserved.rank,
        "max_cpu_loras": max(reserved.slots, int(given.get("max_cpu_loras") or 4 * reserved.slots)),
    }


def _structured(given: Mapping[str, Any] | None, reasoning: str | None) -> StructuredOutputsConfig:
    """llguidance, whose language `app.constrain` writes in: vLLM has one backend for an engine's life."""
    if (given or {}).get("backend", _BACKEND) != _BACKEND:
        raise LoadFailed(f"engine arguments: structured_outputs_config: the only backend is {_BACKEND!r}")
    settings: dict[str, Any] = {"backend": _BACKEND, "reasoning_parser": reasoning or "", **(given or {})}
    return StructuredOutputsConfig(**settings)


def check_parsers(model: Model) -> None:
    """Whether vLLM has the parsers of the model: it would look for them with the first reply.

    Raises:
        LoadFailed: naming one that it does not have, and those there are.
    """
    for setting, name, known in (
        ("tool_parser", model.facts.tool_parser, ToolParserManager.list_registered()),
        ("reasoning_parser", model.facts.reasoning_parser, ReasoningParserManager.list_registered()),
    ):
        if name is not None and name not in known:
            there = ", ".join(sorted(known))
            raise LoadFailed(
                f"failed to load model {model.name}: {setting} '{name}' is unknown; there are: {there}"
            )
