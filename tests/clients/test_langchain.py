"""LangChain: `ChatOpenAI` on chat completions and on responses, `OpenAIEmbeddings`, an agent."""

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
from tests.clients.program import Ask, python_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with python_program("langchain", url=keyed.url, key=keyed.key) as ask:
        yield ask


def on_both(value: Any) -> dict[str, Any]:
    return {"chat": value, "responses": value}


def test_langchain_chats_whole_and_streamed(told: Ask) -> None:
    assert told("invoke") == on_both(WHO)
    assert told("stream") == on_both([HELLO, True])


def test_langchain_calls_bound_tools_over_several_turns(told: Ask) -> None:
    assert told("bind_tools") == on_both([2, BOTH])
    assert told("forced") == on_both([LONDON])


def test_an_agent_of_langchain_calls_its_tools(told: Ask) -> None:
    assert told("agent") == on_both(BOTH)
    assert told("agent_streamed") == on_both(f"Let me look.{BOTH}")


def test_langchain_has_structured_output_by_each_method(told: Ask) -> None:
    assert told("with_structured_output") == on_both([PERSON, PERSON, PERSON])


def test_langchain_shows_reasoning_of_responses_alone(told: Ask) -> None:
    assert told("thinking") == [[THOUGHT], THOUGHTFUL, ["text"], THOUGHTFUL]


def test_langchain_sends_pictures(told: Ask) -> None:
    assert told("picture") == on_both(PICTURE)


def test_langchain_embeds_texts(told: Ask) -> None:
    assert told("embeddings") == [[32, 32], 32]


def test_langchain_raises_the_errors_of_openai(told: Ask) -> None:
    assert told("errors") == {
        "unknown model": ["OpenAIModelNotFoundError", 404, f"Error code: 404 - {UNKNOWN}"],
        "wrong key": ["OpenAIAuthenticationError", 401, f"Error code: 401 - {UNAUTHORIZED}"],
        "broken": ["APIError", None, "broken"],
    }
