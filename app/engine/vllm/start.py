"""Starts vLLM for a model: with room for adapters where there are some, and without it if that fails."""

import asyncio
import logging
from dataclasses import dataclass

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.vllm.adapters import Adapters
from app.engine.vllm.config import EngineDefaults, check_own, check_parsers, engine_args, engine_config
from app.engine.vllm.process.environment import environment_of_a_load
from app.engine.vllm.process.failures import load_reason
from app.engine.vllm.process.offline import offline
from app.engine.vllm.process.stderr import ChildOutput
from app.engine.vllm.process.tree import start_in_thread
from app.engine.vllm.stream.client import StreamingLLM, start_llm
from app.engine.vllm.stream.metrics import EngineRegistry, stat_logger
from app.engine.vllm.stream.pace import Pace
from app.engine.vllm.weights import check_weights

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """An engine's processes, which have loaded the weights, and what they were started with."""

    llm: StreamingLLM
    args: AsyncEngineArgs
    windowed: bool
    registry: EngineRegistry
    output: ChildOutput
    adapters: Adapters


async def start(model: Model, defaults: EngineDefaults, adapter_rank: int) -> Started:
    """Start the engine of a model, for adapters up to `adapter_rank` (0: none).

    Where it cannot be started for those, the model itself is to be served all the same.

    Raises:
        LoadFailed: with vLLM's own reason.
    """
    check_parsers(model)
    check_weights(model)
    # vLLM's own setting, where a model has it, as vLLM's own server would follow it.
    interval = int(model.spec.engine.get("stream_interval", defaults.stream_interval))
    try:
        return await _start(model, engine_args(model, defaults, adapter_rank), interval)
    except LoadFailed as error:
        if not adapter_rank or "enable_lora" in model.spec.engine or model.nodes > 1:
            raise
        fault = f"the engine cannot be loaded with room for adapters: {error}"
        _log.error("%s", fault)
    return await _start(model, engine_args(model, defaults), interval, fault)


async def _start(model: Model, args: AsyncEngineArgs, interval: int, fault: str = "") -> Started:
    registry, output = EngineRegistry(), ChildOutput()
    try:
        with output.of_what_starts(), environment_of_a_load(), offline(on=model.foreign_files):
            config, windowed = await asyncio.to_thread(engine_config, args)
            check_own(model, config)
            llm = await start_in_thread(start_llm, config, stat_logger(registry), Pace(interval))
    except (RuntimeError, ValueError, OSError, NotImplementedError, ImportError) as error:
        reason = await load_reason(error, output)
        raise LoadFailed(f"failed to load model {model.name}: {reason}") from error
    if not args.enable_lora:
        return Started(llm, args, windowed, registry, output, Adapters(llm, fault=fault))
    kept = int(args.max_cpu_loras or args.max_loras) - int(current_platform.is_cpu())
    return Started(llm, args, windowed, registry, output, Adapters(llm, args.max_lora_rank, kept))
