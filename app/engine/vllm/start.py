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
from app.engine.vllm.stream.metrics import EngineMetrics, EngineRegistry, TellingMetrics, stat_logger
from app.engine.vllm.stream.pace import Pace
from app.engine.vllm.weights import check_weights

_LOOK_S = 0.05
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
    interval = interval_of(model, defaults)
    try:
        return await _start(model, engine_args(model, defaults, adapter_rank), interval, defaults.turn)
    except LoadFailed as error:
        if not adapter_rank or "enable_lora" in model.spec.engine or model.nodes > 1:
            raise
        fault = f"the engine cannot be loaded with room for adapters: {error}"
        _log.error("%s", fault)
    await defaults.freed()  # vLLM refuses to start where less is free than it is to have
    return await _start(model, engine_args(model, defaults), interval, defaults.turn, fault)


def interval_of(model: Model, defaults: EngineDefaults) -> int:
    """vLLM's own setting, where a model has it, as vLLM's own server would follow it."""
    return int(model.spec.engine.get("stream_interval", defaults.stream_interval))


async def _start(
    model: Model, args: AsyncEngineArgs, interval: int, turn: asyncio.Lock, fault: str = ""
) -> Started:
    registry, output = EngineRegistry(), ChildOutput()
    try:
        with output.of_what_starts(), offline(on=model.foreign_files):
            llm, windowed = await _run(model, args, registry, output, interval, turn)
    except (RuntimeError, ValueError, OSError, NotImplementedError, ImportError) as error:
        reason = await load_reason(error, output)
        raise LoadFailed(f"failed to load model {model.name}: {reason}") from error
    if not args.enable_lora:
        return Started(llm, args, windowed, registry, output, Adapters(llm, fault=fault))
    kept = int(args.max_cpu_loras or args.max_loras) - int(current_platform.is_cpu())
    return Started(llm, args, windowed, registry, output, Adapters(llm, args.max_lora_rank, kept))


async def _run(
    model: Model,
    args: AsyncEngineArgs,
    registry: EngineRegistry,
    output: ChildOutput,
    interval: int,
    turn: asyncio.Lock,
) -> tuple[StreamingLLM, bool]:
    """Engines start side by side but for what is the whole server's: its environment, which a configuration
    changes and processes are begun with."""
    async with turn:
        with environment_of_a_load():
            config, windowed = await asyncio.to_thread(engine_config, args)
            check_own(model, config)
            shared = args._api_process_count > 1  # type: ignore[reportPrivateUsage]
            logger = stat_logger(registry, TellingMetrics if shared else EngineMetrics)
            starting = asyncio.ensure_future(
                start_in_thread(output.processes, start_llm, config, logger, Pace(interval))
            )
            try:
                cores = config.parallel_config.data_parallel_size_local
                while not (output.has_begun(cores) or starting.done()):
                    await asyncio.wait({starting}, timeout=_LOOK_S)
                await asyncio.wait({starting}, timeout=_LOOK_S)  # until the last is told what it is to have
            except asyncio.CancelledError:
                starting.cancel()
                await asyncio.wait({starting})
                raise
    return await starting, windowed
