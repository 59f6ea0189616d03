"""Prompts of models that configuration does not own: templates run, and texts become tokens, in a helper.

What vLLM's renderer does around a template is done here as it does it. Its own way would compile the template
in the server, and work out what is constant in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.hf import HfRenderer, rebuild_mm_uuids_from_mm_data, resolve_chat_template

from app.core.errors import InvalidRequest
from app.core.pool import Pool
from app.engine.confined.processes import Helpers

_KNOWN = 32


class ConfinedPrompts:
    """For one engine; `what` names its model. `encodes` is for a tokenizer that is not trusted either."""

    def __init__(self, what: str, renderer: HfRenderer, pool: Pool, *, encodes: bool) -> None:
        self._renderer, self._pool, self._encodes = renderer, pool, encodes
        self._tokenizer: Any = renderer.get_tokenizer()
        self._helpers = Helpers(what, pool, self._file if encodes else None)
        self._takes_parts: dict[str, bool] = {}

    @property
    def processes(self) -> int:
        """Processes that run."""
        return self._helpers.processes

    async def aclose(self) -> None:
        await self._helpers.aclose()

    async def render(
        self,
        conversation: list[dict[str, Any]],
        variables: Mapping[str, Any],
        chat_template: str,
        *,
        continues: bool,
    ) -> Any:
        """The prompt as vLLM's renderer gives it, with its tokens where this has the tokenizer.

        `variables` are those of the template, `tools` and `add_generation_prompt` among them.

        Raises:
            InvalidRequest: with the template's own reason, or for one that takes more than it may.
            Overloaded: when too much waits.
        """
        source = await self._pool.run(self._template, chat_template, variables.get("tools"))
        if (takes_parts := self._takes_parts.get(source)) is None:
            reply = await self._helpers.ask({"do": "format", "template": source})
            if len(self._takes_parts) >= _KNOWN:
                self._takes_parts.clear()
            takes_parts = self._takes_parts[source] = bool(reply["takes_parts"])
        messages, prompt = await self._pool.run(self._parsed, conversation, takes_parts)
        special: Mapping[str, Any] = self._tokenizer.special_tokens_map
        job = {
            "do": "render",
            "template": source,
            "variables": {**special, "documents": None, **variables, "messages": messages},
            "continues": continues,
            "encodes": self._encodes,
        }
        try:
            reply = await self._helpers.ask(job)
        except InvalidRequest as error:
            raise InvalidRequest(f"the chat template refused the messages: {error}") from error
        ids = {"prompt_token_ids": reply["ids"]} if self._encodes else {}
        return {"prompt": reply["text"], **ids, **prompt}

    async def encode(
        self, texts: Sequence[str], *, special: bool = True, cut_to: int | None = None
    ) -> list[list[int]]:
        """The tokens of each text, `cut_to` of them at most, on the side that the tokenizer keeps.

        Raises:
            InvalidRequest: for texts that the tokenizer takes too long or too much for.
            Overloaded: when too much waits.
        """
        side = str(self._tokenizer.truncation_side)
        job = {"do": "encode", "texts": list(texts), "special": special, "cut_to": cut_to, "side": side}
        return (await self._helpers.ask(job))["ids"]

    async def _file(self) -> bytes:
        write: Any = self._tokenizer.backend_tokenizer.to_str
        return await self._pool.run(lambda: write().encode())

    def _template(self, chat_template: str, tools: Any) -> str:
        found = resolve_chat_template(
            self._tokenizer, chat_template or None, tools, model_config=self._renderer.model_config
        )
        if found is None:
            raise InvalidRequest("the model has no chat template")
        return found

    def _parsed(
        self, conversation: list[dict[str, Any]], takes_parts: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        given: Any = conversation
        form = "openai" if takes_parts else "string"
        messages, data, uuids = parse_chat_messages(given, self._renderer.model_config, content_format=form)
        if self._renderer.use_unified_vision_chunk and data is not None and uuids is not None:
            uuids = rebuild_mm_uuids_from_mm_data(uuids, data)
        named = {"multi_modal_data": data, "multi_modal_uuids": uuids}
        return list(messages), {name: value for name, value in named.items() if value is not None}
