"""From what was asked to a prompt the engine takes: messages, template, context, what is cut to fit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.core.errors import InvalidRequest
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import ChatPrompt, CompletionPrompt, Generation, Message, Sampling
from app.core.thinking import thinking_kwargs
from app.engine.base import Engine, Prompt
from app.golang.quote import quoted
from app.prompt.assembly import (
    chat_messages,
    completion_messages,
    forgets_thinking,
    without_past_thinking,
)
from app.prompt.gotemplate import GoTemplate
from app.prompt.truncation import cut_middle, fit

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)

_RESERVED = frozenset(
    """messages conversation conversations tools documents chat_template tokenize add_generation_prompt
    continue_final_message return_dict return_tensors return_assistant_tokens_mask padding truncation
    max_length tokenizer tokenizer_kwargs processor_kwargs mm_processor_kwargs template_kwargs self
    """.split()  # noqa: SIM905  # as lines of text it is read at a glance
)
"""What renders a template is told beside its variables."""


class Composer:
    """Builds the prompt of one request on one engine; `window` is its context length in tokens.

    Templates are compiled and run in `pool`.
    """

    def __init__(
        self,
        model: Model,
        engine: Engine,
        asked: Generation,
        sampling: Sampling,
        window: int,
        *,
        pool: Pool | None = None,
    ) -> None:
        self._pool = pool or Pool()
        self._model = model
        self._engine = engine
        self._asked = asked
        self._sampling = sampling
        self._window = window
        self._limit = min(window, engine.window - 1)  # the engine needs room for one token of the answer

    async def prompt(self) -> Prompt:
        """The prompt, no longer than the window allows.

        Raises:
            InvalidRequest: for images a text model cannot see, a template that does not parse, messages that
                the template refuses, and a prompt that is too long and may not be cut.
            Overloaded: when too much waits for the pool.
        """
        self._check()
        if isinstance(self._asked.prompt, ChatPrompt):
            return self._cut(await self._conversation(self._chat_history(self._asked.prompt.messages)))
        return self._cut(await self._completion(self._asked.prompt))

    async def uncut(self) -> Prompt:
        """The prompt of a chat in full, whatever the window.

        Raises:
            InvalidRequest, Overloaded: as `prompt` does, save for its length.
        """
        self._check()
        asked = self._asked.prompt
        messages = self._chat_history(asked.messages if isinstance(asked, ChatPrompt) else ())
        return await self._render(tuple(messages), await self._template())

    def _check(self) -> None:
        """What is refused before any work."""
        for name in self._asked.template_variables:
            if name in _RESERVED or not name.isidentifier():
                raise InvalidRequest(f"chat_template_kwargs: {quoted(name)} is no variable of a template")
        asked = self._asked.prompt
        if isinstance(asked, ChatPrompt):
            pictures = any(message.images for message in asked.messages)
        else:
            pictures = bool(asked.images)
        if pictures and not self._model.can("vision"):
            raise InvalidRequest(f"{self._model.name} does not support image input")

    async def _completion(self, asked: CompletionPrompt) -> Prompt:
        if asked.token_ids is not None:
            return Prompt(await self._engine.detokenize(asked.token_ids), asked.token_ids)
        if asked.raw:
            return await self._engine.tokenize(asked.prompt, images=asked.images)
        if asked.suffix:
            return await self._fill_in(asked)
        messages = completion_messages(self._model.spec.system, self._preset(), asked)
        prompt = await self._conversation(messages, template=asked.template)
        if asked.context:
            earlier = await self._engine.detokenize(asked.context)
            return await self._engine.tokenize(earlier + prompt.text, images=asked.images, special=False)
        return prompt

    async def _fill_in(self, asked: CompletionPrompt) -> Prompt:
        source = asked.template or self._model.spec.template
        if source:
            text = await self._pool.run(
                lambda: GoTemplate(source).render((), prompt=asked.prompt, suffix=asked.suffix)
            )
        else:
            before, after, middle = self._model.facts.fim or ("", "", "")
            text = f"{before}{asked.prompt}{after}{asked.suffix}{middle}"
        return await self._engine.tokenize(text, images=asked.images)

    def _chat_history(self, messages: Sequence[Message]) -> Sequence[Message]:
        whole = chat_messages(self._model.spec.system, self._preset(), messages)
        if forgets_thinking(self._model.name, self._model.facts.family):
            return without_past_thinking(whole)
        return whole

    def _preset(self) -> list[Message]:
        messages = list(self._model.spec.messages)
        if self._model.can("vision"):
            return messages
        # They may come from a conversation with a model that sees.
        return [message.without_images() if message.images else message for message in messages]

    async def _conversation(self, messages: Sequence[Message], *, template: str = "") -> Prompt:
        go_template = await self._template(template)
        if not self._asked.truncate:
            return await self._render(tuple(messages), go_template)
        fitting: tuple[tuple[Message, ...], Prompt] | None = None

        async def count(kept: Sequence[Message]) -> int:
            """Only one rendering is kept: that of the last history that fitted, which is the one wanted."""
            nonlocal fitting
            prompt = await self._render(tuple(kept), go_template)
            if len(prompt.token_ids) <= self._limit:
                fitting = tuple(kept), prompt
            return len(prompt.token_ids)

        left = await fit(messages, self._limit, count)
        if fitting is not None and fitting[0] == left:
            return fitting[1]
        return await self._render(left, go_template)

    async def _template(self, template: str = "") -> GoTemplate | None:
        """The Go template in force; None where the model's own template is another kind."""
        source = template or self._model.spec.template
        return await self._pool.run(GoTemplate, source) if source else None

    async def _render(self, messages: tuple[Message, ...], template: GoTemplate | None) -> Prompt:
        tools = self._asked.prompt.tools if isinstance(self._asked.prompt, ChatPrompt) else ()
        if template is not None:
            if self._asked.template_variables:
                raise InvalidRequest(f"the template of {self._model.name} takes no variables")
            think = self._asked.think
            if think is None and self._model.can("thinking"):
                think = True
            text = await self._pool.run(template.render, messages, tools=tools, think=think)
            images = tuple(image for message in messages for image in message.images)
            return await self._engine.tokenize(text, images=images)
        chat = ChatPrompt(messages, tools)
        last = messages[-1] if messages else None
        if last is None or not self._continues(last):
            return await self._chat(chat, continue_last=False)
        try:
            return await self._chat(chat, continue_last=True)
        except InvalidRequest:
            if last.images or last.thinking:
                raise
            # A template that rewrites the last message cannot be left open: put the text behind it instead.
            opened = await self._chat(replace(chat, messages=messages[:-1]), continue_last=False)
            prompt = await self._engine.tokenize(opened.text + last.text, special=False)
            return replace(prompt, continues=True)

    def _continues(self, last: Message) -> bool:
        """Whether the answer goes on with the last message.

        Raises:
            InvalidRequest: where it is to, and cannot.
        """
        can = last.role == "assistant" and not last.tool_calls and bool(last.text)
        if self._asked.continues and not can:
            raise InvalidRequest("the last message is no text of the assistant that could be continued")
        return can and self._asked.continues is not False

    async def _chat(self, chat: ChatPrompt, *, continue_last: bool) -> Prompt:
        return await self._engine.render(
            chat,
            think=self._asked.think,
            continue_last=continue_last,
            chat_template=self._model.spec.chat_template,
            variables={**self._asked.template_variables, **self._switches()},
            confined=self._model.foreign_template,
        )

    def _switches(self) -> dict[str, Any]:
        """The template's own variable and levels of thinking, where the engine knows others."""
        facts, of_engine = self._model.facts, self._model.on_engine().facts
        if (facts.thinking_variable, facts.thinking) == (of_engine.thinking_variable, of_engine.thinking):
            return {}
        return thinking_kwargs(facts.thinking_variable, self._asked.think, facts.thinking)

    def _cut(self, prompt: Prompt) -> Prompt:
        """A single prompt that is still too long loses its middle, if it may (docs/reference 4.5)."""
        if 0 < self._asked.prompt_tokens < len(prompt.token_ids):
            if prompt.image_count:
                raise InvalidRequest("a prompt with images cannot be cut")
            last = prompt.token_ids[-self._asked.prompt_tokens :]
            prompt = Prompt(prompt.text, last, continues=prompt.continues)
        if len(prompt.token_ids) <= self._limit:
            return prompt
        if not (self._asked.truncate and self._asked.shift) or prompt.image_count:
            raise InvalidRequest(TOO_LONG)
        kept = cut_middle(prompt.token_ids, self._window, self._sampling.num_keep)
        return Prompt(prompt.text, kept, continues=prompt.continues)
