"""`AsyncLLM` with a shorter way from the engine core's messages to each request's deltas.

vLLM takes a message through two tasks and a queue, and builds two objects with twenty fields for every token.
Here a message is read where the socket says that it is there, and a token that is nothing but text becomes a
`Delta` at once. Whatever else an output can carry goes through vLLM's own code. The version is pinned, and
the engine tests fail if what is used here moves.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, cast

import zmq
from vllm.config import VllmConfig
from vllm.inputs import EngineInput, PromptType
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, core_client
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import AsyncMPClient
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import (
    OutputProcessor,
    OutputProcessorOutput,
    RequestOutputCollector,
    RequestState,
)
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.metrics.loggers import StatLoggerFactory
from vllm.v1.metrics.stats import IterationStats

from app.core.deferred import DeferredQueue
from app.core.events import Delta
from app.core.tasks import supervise
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.detokenizer import StoppingDetokenizer, hiding
from app.engine.vllm.stream.pace import HOLD_S, Pace
from app.engine.vllm.stream.sharing import AttachedClient

_log = logging.getLogger(__name__)
_OF_ONE_CORE = (AsyncMPClient, AttachedClient)
"""The clients whose messages are read here; vLLM's own for several cores has tasks of its own."""


class TokenOutputs(OutputProcessor):
    """Hands plain tokens to `Deltas` directly; the rest is `OutputProcessor`'s.

    `deferred` makes the spans of requests that have ended, where there are any; `pace` is how many tokens are
    handed over at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deferred = DeferredQueue()
        self.pace = Pace()
        self._releasing: asyncio.TimerHandle | None = None

    def add_request(
        self,
        request: EngineCoreRequest,
        prompt: str | None,
        parent_req: ParentRequest | None = None,
        request_index: int = 0,
        queue: RequestOutputCollector | None = None,
    ) -> None:
        super().add_request(request, prompt, parent_req, request_index, queue)
        state = self.request_states[request.request_id]
        made = state.detokenizer
        if type(queue) is Deltas and isinstance(made, BaseIncrementalDetokenizer):
            if queue.hidden:
                made.decode_next = hiding(made.decode_next, queue.hidden)  # type: ignore[method-assign]
            if made.stop:
                state.detokenizer = StoppingDetokenizer(made)

    def do_tracing(
        self,
        engine_core_output: EngineCoreOutput,
        req_state: RequestState,
        iteration_stats: IterationStats | None,
    ) -> None:
        if isinstance(req_state.queue, Deltas):
            engine_core_output.trace_headers = req_state.queue.trace
        self.deferred.add(partial(super().do_tracing, engine_core_output, req_state, iteration_stats))

    def process_outputs(
        self,
        engine_core_outputs: list[EngineCoreOutput],
        engine_core_timestamp: float | None = None,
        iteration_stats: IterationStats | None = None,
        weight_version: str | None = None,
    ) -> OutputProcessorOutput:
        if iteration_stats is None or engine_core_timestamp is None:
            return super().process_outputs(
                engine_core_outputs, engine_core_timestamp, iteration_stats, weight_version
            )
        states = self.request_states
        intervals = iteration_stats.inter_token_latencies_iter
        rest: list[EngineCoreOutput] = []
        produced = 0
        for output in engine_core_outputs:
            state = states.get(output.request_id)
            if state is None:
                continue  # aborted meanwhile
            if not _is_plain(state, output):
                rest.append(output)
                continue
            token_ids = output.new_token_ids
            stats, detokenizer = state.stats, state.detokenizer
            if type(detokenizer) is StoppingDetokenizer:
                if (text := detokenizer.push(token_ids)) is None:
                    rest.append(output)
                    continue
            else:
                # This is not kept in the detokenizer's text: the last output sends what is there.
                text = ""
                for token_id in token_ids:
                    # One by one: a tokenizer written in Python decodes what was appended last.
                    detokenizer.token_ids.append(token_id)  # type: ignore[union-attr]
                    text += detokenizer.decode_next(token_id)  # type: ignore[union-attr]
            produced += len(token_ids)
            stats.num_generation_tokens += len(token_ids)  # type: ignore[union-attr]
            intervals.append(engine_core_timestamp - stats.last_token_ts)  # type: ignore[union-attr]
            stats.last_token_ts = engine_core_timestamp  # type: ignore[union-attr]
            state.queue.push(text, token_ids)  # type: ignore[union-attr]
        iteration_stats.num_generation_tokens += produced
        self.pace.count(produced, engine_core_timestamp)
        if self.pace.interval > 1 and self._releasing is None:
            self._releasing = asyncio.get_running_loop().call_later(HOLD_S, self._release)
        if not rest:
            return OutputProcessorOutput([], [])
        return super().process_outputs(rest, engine_core_timestamp, iteration_stats, weight_version)

    def _release(self) -> None:
        self._releasing = None
        for state in self.request_states.values():
            if type(state.queue) is Deltas:
                state.queue.release()


def _is_plain(state: RequestState, output: EngineCoreOutput) -> bool:
    """Whether an output is no more than text that can be sent at once."""
    return (
        output.finish_reason is None
        and output.events is None
        and output.new_logprobs is None
        and not state.is_prefilling
        and type(state.queue) is Deltas
    )


def start_llm(config: VllmConfig, stat_logger: StatLoggerFactory, pace: Pace) -> "StreamingLLM":
    """Start an engine's processes and wait until they are ready."""
    llm = cast(StreamingLLM, StreamingLLM.from_vllm_config(config, stat_loggers=[stat_logger]))
    llm.output_processor.pace = pace
    return llm


class StreamingLLM(AsyncLLM):
    """vLLM's engine client, read by `Deltas`. `submit` takes the place of `generate`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = self.output_processor
        self.output_processor: TokenOutputs = TokenOutputs(
            own.tokenizer,
            log_stats=own.log_stats,
            stream_interval=1,  # vLLM would hold tokens on its longer way; `pace` holds them here
            tracing_enabled=own.tracing_enabled,
            admission_stats=own.admission_stats,
        )
        self._sending: set[asyncio.Task[None]] = set()

    async def submit(
        self,
        request_id: str,
        prompt: EngineInput | PromptType,
        params: SamplingParams,
        convert: Callable[[RequestOutput], Delta],
        *,
        hidden: frozenset[int] = frozenset(),
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        lora_request: LoRARequest | None = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
    ) -> Deltas:
        """Send one request to the engine core; `withdraw` it unless its last delta was read.

        The tokens `hidden` have no text.

        Raises:
            VLLMValidationError: for what vLLM does not accept.
            EngineDeadError: if the engine is gone.
        """
        if self.errored:
            raise EngineDeadError
        self._run_output_handler()
        request = self.input_processor.process_inputs(
            request_id,
            prompt,
            params,
            supported_tasks=await self.get_supported_tasks(),
            lora_request=lora_request,
            priority=priority,
        )
        if reasoning_ended is not None:
            request.reasoning_ended = reasoning_ended
        if reasoning_parser_kwargs is not None:
            request.reasoning_parser_kwargs = reasoning_parser_kwargs
        self.input_processor.assign_request_id(request)
        # The engine core would send the headers back with every token.
        pace = self.output_processor.pace
        deltas = Deltas(request.request_id, convert, trace_headers, hidden=hidden, pace=pace)
        await self._add_request(request, None, None, 0, deltas)
        return deltas

    async def add_request(self, *args: Any, **kwargs: Any) -> RequestOutputCollector:
        # Anything asked of the engine core before would start vLLM's own reader.
        self._run_output_handler()
        return await super().add_request(*args, **kwargs)

    def _run_output_handler(self) -> None:
        if type(self.engine_core) not in _OF_ONE_CORE or self.engine_core.resources.output_queue_task:
            # Several engine cores are balanced by tasks of vLLM's own.
            super()._run_output_handler()
        elif self.output_handler is None:
            self.output_handler = asyncio.create_task(self._read(self.engine_core))
            self.engine_core.resources.output_queue_task = self.output_handler

    def forget_reader(self) -> None:
        """Let go of the task that has read: the error that ended it leads to its frame, and this to us."""
        self.output_handler = None
        if type(self.engine_core) in _OF_ONE_CORE:
            self.engine_core.resources.output_queue_task = None

    async def _read(self, core: AsyncMPClient) -> None:
        """Read messages as they come, until the engine core is gone or the client is shut down."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        shared: Any = core.resources.output_socket
        socket: zmq.Socket[bytes] = zmq.Socket.shadow(shared.underlying)
        descriptor: Any = socket.fd

        def drain() -> None:
            try:
                while not socket.closed:
                    self._handle(core, socket.recv_multipart(zmq.NOBLOCK, copy=False))
            except zmq.Again:
                pass
            except Exception as error:
                if not failed.done():
                    failed.set_exception(error)

        # The descriptor tells of changes only, so whatever came before is read first.
        loop.add_reader(descriptor, drain)
        try:
            drain()
            await failed
        except asyncio.CancelledError:
            self.output_processor.propagate_error(EngineDeadError())
            raise
        except Exception as error:
            if not isinstance(error, EngineDeadError):
                _log.exception("an engine's output cannot be read")
            self.output_processor.propagate_error(core._format_exception(error))  # type: ignore[reportPrivateUsage]
            raise
        finally:
            loop.remove_reader(descriptor)

    def _handle(self, core: AsyncMPClient, frames: list[Any]) -> None:
        core.resources.validate_alive(frames)
        message: EngineCoreOutputs = core.decoder.decode(frames)
        if message.utility_output is not None:
            core_client._process_utility_output(  # type: ignore[reportPrivateUsage]
                message.utility_output, core.utility_results
            )
            return
        if not message.outputs and message.scheduler_stats is None:
            return
        stats = IterationStats() if message.outputs and self.log_stats else None
        done = self.output_processor.process_outputs(
            message.outputs, message.timestamp, stats, message.weight_version
        )
        if done.reqs_to_abort:
            self._send(partial(core.abort_requests_async, done.reqs_to_abort))
        if (cache := self.renderer.mm_processor_cache) is not None:
            for output in message.outputs:
                for key in output.mm_cache_miss_hashes or ():
                    cache.invalidate(key)
        self.output_processor.update_scheduler_stats(message.scheduler_stats)
        if self.logger_manager is not None:
            self.logger_manager.record(
                message.scheduler_stats,
                stats,
                mm_cache_stats=self.renderer.stat_mm_cache(),
                engine_idx=message.engine_index,
            )

    def _send(self, sending: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = supervise("engine aborts", sending, restart_s=None)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
