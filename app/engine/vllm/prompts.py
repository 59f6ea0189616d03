"""What goes into the engine: messages and texts as the tokens that the model reads."""

import asyncio
from collections.abc import Sequence
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers import BaseRenderer, ChatParams, TokenizeParams

from app.core.errors import InvalidRequest
from app.core.model import Model
from app.core.request import ChatPrompt, Think
from app.engine.base import Prompt
from app.engine.vllm.failures import first_line
from app.engine.vllm.messages import open_image, thinking_kwargs, to_conversation

_LONG_TEXT = 4096
"""Characters from which on a thread is worth its way there and back."""


class Prompts:
    """The prompts of one model, made by vLLM's own renderer."""

    def __init__(self, model: Model, renderer: BaseRenderer[Any]) -> None:
        self._model = model
        self._renderer = renderer
        self._tokenizer: Any = renderer.get_tokenizer()

    async def render(
        self, chat: ChatPrompt, *, think: Think, continue_last: bool, chat_template: str = ""
    ) -> Prompt:
        image_count = sum(len(message.images) for message in chat.messages)
        if image_count and not self._model.can("vision"):
            raise InvalidRequest(f"{self._model.name} does not support image input")
        facts = self._model.facts
        params = ChatParams(
            chat_template=chat_template or None,
            chat_template_kwargs={
                "tools": [dict(tool) for tool in chat.tools] or None,
                "tokenize": False,
                "add_generation_prompt": not continue_last,
                "continue_final_message": continue_last,
                **thinking_kwargs(facts.thinking_variable, think, facts.thinking),
            },
        )
        no_limit = TokenizeParams(max_total_tokens=None, add_special_tokens=False)
        asked: Any = ([to_conversation(chat.messages)], params, no_limit)
        try:
            if image_count or chat.tools or _length(chat) > _LONG_TEXT:
                _, (rendered,) = await self._renderer.render_chat_async(*asked)
            else:
                _, (rendered,) = self._renderer.render_chat(*asked)
        except (VLLMValidationError, ValueError, TypeError, TimeoutError, AssertionError) as error:
            raise InvalidRequest(f"the chat template refused the messages: {first_line(error)}") from error
        found: Any = rendered
        token_ids = found["prompt_token_ids"]
        text = found.get("prompt") or await self.detokenize(token_ids)
        return Prompt(text, token_ids, image_count, found, continues=continue_last)

    async def tokenize(self, text: str, *, images: Sequence[bytes] = (), special: bool = True) -> Prompt:
        if images:
            return await self._with_images(text, images)
        if len(text) > _LONG_TEXT:
            token_ids = await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=special)
        else:
            token_ids = self._tokenizer.encode(text, add_special_tokens=special)
        return Prompt(text, token_ids)

    async def _with_images(self, text: str, images: Sequence[bytes]) -> Prompt:
        if not self._model.can("vision"):
            raise InvalidRequest(f"{self._model.name} does not support image input")
        data: Any = {
            "prompt": text,
            "multi_modal_data": {"image": [open_image(image) for image in images]},
        }
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
        size = len(self._tokenizer)
        if any(not 0 <= token_id < size for token_id in token_ids):
            raise InvalidRequest("context holds a token that is not in the model's vocabulary")
        return await asyncio.to_thread(self._tokenizer.decode, list(token_ids))

    async def fitted(self, text: str, *, truncate: bool, limit: int) -> list[int]:
        """The tokens of a text to embed, cut to `limit` tokens if it may be."""
        prompt = await self.tokenize(text)
        if len(prompt.token_ids) <= limit:
            return list(prompt.token_ids)
        if not truncate:
            raise InvalidRequest("the input length exceeds the context length")
        if limit <= self._tokenizer.num_special_tokens_to_add(False):
            raise InvalidRequest("input after truncation exceeds maximum context length")
        return await asyncio.to_thread(self._tokenizer.encode, text, truncation=True, max_length=limit)


def _length(chat: ChatPrompt) -> int:
    return sum(len(message.content) + len(message.thinking) for message in chat.messages)
