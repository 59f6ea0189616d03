"""Runs what was asked: find the model, check, lease an engine, compose, generate, decode, count."""

import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from app.catalogue.library import Library
from app.core.context import Caller, RequestContext, Settle
from app.core.errors import InvalidRequest, LoadFailed
from app.core.events import Done, Event, Timings, Usage
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Constraint,
    Embedding,
    Generation,
    Load,
    Render,
    Sampling,
    Unload,
)
from app.engine.base import Answer, Prompt, Run
from app.golang.quote import quoted
from app.runtime.checks import check, check_allowed, settled_think, within_limits
from app.runtime.choice import (
    calls_constraint,
    chat_read,
    decoder_for,
    must_call,
    of_calls,
    with_tools_chosen,
)
from app.runtime.compose import Composer
from app.runtime.entry import Lease
from app.runtime.grammars import Grammars
from app.runtime.leases import Leases
from app.runtime.reply import Reply
from app.runtime.vectors import shortened


@dataclass(frozen=True, slots=True)
class Admitted:
    """A generation that its model can take; `exact` where the client named the answer's length itself."""

    model: Model
    asked: Generation
    sampling: Sampling
    exact: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of one embed request, in input order, with its counts and durations in nanoseconds."""

    vectors: list[list[float]]
    prompt_tokens: int
    total_ns: int
    load_ns: int


class Pipeline:
    """One for the whole server; a method for each kind of request.

    `cache_per_key` says whether a prompt's cached beginning serves only the key that it came from. Work
    whose size the client chooses is done in `pool`. All of them raise `AppError` for whatever stops the
    request, `run` before its first event unless the engine fails later.
    """

    def __init__(
        self, library: Library, manager: Leases, *, pool: Pool | None = None, cache_per_key: bool = True
    ) -> None:
        self._library = library
        self._manager = manager
        self._pool = pool or Pool()
        self._grammars = Grammars(self._pool)
        self._cache_per_key = cache_per_key

    async def run(self, asked: Generation, ctx: RequestContext) -> AsyncGenerator[Sequence[Event], None]:
        """The events of one reply, those of one engine output together.

        Closing the generator aborts the request in the engine.
        """
        admitted = self.admit(asked, ctx)
        async with self.lease(admitted, ctx) as lease:
            load_ns = time.monotonic_ns() - asked.received_ns
            rendered, compose = asked.rendered, partial(self.compose, admitted, lease)
            prompt = await (compose() if rendered is None else rendered.get(compose))
            async with self.turn(admitted, lease, prompt, ctx) as (answer, reply):
                while reply.last.finish is None:
                    if events := reply.read(await answer.next()):
                        yield events
            if events := reply.remaining():
                yield events
            yield (await done(admitted, lease, prompt, reply, ctx, load_ns),)

    def admit(self, asked: Generation, ctx: RequestContext) -> Admitted:
        """The checks before any work, in the order that clients observe."""
        model = self._find(asked.model, ctx)
        check(model, asked)
        named = asked.sampling()
        sampling = Sampling.merged(model.sampling, named)
        sampling = within_limits(sampling, named, ctx.caller.limits, self._manager.default_context)
        ctx.sampling = sampling
        settled = replace(asked, think=settled_think(model, asked.think))
        return Admitted(model, with_tools_chosen(settled), sampling, "num_predict" in named)

    def lease(self, admitted: Admitted, ctx: RequestContext) -> AbstractAsyncContextManager[Lease]:
        """The model's engine, loaded and kept as long as this is held."""
        return self._lease(admitted.model, admitted.asked.keep_alive_s, admitted.sampling, ctx)

    async def compose(self, admitted: Admitted, lease: Lease) -> Prompt:
        return await self._composer(admitted, lease).prompt()

    @asynccontextmanager
    async def turn(
        self, admitted: Admitted, lease: Lease, prompt: Prompt, ctx: RequestContext
    ) -> AsyncGenerator[tuple[Answer, Reply], None]:
        """One answer of the model, and what reads it; several may be had within one lease.

        Leaving the context aborts what has not ended, and adds the engine's work to the request's.
        """
        asked = admitted.asked
        # Before the request holds back tokens of its key: a schema may be refused.
        run = _run(admitted, await self._constraint(asked), ctx)
        room, settle = await _room(admitted, prompt, lease, ctx)
        run = replace(run, max_tokens=room)
        caller, tokens = ctx.caller, len(prompt.token_ids)
        try:
            async with lease.turns.turn(caller.key_id, caller.priority, tokens) as turn:
                run = replace(run, priority=turn.priority, cache_salt=self._salt(caller))
                reply = Reply(
                    turn,
                    keeps_text=ctx.keeps_content or _gives_context(asked.prompt),
                    constraint=run.constraint,
                )
                try:
                    async with lease.engine.answer(prompt, run) as answer:
                        reply.decoder = decoder_for(asked, answer.decoder)
                        yield answer, reply
                finally:
                    run.usage.prompt_tokens = run.usage.prompt_tokens or tokens
                    ctx.work.add(run.usage, waited_ns=turn.waited_ns, started_ns=ctx.started_ns)
                    if ctx.keeps_content:
                        ctx.prompt, ctx.answer = asked.prompt, reply.text
        finally:
            await settle(run.usage.prompt_tokens + run.usage.output_tokens)

    async def load(self, asked: Load, ctx: RequestContext) -> None:
        """Have the model loaded, as a request that its checks let through would."""
        async with self.lease(self.admit(asked.wanted, ctx), ctx):
            pass

    def unload(self, asked: Unload, ctx: RequestContext) -> None:
        self._manager.unload(self._find(asked.model, ctx))

    async def render(self, asked: Render, ctx: RequestContext) -> Prompt:
        """The prompt that would go to the engine."""
        admitted = self.admit(asked.wanted, ctx)
        async with self.lease(admitted, ctx) as lease:
            return await self.compose(admitted, lease)

    async def count(self, asked: Render, ctx: RequestContext) -> int:
        """Tokens of the whole prompt of a chat, more than the window holds if it comes to that."""
        admitted = self.admit(asked.wanted, ctx)
        async with self.lease(admitted, ctx) as lease:
            return len((await self._composer(admitted, lease).uncut()).token_ids)

    async def embed(
        self, asked: Embedding, ctx: RequestContext, *, case_sensitive: bool = False, normalize: bool = True
    ) -> Embedded:
        """The vectors of `asked.inputs`, each of unit length unless `normalize` is off.

        Without inputs the model is only loaded.
        """
        model = self._find(asked.model, ctx, case_sensitive=case_sensitive)
        named = asked.sampling()
        limits = replace(ctx.caller.limits, max_predict=None)  # There is nothing to predict.
        sampling = within_limits(Sampling.merged(model.sampling, named), named, limits, math.inf)
        async with self._lease(model, asked.keep_alive_s, sampling, ctx) as lease:
            load_ns = time.monotonic_ns() - asked.received_ns
            if not asked.inputs:
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
            vectors = await shortened(found.values, asked.dimensions, self._pool)
            return Embedded(vectors, found.prompt_tokens, time.monotonic_ns() - asked.received_ns, load_ns)

    def _composer(self, admitted: Admitted, lease: Lease) -> Composer:
        return Composer(
            admitted.model,
            lease.engine,
            admitted.asked,
            admitted.sampling,
            lease.context_length,
            pool=self._pool,
        )

    def _find(self, name: str, ctx: RequestContext, *, case_sensitive: bool = False) -> Model:
        check_allowed(ctx.caller, name)
        model = self._library.find(name, case_sensitive=case_sensitive)
        ctx.model = str(model.name)
        return model

    @asynccontextmanager
    async def _lease(
        self, model: Model, keep_alive_s: float | None, sampling: Sampling, ctx: RequestContext
    ) -> AsyncGenerator[Lease, None]:
        if model.fault:
            raise LoadFailed(model.fault)
        async with self._manager.lease(
            model, keep_alive_s=keep_alive_s, num_ctx=sampling.num_ctx, caller=ctx.caller
        ) as lease:
            ctx.work.load_ns += lease.load_ns
            yield lease

    async def _constraint(self, asked: Generation) -> Constraint | None:
        """What the answer must be, and the grammar that keeps it to that. Calls that must be come first."""
        if must_call(asked):
            wanted = await self._pool.run(calls_constraint, asked)
        else:
            wanted = asked.constraint()
        if wanted is None:
            return None
        try:
            return replace(wanted, grammar=await self._grammars.of(wanted))
        except InvalidRequest as error:
            if must_call(asked):
                raise of_calls(error) from None
            raise

    def _salt(self, caller: Caller) -> str:
        """What keeps the cached prefixes of keys apart: how soon an answer begins would tell of another's."""
        return caller.key_id if self._cache_per_key else ""


async def _admit(ctx: RequestContext, lease: Lease, held: AsyncExitStack, tokens: int) -> int:
    """Let the inputs of an embed request in; from here on their tokens are charged, however it ends."""
    await ctx.reserve(tokens, 0, exact=True)
    turn = await held.enter_async_context(lease.turns.turn(ctx.caller.key_id, ctx.caller.priority, tokens))
    ctx.work.add(Usage(prompt_tokens=tokens), waited_ns=turn.waited_ns, started_ns=ctx.started_ns)
    return turn.priority


def _check_embeds(model: Model, asked: Embedding) -> None:
    if not model.can("embedding"):
        raise InvalidRequest(f"{quoted(asked.model)} does not support embeddings")


async def _room(admitted: Admitted, prompt: Prompt, lease: Lease, ctx: RequestContext) -> tuple[int, Settle]:
    """Tokens the reply may take: what was asked for, within what is left of the window and the key's limit.

    A number that the client named itself is never made smaller for that limit.
    """
    used, wanted = len(prompt.token_ids), admitted.sampling.num_predict
    left = max(lease.context_length - used, 1)
    room = min(left, wanted) if wanted > 0 else left
    return await ctx.reserve(used, room, exact=wanted > 0 and admitted.exact)


def _run(admitted: Admitted, constraint: Constraint | None, ctx: RequestContext) -> Run:
    asked = admitted.asked
    return Run(
        admitted.sampling,
        max_tokens=1,
        constraint=constraint,
        logprobs=asked.top_logprobs if asked.logprobs else None,
        think=asked.think,
        chat=chat_read(asked),
        trace=ctx.trace or None,
        adapter=admitted.model.adapter,
    )


async def done(
    admitted: Admitted, lease: Lease, prompt: Prompt, reply: Reply, ctx: RequestContext, load_ns: int
) -> Done:
    """The end of a reply that is whole.

    Raises:
        ConstraintFailed: for one that is not.
    """
    reply.check_whole()
    asked, last = admitted.asked, reply.last
    context = await _context(prompt, reply.text, lease) if _gives_context(asked.prompt) else None
    reason = last.finish or "stop"
    ctx.finish = "tool_calls" if reply.called_tools else reason
    return Done(
        reason,
        total_ns=time.monotonic_ns() - asked.received_ns,
        load_ns=load_ns,
        prompt_tokens=last.prompt_tokens,
        output_tokens=last.output_tokens,
        timings=last.timings or Timings(),
        context=context,
        cached_tokens=last.cached_tokens,
        matched_stop=last.matched_stop,
        called_tools=reply.called_tools,
        reasoning_tokens=reply.reasoning_tokens if admitted.model.can("thinking") else None,
    )


def _gives_context(asked: ChatPrompt | CompletionPrompt) -> bool:
    """Chats and raw prompts do not return their token ids, nor do other APIs."""
    return isinstance(asked, CompletionPrompt) and not asked.raw and asked.wants_context


async def _context(prompt: Prompt, text: str, lease: Lease) -> list[int]:
    """The token ids of prompt and answer. The end token and a stop string are no part of the answer."""
    answer = await lease.engine.tokenize(text, special=False)
    return [*prompt.token_ids, *answer.token_ids]
