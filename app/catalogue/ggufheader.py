"""What the header of a GGUF file tells of a model before its weights are converted.

It leaves out what only the vocabulary tells, such as filling in the middle: that is known once the model has
been loaded.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.catalogue.dequantise import DROPPED
from app.catalogue.facts import THINK_MARKS
from app.catalogue.headers import BadHeader, GgufHeader
from app.catalogue.parsers import REASONING_RULES, TOOL_RULES, choose
from app.catalogue.templates import MOST_CHARS, go_field, thinking_variable, variables
from app.catalogue.thinking import thinking_levels
from app.catalogue.weights import human_number
from app.core.model import Capability, ModelFacts, ModelSpec

CHAT_TEMPLATE = "tokenizer.chat_template"

FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}
"""`general.file_type` by number."""

_EMBEDDERS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "modern-bert")
_MARK = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")


def facts_of(
    header: GgufHeader, spec: ModelSpec, folder: Path, *, known: ModelFacts | None = None
) -> ModelFacts:
    """The facts of a model whose weights will be in `folder`; `known` are those of the same header for
    another `spec`, with which what is large is shared.

    Raises:
        BadHeader: for a template that is too long to be read.
    """
    said = header.metadata
    family = _text(said.get("general.architecture")) or "unknown"
    count = known.parameter_count if known else sum(math.prod(each.shape) for each in header.tensors)
    template = spec.chat_template or _text(said.get(CHAT_TEMPLATE))
    if len(template) > MOST_CHARS:
        raise BadHeader(f"its chat template has more than {MOST_CHARS} characters")
    embeds = family in _EMBEDDERS or bool(said.get(f"{family}.pooling_type"))
    tools = None if embeds else _tool_parser(spec, template, family)
    reasoning = None if embeds else _reasoning_parser(spec, template, family)
    granted: dict[Capability, bool] = {
        "embedding": embeds,
        "completion": not embeds,
        "tools": tools is not None,
        "insert": not embeds and go_field(spec.template, "Suffix"),
        "thinking": reasoning is not None,
    }
    return ModelFacts(
        path=folder,
        digest="",
        size_bytes=0,
        modified_at=datetime.fromtimestamp(0, UTC),
        format="gguf",
        family=family,
        families=(family,),
        parameter_count=count,
        parameter_size=human_number(count),
        quantization=FILE_TYPES.get(_number(said.get("general.file_type"), -1), "unknown"),
        context_length=_number(said.get(f"{family}.context_length"), 0),
        embedding_length=_number(said.get(f"{family}.embedding_length"), 0),
        capabilities=tuple(each for each, given in granted.items() if given),
        chat_template=template,
        tool_parser=tools,
        reasoning_parser=reasoning,
        thinking_variable=thinking_variable(template) if reasoning and template else None,
        thinking=None if spec.template else thinking_levels(template, reasoning),
        info=known.info
        if known
        else {key: value for key, value in said.items() if key not in DROPPED}
        | {"general.parameter_count": count},
        tensors=header.tensors,
    )


def _tool_parser(spec: ModelSpec, template: str, family: str) -> str | None:
    if spec.template:
        takes = go_field(spec.template, "Tools")
    else:
        takes = "tools" in variables(template) if template else spec.tool_parser is not None
    text = template or spec.template
    return choose(TOOL_RULES, spec.tool_parser, text, (family,), _marks(text)) if takes else None


def _reasoning_parser(spec: ModelSpec, template: str, family: str) -> str | None:
    if spec.template:
        thinks = go_field(spec.template, "Think") or go_field(spec.template, "Thinking")
    else:
        thinks = thinking_variable(template) is not None or any(mark in template for mark in THINK_MARKS)
    if not (spec.reasoning_parser or thinks):
        return None
    text = template or spec.template
    return choose(REASONING_RULES, spec.reasoning_parser, text, (family,), _marks(text))


def _marks(template: str) -> set[str]:
    """Tokens that a template writes: the vocabulary has them."""
    return set(_MARK.findall(template))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, default: int) -> int:
    return value if type(value) is int else default
