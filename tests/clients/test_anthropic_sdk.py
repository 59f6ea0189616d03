"""`anthropic` for Python as it is released today, beside the older one that `tests/api` drives."""

from collections.abc import Iterator

import pytest

from tests.clients.conftest import Keyed
from tests.clients.expected import (
    BOTH,
    HELLO,
    LONDON,
    MODELS,
    PERSON,
    PICTURE,
    THOUGHT,
    UNAUTHORIZED,
    UNKNOWN,
    WHO,
)
from tests.clients.program import Ask, python_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with python_program("anthropic", url=keyed.url, key=keyed.key) as ask:
        yield ask


def test_anthropic_answers_whole_and_by_its_streaming_helper(told: Ask) -> None:
    assert told("create") == [WHO, "end_turn"]
    assert told("streamed") == [HELLO, "end_turn"]
    assert told("at_once") == HELLO


def test_anthropic_runs_its_own_loop_of_tools(told: Ask) -> None:
    assert told("tools") == [2, BOTH]
    assert told("tools_streamed") == [2, BOTH]
    assert told("tool_choice") == [["get_weather", LONDON]]


def test_anthropic_parses_an_answer_into_a_class(told: Ask) -> None:
    assert told("parsed") == PERSON


def test_anthropic_shows_thinking(told: Ask) -> None:
    assert told("thinking") == [["thinking", "text"], THOUGHT, THOUGHT]


def test_anthropic_sends_pictures(told: Ask) -> None:
    assert told("picture") == [PICTURE]


def test_anthropic_counts_tokens_and_lists_models(told: Ask) -> None:
    assert told("count") is True
    assert told("models") == MODELS


def test_anthropic_raises_its_own_errors(told: Ask) -> None:
    errors = told("errors")
    assert errors["unknown model"][:2] == ["NotFoundError", 404]
    assert UNKNOWN in errors["unknown model"][2]
    assert errors["wrong key"][:2] == ["AuthenticationError", 401]
    assert UNAUTHORIZED in errors["wrong key"][2]
    assert "broken" in errors["broken"][2]
