"""A scripted engine, for tests and benchmarks.

It answers what its script says, one word a token, and writes down what it was asked. It does not follow
`format`, `think` or the sampling numbers by itself: a script that is a function sees them and may. `stop`
and `max_tokens` it does follow.
"""

import asyncio
import json
import math
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

from app.core.errors import EngineDied, InvalidRequest
from app.core.events import Delta, Timings, TokenLogprob, Usage
from app.core.model import Adapter
from app.core.request import ChatPrompt, Message, Think
from app.engine.base import Admit, Prompt, Run, Vectors
from app.engine.fake.script import HELLO, Gate, Reply, Script, ScriptedAnswer, ScriptedDecoder, cut
from app.engine.fake.words import Words, split

_TOO_LONG = "the input length exceeds the context length"
_NO_ROOM = "input after truncation exceeds maximum context length"
_REMEMBERED = 1024


class Asked(NamedTuple):
    """A generation that was asked for."""

    prompt: Prompt
    run: Run


class Rendering(NamedTuple):
    """A chat that was rendered."""

    chat: ChatPrompt
    think: Think
    continue_last: bool
    chat_template: str
    variables: Mapping[str, Any]
    confined: bool = False


class FakeEngine:
    """See the module. `slots` requests run at once, the others wait in line (0: no limit).

    It takes adapters up to `adapter_rank` (0: none), and `forgotten` are those that it was told to forget.
    One that `can_sleep` answers nothing while it is `asleep`; `nap_errors` are what its next sleeps and wakes
    raise.
    It gives up the loop before each delta and waits longer only for a `gate` or `delay_s`. `asked` and
    `renderings` hold the most recent requests.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        default: Reply = HELLO,
        window: int = 4096,
        slots: int = 0,
        adapter_rank: int = 0,
        delay_s: float = 0.0,
        gate: Gate | None = None,
        words: Words | None = None,
        embedding_length: int = 32,
        memory_bytes: int = 1 << 20,
        vram_bytes: int = 0,
        can_sleep: bool = False,
    ) -> None:
        self.gate = gate
        self.asked: deque[Asked] = deque(maxlen=_REMEMBERED)
        self.renderings: deque[Rendering] = deque(maxlen=_REMEMBERED)
        self.closed = self.asleep = False
        self.can_sleep = can_sleep
        self.nap_errors: deque[Exception] = deque()
        self.forgotten: list[Adapter] = []
        self.adapter_rank = adapter_rank
        self._script: Script = script if script is not None else {}
        self._default = default
        self._window = window
        self._slot_count = slots
        self._slots = asyncio.Semaphore(slots) if slots else None
        self._delay_s = delay_s
        self._words = words or Words()
        self._embedding_length = embedding_length
        self._memory_bytes = memory_bytes
        self._vram_bytes = vram_bytes
        self._running = 0
        self._waiting = 0
        self._dead = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def window(self) -> int:
        return self._window

    @property
    def slots(self) -> int:
        return self._slot_count

    @property
    def special_tokens(self) -> Sequence[str]:
        return ("<|im_start|>", "<|im_end|>")

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    @property
    def vram_bytes(self) -> int:
        return self._vram_bytes

    async def own_bytes(self) -> int:
        return self._memory_bytes

    @property
    def registry(self) -> None:
        return None

    def takes(self, adapter: Adapter | None) -> bool:
        return adapter is None or adapter.rank <= self.adapter_rank

    def forget(self, adapter: Adapter) -> None:
        self._check_awake()
        self.forgotten.append(adapter)

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
        """ChatML: `<|im_start|>ROLE`, the content below it, `<|im_end|>`; then the assistant's opening.

        `think`, `chat_template`, `variables` and `confined` do not show in the text; `renderings` has them.
        """
        asked = Rendering(chat, think, continue_last, chat_template, variables or {}, confined)
        self.renderings.append(asked)
        tools = [json.dumps(tool) for tool in chat.tools]
        turns = [_turn("system", "\n".join(("Tools:", *tools)))] if tools else []
        turns += [_turn(message.role, _content(message)) for message in chat.messages]
        is_open = continue_last and bool(chat.messages) and chat.messages[-1].role == "assistant"
        text = "".join(turns)
        text = text.removesuffix("<|im_end|>\n") if is_open else text + "<|im_start|>assistant\n"
        return self._prompt(text, [image for message in chat.messages for image in message.images])

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        """This vocabulary has no token that a prompt starts with, so `special` changes nothing."""
        return self._prompt(text, images)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._words.decode(token_ids)

    @asynccontextmanager
    async def answer(self, prompt: Prompt, run: Run) -> AsyncGenerator[ScriptedAnswer, None]:
        reply = self._reply(prompt, run)
        decoder = None if reply.events is None else ScriptedDecoder(reply.events, len(reply.deltas))
        async with aclosing(self._generate(prompt, run)) as deltas:
            yield ScriptedAnswer(deltas, decoder)

    async def _generate(self, prompt: Prompt, run: Run) -> AsyncGenerator[Delta, None]:
        self._check_alive()
        if len(prompt.token_ids) >= self._window:
            raise InvalidRequest(_TOO_LONG)
        self.asked.append(Asked(prompt, run))
        reply = self._reply(prompt, run)
        texts, stop = cut(reply.deltas, run.sampling.stop)
        called_ns = time.perf_counter_ns()
        asked_ns = first_ns = 0
        room, last = run.max_tokens, len(texts) - 1
        prompt_tokens = len(prompt.token_ids)
        cached_tokens = min(reply.cached_tokens, prompt_tokens)
        try:
            async with self._slot():
                asked_ns = first_ns = time.perf_counter_ns()
                for index, text in enumerate(texts):
                    await self._pause(reply.gate or self.gate, index)
                    self._fail(reply, index)
                    if not index:
                        first_ns = time.perf_counter_ns()
                    delta = self._delta(text, room, run.logprobs)
                    delta.prompt_tokens, delta.cached_tokens = prompt_tokens, cached_tokens
                    room -= len(delta.token_ids)
                    if room and index < last:
                        yield delta
                        continue
                    delta.finish = "stop" if room else "length"
                    delta.matched_stop = stop if room else ""
                    delta.output_tokens = run.max_tokens - room
                    delta.timings = _timings(asked_ns, first_ns)
                    yield delta
                    return
        finally:
            run.usage.prompt_tokens, run.usage.output_tokens = prompt_tokens, run.max_tokens - room
            run.usage.cached_tokens = cached_tokens
            _account(run.usage, called_ns, asked_ns, first_ns)

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
        """Vectors drawn at random with the text as the seed: equal texts get equal ones."""
        self._check_alive()
        inputs_tokens: list[Sequence[int]] = []
        for text in inputs:
            token_ids = self._words.encode(text)
            if len(token_ids) > limit:
                if not truncate:
                    raise InvalidRequest(_TOO_LONG)
                if limit <= 0:
                    raise InvalidRequest(_NO_ROOM)
                token_ids = token_ids[:limit]
            inputs_tokens.append(token_ids)
        prompt_tokens = sum(map(len, inputs_tokens))
        if admit is not None:
            await admit(prompt_tokens)
        values: list[list[float]] = []
        async with self._slot():
            for token_ids in inputs_tokens:
                if self.gate is not None:
                    await self._pause(self.gate, len(values))
                text = self._words.decode(token_ids)
                values.append(_vector(text, self._embedding_length, normalize=normalize))
        return Vectors(values, prompt_tokens)

    def metrics(self) -> Mapping[str, float]:
        return {"running": self._running, "waiting": self._waiting}

    def die(self) -> None:
        """Be gone as a crashed process is: requests under way end with `EngineDied`."""
        self._dead.set()
        self._ended.set()

    async def wait_dead(self) -> None:
        await self._dead.wait()

    async def sleep(self) -> None:
        if self._running or self._waiting or not self.can_sleep:
            raise RuntimeError("an engine that is used, or cannot sleep, is put to sleep")
        await self._nap()
        self.asleep = True

    async def wake(self) -> None:
        await self._nap()
        self.asleep = False

    async def _nap(self) -> None:
        await asyncio.sleep(0)
        self._check_alive(awake=False)
        if self.nap_errors:
            raise self.nap_errors.popleft()

    async def close(self) -> None:
        self.closed = True
        self._ended.set()

    def _prompt(self, text: str, images: Sequence[bytes]) -> Prompt:
        return Prompt(text, self._words.encode(text), len(images), tuple(images))

    def _reply(self, prompt: Prompt, run: Run) -> Reply:
        if callable(self._script):
            return self._script(prompt, run)
        last = run.chat.messages[-1].text if run.chat.messages else ""
        return self._script.get(prompt.text) or self._script.get(last) or self._default

    @asynccontextmanager
    async def _slot(self) -> AsyncGenerator[None, None]:
        """Hold a place among those that run."""
        if self._slots is not None:
            self._waiting += 1
            try:
                await self._slots.acquire()
            finally:
                self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._slots is not None:
                self._slots.release()

    async def _pause(self, gate: Gate | None, index: int) -> None:
        """Wait until the next delta may come, or the engine ends."""
        if gate is not None:
            await self._or_end(gate.wait() if isinstance(gate, asyncio.Event) else gate(index))
        elif self._delay_s:
            try:
                async with asyncio.timeout(self._delay_s):
                    await self._ended.wait()
            except TimeoutError:
                pass
        else:
            await asyncio.sleep(0)
        self._check_alive()

    async def _or_end(self, pause: Awaitable[Any]) -> None:
        held, ended = asyncio.ensure_future(pause), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((held, ended), return_when=asyncio.FIRST_COMPLETED)
            if held.done():
                held.result()
        finally:
            held.cancel()
            ended.cancel()
            await asyncio.gather(held, ended, return_exceptions=True)

    def _check_alive(self, *, awake: bool = True) -> None:
        if self._ended.is_set():
            raise EngineDied
        if awake:
            self._check_awake()

    def _check_awake(self) -> None:
        """A real one would answer when it is woken, or be harmed."""
        if self.asleep:
            raise RuntimeError("an engine that is asleep is asked for something")

    def _fail(self, reply: Reply, index: int) -> None:
        if reply.error is not None and index >= reply.error_after:
            if isinstance(reply.error, EngineDied):
                self.die()
            raise reply.error

    def _delta(self, text: str, room: int, logprobs: int | None) -> Delta:
        token_ids = self._words.encode(text)
        if len(token_ids) > room:
            token_ids = token_ids[:room]
            text = self._words.decode(token_ids)
        if logprobs is None:
            return Delta(text, token_ids)
        return Delta(text, token_ids, [_logprob(word, logprobs) for word in split(text)])


def _timings(asked_ns: int, first_ns: int) -> Timings:
    return Timings(max(1, first_ns - asked_ns), max(1, time.perf_counter_ns() - first_ns))


def _account(usage: Usage, called_ns: int, asked_ns: int, first_ns: int) -> None:
    """The times of a run that had its slot at `asked_ns` and, if ever, its first token at `first_ns`."""
    if asked_ns:
        usage.queue_ns = max(1, asked_ns - called_ns)
    if usage.output_tokens:
        timings = _timings(asked_ns, first_ns)
        usage.prefill_ns, usage.decode_ns = timings.prompt_eval_ns, timings.eval_ns
        usage.first_token_at_ns = time.time_ns() - (time.perf_counter_ns() - first_ns)


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _content(message: Message) -> str:
    """All that a message holds, in the order in which it would be read."""
    parts = ["<|image|>" * len(message.images)]
    if message.thinking:
        parts.append(f"<think>{message.thinking}</think>\n")
    if message.tool_name:
        parts.append(f"[{message.tool_name}] ")
    parts.append(message.text)
    for call in message.tool_calls:
        parts.append(
            f"<tool_call>{json.dumps({'name': call.name, 'arguments': dict(call.arguments)})}</tool_call>"
        )
    return "".join(parts)


def _logprob(word: str, count: int) -> TokenLogprob:
    """A made-up but plausible logprob: the word itself first, then ever less likely alternatives."""
    names = [word, *(f" other{rank}" for rank in range(1, count))][:count]
    top = [TokenLogprob(name, -0.25 - rank, name.encode()) for rank, name in enumerate(names)]
    return TokenLogprob(word, -0.25, word.encode(), top)


def _vector(text: str, length: int, *, normalize: bool) -> list[float]:
    source = random.Random(text)
    raw = [source.gauss(0.0, 1.0) for _ in range(length)]
    norm = math.hypot(*raw) if normalize else 1.0
    return [value / norm for value in raw]
