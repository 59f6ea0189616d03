"""Answers that are kept to a grammar once their reasoning is over, and whose model may not end it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from app.core.errors import ConstraintFailed
from app.core.events import Delta, Timings, Usage
from app.engine.base import Answer, Prompt, Run

Ask = Callable[[Prompt, Run, bool], AbstractAsyncContextManager[Answer]]
"""One request to the engine; the last argument says that no reasoning comes before the grammar."""


@asynccontextmanager
async def closed(ask: Ask, prompt: Prompt, run: Run, tag: Prompt) -> AsyncGenerator["ClosingAnswer", None]:
    """An answer whose reasoning is closed with `tag` where the model ends within it; then the rest follows.

    The rest is one more request: what was reasoned is a prefix of its prompt, and cached.
    """
    async with AsyncExitStack() as stack:
        answer = await stack.enter_async_context(ask(prompt, run, False))
        closing = ClosingAnswer(answer, stack, ask, prompt, run, tag)
        try:
            yield closing
        finally:
            await stack.aclose()
            _add(run.usage, closing.rest)


class ClosingAnswer:
    """See `closed`. `rest` is what the second request took, where there was one."""

    def __init__(
        self, answer: Answer, stack: AsyncExitStack, ask: Ask, prompt: Prompt, run: Run, tag: Prompt
    ) -> None:
        self._answer, self._stack, self._ask = answer, stack, ask
        self._prompt, self._run, self._tag = prompt, run, tag
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._ended: Delta | None = None
        self.rest = Usage()
        self.decoder = answer.decoder

    async def next(self) -> Delta:
        try:
            delta = await self._answer.next()
        except ConstraintFailed:
            # The core takes the beginning of a call for the end of the reasoning, and the grammar does not.
            if self._ended is not None or not self._is_open():
                raise
            return await self._closed(Delta("", []), self._token_ids)
        if self._ended is not None:
            return self._whole(delta, self._ended)
        self._text.append(delta.text)
        self._token_ids += delta.token_ids
        if delta.finish != "stop" or delta.matched_stop or not self._is_open():
            return delta
        last = self._token_ids[-1] if self._token_ids else None
        if last is None or last in self._run.sampling.stop_token_ids:
            return delta
        return await self._closed(delta, self._token_ids[:-1])

    def _is_open(self) -> bool:
        return self._tag.text not in "".join(self._text)

    async def _closed(self, delta: Delta, token_ids: list[int]) -> Delta:
        """`delta` with the end of the reasoning in the place of the model's own; the rest is asked for."""
        used = [*token_ids, *self._tag.token_ids]
        room = self._run.max_tokens - len(used)
        if room < 1:
            delta.finish = "length"
            delta.prompt_tokens = len(self._prompt.token_ids)
            delta.output_tokens = delta.output_tokens or len(token_ids)
            return delta
        await self._stack.aclose()
        whole = [*self._prompt.token_ids, *used]
        payload: Any = self._prompt.payload
        prompt = replace(
            self._prompt,
            token_ids=whole,
            payload=payload and {**payload, "prompt_token_ids": whole},
        )
        least = max(self._run.sampling.min_tokens - len(used), 0)
        sampling = replace(self._run.sampling, min_tokens=least)
        run = replace(self._run, sampling=sampling, max_tokens=room, usage=self.rest)
        self._answer = await self._stack.enter_async_context(self._ask(prompt, run, True))
        self._ended = replace(delta, output_tokens=len(used))
        own = delta.token_ids[:-1] if delta.finish else delta.token_ids
        return Delta(
            delta.text + self._tag.text,
            [*own, *self._tag.token_ids],
            delta.logprobs,
            prompt_tokens=len(self._prompt.token_ids),
            cached_tokens=delta.cached_tokens,
        )

    def _whole(self, delta: Delta, ended: Delta) -> Delta:
        """A delta of the rest with the counts of the whole answer."""
        delta.prompt_tokens = len(self._prompt.token_ids)
        delta.cached_tokens = ended.cached_tokens
        if delta.finish is not None:
            delta.output_tokens += ended.output_tokens
            delta.timings = _sum(ended.timings, delta.timings)
        return delta


def _sum(one: Timings | None, other: Timings | None) -> Timings:
    one, other = one or Timings(), other or Timings()
    return Timings(one.prompt_eval_ns + other.prompt_eval_ns, one.eval_ns + other.eval_ns)


def _add(usage: Usage, rest: Usage) -> None:
    """The prompt counts once: the second one's is the first and what came of it."""
    usage.output_tokens += rest.output_tokens
    usage.queue_ns += rest.queue_ns
    usage.prefill_ns += rest.prefill_ns
    usage.decode_ns += rest.decode_ns
