"""Vercel's AI SDK by `@ai-sdk/openai-compatible`, `@ai-sdk/openai` and `@ai-sdk/anthropic`."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import Keyed
from tests.clients.expected import (
    BOTH,
    HELLO,
    LONDON,
    PERSON,
    PICTURE,
    THOUGHT,
    THOUGHTFUL,
    UNAUTHORIZED,
    UNKNOWN,
    WHO,
)
from tests.clients.program import Ask, node_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]

MODELS = ("compatible", "chat", "responses", "anthropic")


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with node_program("ai", url=keyed.url, key=keyed.key) as ask:
        yield ask


def by_each(value: Any) -> dict[str, Any]:
    return dict.fromkeys(MODELS, value)


def test_the_ai_sdk_generates_and_streams_text(told: Ask) -> None:
    assert told("text") == by_each([WHO, "stop"])
    assert told("stream") == by_each(HELLO)
    assert told("usage") == 3


def test_the_ai_sdk_runs_tools_in_steps(told: Ask) -> None:
    assert told("steps") == by_each([BOTH, 3])
    assert told("stepsStreamed") == by_each([BOTH, 3])
    assert told("required") == by_each([LONDON])


def test_the_ai_sdk_must_not_count_on_stored_responses(told: Ask) -> None:
    """Its default is `store`, with which it sends references to items in the next step."""
    assert told("steps")["responses"] == [BOTH, 3]
    name, status, text = told("stored")
    assert (name, status) == ("APICallError", 400)
    assert "item_reference is not supported" in text


def test_the_ai_sdk_generates_objects(told: Ask) -> None:
    assert told("object") == by_each(PERSON)
    assert told("objectStreamed") == by_each(PERSON)
    assert told("output") == by_each(PERSON)


def test_the_ai_sdk_shows_reasoning(told: Ask) -> None:
    """Of chat completions only by `openai-compatible`: OpenAI's own have no field for it."""
    assert told("thinking") == {**by_each([THOUGHT, THOUGHTFUL]), "chat": [None, THOUGHTFUL]}


def test_the_ai_sdk_sends_pictures_and_embeds(told: Ask) -> None:
    assert told("picture") == by_each(PICTURE)
    assert told("embeddings") == [[32, 32], [32, 32]]


def test_the_ai_sdk_throws_the_errors_of_the_server(told: Ask) -> None:
    assert told("errors") == {
        "unknown": by_each(["APICallError", 404, UNKNOWN]),
        "wrong": by_each(["APICallError", 401, UNAUTHORIZED]),
    }
