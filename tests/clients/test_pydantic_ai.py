"""pydantic-ai: one agent over chat completions, responses, messages and its model for Ollama."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import Keyed
from tests.clients.expected import BOTH, HELLO, PERSON, PICTURE, THOUGHT, THOUGHTFUL, WHO
from tests.clients.program import Ask, python_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]

APIS = ("chat", "responses", "anthropic", "ollama")


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with python_program("pydantic-ai", url=keyed.url, key=keyed.key) as ask:
        yield ask


def on_all(value: Any) -> dict[str, Any]:
    return dict.fromkeys(APIS, value)


def test_a_pydantic_ai_agent_runs_whole_and_streamed(told: Ask) -> None:
    assert told("run") == on_all(WHO)
    assert told("streamed") == on_all(HELLO)


def test_a_pydantic_ai_agent_calls_its_tools(told: Ask) -> None:
    assert told("tools") == on_all([2, BOTH])
    assert told("tools_streamed") == on_all([BOTH])


def test_a_pydantic_ai_agent_goes_on_from_its_messages(told: Ask) -> None:
    assert told("history") == on_all("It is 6 degrees.")


def test_a_pydantic_ai_agent_has_an_output_type(told: Ask) -> None:
    """By a tool and by a schema; after a tool of its own as well."""
    assert told("output") == on_all([PERSON, PERSON])
    assert told("output_after_tools") == on_all([1, PERSON])


def test_a_pydantic_ai_agent_thinks_and_sees(told: Ask) -> None:
    assert told("thinking") == on_all([THOUGHT, THOUGHTFUL])
    assert told("picture") == on_all(PICTURE)


def test_pydantic_ai_embeds(told: Ask) -> None:
    assert told("embeddings") == [32, 32]


def test_pydantic_ai_knows_the_errors(told: Ask) -> None:
    assert told("errors") == {
        "unknown model": on_all(["ModelNotFoundError", 404]),
        "wrong key": on_all(["ModelAuthenticationError", 401]),
    }
