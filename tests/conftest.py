"""What every test may ask for: the one real server of the session, and a client of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.server import LiveServer, models, serving

pytest_plugins = ["tests.points", "pytester"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The real server with the real engine; CARAVAN_TEST_URL names one that runs already."""
    if url := os.environ.get("CARAVAN_TEST_URL"):
        yield LiveServer(url)
        return
    scratch: Path = tmp_path_factory.mktemp("server")
    with serving(models(), scratch) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    """A plain HTTP client of the real server; a model may have to load first, hence the long timeout."""
    with httpx.Client(base_url=server.url, timeout=120) as made:
        yield made
