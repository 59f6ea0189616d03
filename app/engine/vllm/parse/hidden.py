"""Which special tokens are no text of a reply: those that are no part of the format that it is read by.

Where a parser must see special tokens, vLLM's detokenizer gives the text of all of them.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from vllm.parser import Parser

from app.decode.calls.base import CallReader
from app.engine.vllm.parse.tool_calls import machine_of


def hidden_tokens(
    tokenizer: Any, model_config: Any, parser: Parser | None, reader: CallReader | None
) -> frozenset[int]:
    """Ids of the special tokens that neither `parser` nor `reader` looks for.

    Of parsers that do not say what they look for, only what begins, ends and fills a text is hidden.
    """
    texts = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    known = list(_looked_for(parser))
    ids = set(texts) if parser is None or None not in known else _ends(tokenizer, model_config)
    wanted = {text for text in known if text}
    patterns = list(_patterns(reader))
    return frozenset(
        token_id
        for token_id in ids
        if (text := texts.get(token_id)) is not None
        and text not in wanted
        and not any(text in pattern for pattern in patterns)
    )


def waits_for_text(parser: Parser | None) -> bool:
    """Whether a parser that is told of a token waits until it sees the token's text."""
    parts = (parser.reasoning_parser, parser.tool_parser) if parser else ()
    return any(machine_of(part) is not None for part in parts)


def _looked_for(parser: Parser | None) -> Iterator[str | None]:
    """The texts that a parser looks for, None among them where it does not say."""
    for part in (parser.reasoning_parser, parser.tool_parser) if parser else ():
        if part is None:
            continue
        if (machine := machine_of(part)) is not None:
            config = machine.config
            yield from config.token_id_terminals.values()
            yield from config.terminal_literals
            yield from config.preserve_tokens
            continue
        tags = [getattr(part, name, None) for name in ("reasoning_start_str", "reasoning_end_str")]
        yield from tags


def _patterns(reader: CallReader | None) -> Iterator[str]:
    """All texts and regular expressions of a reader, these less what escapes their characters."""
    if not is_dataclass(reader):
        return
    for field in fields(reader):
        value = getattr(reader, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str | re.Pattern):
                source = each if isinstance(each, str) else each.pattern
                yield str(source).replace("\\", "")


def _ends(tokenizer: Any, model_config: Any) -> set[int]:
    generation = model_config.try_get_generation_config() if model_config is not None else {}
    ends = generation.get("eos_token_id")
    named = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "bos", "pad")]
    return {each for each in (*named, *(ends if isinstance(ends, list) else [ends])) if each is not None}
