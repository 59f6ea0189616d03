"""`openai` and `@anthropic-ai/sdk` of npm, with their own helpers."""

from collections.abc import Iterator

import pytest

from tests.clients.conftest import Keyed
from tests.clients.expected import BOTH, HELLO, PERSON, PICTURE, THOUGHT, THOUGHTFUL, UNAUTHORIZED, UNKNOWN
from tests.clients.program import Ask, node_program

pytestmark = [pytest.mark.clients, pytest.mark.row("A9", "C7")]


@pytest.fixture(scope="module")
def told(keyed: Keyed) -> Iterator[Ask]:
    with node_program("sdks", url=keyed.url, key=keyed.key) as ask:
        yield ask


def test_openai_of_npm_chats_and_responds(told: Ask) -> None:
    assert told("openaiChat") == [HELLO, HELLO, HELLO]
    assert told("openaiResponses") == [["reasoning", "message"], THOUGHTFUL]


def test_openai_of_npm_runs_tools(told: Ask) -> None:
    assert told("openaiTools") == [BOTH, 2]
    assert told("openaiResponsesTools") == [BOTH, 2]


def test_openai_of_npm_parses_embeds_and_sends_pictures(told: Ask) -> None:
    assert told("openaiParsed") == [PERSON, PERSON]
    assert told("openaiEmbeddings") == [4, 4]
    assert told("openaiPicture") == PICTURE


def test_openai_of_npm_throws_its_own_errors(told: Ask) -> None:
    unknown = ["NotFoundError", 404, f"404 {UNKNOWN}"]
    assert told("openaiErrors") == [unknown, ["AuthenticationError", 401, f"401 {UNAUTHORIZED}"]]


def test_anthropic_of_npm_answers_and_thinks(told: Ask) -> None:
    assert told("anthropicMessages") == [HELLO, HELLO, HELLO]
    assert told("anthropicThinking") == [THOUGHT, THOUGHTFUL]


def test_anthropic_of_npm_runs_tools(told: Ask) -> None:
    assert told("anthropicTools") == [BOTH, 2]


def test_anthropic_of_npm_parses_and_sends_pictures(told: Ask) -> None:
    assert told("anthropicParsed") == PERSON
    assert told("anthropicPicture") == PICTURE


def test_anthropic_of_npm_throws_its_own_errors(told: Ask) -> None:
    assert told("anthropicErrors") == [True, 404, True, 401]
