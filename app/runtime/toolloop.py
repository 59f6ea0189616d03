"""Lets a model use built-in tools: a turn, what it called, another turn, until it answers (docs/tools.md).

A generator of the type of `Pipeline.run`. The request is admitted once and holds one engine; each turn is
charged as it is. What a turn wrote is held back until it is known to be the answer: reasoning is sent as it
comes, calls of our own and the text beside them are not sent at all.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from app.core.context import RequestContext
from app.core.errors import Forbidden, InvalidRequest
from app.core.events import Done, Event, SearchResult, ToolCall, ToolUse
from app.core.pool import Pool
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Deferred,
    Generation,
    Image,
    Json,
    Message,
    PastToolCall,
    Text,
    ToolChoice,
)
from app.runtime.entry import Lease
from app.runtime.images import remote_images, with_images
from app.runtime.pipeline import Admitted, Pipeline, done
from app.runtime.toolturn import Sums, ToolTurn
from app.tools.base import Outcome, Session, Tool
from app.tools.report import told
from app.tools.toolbox import Toolbox
from app.tools.untrusted import Marks
from app.tools.visits import urls_in

_ANSWER_PART = 4
"""The part of the context that is left for the answer where it has no stated length."""
_TOKEN_CHARS = 4
"""Characters of a token, about: what is cut by characters is then counted in tokens."""
_LEAST_TOKENS = 64
"""Of a page: less is not worth a look."""
_MOST_PREFETCHED = 3

_NO_ROOM = "there is no room left in the context for what was found; answer without it"


class ToolLoop:
    """Runs generations, those with built-in tools in several turns."""

    def __init__(self, pipeline: Pipeline, toolbox: Toolbox, pool: Pool) -> None:
        self._pipeline = pipeline
        self._toolbox = toolbox
        self._pool = pool

    def run(self, asked: Generation, ctx: RequestContext) -> AsyncGenerator[Sequence[Event], None]:
        """See `Pipeline.run`.

        Raises:
            InvalidRequest, Forbidden: besides, for tools that this server or this key does not have.
        """
        if remote_images(asked):
            return self._fetching(asked, ctx)
        if not asked.builtin_tools:
            return self._pipeline.run(asked, ctx)
        return self._turns(asked, ctx)

    async def _fetching(
        self, asked: Generation, ctx: RequestContext
    ) -> AsyncGenerator[Sequence[Event], None]:
        asked = await self.with_images(asked, ctx)
        async with aclosing(self.run(asked, ctx)) as events:
            async for each in events:
                yield each

    async def with_images(self, asked: Generation, ctx: RequestContext) -> Generation:
        """The same with the pictures that it names by address, fetched.

        Raises:
            InvalidRequest, Forbidden: where this server or this key fetches none, and for such an address.
            FetchFailed: for one that cannot be had.
        """
        urls = remote_images(asked)
        if not urls:
            return asked
        fetch = self._toolbox.images
        if fetch is None:
            raise InvalidRequest(urls[0].refusal)
        if not ctx.caller.has("tools"):
            raise Forbidden("this API key does not have the scope 'tools'")
        found: dict[str, Image] = {}
        for part in urls:
            if part.url not in found:
                data, report, error = await fetch.get(part.url)
                ctx.tools.append(report)
                if error is not None:
                    raise error
                found[part.url] = Image(data)
        return with_images(asked, found)

    def check(self, asked: Generation, ctx: RequestContext) -> Sequence[Tool]:
        """The built-in tools that are asked for; what only loads a model asks for those it may have, too.

        Raises:
            InvalidRequest, Forbidden: for tools that this server or this key does not have.
        """
        return self._toolbox.offered(asked.builtin_tools, ctx.caller) if asked.builtin_tools else ()

    async def _turns(self, asked: Generation, ctx: RequestContext) -> AsyncGenerator[Sequence[Event], None]:
        tools = self.check(asked, ctx)
        chat = _chat(asked, tools)
        admitted = self._pipeline.admit(asked, ctx)
        session = await self._pool.run(
            self._toolbox.session,
            [message.text for message in chat.messages if message.role == "user"],
            most_calls=_least(ctx.caller.limits.max_tool_calls, asked.most_tool_calls),
            vision=admitted.model.can("vision"),
        )
        async with self._pipeline.lease(admitted, ctx) as lease:
            load_ns = time.monotonic_ns() - asked.received_ns
            turns = _Turns(
                self._pipeline,
                self._toolbox,
                self._pool,
                session,
                admitted,
                lease,
                ctx,
                load_ns,
                chat,
                tools,
            )
            if not admitted.model.can("tools"):
                async with aclosing(turns.prefetch()) as opened:
                    async for events in opened:
                        yield events
            # Closed here and not when it is collected: the engine's request ends before its lease does.
            async with aclosing(turns.run()) as answered:
                async for events in answered:
                    yield events


@dataclass(slots=True)
class _Turns:
    """The turns of one request; `chat` grows by what was called and what came back."""

    pipeline: Pipeline
    toolbox: Toolbox
    pool: Pool
    session: Session
    admitted: Admitted
    lease: Lease
    ctx: RequestContext
    load_ns: int
    chat: ChatPrompt
    tools: Sequence[Tool]
    """What the model may still call."""
    used_tokens: int = 0
    """Of the context: the last turn's prompt, what it wrote and what was found since."""
    sums: Sums = field(default_factory=Sums)
    marks: Marks = field(init=False)

    def __post_init__(self) -> None:
        self.marks = Marks(self.lease.engine.special_tokens)

    async def run(self) -> AsyncGenerator[Sequence[Event], None]:
        asked, ours = self.admitted.asked, frozenset(tool.name for tool in self.tools)
        is_free = asked.constraint() is None
        number = 0
        while True:
            number += 1
            if number >= self.toolbox.budget.turns or self.session.is_spent:
                self.tools = ()
            is_answer = not self.tools  # whatever the model writes now
            turn = ToolTurn(live=is_answer, first=number == 1)
            async with aclosing(self._take(turn, constrained=is_answer)) as taken:
                async for events in taken:
                    yield events
            end = self._added(turn)
            calls, theirs = turn.split(ours)
            if calls and not theirs and not is_answer:
                async for events in self._use(turn, calls):
                    yield events
            elif theirs or is_free or is_answer:
                end.called_tools = bool(theirs)
                if calls and not theirs:
                    end.reason = "length"  # It wants more than the budget has: this is no answer that ended.
                yield [*turn.held, *theirs, self.sums.put_into(end)]
                return
            else:
                # It would answer, and nothing has kept that to the format: once more, kept to it.
                self.tools = ()

    def _added(self, turn: ToolTurn) -> Done:
        end = turn.done
        assert end is not None, "a turn that has ended says so"
        self.sums.add(end)
        self.used_tokens = end.prompt_tokens + end.output_tokens
        return end

    async def _take(self, turn: ToolTurn, *, constrained: bool) -> AsyncGenerator[Sequence[Event], None]:
        """One turn of the model; what may be sent of it at once is yielded."""
        admitted = self._admitted(constrained=constrained, first=turn.first)
        prompt = await self.pipeline.compose(admitted, self.lease)
        async with self.pipeline.turn(admitted, self.lease, prompt, self.ctx) as (answer, reply):
            while reply.last.finish is None:
                if events := turn.shown(reply.read(await answer.next())):
                    yield events
            if events := turn.shown(reply.remaining()):
                yield events
        turn.done = await done(admitted, self.lease, prompt, reply, self.ctx, self.load_ns)

    def _admitted(self, *, constrained: bool, first: bool) -> Admitted:
        asked = self.admitted.asked
        definitions = tuple(tool.definition for tool in self.tools)
        changed = replace(
            asked,
            prompt=replace(self.chat, tools=(*self.chat.tools, *definitions)),
            constraint=asked.constraint if constrained else Deferred(_unconstrained),
            # What had to be called has been.
            tool_choice=asked.tool_choice if first else ToolChoice(),
        )
        return replace(self.admitted, asked=changed)

    async def _use(self, turn: ToolTurn, calls: Sequence[ToolCall]) -> AsyncGenerator[Sequence[Event], None]:
        """Run what was called, and put calls and results behind the conversation."""
        by_name = {tool.name: tool for tool in self.tools}
        outcomes: list[Outcome] = []
        async for events in self._call([(by_name[call.name], call) for call in calls], outcomes):
            yield events
        past = tuple(PastToolCall(call.name, call.arguments, call.id) for call in calls)
        messages = [Message.of("assistant", turn.text, thinking=turn.thinking, tool_calls=past)]
        for number, (call, outcome) in enumerate(zip(calls, outcomes, strict=True)):
            text = await self._fitted(outcome, len(calls) - number)
            pictures = [page.screenshot for page in outcome.pages if page.screenshot]
            messages.append(Message.of("tool", text, pictures, tool_name=call.name, tool_call_id=call.id))
        self.chat = replace(self.chat, messages=(*self.chat.messages, *messages))

    async def _call(
        self, jobs: Sequence[tuple[Tool, ToolCall]], outcomes: list[Outcome]
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Run calls side by side; yields what is told of them, if the client wants to know."""
        tells = self.admitted.asked.tells_tool_use
        uses = [ToolUse(call.id, tool.name, _target(call)) for tool, call in jobs]
        if tells:
            yield uses
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.toolbox.call(tool, call.arguments, self.session))
                for tool, call in jobs
            ]
        for task in tasks:
            outcome, report = task.result()
            outcomes.append(outcome)
            self.ctx.tools.append(report)
        if tells:
            yield [
                replace(use, outcome=outcome.text or "ok", found=_found(outcome))
                for use, outcome in zip(uses, outcomes, strict=True)
            ]

    async def _fitted(self, outcome: Outcome, results_left: int) -> str:
        """What the model is to read of it, for which there is room in the context beside the answer."""
        window, predict = self.lease.context_length, self.admitted.sampling.num_predict
        answer = predict if 0 < predict < window // 2 else window // _ANSWER_PART
        room = (window - self.used_tokens - answer) // results_left
        if room < _LEAST_TOKENS:
            self.session.calls = 0
            return _NO_ROOM
        chars, engine = min(room * _TOKEN_CHARS, self.session.text_chars), self.lease.engine
        text, tokens = "", room + 1
        while tokens > room and chars > 0:
            text = await self.pool.run(told, outcome, chars, self.marks)
            tokens = len((await engine.tokenize(text, special=False)).token_ids)
            chars = min(chars * 3 // 4, chars * room // max(tokens, 1))
        self.used_tokens += tokens
        self.session.text_chars -= len(text)
        return text

    async def prefetch(self) -> AsyncGenerator[Sequence[Event], None]:
        """For a model that cannot call: open what the last user message names, and put it before its text."""
        opener = next((tool for tool in self.tools if tool.opens_url), None)
        self.tools = ()
        at = max((at for at, each in enumerate(self.chat.messages) if each.role == "user"), default=-1)
        message = self.chat.messages[at]
        urls = urls_in(message.text, _MOST_PREFETCHED) if at >= 0 else []
        if opener is None or not urls:
            return
        jobs = [
            (opener, ToolCall(number, f"prefetch_{number}", opener.name, {"url": url}))
            for number, url in enumerate(urls)
        ]
        outcomes: list[Outcome] = []
        async for events in self._call(jobs, outcomes):
            yield events
        prompt = await self.pipeline.compose(self._admitted(constrained=True, first=True), self.lease)
        self.used_tokens = len(prompt.token_ids)
        found = [
            Text(await self._fitted(outcome, len(jobs) - number) + "\n\n")
            for number, outcome in enumerate(outcomes)
        ]
        messages = list(self.chat.messages)
        messages[at] = replace(message, parts=(*found, *message.parts))
        self.chat = replace(self.chat, messages=tuple(messages))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _found(outcome: Outcome) -> tuple[SearchResult, ...]:
    """What is told of it to a client that wants to know."""
    pages = (SearchResult(page.title, page.url, page.text) for page in outcome.pages)
    return (*pages, *outcome.results)


def _unconstrained(_: Json) -> None:
    return None


def _target(call: ToolCall) -> str:
    """What a call is about, as far as it can be told before it is checked."""
    return next((value for value in call.arguments.values() if isinstance(value, str)), "")


def _chat(asked: Generation, tools: Sequence[Tool]) -> ChatPrompt:
    """The conversation to which results are added: a completion becomes one, as its template would make it.

    Raises:
        InvalidRequest: for a completion that is no conversation, and a client's tool that is named as ours.
    """
    prompt = asked.prompt
    if isinstance(prompt, CompletionPrompt):
        if prompt.raw or prompt.template or prompt.suffix or prompt.context:
            raise InvalidRequest(
                "built-in tools cannot be used together with raw, template, suffix or context"
            )
        system = (Message.of("system", prompt.system),) if prompt.system else ()
        return ChatPrompt((*system, Message.of("user", prompt.prompt, prompt.images)))
    ours = {tool.name for tool in tools}
    for tool in prompt.tools:
        if (name := tool.get("function", {}).get("name")) in ours:
            raise InvalidRequest(f"a tool of the request is named as a built-in one, {name!r}")
    return prompt
