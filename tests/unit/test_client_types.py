"""docs/openai.md, responses.md and anthropic.md against the types of the vendors' own clients.

Whatever a client of these packages can send, in whatever depth, is named in the part of the documents that
tells what becomes of it; a new version of a package that has more fields fails here.
"""

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_compact_params, response_create_params
from typing_extensions import get_type_hints, is_typeddict

DOCS = Path(__file__).parents[2] / "docs"


def section(document: str, *headings: str) -> str:
    """The parts of a document below these headings; without any, all of it."""
    text = (DOCS / document).read_text("utf-8")
    parts = [text.split(f"\n## {heading}\n")[1].split("\n## ")[0] for heading in headings]
    return "\n".join(parts) or text


def named(text: str) -> set[str]:
    """The fields that are named: of a path each, and of `bash_*` the beginning."""
    found = re.findall(r"`\.?([\w.*]+)`", text)
    return {part for name in found for part in (name, *name.split("."))}


def kinds_of(hints: dict[str, Any]) -> set[str]:
    """The values of `type` that a typed dictionary may have; none where it is of one kind only."""

    def words(hint: Any) -> Iterator[str]:
        for inner in get_args(hint):
            if isinstance(inner, str):
                yield inner
            else:
                yield from words(inner)

    return set(words(hints.get("type")))


def fields(root: Any, closed: Collection[str], skipped: Callable[[str], bool]) -> set[str]:
    """Each field of `root` and of what stands within it, as `Container.field`.

    Nothing within a field of `closed` is looked at, nor an object of a kind that is `skipped`.
    """
    found: set[str] = set()
    pending, seen = [root], set[Any]()
    while pending:
        each = pending.pop()
        if not is_typeddict(each):
            pending += get_args(each)
            continue
        if each in seen:
            continue
        seen.add(each)
        hints = get_type_hints(each)
        kinds = kinds_of(hints)
        if kinds and all(map(skipped, kinds)):
            continue
        found |= {f"{each.__name__}.{name}" for name in hints}
        pending += [hint for name, hint in hints.items() if name not in closed]
    return found


READ = {
    *("type", "role", "content", "id", "call_id", "tool_use_id", "function", "name", "description", "mode"),
    *("arguments", "input", "parameters", "schema", "url", "image_url", "action", "definition", "syntax"),
    *("source", "data", "working_directory"),
}
"""What objects of these APIs consist of, and the readers of them read."""


def unnamed(found: set[str], document: set[str]) -> list[str]:
    return sorted(name for name in found if name.partition(".")[2] not in document | READ)


def never(_: str) -> bool:
    return False


CHAT_CLOSED = {
    *("audio", "functions", "function_call", "moderation", "prediction", "web_search_options"),
    *("prompt_cache_options", "prompt_cache_breakpoint", "file", "input_audio", "custom", "parameters"),
}
"""Fields of a chat that are refused or change nothing, whatever they hold."""


@pytest.mark.parametrize(
    "params",
    [chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming],
)
def test_every_field_of_a_chat_is_told(params: Any) -> None:
    document = named(section("openai.md", "`POST /v1/chat/completions`"))
    found = fields(params, CHAT_CLOSED, never)
    assert len(found) > 80
    assert document >= CHAT_CLOSED - {"parameters"}
    assert unnamed(found, document) == []


@pytest.mark.parametrize(
    ("params", "headings"),
    [
        (
            completion_create_params.CompletionCreateParamsStreaming,
            ("`POST /v1/completions`", "`POST /v1/chat/completions`"),
        ),
        (embedding_create_params.EmbeddingCreateParams, ("`POST /v1/embeddings`",)),
    ],
)
def test_every_field_of_completions_and_embeddings_is_told(params: Any, headings: tuple[str, ...]) -> None:
    found = fields(params, (), never)
    assert len(found) >= 5
    assert unnamed(found, named(section("openai.md", *headings))) == []


RESPONSES_CLOSED = {
    *("access_programs", "background_options", "image", "context_management", "conversation", "moderation"),
    *("prompt", "prompt_cache_breakpoint", "annotations", "logprobs", "caller", "filters", "user_location"),
}
TOLD_AS_OTHERS = re.compile(
    r"(file_search|computer|code_interpreter|image_generation|mcp|shell|apply_patch|programmatic|program)"
    r"\w*|item_reference|configuration_update|input_file|input_audio|web_search_call|search|open_page"
    r"|find_in_page"
)
"""Kinds of items and tools that docs/responses.md says are refused by name, or nothing."""


@pytest.mark.parametrize(
    "params",
    [
        response_create_params.ResponseCreateParamsNonStreaming,
        response_create_params.ResponseCreateParamsStreaming,
        response_compact_params.ResponseCompactParams,
    ],
)
def test_every_field_of_a_response_is_told(params: Any) -> None:
    document = named(section("responses.md"))
    found = fields(params, RESPONSES_CLOSED, lambda kind: TOLD_AS_OTHERS.fullmatch(kind) is not None)
    assert len(found) > 120
    assert unnamed(found, document) == []


MESSAGES_CLOSED = {
    *("container", "mcp_servers", "diagnostics", "context_management", "fallbacks", "fallback_credit_token"),
    *("billing_policy", "compaction", "thread", "cache_control", "citations", "caller", "user_location"),
    *("task_budget", "block_binding", "transformations", "input_schema", "tool_changes", "url_sources"),
}
HEADERS = {"betas", "workspace_id"}
"""Parameters that the client sends as headers."""
NOT_SHOWN = re.compile(
    r"(computer|browser|code_execution|tool_search_tool|advisor|mcp)_\w*|\w+_tool_result(_error)?|tool_addition"
    r"|tool_removal|container_upload|fallback|redacted_thinking|tool_reference"
)
"""Kinds of tools and blocks that are refused by name, shown as they came, or nothing."""


@pytest.mark.parametrize(
    "params",
    [
        message_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
        beta_create_params.MessageCreateParamsStreaming,
        beta_count_params.MessageCountTokensParams,
    ],
)
def test_every_field_of_a_message_is_told(params: Any) -> None:
    document = named(section("anthropic.md")) | HEADERS
    found = fields(params, MESSAGES_CLOSED, lambda kind: NOT_SHOWN.fullmatch(kind) is not None)
    assert len(found) > 100
    assert document >= MESSAGES_CLOSED
    assert unnamed(found, document) == []
