"""vLLM's own reasoning and tool parsers, behind `decode.ReplyParser`."""

import json
import logging
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import Parser, ParserManager

from app.decode.reply import ParsedCall, ParsedReply

_log = logging.getLogger(__name__)
_ID_ALPHABET = string.ascii_lowercase + string.digits


def call_id() -> str:
    """`call_` and 8 characters of `[a-z0-9]` (ollama-api 8.2)."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


@dataclass
class Parsers:
    """The parser classes of one model, composed once per pair that is asked for."""

    tokenizer: Any
    model_config: Any
    tool: str | None
    reasoning: str | None
    _made: dict[tuple[bool, bool], type[Parser] | None] = field(
        default_factory=dict[tuple[bool, bool], type[Parser] | None]
    )

    def get(self, *, tools: bool, thinking: bool) -> type[Parser] | None:
        key = (tools and self.tool is not None, thinking and self.reasoning is not None)
        if key not in self._made:
            self._made[key] = self._compose(*key)
        return self._made[key]

    def _compose(self, tools: bool, thinking: bool) -> type[Parser] | None:
        if not tools and not thinking:
            return None
        return ParserManager.get_parser(
            tool_parser_name=self.tool if tools else None,
            reasoning_parser_name=self.reasoning if thinking else None,
            enable_auto_tools=tools,
            tokenizer=self.tokenizer,
            is_harmony=self.tool == "openai" or self.reasoning == "openai_gptoss",
        )


class VllmReplyParser:
    """One reply through vLLM's parsers.

    The streaming and the whole-text pass need an instance each, since legacy parsers keep state. Where
    neither prompt nor reply opens the reasoning tag, the reply is all answer (ollama-api 8.3), though vLLM's
    parsers would call it all reasoning; `constrained` replies keep vLLM's reading, which the constraint
    follows.
    """

    def __init__(
        self,
        parsers: Parsers,
        *,
        tools: Sequence[Mapping[str, Any]],
        thinking: bool,
        prompt_text: str,
        prompt_token_ids: Sequence[int],
        template_kwargs: Mapping[str, Any],
        constrained: bool,
    ) -> None:
        self._parsers = parsers
        self._tools = bool(tools)
        self.thinking = thinking
        self._prompt_token_ids = list(prompt_token_ids)
        self._template_kwargs = dict(template_kwargs)
        self.request = ChatCompletionRequest.model_validate(
            {
                "model": "model",
                "messages": [{"role": "user", "content": ""}],
                **({"tools": [_named(tool) for tool in tools], "tool_choice": "auto"} if tools else {}),
            }
        )
        self._stream = self._instance()
        self._waiting = ""
        self._waiting_ids: list[int] = []
        tag = self._open_tag
        self._undecided = bool(tag) and not constrained and not prompt_text.rstrip().endswith(tag)

    @cached_property
    def _open_tag(self) -> str:
        reasoning = self._stream.reasoning_parser if self._stream else None
        return (getattr(reasoning, "reasoning_start_str", None) or "").strip()

    @property
    def skip_special_tokens(self) -> bool:
        """Whether the engine may leave special tokens out of the text; some formats are made of them."""
        return self.request.skip_special_tokens

    def adjusted(self) -> "VllmReplyParser":
        """Let the parsers say what they need of the engine."""
        if self._stream is not None:
            self._stream.adjust_request(self.request)
        return self

    def reasoning_ended(self) -> bool | None:
        """For the engine: whether a constraint applies from the first token on."""
        return self.request.resolve_reasoning_ended(self._stream, self._prompt_token_ids)

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        if self._undecided:
            self._waiting += text
            self._waiting_ids += token_ids
            start = self._waiting.lstrip()
            if not last and len(start) < len(self._open_tag) and self._open_tag.startswith(start):
                return "", ""
            self._settle(opened=start.startswith(self._open_tag))
            text, token_ids = self._waiting, self._waiting_ids
        return self._feed(text, token_ids, last=last)

    def parse(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        parser = self._instance()
        if parser is None:
            return ParsedReply(content=text)
        thinking, content, calls = parser.parse(
            text, self.request, enable_auto_tools=self._tools, model_output_token_ids=token_ids
        )
        found = [_to_call(call) for call in calls or ()]
        whole = [call for call in found if call is not None]
        if len(whole) < len(found) or (whole and cut and not _closed(parser, text)):
            _log.warning(
                "a tool call that is cut off or has no JSON object for arguments was left in the text"
            )
            return self._without_calls(text, token_ids)
        return ParsedReply(thinking or "", content or "", whole)

    def _without_calls(self, text: str, token_ids: list[int]) -> ParsedReply:
        parser = self._instance(tools=False)
        if parser is None:
            return ParsedReply(content=text)
        thinking, content, _ = parser.parse(text, self.request, model_output_token_ids=token_ids)
        return ParsedReply(thinking or "", content or "")

    def _instance(self, *, tools: bool | None = None) -> Parser | None:
        made = self._parsers.get(tools=self._tools if tools is None else tools, thinking=self.thinking)
        if made is None:
            return None
        return made(
            self._parsers.tokenizer,
            list(self.request.tools or ()),
            chat_template_kwargs=self._template_kwargs,
            model_config=self._parsers.model_config,
        )

    def _settle(self, *, opened: bool) -> None:
        self._undecided = False
        if not opened:
            self.thinking = False
            self._stream = self._instance()

    def _feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        if self._stream is None:
            return "", text
        found = self._stream.parse_delta(
            text, token_ids, self.request, prompt_token_ids=self._prompt_token_ids, finished=last
        )
        return (found.reasoning or "", found.content or "") if found else ("", "")


def _named(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with the keys vLLM insists on; Ollama takes a tool without a name or parameters."""
    function = tool.get("function") or {}
    return {"type": "function", "function": {**function, "name": function.get("name") or ""}}


def _to_call(call: Any) -> ParsedCall | None:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        return None
    return ParsedCall(call.name, arguments, call.id or "") if isinstance(arguments, dict) else None


def _closed(parser: Parser, text: str) -> bool:
    """Whether a reply that was cut off ends with a whole call.

    vLLM's grammar-driven parsers make a call of what there is, arguments lost; the others want it whole.
    """
    engine = getattr(parser.tool_parser, "_parser_engine", None)
    end = engine.parser_engine_config.terminals.get("TOOL_END") if engine is not None else None
    return not isinstance(end, str) or text.rstrip().endswith(end)
