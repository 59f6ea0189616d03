"""Every field that vLLM's server reads of a request is known here by its name, whatever becomes of it."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.api.openai.extras import CHAT_EXTRAS, COMPLETION_EXTRAS
from app.api.openai.schema import ChatBody, CompletionBody


def fields_of_vllm(module: str, name: str) -> Iterator[str]:
    """Read from its source, since importing it takes many seconds."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "entrypoints" / "openai" / module / "protocol.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for member in node.body:
                if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    yield member.target.id


@pytest.mark.parametrize(
    ("module", "name", "body", "extras"),
    [
        ("chat_completion", "ChatCompletionRequest", ChatBody, CHAT_EXTRAS),
        ("completion", "CompletionRequest", CompletionBody, COMPLETION_EXTRAS),
    ],
)
def test_no_field_of_vllms_server_is_dropped_unread(
    module: str, name: str, body: type, extras: Sequence[str]
) -> None:
    named = [field for field in fields_of_vllm(module, name) if not field.startswith("_")]
    assert len(named) > 40
    known = {*extras, "stream_options", *(field.name for field in fields(body))}
    assert [field for field in named if field not in known] == []
