"""How one reply is read, and what its constraint is in the format that it comes in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from app.decode.ids import call_id
from app.decode.reply import ReplyDecoder
from app.engine.base import Decoder, Prompt, Run
from app.engine.vllm.input.harmony import in_channels, opened
from app.engine.vllm.parse.harmony import HarmonyReply
from app.engine.vllm.parse.reply import Parsers, VllmReplyParser

EngineParser: TypeAlias = VllmReplyParser | HarmonyReply


def parser_for(
    parsers: Parsers, run: Run, prompt: Prompt, template_kwargs: Mapping[str, Any]
) -> EngineParser | None:
    """How to read the reply to `prompt`; None when every delta is plain content."""
    thinks = run.think is not False and parsers.reasoning is not None
    if parsers.harmony:
        begun = opened(prompt.text)
        if begun is None:
            return None
        return HarmonyReply(tools=bool(run.chat.tools), thinking=thinks, opened=begun, sampling=run.sampling)
    thinking = thinks and not prompt.continues
    if not (run.chat.tools or thinking or (parsers.wraps and not prompt.continues)):
        return None
    parser = VllmReplyParser(
        parsers,
        tools=run.chat.tools,
        thinking=thinking,
        prompt_text=prompt.text,
        prompt_token_ids=prompt.token_ids,
        template_kwargs=template_kwargs,
        constrained=run.constraint is not None,
    )
    return parser.adjusted()


def decoder_of(parser: EngineParser | None) -> Decoder | None:
    """What reads a reply by `parser`, where it may hold more than text."""
    return parser and ReplyDecoder(parser, trims_content=parser.thinking, make_id=call_id)


def bound(run: Run, parser: EngineParser | None) -> Run:
    """The same run; its constraint is one of the whole reply where the answer is a part of that."""
    if run.constraint is None or not isinstance(parser, HarmonyReply) or parser.begun:
        return run
    return replace(run, constraint=replace(run.constraint, grammar=in_channels(run.constraint.grammar)))
