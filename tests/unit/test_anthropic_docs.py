"""docs/anthropic.md against the types of Anthropic's own client: whatever it can send is mentioned."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from anthropic.types import beta, content_block_param, message_create_params, tool_union_param
from anthropic.types.beta import beta_content_block_param, beta_tool_union_param
from anthropic.types.beta import message_create_params as beta_params
from typing_extensions import get_type_hints, is_typeddict

DOCUMENT = (Path(__file__).parents[2] / "docs/anthropic.md").read_text("utf-8")
_WRITTEN = re.findall(r"`([\w.*]+)`", DOCUMENT)
NAMED = {*_WRITTEN, *(name.partition(".")[0] for name in _WRITTEN)}
HEADERS = {"betas", "workspace_id"}
"""Parameters that the client sends as headers."""
PREFIXES = tuple(name.removesuffix("*") for name in NAMED if name.endswith("*"))


def types_of(union: Any) -> set[str]:
    """The values of `type` in a union of typed dictionaries; models of answers have the same ones."""
    found: set[str] = set()
    for each in get_args(union):
        if is_typeddict(each):
            [hint] = [hint for name, hint in get_type_hints(each).items() if name == "type"]
            names = [name for inner in get_args(hint) for name in (inner, *get_args(inner))]
            found |= {name for name in names if isinstance(name, str)}
    return found


@pytest.mark.parametrize(
    "params", [message_create_params.MessageCreateParamsBase, beta_params.MessageCreateParamsBase]
)
def test_every_field_of_a_request_is_listed(params: Any) -> None:
    fields = set(params.__annotations__) - HEADERS
    assert len(fields) > 15
    assert fields - NAMED == set()


@pytest.mark.parametrize(
    "union", [content_block_param.ContentBlockParam, beta_content_block_param.BetaContentBlockParam]
)
def test_every_block_is_listed(union: Any) -> None:
    kinds = types_of(union)
    assert len(kinds) > 10
    results = {kind for kind in kinds if kind.endswith("_tool_result")}
    assert kinds - results - NAMED == set()
    assert "and other results" in DOCUMENT


@pytest.mark.parametrize("union", [tool_union_param.ToolUnionParam, beta_tool_union_param.BetaToolUnionParam])
def test_every_tool_is_listed(union: Any) -> None:
    kinds = types_of(union) - {"custom"}
    assert len(kinds) > 10
    assert {kind for kind in kinds if not kind.startswith(PREFIXES)} - NAMED == set()


def test_every_field_of_a_tool_is_listed() -> None:
    fields = set(beta.BetaToolParam.__annotations__)
    assert fields - {"name", "description", "type"} - NAMED == set()
