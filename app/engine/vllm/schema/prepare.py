"""Owns what a JSON Schema in `format` becomes before xgrammar sees it: an equal schema, or a refusal.

xgrammar passes over keywords it does not know and over some it knows, in silence (`not`, `if`,
`dependentRequired`, a second `allOf`, a `type` beside `enum`, ...). So the schema is read here in full and
written anew with the few keywords that are honoured to the letter. What comes out never lets a value
through that the schema refuses; where that cannot be had, the request is refused with the reason.
"""

from collections.abc import Mapping
from typing import Any

from app.core.request import Json
from app.engine.vllm.schema.form import check_form
from app.engine.vllm.schema.prune import prune
from app.engine.vllm.schema.reader import Reader
from app.engine.vllm.schema.shape import refusal
from app.engine.vllm.schema.writer import Writer

MAX_DEPTH = 64
"""Objects and arrays inside one another, as vLLM counts them."""

MAX_NODES = 5_000
MAX_TEXT = 100_000
"""Characters of all strings and keys together."""


def prepare_schema(schema: Mapping[str, Json]) -> dict[str, Json]:
    """A schema for xgrammar that honours all of `schema`; raises `InvalidRequest` where there is none.

    Formats that JSON Schema does not define and keywords of no draft are annotations and are dropped.
    """
    _check_size(schema)
    check_form(schema, ())
    writer = Writer(Reader(schema))
    body, definitions = prune(*writer.root())
    if isinstance(body, bool):
        raise writer.dead_end or refusal((), "no value can satisfy the schema")
    if not body:
        return {"$comment": "any JSON value"}  # vLLM takes an empty schema for none
    return {**body, "$defs": definitions} if definitions else body


def _check_size(schema: Mapping[str, Json]) -> None:
    level: list[Any] = [schema]
    nodes = text = depth = 0
    while level:
        depth += 1
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
                text += sum(len(key) for key in node)
            elif isinstance(node, list):
                inner += node
            elif isinstance(node, str):
                text += len(node)
        nodes += len(inner)
        if nodes > MAX_NODES or text > MAX_TEXT:
            raise refusal((), f"the schema is larger than {MAX_NODES} values or {MAX_TEXT} characters")
        if depth > MAX_DEPTH and any(isinstance(node, dict | list) for node in level):
            raise refusal((), f"objects and arrays nest more than {MAX_DEPTH} levels deep")
        level = inner
