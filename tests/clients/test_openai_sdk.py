"""`openai` for Python as it is released today, beside the older one that `tests/api` drives."""

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
    THOUGHTFUL,
    UNAUTHORIZED,
    UNKNOWN,
)
from tests.clients.program import Ask, python_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with python_program("openai", url=keyed.url, key=keyed.key) as ask:
        yield ask


def test_openai_chats_whole_and_by_its_streaming_helper(told: Ask) -> None:
    assert told("chat") == [HELLO, "stop"]
    assert told("chat_streamed") == [HELLO, HELLO, True]
    assert told("at_once") == HELLO


def test_openai_calls_tools_over_several_turns(told: Ask) -> None:
    assert told("chat_tools") == [2, BOTH]
    assert told("responses_tools") == [2, BOTH]
    assert told("chat_required") == ["get_weather", LONDON]


def test_openai_parses_an_answer_into_a_class(told: Ask) -> None:
    assert told("chat_parsed") == [True, PERSON]
    assert told("responses_parsed") == PERSON


def test_openai_shows_reasoning(told: Ask) -> None:
    assert told("chat_thinking") == [THOUGHT, THOUGHT, THOUGHTFUL]
    assert told("responses_thinking") == [[THOUGHT], THOUGHTFUL]


def test_openai_sends_pictures_as_data_urls(told: Ask) -> None:
    assert told("chat_picture") == PICTURE
    assert told("responses_picture") == PICTURE


def test_openai_speaks_the_responses_api(told: Ask) -> None:
    assert told("responses") == [HELLO, HELLO, HELLO, "completed"]


def test_openai_embeds_and_lists_models(told: Ask) -> None:
    assert told("embeddings_and_models") == [[4, 4], MODELS]


def test_openai_raises_its_own_errors(told: Ask) -> None:
    unknown = ["NotFoundError", 404, f"Error code: 404 - {UNKNOWN}"]
    unauthorized = ["AuthenticationError", 401, f"Error code: 401 - {UNAUTHORIZED}"]
    assert told("errors") == {
        "unknown model": unknown,
        "unknown, streamed": unknown,
        "wrong key": unauthorized,
        "responses, wrong key": unauthorized,
        "broken": ["APIError", None, "broken"],
    }
