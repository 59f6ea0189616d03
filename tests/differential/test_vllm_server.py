"""Caravan beside vLLM's own server: what differs is in `scripts/differences.py`, and what is there differs.

A sample runs with the usual tests, on one model and drawn with the same seed each time;
`make test-differential` asks everything.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.differences import ROWS, Row, matches
from tests.differential.compare import Difference, differences
from tests.differential.requests import Asked, requests
from tests.differential.servers import ask, vllm_server

pytestmark = pytest.mark.engine

SAMPLE = 60
MODELS = ("tool", "plain", "emb")


def sample() -> list[Asked]:
    asked = [each for each in requests() if each.model == MODELS[0]]
    chosen = set(random.Random(14).sample(range(len(asked)), SAMPLE))
    return [each for at, each in enumerate(asked) if at in chosen]


def compared(client: httpx.Client, theirs: httpx.Client, asked: list[Asked]) -> Iterator[Difference]:
    for each in asked:
        yield from differences(each, ask(client, each), ask(theirs, each))


def explained(row: Row, each: Difference) -> bool:
    return row.explains(each.request, each.path, each.ours, each.theirs)


def unexplained(found: list[Difference]) -> list[str]:
    return [str(each) for each in found if not any(explained(row, each) for row in ROWS)]


def gone(found: list[Difference]) -> Iterator[str]:
    """The patterns of rows to which no difference belongs."""
    for row in ROWS:
        left = [each for each in found if explained(row, each)]
        for pattern in row.requests:
            if not any(matches(pattern, each.request) for each in left):
                yield f"{row.title}: nothing differs in {pattern!r}"
        for pattern in row.where:
            if not any(matches(pattern, each.path) for each in left):
                yield f"{row.title}: nothing differs at {pattern!r}"


def test_a_sample_differs_where_it_is_known_to(client: httpx.Client, tmp_path: Path) -> None:
    with vllm_server(MODELS[0], tmp_path) as theirs:
        found = list(compared(client, theirs, sample()))
    # Other tests have asked the session's server before, and vLLM's has just begun.
    found = [each for each in found if not each.path.endswith("cached_tokens")]
    assert "\n".join(unexplained(found)) == ""


@pytest.mark.differential
@pytest.mark.timeout(1800)
def test_all_that_differs_is_known_and_all_that_is_known_differs(
    client: httpx.Client, tmp_path: Path
) -> None:
    found: list[Difference] = []
    for name in MODELS:
        asked = [each for each in requests() if each.model == name]
        with vllm_server(name, tmp_path) as theirs:
            found += compared(client, theirs, asked)
    assert "\n".join([*unexplained(found), *gone(found)]) == ""
