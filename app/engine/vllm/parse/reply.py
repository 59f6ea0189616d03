"""vLLM's own reasoning and tool parsers, behind `decode.ReplyParser`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import Parser, ParserManager
from vllm.utils.mistral import is_mistral_tokenizer

from app.decode.calls.base import schemas
from app.decode.calls.objects import arguments_of
from app.decode.calls.table import READERS
from app.decode.reply import ParsedCall, ParsedReply
from app.engine.base import Prompt
from app.engine.vllm.input.harmony import is_harmony
from app.engine.vllm.parse.hidden import hidden_tokens, waits_for_text
from app.engine.vllm.parse.tool_calls import are_whole, fit_marks, fit_schemas, has_begun, text_around

_log = logging.getLogger(__name__)
_MADE_UP = "chatcmpl-tool-"
UNREAD = "a tool call that is cut off or cannot be read was left in the text"


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
    _hidden: dict[tuple[bool, bool], frozenset[int]] = field(
        default_factory=dict[tuple[bool, bool], frozenset[int]]
    )

    def encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    @cached_property
    def special(self) -> frozenset[str]:
        """The texts of the special tokens, which an engine may leave out."""
        added: Mapping[int, Any] = getattr(self.tokenizer, "added_tokens_decoder", {})
        named = getattr(self.tokenizer, "all_special_tokens", ())
        return frozenset((*named, *(str(token) for token in added.values() if token.special)))

    @property
    def harmony(self) -> bool:
        """Whether replies come in gpt-oss's channels."""
        return is_harmony(self.tool, self.reasoning)

    @property
    def wraps(self) -> bool:
        """Whether the answer itself stands between marks, which the parser of calls takes off."""
        return self.tool == "kimi_k3"

    def get(self, *, tools: bool, thinking: bool) -> type[Parser] | None:
        key = (tools and self.tool is not None, thinking and self.reasoning is not None)
        if key not in self._made:
            self._made[key] = self._compose(*key)
        return self._made[key]

    def hidden(self, parser: Parser | None, *, tools: bool, thinking: bool) -> frozenset[int]:
        """See `hidden_tokens`, for the `parser` of this pair."""
        key = (tools, thinking)
        if key not in self._hidden:
            reader = READERS.get(self.tool or "") if tools else None
            self._hidden[key] = hidden_tokens(self.tokenizer, self.model_config, parser, reader)
        return self._hidden[key]

    def _compose(self, tools: bool, thinking: bool) -> type[Parser] | None:
        if not tools and not thinking:
            return None
        made = ParserManager.get_parser(
            tool_parser_name=self.tool if tools else None,
            reasoning_parser_name=self.reasoning if thinking else None,
            enable_auto_tools=tools,
            tokenizer=self.tokenizer,
            is_harmony=self.harmony,
        )
        if made is None:
            return None
        # vLLM may hand out one class for every pair and change it each time; this one keeps its pair.
        pair = {"tool_parser_cls": made.tool_parser_cls, "reasoning_parser_cls": made.reasoning_parser_cls}
        return type(made.__name__, (made,), pair)


class VllmReplyParser:
    """One reply: vLLM's parser splits off the reasoning, a reader of `decode/calls` takes out the calls.

    Where the format has no such reader, vLLM's tool parser does. The streaming and the whole-text pass need
    an instance each, since legacy parsers keep state. Where neither prompt nor reply opens the reasoning tag,
    the reply is all answer (docs/reference 8.3), though vLLM's parsers would call it all reasoning;
    `constrained` replies keep vLLM's reading, which the constraint follows. From the first call on nothing of
    a stream is certain.
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
        self._tools = bool(tools) or parsers.wraps
        self.thinking = thinking
        self._prompt_token_ids = list(prompt_token_ids)
        self._stream_prompt: list[int] | None = self._prompt_token_ids
        self._template_kwargs = dict(template_kwargs)
        self.request = ChatCompletionRequest.model_validate(
            {
                "model": "model",
                "messages": [{"role": "user", "content": ""}],
                **({"tools": [_named(tool) for tool in tools], "tool_choice": "auto"} if tools else {}),
            }
        )
        self._reader = READERS.get(parsers.tool or "") if tools else None
        self._schemas = schemas(tools)
        self._passage = self._reader.passage() if self._reader else None
        self._stream = self._instance(tools=self._by_vllm)
        self._special = parsers.hidden(self._stream, tools=self._tools, thinking=thinking)
        self._unseen = self._special if waits_for_text(self._stream) else frozenset[int]()
        self._waiting = ""
        self._waiting_ids: list[int] = []
        self._called = False
        self._open_tag, self._close_tag = _tags(self._stream)
        self._undecided = (
            bool(self._open_tag) and not constrained and not prompt_text.rstrip().endswith(self._open_tag)
        )

    @property
    def _by_vllm(self) -> bool:
        """Whether vLLM's parser reads the calls."""
        return self._tools and self._reader is None

    @property
    def skip_special_tokens(self) -> bool:
        """Whether the engine may leave special tokens out of the text; some formats are made of them.

        Whether a mark is such a token differs between models of one format, so the tokenizer is asked.
        """
        marks = (self._open_tag, self._close_tag, *getattr(self._reader, "marks", ()))
        return self.request.skip_special_tokens and self._parsers.special.isdisjoint(marks)

    @property
    def hidden(self) -> frozenset[int]:
        """Tokens whose text is none of the reply's, where the engine does not leave out all special ones."""
        return frozenset() if self.skip_special_tokens else self._special

    def adjusted(self) -> "VllmReplyParser":
        """Let the parsers say what they need of the engine."""
        if is_mistral_tokenizer(self._parsers.tokenizer):
            # vLLM's would write a grammar of calls, by an interface that the library changed since.
            self.request.skip_special_tokens = False
            return self
        parser = self._instance(tools=self._tools)
        if parser is not None:
            parser.adjust_request(self.request)
        return self

    def reasoning_ended(self) -> bool | None:
        """For the engine: whether a constraint applies from the first token on."""
        return self.request.resolve_reasoning_ended(self._stream, self._prompt_token_ids)

    @property
    def closing(self) -> Prompt | None:
        """What closes the reasoning; None where that is no fixed text."""
        if not self._close_tag:
            return None
        return Prompt(self._close_tag, self._parsers.encoded(self._close_tag))

    def reasoning_tokens(self, token_ids: list[int]) -> int:
        """The tags do not count. vLLM's count of a stream leaves out tokens without a text of their own."""
        if not self.thinking or self._stream is None:
            return 0
        opened, closed = map(self._parsers.encoded, (self._open_tag, self._close_tag))
        if len(closed) != 1:
            return self._stream.count_reasoning_tokens(token_ids)
        ends = closed
        if closed[0] not in token_ids:
            # A call ends the reasoning of some formats too.
            ends = getattr(self._stream.reasoning_parser, "reasoning_end_token_ids", None) or closed
        end = next((at for at, token_id in enumerate(token_ids) if token_id in ends), len(token_ids))
        marks = {*self._special, *(opened if len(opened) == 1 else ())}
        return sum(token_id not in marks for token_id in token_ids[:end])

    def feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        if not self._unseen.isdisjoint(token_ids):
            token_ids = self._seen(token_ids)
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
        token_ids = self._seen(token_ids)
        reply = (
            self._read(text, token_ids, cut=cut)
            if self._reader
            else self._read_by_vllm(text, token_ids, cut=cut)
        )
        reply.content = self._untagged(reply.content)
        return reply

    def _seen(self, token_ids: list[int]) -> list[int]:
        """Less those that have no text, where vLLM's parser would wait for it."""
        return [token_id for token_id in token_ids if token_id not in self._unseen]

    def _read(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        assert self._reader is not None
        reply = self._split(text, token_ids)
        reading = self._reader.read(reply.content, self._schemas, cut=cut)
        if reading.unread:
            _log.warning(UNREAD)
        return ParsedReply(reply.thinking, reading.content, reading.calls)

    def _read_by_vllm(self, text: str, token_ids: list[int], *, cut: bool) -> ParsedReply:
        parser = self._instance(tools=self._tools)
        if parser is None:
            return ParsedReply(content=text)
        thinking, content, calls = parser.parse(
            text, self.request, enable_auto_tools=self._tools, model_output_token_ids=token_ids
        )
        reply = ParsedReply(thinking or "", content or "")
        if not calls and not has_begun(parser):
            return reply
        found = [_to_call(call, cut=cut) for call in calls or ()]
        reply.calls = [call for call in found if call is not None]
        plain = self._without_calls(text, token_ids)
        if (
            not calls
            or len(reply.calls) < len(found)
            or not fit_marks(self._parsers.tool, text, reply.calls)
            or not fit_schemas(self._parsers.tool, reply.calls, self._schemas)
            or not are_whole(parser, plain.content)
        ):
            _log.warning(UNREAD)
            return plain
        reply.content = text_around(parser, plain.content, reply.content)
        return reply

    def _split(self, text: str, token_ids: list[int]) -> ParsedReply:
        """Thinking and answer; a call that begins before the thinking is closed belongs to the thinking.

        vLLM's parsers take the closing tag out wherever it is, an argument included, so what follows the
        first one is taken from the text itself.
        """
        if (
            not self.thinking
            or not self._close_tag
            or self._close_tag != self._open_tag.replace("<", "</", 1)
        ):
            return self._without_calls(text, token_ids)
        before, closed, answer = text.partition(self._close_tag)
        if not closed:
            return self._without_calls(text, token_ids)
        return ParsedReply(before.lstrip().removeprefix(self._open_tag), answer)

    def _without_calls(self, text: str, token_ids: list[int]) -> ParsedReply:
        parser = self._instance(tools=False)
        if parser is None:
            return ParsedReply(content=text)
        thinking, content, _ = parser.parse(text, self.request, model_output_token_ids=token_ids)
        return ParsedReply(thinking or "", content or "")

    def _instance(self, *, tools: bool) -> Parser | None:
        made = self._parsers.get(tools=tools, thinking=self.thinking)
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
        if opened:
            # The reasoning that a parser finds ended in the prompt is that of an earlier turn.
            self._stream_prompt = None
        else:
            self.thinking = False
            self._stream = self._instance(tools=self._by_vllm)

    def _feed(self, text: str, token_ids: list[int], *, last: bool) -> tuple[str, str]:
        if self._stream is None:
            return "", self._certain(text)
        found = self._stream.parse_delta(
            text, token_ids, self.request, prompt_token_ids=self._stream_prompt, finished=last
        )
        if found is None:
            return "", ""
        self._called = self._called or bool(found.tool_calls) or has_begun(self._stream)
        return found.reasoning or "", "" if self._called else self._certain(found.content or "")

    def _certain(self, content: str) -> str:
        """What of new content no call can begin in."""
        content = self._untagged(content)
        return self._passage.push(content) if self._passage else content

    def _untagged(self, content: str) -> str:
        """Content without the closing tag that some models write twice; vLLM drops it, but not always."""
        return content.replace(self._close_tag, "") if self.thinking and self._close_tag else content


def _named(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with the keys vLLM insists on; Ollama takes a tool without a name or parameters."""
    function = tool.get("function") or {}
    return {"type": "function", "function": {**function, "name": function.get("name") or ""}}


def _to_call(call: Any, *, cut: bool) -> ParsedCall | None:
    arguments = arguments_of(call.arguments or ("" if cut else "{}"))
    if arguments is None:
        return None
    # An id that vLLM made up says nothing; one that is part of the model's format must stay.
    return ParsedCall(call.name, arguments, "" if (call.id or _MADE_UP).startswith(_MADE_UP) else call.id)


def _tags(parser: Parser | None) -> tuple[str, str]:
    """What opens and closes the reasoning; "" where that is no fixed text."""
    reasoning = parser.reasoning_parser if parser else None
    names = ("reasoning_start_str", "reasoning_end_str")
    opened, closed = ((getattr(reasoning, name, None) or "").strip() for name in names)
    return opened, closed
