"""How a server of the real engine ends in a crash loop."""

from pathlib import Path

import pytest

from harness.models.build import build
from harness.server import serving
from tests.e2e.engines import own
from tests.e2e.keys import Keys

pytestmark = pytest.mark.engine

LOADED_S = 60.0


@pytest.mark.row("A1", "B9")
def test_a_model_that_never_loads_ends_the_server_with_status_1(tmp_path: Path) -> None:
    """Its key-value cache is too small, which only the engine's core finds out. The log, at its most
    talkative and with all that went wrong in it, holds no key."""
    keys = Keys.made(tmp_path / "keys.yaml", "inference")
    small = {
        "name": "small",
        "source": str(build("qwen3")),
        "engine": {"dtype": "float32", "kv_cache_memory_bytes": 4096},
    }
    with (
        serving(
            [small],
            tmp_path,
            CARAVAN_PRELOAD="true",
            CARAVAN_CRASH_LIMIT="2",
            CARAVAN_DEBUG="1",
            CARAVAN_KEYS_FILE=str(keys.file),
        ) as live,
        own(live, tmp_path) as site,
    ):
        server = site.process
        for probe in ("/startupz", "/readyz"):
            answer = site.client.get(probe)
            assert (answer.status_code, answer.text) == (503, "small:latest: loading")
        site.client.headers["authorization"] = f"Bearer {keys.own}"
        failed = site.client.post("/api/generate", json={"model": "small", "prompt": "Hello"})
        assert failed.status_code == 500
        reason = failed.json()["error"]
        assert reason.startswith("failed to load model small:latest: No available memory for the cache")
        assert server.wait(LOADED_S) == 1
        assert f"caravan: gave up on small:latest: {reason}" in site.log
        assert site.log.count("loading small:latest") >= 2  # a load that the request asked for counts not
        assert " DEBUG " in site.log
        assert keys.own.rpartition("_")[2] not in site.log
