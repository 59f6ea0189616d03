"""vLLM as an `Engine`: requests in, deltas out, failures in Caravan's own words."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Self

from prometheus_client import CollectorRegistry
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.structured_output.backend_guidance import GuidanceBackend

from app.constrain.grammar import ANY_OBJECT
from app.core.errors import AppError, EngineDied, EngineFailed, InvalidRequest, LoadFailed
from app.core.events import Delta
from app.core.model import Adapter, Model
from app.core.request import ChatPrompt, Think
from app.core.thinking import thinking_kwargs
from app.engine.base import Admit, Answer, Prompt, Run, Vectors
from app.engine.vllm import caches
from app.engine.vllm.config import AS_FITS, EngineDefaults, device_bytes
from app.engine.vllm.input.prompts import Prompts
from app.engine.vllm.input.sampling import sampling_params
from app.engine.vllm.input.window import in_window
from app.engine.vllm.parse.choice import EngineParser, bound, decoder_of, parser_for
from app.engine.vllm.parse.reply import Parsers
from app.engine.vllm.process.failures import first_line, log_last_lines
from app.engine.vllm.process.stderr import cause
from app.engine.vllm.process.tree import EngineProcesses, trim_heap
from app.engine.vllm.process.watchdog import Look, wait_hung
from app.engine.vllm.process.work import Work, computing_on
from app.engine.vllm.sleep import Sleep
from app.engine.vllm.start import Started, start
from app.engine.vllm.stream.answer import VLLM_ERRORS, VllmAnswer
from app.engine.vllm.stream.closing import closed
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.logprobs import TokenBytes
from app.engine.vllm.stream.metrics import gauge
from app.engine.vllm.stream.tracing import headers_for, trace_requests
from app.engine.vllm.stream.usage import account, to_delta

_log = logging.getLogger(__name__)
_CLOSE_S = 7.0
_FIRST = -(1 << 62)  # before all others, where the engine schedules by priority


class VllmEngine:
    """One loaded model. Build it with `load`."""

    def __init__(self, model: Model, started: Started, defaults: EngineDefaults) -> None:
        llm = started.llm
        self._model, self._llm, self._registry = model, llm, started.registry
        self._output, self._hang_timeout_s = started.output, defaults.hang_timeout_s
        self._windowed, self._adapters = started.windowed, started.adapters
        self._closing = self._died = False
        self._processes = EngineProcesses(llm, self.vram_bytes)
        self.own_bytes = self._processes.own_bytes
        self._sleep, self._ids = Sleep(llm, self._ask_once), itertools.count()
        self._work = Work(self._processes.worker_cpu_s, computing_on(llm.vllm_config.parallel_config))
        self._prompts = Prompts(model, llm.renderer, defaults.pool, defaults.limits)
        tokenizer: Any = llm.renderer.get_tokenizer()
        self._token_bytes = TokenBytes(tokenizer)
        self._constrains = GuidanceBackend.is_tokenizer_supported(tokenizer)
        self._parsers = Parsers(
            tokenizer,
            llm.model_config,
            model.facts.tool_parser if model.can("tools") else None,
            model.facts.reasoning_parser if model.can("thinking") else None,
        )

    @classmethod
    async def load(cls, model: Model, defaults: EngineDefaults, *, adapter_rank: int = 0) -> Self:
        """Start the engine's processes and answer once, so that the first client does not wait for warm-up.

        It is to serve adapters up to `adapter_rank` (0: none).

        Raises:
            LoadFailed: with vLLM's own reason.
        """
        started = await start(model, defaults, adapter_rank)
        llm = started.llm
        async with AsyncExitStack() as undo:
            undo.push_async_callback(asyncio.to_thread, llm.shutdown)
            engine = cls(model, started, defaults)
            await asyncio.to_thread(engine._token_bytes.read)
            undo.push_async_callback(engine.close)
            await engine._warm_up()
            await engine._adapters.open()
            if defaults.traces:
                trace_requests(llm)
            undo.pop_all()
        freeze_gc_heap()
        await asyncio.to_thread(trim_heap)
        if started.args.max_model_len == AS_FITS:
            _log.info("context length of %s: %d tokens", model.name, engine.window)
        return engine

    @property
    def window(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def slots(self) -> int:
        config = self._llm.vllm_config
        return config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size

    @property
    def special_tokens(self) -> Sequence[str]:
        return self._prompts.special_tokens

    @property
    def registry(self) -> CollectorRegistry:
        return self._registry

    @property
    def memory_bytes(self) -> int:
        return self._processes.resident_bytes + self.vram_bytes

    @property
    def vram_bytes(self) -> int:
        return device_bytes(self._llm.vllm_config)

    @property
    def adapter_rank(self) -> int:
        return self._adapters.rank

    @property
    def can_sleep(self) -> bool:
        return self._sleep.can

    def takes(self, adapter: Adapter | None) -> bool:
        return self._adapters.takes(adapter)

    def forget(self, adapter: Adapter) -> None:
        self._adapters.forget(adapter)

    async def render(
        self,
        chat: ChatPrompt,
        *,
        think: Think,
        continue_last: bool,
        chat_template: str = "",
        variables: Mapping[str, Any] | None = None,
        confined: bool = False,
    ) -> Prompt:
        return await self._prompts.render(
            chat,
            think=think,
            continue_last=continue_last,
            chat_template=chat_template,
            variables=variables,
            confined=confined,
        )

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        return await self._prompts.tokenize(text, images=images, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._prompts.detokenize(token_ids)

    def _thinking_kwargs(self, run: Run) -> dict[str, Any]:
        facts = self._model.facts
        return thinking_kwargs(facts.thinking_variable, run.think, facts.thinking)

    @asynccontextmanager
    async def answer(self, prompt: Prompt, run: Run) -> AsyncGenerator[Answer, None]:
        self._check_constraint(run)
        parser = parser_for(self._parsers, run, prompt, self._thinking_kwargs(run))
        # Where no reasoning is expected the constraint must not wait for its end.
        ended = parser.reasoning_ended() if parser and parser.thinking else True
        tag = parser.closing if parser and run.constraint is not None and not ended else None
        async with self._adapters.used(run.adapter) as lora:
            ask = partial(self._answer, parser, lora)
            async with closed(ask, prompt, run, tag) if tag else ask(prompt, run, ended) as answer:
                yield answer

    @asynccontextmanager
    async def _answer(
        self,
        parser: EngineParser | None,
        lora: LoRARequest | None,
        prompt: Prompt,
        run: Run,
        reasoning_ended: bool | None,
    ) -> AsyncGenerator[VllmAnswer, None]:
        output: RequestOutput | None = None

        def convert(made: RequestOutput) -> Delta:
            """Called for the first output at least; what vLLM counts in it goes on counting."""
            nonlocal output
            output = made
            return to_delta(made, self._token_bytes, constrained=run.constraint is not None)

        try:
            deltas = await self._submit(prompt, run, parser, convert, reasoning_ended, lora)
            answer = VllmAnswer(deltas, decoder_of(parser), self._failed)
            try:
                yield answer
            finally:
                if not answer.ended:
                    await self._llm.abort(answer.request_id, internal=True)
        finally:
            if output is not None:
                account(run.usage, output)

    async def _submit(
        self,
        prompt: Prompt,
        run: Run,
        parser: EngineParser | None,
        convert: Callable[[RequestOutput], Delta],
        reasoning_ended: bool | None,
        lora: LoRARequest | None,
    ) -> Deltas:
        arguments: dict[str, Any] = {
            "lora_request": lora,
            "priority": run.priority,
            "trace_headers": headers_for(self._llm, run.trace),
        }
        if run.constraint is not None and self._parsers.reasoning is not None:
            arguments |= {
                "reasoning_ended": reasoning_ended,
                "reasoning_parser_kwargs": {"chat_template_kwargs": self._thinking_kwargs(run)},
            }
        try:
            params = sampling_params(
                bound(run, parser),
                windowed=self._windowed,
                skip_special_tokens=parser is None or parser.skip_special_tokens,
            )
            payload: Any = prompt.payload or TokensPrompt(prompt_token_ids=list(prompt.token_ids))
            payload = {**payload, **({"cache_salt": run.cache_salt} if run.cache_salt else {})}
            name = f"caravan-{next(self._ids)}"
            hidden = parser.hidden if parser else frozenset[int]()
            return await self._llm.submit(name, payload, params, convert, hidden=hidden, **arguments)
        except VLLM_ERRORS as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> AppError:
        """What one of `VLLM_ERRORS` is to a client."""
        match error:
            case EngineDeadError():
                self._processes.note_gone()
                return EngineDied()
            case EngineGenerateError():
                reason = first_line(error.__cause__ or error)
                return EngineFailed(f"an error was encountered while running the model: {reason}")
            case _:
                return InvalidRequest(first_line(error))

    def _check_constraint(self, run: Run) -> None:
        if run.constraint is not None and not self._constrains:
            # vLLM would find out in the engine's core, where it ends the engine.
            raise InvalidRequest(
                f'{self._model.name} does not support "format": its tokenizer is no fast one'
            )

    async def embed(
        self,
        inputs: Sequence[str],
        *,
        truncate: bool,
        limit: int,
        normalize: bool,
        admit: Admit | None = None,
        cache_salt: str = "",
        trace: Mapping[str, str] | None = None,
    ) -> Vectors:
        prompts = await self._prompts.fitted(inputs, truncate=truncate, limit=limit)
        prompt_tokens = sum(map(len, prompts))
        priority = 0 if admit is None else await admit(prompt_tokens)
        encode = partial(
            self._encode, normalize=normalize, priority=priority, cache_salt=cache_salt, trace=trace
        )
        # What has a place keeps it: half of them stay free for other requests.
        values = await in_window(encode, prompts, max(1, self.slots // 2))
        return Vectors(values, prompt_tokens)

    async def _encode(
        self,
        token_ids: list[int],
        *,
        normalize: bool,
        priority: int = 0,
        cache_salt: str = "",
        trace: Mapping[str, str] | None = None,
    ) -> list[float]:
        params = PoolingParams(task="embed", use_activation=normalize)
        prompt = TokensPrompt(prompt_token_ids=token_ids)
        if cache_salt:
            prompt["cache_salt"] = cache_salt
        outputs = self._llm.encode(
            prompt,
            params,
            f"caravan-{next(self._ids)}",
            trace_headers=headers_for(self._llm, trace),
            priority=priority,
        )
        vector: list[float] = []
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    vector = output.outputs.data.float().tolist()
        except VLLM_ERRORS as error:
            raise self._failed(error) from error
        return vector

    def metrics(self) -> Mapping[str, float]:
        return {
            "running": gauge(self._registry, "vllm:num_requests_running"),
            "waiting": gauge(self._registry, "vllm:num_requests_waiting"),
        }

    async def wait_dead(self) -> None:
        hung = partial(wait_hung, self._hang_timeout_s, self._look, self._ask_once)
        await self._processes.wait_gone(hung, str(self._model.name))
        if self._closing:
            await asyncio.get_running_loop().create_future()
        self._died = True
        # A worker notices the end of its core only after a second, and holds its memory until then.
        self._processes.kill_all()
        self._end_requests()

    def _look(self) -> Look:
        if self._sleep.asleep:
            return Look(self._registry.outputs, owes=False, asleep=True)
        owes = self._llm.output_processor.has_unfinished_requests()
        return self._work.look(self._registry.outputs, owes=owes)

    async def sleep(self) -> None:
        await self._sleep.sleep()

    async def wake(self) -> None:
        await self._sleep.wake()

    async def close(self) -> None:
        """Ask vLLM to stop its processes and kill what has not ended soon: nobody may wait forever."""
        if self._closing:
            return
        self._closing = True
        if self._llm.output_handler is not None:
            # It would log the end of the processes as an error.
            self._llm.output_handler.cancel()
        self._end_requests()
        await self._prompts.aclose()
        self._llm.output_processor.deferred.flush()
        stopping = asyncio.ensure_future(asyncio.to_thread(self._llm.shutdown))
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(stopping)
        except TimeoutError:
            _log.warning("the engine of %s did not shut down in time and is killed", self._model.name)
        finally:
            await asyncio.to_thread(self._processes.kill)
            self._end_requests()
            if self._died:
                await log_last_lines(self._output)
            self._llm.forget_reader()
            caches.let_go()

    def _end_requests(self) -> None:
        """Fail what is under way: vLLM does so when it notices a death, unless it is shut down first."""
        self._llm.output_processor.propagate_error(EngineDeadError())
        self._adapters.end()

    async def _warm_up(self) -> None:
        try:
            await self._ask_once(self._all_at_once())
        except (VLLMValidationError, EngineDeadError, EngineGenerateError, AppError) as error:
            reason = cause(self._output.lines) or first_line(error.__cause__ or error)
            raise LoadFailed(f"failed to load model {self._model.name}: {reason}") from error

    def _all_at_once(self) -> SamplingParams:
        """A token with all that is imported or compiled on first use, while other requests would wait."""
        constraint = StructuredOutputsParams(grammar=ANY_OBJECT) if self._constrains else None
        return SamplingParams(
            max_tokens=1, logprobs=1, structured_outputs=constraint, output_kind=RequestOutputKind.FINAL_ONLY
        )

    async def _ask_once(self, params: SamplingParams | None = None) -> None:
        """Have the engine work as little as it can, before all else it has to do."""
        if not self._model.can("completion"):
            await self._encode([0, 1], normalize=True)
            return
        params = params or SamplingParams(max_tokens=1, output_kind=RequestOutputKind.FINAL_ONLY)
        prompt, name = TokensPrompt(prompt_token_ids=[0] * 8), f"caravan-probe-{next(self._ids)}"
        none = self._adapters.none
        async for _ in self._llm.generate(prompt, params, name, lora_request=none, priority=_FIRST):
            pass
