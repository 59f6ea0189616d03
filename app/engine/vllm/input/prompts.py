"""What goes into the engine: messages and texts as the tokens that the model reads."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.renderers import BaseRenderer, ChatParams, TokenizeParams
from vllm.renderers.hf import HfRenderer
from vllm.utils.mistral import is_mistral_tokenizer

from app.core.errors import InvalidRequest
from app.core.limits import InputLimits
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import ChatPrompt, Think
from app.core.thinking import thinking_kwargs
from app.core.weight import weight
from app.engine.base import Prompt
from app.engine.vllm.input.confined import ConfinedPrompts
from app.engine.vllm.input.harmony import effort_of, harmony_tokens, is_harmony
from app.engine.vllm.input.messages import open_images, to_conversation
from app.engine.vllm.input.panics import tokenised
from app.engine.vllm.input.results import for_mistral
from app.engine.vllm.process.failures import first_line

_LONG_TEXT = 4096
"""Characters from which on a thread is worth its way there and back."""
_FEW_TEXTS = 64
_TEXT_CHARS = 64
"""What a text weighs beside its length."""
_LONG_BATCH = 1 << 16
"""Characters of texts to embed that are tokenised at once: other work has its turn in between."""


class Prompts:
    """The prompts of one model, made by vLLM's own renderer; long ones in `pool`."""

    def __init__(self, model: Model, renderer: BaseRenderer[Any], pool: Pool, limits: InputLimits) -> None:
        self._model = model
        self._renderer = renderer
        self._pool = pool
        self._limits = limits
        self._tokenizer: Any = renderer.get_tokenizer()
        # Mistral's own tokenizer has no text that is the prompt: its control tokens cannot be written.
        self._renders_tokens = is_mistral_tokenizer(self._tokenizer)

        self._harmony = is_harmony(model.facts.tool_parser, model.facts.reasoning_parser)
        # What other renderers write is written by code of vLLM's, whatever the files say.
        self._encodes_apart = model.foreign_files and bool(getattr(self._tokenizer, "is_fast", False))
        self._confined = (
            ConfinedPrompts(str(model.name), renderer, pool, encodes=self._encodes_apart)
            if isinstance(renderer, HfRenderer)
            else None
        )

    @property
    def processes(self) -> int:
        """Processes that run for these prompts alone."""
        return 0 if self._confined is None else self._confined.processes

    async def aclose(self) -> None:
        """End what runs for these prompts alone."""
        if self._confined is not None:
            await self._confined.aclose()

    @cached_property
    def special_tokens(self) -> Sequence[str]:
        """See `Engine.special_tokens`; added tokens count, which mark calls and reasoning."""
        added: Any = getattr(self._tokenizer, "get_added_vocab", dict)()
        named: Any = getattr(self._tokenizer, "all_special_tokens", ())
        return sorted({text for text in (*added, *named) if text.strip()}, key=len, reverse=True)

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
        images = [image for message in chat.messages for image in message.images]
        pictures = await self._pictures(images) if images else []
        if self._harmony and not chat_template:
            return await self._in_channels(chat, think, variables or {}, continue_last=continue_last)
        named: dict[str, Any] = {
            **(variables or {}),
            "tools": [dict(tool) for tool in chat.tools] or None,
            "add_generation_prompt": not continue_last,
            **thinking_kwargs(self._model.facts.thinking_variable, think, self._model.facts.thinking),
        }
        options = {"tokenize": self._renders_tokens, "continue_final_message": continue_last}
        params = ChatParams(chat_template=chat_template or None, chat_template_kwargs=named | options)
        try:
            if self._confined is not None and (confined or self._encodes_apart):
                conversation = await self._pool.run(to_conversation, chat.messages, pictures)
                written = await self._confined.render(
                    conversation, named, chat_template, continues=continue_last
                )
                prompt = written if self._encodes_apart else await self._pool.run(self._as_tokens, written)
            elif images or chat.tools or variables or chat_template or _size(chat) > _LONG_TEXT:
                prompt = await self._pool.run(tokenised, self._tokenised, chat, pictures, params)
            else:
                prompt = tokenised(self._tokenised, chat, pictures, params)
            # Pictures have a thread of vLLM's own, and only one, since its cache follows their order.
            found: Any = await self._renderer.process_for_engine_async(prompt, time.time())
        except (VLLMValidationError, ValueError, TypeError, TimeoutError, AssertionError) as error:
            raise InvalidRequest(f"the chat template refused the messages: {first_line(error)}") from error
        token_ids = found["prompt_token_ids"]
        text = found.get("prompt") or await self.detokenize(token_ids)
        return Prompt(text, token_ids, len(images), found, continues=continue_last)

    async def _in_channels(
        self, chat: ChatPrompt, think: Think, variables: Mapping[str, Any], *, continue_last: bool
    ) -> Prompt:
        write = partial(harmony_tokens, chat, effort_of(think, variables), continue_last=continue_last)
        token_ids = write() if not chat.tools and _size(chat) <= _LONG_TEXT else await self._pool.run(write)
        return Prompt(await self.detokenize(token_ids), token_ids, continues=continue_last)

    def _tokenised(self, chat: ChatPrompt, pictures: Sequence[Image.Image], params: ChatParams) -> Any:
        conversation: Any = to_conversation(chat.messages, pictures)
        if self._renders_tokens:
            conversation = for_mistral(conversation, thinks=self._model.can("thinking"))
        _, prompt = self._renderer.render_messages(conversation, params)
        return self._as_tokens(prompt)

    def _as_tokens(self, prompt: Any) -> Any:
        no_limit = TokenizeParams(max_total_tokens=None, add_special_tokens=False)
        return tokenised(self._renderer.tokenize_prompt, prompt, no_limit)

    async def _pictures(self, images: Sequence[bytes]) -> list[Image.Image]:
        if not self._model.can("vision"):
            raise InvalidRequest(f"{self._model.name} does not support image input")
        limits = self._limits
        return await self._pool.run(open_images, images, limits.image_pixels, limits.image_ratio)

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        if images:
            return await self._with_images(text, images)
        if self._confined is not None and self._encodes_apart:
            (token_ids,) = await self._confined.encode([text], special=special)
        elif len(text) > _LONG_TEXT:
            encode = self._tokenizer.encode
            token_ids = await self._pool.run(tokenised, encode, text, add_special_tokens=special)
        else:
            token_ids = tokenised(self._tokenizer.encode, text, add_special_tokens=special)
        return Prompt(text, token_ids)

    async def _with_images(self, text: str, images: Sequence[bytes]) -> Prompt:
        pictures = await self._pictures(images)
        data: Any = {"prompt": text, "multi_modal_data": {"image": pictures}}
        if self._confined is not None and self._encodes_apart:
            (data["prompt_token_ids"],) = await self._confined.encode([text])
        try:
            (rendered,) = await self._renderer.render_cmpl_async(
                [data], TokenizeParams(max_total_tokens=None)
            )
        except (VLLMValidationError, ValueError) as error:
            raise InvalidRequest(first_line(error)) from error
        except AssertionError as error:
            # How vLLM says that it did not find where a picture goes.
            raise InvalidRequest("the prompt has no place for every image") from error
        found: Any = rendered
        return Prompt(text, found["prompt_token_ids"], len(images), found)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._pool.run(self._text, token_ids)

    def _text(self, token_ids: Sequence[int]) -> str:
        size = len(self._tokenizer)
        if any(not 0 <= token_id < size for token_id in token_ids):
            raise InvalidRequest("context holds a token that is not in the model's vocabulary")
        return self._tokenizer.decode(list(token_ids))

    async def fitted(self, texts: Sequence[str], *, truncate: bool, limit: int) -> list[list[int]]:
        """The tokens of texts to embed, each cut to `limit` tokens if it may be.

        Raises:
            InvalidRequest: for one that is too long.
        """
        if self._confined is not None and self._encodes_apart:
            return await self._fitted_apart(self._confined, texts, truncate, limit)
        if len(texts) <= _FEW_TEXTS and sum(map(len, texts)) <= _LONG_TEXT:
            return tokenised(self._fitted, texts, truncate, limit)
        found: list[list[int]] = []
        for batch in batches(texts, _LONG_BATCH):
            found += await self._pool.run(tokenised, self._fitted, batch, truncate, limit)
        return found

    async def _fitted_apart(
        self, confined: ConfinedPrompts, texts: Sequence[str], truncate: bool, limit: int
    ) -> list[list[int]]:
        found: list[list[int]] = []
        for batch in batches(texts, _LONG_BATCH):
            whole = await confined.encode(batch)
            if any(len(token_ids) > limit for token_ids in whole):
                self._check_cut(truncate, limit)
                whole = await confined.encode(batch, cut_to=limit)
            found += whole
        return found

    def _fitted(self, texts: Sequence[str], truncate: bool, limit: int) -> list[list[int]]:
        return [self._fitted_one(text, truncate, limit) for text in texts]

    def _fitted_one(self, text: str, truncate: bool, limit: int) -> list[int]:
        token_ids: list[int] = list(self._tokenizer.encode(text, add_special_tokens=True))
        if len(token_ids) <= limit:
            return token_ids
        self._check_cut(truncate, limit)
        return list(self._tokenizer.encode(text, truncation=True, max_length=limit))

    def _check_cut(self, truncate: bool, limit: int) -> None:
        """Raises: InvalidRequest: where a text that is too long may not, or cannot, be cut."""
        if not truncate:
            raise InvalidRequest("the input length exceeds the context length")
        if limit <= self._tokenizer.num_special_tokens_to_add(False):
            raise InvalidRequest("input after truncation exceeds maximum context length")


def batches(texts: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Texts in their order, in batches that weigh no more than `most`, or hold one text."""
    start = size = 0
    for at, text in enumerate(texts):
        size += len(text) + _TEXT_CHARS
        if size > most and at > start:
            yield texts[start:at]
            start, size = at, len(text) + _TEXT_CHARS
    if start < len(texts):
        yield texts[start:]


def _size(chat: ChatPrompt) -> int:
    """About the characters of a chat."""
    return sum(map(weight, chat.messages))
