"""Runs what was asked: find the model, check, lease an engine, compose, generate, decode, count."""

import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from app.catalogue.library import Library
from app.constrain.budget import FEW_STEPS, OverBudget
from app.constrain.compile import grammar_for
from app.core.context import Caller, RequestContext
from app.core.errors import ConstraintFailed, InvalidRequest
from app.core.events import Content, Delta, Done, Event, Loaded, Rendered, Timings, ToolCall, Unloaded, Usage
from app.core.format import read_format
from app.core.model import Model
from app.core.options import resolve
from app.core.pool import Pool
from app.core.quote import quoted
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Embedding,
    Generation,
    Json,
    JsonFormat,
    Sampling,
)
from app.engine.base import Decoder, Prompt, Run
from app.runtime.checks import check, check_allowed, is_empty, is_unload, settled_think, within_limits
from app.runtime.compose import Composer
from app.runtime.entry import Lease
from app.runtime.manager import Manager

_LONG_VECTORS = 10_000
"""Values from which on a thread is worth its way there and back."""

_WAITING_SCHEMAS = 1024


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of one embed request, in input order, with its counts and durations in nanoseconds."""

    vectors: list[list[float]]
    prompt_tokens: int
    total_ns: int
    load_ns: int


class Pipeline:
    """One for the whole server; `run` and `embed` are called once per request.

    `tool_calls_reason` says whether a reply that calls tools ends with `tool_calls` or with Ollama's `stop`;
    `cache_per_key`, whether a prompt's cached beginning serves only the key that it came from.
    Work whose size the client chooses is done in `pool`.
    """

    def __init__(
        self,
        library: Library,
        manager: Manager,
        *,
        tool_calls_reason: bool,
        pool: Pool | None = None,
        cache_per_key: bool = True,
    ) -> None:
        self._library = library
        self._manager = manager
        self._tool_calls_reason = tool_calls_reason
        self._pool = pool or Pool()
        # Apart, so that schemas that take long keep others waiting no longer than a few of their steps.
        self._schemas = Pool("schemas", workers=1, waiting=_WAITING_SCHEMAS)
        self._cache_per_key = cache_per_key

    async def run(self, asked: Generation, ctx: RequestContext) -> AsyncGenerator[Event | list[Event], None]:
        """The events of one reply; a list holds what came of one engine output.

        Closing the generator aborts the request in the engine.

        Raises:
            AppError: before the first event for whatever stops the request, later if the engine fails.
        """
        check_allowed(ctx.caller, asked.model)
        model = self._library.find(asked.model)
        ctx.model = str(model.name)
        if is_unload(asked):
            ctx.operation = ""
            self._manager.unload(model)
            yield Unloaded()
            return
        check(model, asked)
        asked = replace(asked, think=settled_think(model, asked.think))
        sampling = resolve(model.spec.parameters, asked.options)
        sampling = within_limits(sampling, asked.options, ctx.caller.limits, self._manager.default_context)
        ctx.sampling = sampling
        async with self._manager.lease(
            model, keep_alive_s=asked.keep_alive_s, num_ctx=sampling.num_ctx, caller=ctx.caller
        ) as lease:
            ctx.load_ns = lease.load_ns
            load_ns = time.monotonic_ns() - asked.received_ns
            prompt = await self._opening(model, asked, sampling, lease)
            if not isinstance(prompt, Prompt):
                ctx.operation = ""
                yield prompt
                return
            # Before the request holds back tokens of its key: a schema may be refused.
            format = await self._constraint(asked.format)
            run = _run(asked, sampling, await _room(asked, sampling, prompt, lease, ctx), format, ctx)
            gives_context = _gives_context(asked.prompt)
            caller, tokens = ctx.caller, len(prompt.token_ids)
            async with lease.turns.turn(caller.key_id, caller.priority, tokens) as turn:
                run = replace(run, priority=turn.priority, cache_salt=self._salt(caller))
                decoder = lease.engine.decoder(run, prompt)
                reply = _Reply(
                    decoder, keeps_text=gives_context or ctx.keeps_content, constrained=format is not None
                )
                try:
                    async with aclosing(lease.engine.generate(prompt, run, decoder)) as deltas:
                        async for delta in deltas:
                            if turn.silent:
                                turn.speaks()
                            if event := reply.read(delta):
                                yield event
                finally:
                    _account(ctx, prompt, run.usage, turn.waited_ns)
                    if ctx.keeps_content:
                        ctx.prompt, ctx.answer = asked.prompt, reply.text
            if rest := reply.rest():
                yield rest
            reply.check_whole()
            context = await _context(prompt, reply.text, lease) if gives_context else None
            done = reply.done(asked.received_ns, load_ns, context, tool_calls_reason=self._tool_calls_reason)
            ctx.finish = done.reason
            yield done

    async def _constraint(self, raw: Json) -> JsonFormat | None:
        """What `format` asks for, and the grammar that keeps an answer to it."""
        wanted = read_format(raw)
        if wanted is None:
            return None
        try:
            grammar = await self._schemas.run(grammar_for, wanted.schema, FEW_STEPS)
        except OverBudget:
            grammar = await self._pool.run(grammar_for, wanted.schema)
        return replace(wanted, grammar=grammar)

    async def _opening(
        self, model: Model, asked: Generation, sampling: Sampling, lease: Lease
    ) -> Prompt | Loaded | Rendered:
        """The prompt to answer, or the event that is already the whole answer."""
        if is_empty(asked):
            return Loaded()
        composer = Composer(
            model,
            lease.engine,
            asked,
            sampling,
            lease.context_length,
            pool=self._pool,
        )
        prompt = await composer.prompt()
        return Rendered(prompt.text, prompt.image_count) if asked.debug_render_only else prompt

    async def embed(
        self, asked: Embedding, ctx: RequestContext, *, case_sensitive: bool = False, normalize: bool = True
    ) -> Embedded:
        """The vectors of `asked.inputs`, each of unit length unless `normalize` is off.

        Raises:
            AppError: for whatever stops the request.
        """
        check_allowed(ctx.caller, asked.model)
        model = self._library.find(asked.model, case_sensitive=case_sensitive)
        ctx.model = str(model.name)
        sampling = resolve(model.spec.parameters, asked.options)
        limits = replace(ctx.caller.limits, max_predict=None)  # There is nothing to predict.
        sampling = within_limits(sampling, asked.options, limits, math.inf)
        async with self._manager.lease(
            model, keep_alive_s=asked.keep_alive_s, num_ctx=sampling.num_ctx, caller=ctx.caller
        ) as lease:
            ctx.load_ns = lease.load_ns
            load_ns = time.monotonic_ns() - asked.received_ns
            if not asked.inputs:
                ctx.operation = ""
                return Embedded([], 0, time.monotonic_ns() - asked.received_ns, load_ns)
            _check_embeds(model, asked)
            limit = min(sampling.num_ctx or lease.engine.window, lease.engine.window)
            async with AsyncExitStack() as held:
                found = await lease.engine.embed(
                    asked.inputs,
                    truncate=asked.truncate,
                    limit=limit,
                    normalize=normalize,
                    admit=partial(_admit, ctx, lease, held),
                    cache_salt=self._salt(ctx.caller),
                    trace=ctx.trace or None,
                )
            vectors = await self._shortened(found.values, asked.dimensions)
            return Embedded(vectors, found.prompt_tokens, time.monotonic_ns() - asked.received_ns, load_ns)

    async def _shortened(self, vectors: list[list[float]], dimensions: int) -> list[list[float]]:
        if dimensions and sum(map(len, vectors)) > _LONG_VECTORS:
            return await self._pool.run(_shorten_all, vectors, dimensions)
        return _shorten_all(vectors, dimensions)

    def _salt(self, caller: Caller) -> str:
        """What keeps the cached prefixes of keys apart: how soon an answer begins would tell of another's."""
        return caller.key_id if self._cache_per_key else ""


_Events: TypeAlias = Event | list[Event] | None


class _Reply:
    """What is kept of one reply while it is made; `read` runs once per engine output."""

    __slots__ = ("_answer", "_called", "_decoder", "_last", "_pieces")

    def __init__(self, decoder: Decoder | None, *, keeps_text: bool, constrained: bool = False) -> None:
        self._decoder = decoder
        self._answer: list[str] | None = [] if constrained else None
        self._pieces: list[str] | None = [] if keeps_text else None
        self._last = Delta("", [])
        self._called = False

    def read(self, delta: Delta) -> Event | list[Event] | None:
        """The event of a delta; nothing where it only completes a character or is held back."""
        if self._pieces is not None:
            self._pieces.append(delta.text)
        if delta.finish is not None:
            self._last = delta
        if self._decoder is not None:
            event = self._decoder.feed(delta)
            return event if self._answer is None else self._kept(event)
        if self._answer is not None:
            self._answer.append(delta.text)
        if delta.text or delta.logprobs:
            return Content(delta.text, delta.logprobs)
        return None

    def rest(self) -> list[Event]:
        """What the decoder held back, and its tool calls."""
        events = self._decoder.flush() if self._decoder is not None else []
        self._called = any(isinstance(event, ToolCall) for event in events)
        if self._answer is not None:
            self._kept(events)
        return events

    def check_whole(self) -> None:
        """A matcher that fails lets the model write nothing but its end, which looks like an answer's own.

        Raises:
            ConstraintFailed: for a constrained answer that ended by itself and is no JSON.
        """
        own_end = self._last.finish == "stop" and not self._last.matched_stop and not self._called
        if self._answer is None or not own_end:
            return
        text = "".join(self._answer)
        if not text and self._decoder is not None:
            return  # It ended while it was reasoning, before the constraint.
        try:
            json.loads(text)
        except ValueError as error:
            raise ConstraintFailed from error
        except RecursionError:
            pass

    def _kept(self, event: _Events) -> _Events:
        for part in event if isinstance(event, list) else [event]:
            if isinstance(part, Content) and self._answer is not None:
                self._answer.append(part.text)
        return event

    @property
    def text(self) -> str:
        """All the model wrote, reasoning tags included, where that is kept."""
        return "".join(self._pieces or ())

    def done(
        self, received_ns: int, load_ns: int, context: list[int] | None, *, tool_calls_reason: bool
    ) -> Done:
        last = self._last
        return Done(
            "tool_calls" if self._called and tool_calls_reason else last.finish or "stop",
            total_ns=time.monotonic_ns() - received_ns,
            load_ns=load_ns,
            prompt_tokens=last.prompt_tokens,
            output_tokens=last.output_tokens,
            timings=last.timings or Timings(),
            context=context,
            cached_tokens=last.cached_tokens,
        )


async def _admit(ctx: RequestContext, lease: Lease, held: AsyncExitStack, tokens: int) -> int:
    """Let the inputs of an embed request in; from here on their tokens are charged, however it ends."""
    await ctx.reserve(tokens, 0, exact=True)
    turn = await held.enter_async_context(lease.turns.turn(ctx.caller.key_id, ctx.caller.priority, tokens))
    ctx.queue_ns, ctx.prompt_tokens = turn.waited_ns, tokens
    return turn.priority


def _check_embeds(model: Model, asked: Embedding) -> None:
    if not model.can("embedding"):
        raise InvalidRequest(f"{quoted(asked.model)} does not support embeddings")


async def _room(
    asked: Generation, sampling: Sampling, prompt: Prompt, lease: Lease, ctx: RequestContext
) -> int:
    """Tokens the reply may take: what was asked for, within what is left of the window and the key's limit.

    A number that the client named itself is never made smaller for that limit.
    """
    used, wanted = len(prompt.token_ids), sampling.num_predict
    left = max(lease.context_length - used, 1)
    room = min(left, wanted) if wanted > 0 else left
    return await ctx.reserve(used, room, exact=wanted > 0 and asked.options.get("num_predict") is not None)


def _run(
    asked: Generation, sampling: Sampling, max_tokens: int, format: JsonFormat | None, ctx: RequestContext
) -> Run:
    return Run(
        sampling,
        max_tokens,
        format=format,
        logprobs=asked.top_logprobs if asked.logprobs else None,
        think=asked.think,
        chat=asked.prompt if isinstance(asked.prompt, ChatPrompt) else ChatPrompt(),
        trace=ctx.trace or None,
    )


def _account(ctx: RequestContext, prompt: Prompt, usage: Usage, waited_ns: int) -> None:
    """What the engine says of a generation that has ended."""
    ctx.prompt_tokens = usage.prompt_tokens or len(prompt.token_ids)
    ctx.cached_tokens = usage.cached_tokens
    ctx.output_tokens = usage.output_tokens
    ctx.queue_ns = usage.queue_ns + waited_ns
    ctx.prefill_ns = usage.prefill_ns
    ctx.decode_ns = usage.decode_ns
    if usage.first_token_at_ns:
        ctx.first_token_ns = max(1, usage.first_token_at_ns - ctx.started_ns)


def _gives_context(asked: ChatPrompt | CompletionPrompt) -> bool:
    """Chats and raw prompts do not return their token ids."""
    return isinstance(asked, CompletionPrompt) and not asked.raw


async def _context(prompt: Prompt, text: str, lease: Lease) -> list[int]:
    """The token ids of prompt and answer. The end token and a stop string are no part of the answer."""
    answer = await lease.engine.tokenize(text, special=False)
    return [*prompt.token_ids, *answer.token_ids]


def _shorten_all(vectors: list[list[float]], dimensions: int) -> list[list[float]]:
    return [_shorten(vector, dimensions) for vector in vectors]


def _shorten(vector: list[float], dimensions: int) -> list[float]:
    """The first `dimensions` values at unit length again; the vector itself where that is no shortening."""
    if not 0 < dimensions < len(vector):
        return vector
    kept = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in kept))
    return [value / norm for value in kept] if norm else kept
