"""What every test may ask for: the one real server of the session, and a client of it.

Loading models is what tests of the real engine take longest for, so they are ordered by what they do to the
server's engines, and the loads are counted.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.server import LiveServer, models, serving

pytest_plugins = ["tests.points", "pytester"]

os.environ["CARAVAN_MODELS_DIR"] = tempfile.mkdtemp(prefix="caravan-models-")
"""Nothing that tests start reads or writes the models of whoever runs them."""

MOST_LOADS = 30
"""Of the session's server in a run of all tests. More means that tests unload what the next ones need."""
LOADS = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Tests without the server first, so that its models do not idle; those that unload them last."""
    if "server" not in getattr(item, "fixturenames", ()):
        return 0
    return 2 if item.get_closest_marker("unloads") else 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (loads := config.stash.get(LOADS, None)) is not None:
        terminalreporter.write_line(
            f"the session's server loaded models {loads} times (at most {MOST_LOADS})"
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[LiveServer]:
    """The real server with the real engine; CARAVAN_TEST_URL names one that runs already."""
    if url := os.environ.get("CARAVAN_TEST_URL"):
        yield LiveServer(url)
        return
    scratch: Path = tmp_path_factory.mktemp("server")
    with serving(models(), scratch) as running:
        yield running
        pytestconfig.stash[LOADS] = loads = loads_of(running)
        assert loads <= MOST_LOADS


def loads_of(server: LiveServer) -> int:
    page = httpx.get(f"{server.url}/metrics", timeout=10).text
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name == "caravan_model_loads_total"))


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    """A plain HTTP client of the real server; a model may have to load first, hence the long timeout."""
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made
