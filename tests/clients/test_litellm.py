"""litellm by its providers `openai`, `anthropic` and `ollama_chat`."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import Keyed
from tests.clients.expected import (
    BOTH,
    HELLO,
    LONDON,
    PARIS,
    PERSON,
    PICTURE,
    THOUGHT,
    THOUGHTFUL,
    UNAUTHORIZED,
    UNKNOWN,
    WHO,
)
from tests.clients.program import Ask, python_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]

PROVIDERS = ("openai", "anthropic", "ollama_chat")


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with python_program("litellm", url=keyed.url, key=keyed.key) as ask:
        yield ask


def by_each(value: Any) -> dict[str, Any]:
    return dict.fromkeys(PROVIDERS, value)


def test_litellm_completes_whole_and_streamed(told: Ask) -> None:
    assert told("completion") == by_each(WHO)
    assert told("streamed") == by_each(HELLO)
    assert told("responses") == HELLO


def test_litellm_calls_tools_over_several_turns(told: Ask) -> None:
    assert told("tools") == by_each([2, BOTH])
    assert told("tools_streamed") == by_each([PARIS, LONDON])


def test_litellm_has_a_response_format(told: Ask) -> None:
    assert told("response_format") == by_each(PERSON)


def test_litellm_shows_reasoning_and_sends_pictures(told: Ask) -> None:
    assert told("thinking") == by_each([THOUGHT, THOUGHTFUL])
    assert told("picture") == by_each(PICTURE)


def test_litellm_embeds(told: Ask) -> None:
    assert told("embedding") == {"openai": [32, 32], "ollama": [32, 32]}


def test_litellm_raises_its_own_errors(told: Ask) -> None:
    errors = told("errors")
    for provider in PROVIDERS:
        assert errors["unknown model"][provider][:2] == ["NotFoundError", 404]
        assert UNKNOWN in errors["unknown model"][provider][2]
        assert errors["wrong key"][provider][:2] == ["AuthenticationError", 401]
        assert UNAUTHORIZED in errors["wrong key"][provider][2]
