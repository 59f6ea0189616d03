"""How a server of the real engine ends when it must: a crash loop, and a second signal."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.engines import STORY, eventually, load, own
from tests.models.build import build
from tests.server import models, serving

pytestmark = pytest.mark.engine

GONE_S = 30.0
LOADED_S = 60.0


def test_a_model_that_never_loads_ends_the_server_with_status_1(tmp_path: Path) -> None:
    """Its key-value cache is too small, which only the engine's core finds out."""
    small = {
        "name": "small",
        "source": str(build("qwen3")),
        "engine": {"dtype": "float32", "kv_cache_memory_bytes": 4096},
    }
    with (
        serving([small], tmp_path, CARAVAN_PRELOAD="true", CARAVAN_CRASH_LIMIT="2") as live,
        own(live, tmp_path) as site,
    ):
        server = site.process
        for probe in ("/startupz", "/readyz"):
            answer = site.client.get(probe)
            assert (answer.status_code, answer.text) == (503, "small:latest: loading")
        failed = site.client.post("/api/generate", json={"model": "small", "prompt": "Hello"})
        assert failed.status_code == 500
        reason = failed.json()["error"]
        assert reason.startswith("failed to load model small:latest: No available memory for the cache")
        assert server.wait(LOADED_S) == 1
        assert f"caravan: gave up on small:latest: {reason}" in site.log
        assert site.log.count("loading small:latest") >= 2  # a load that the request asked for counts not


def test_a_second_sigterm_ends_streams_with_an_error_line(tmp_path: Path) -> None:
    served = [model for model in models() if model["name"] == "tool"]
    with serving(served, tmp_path) as live, own(live, tmp_path) as site:
        load(site.client, "tool")
        server, family = site.process, site.family()
        with site.client.stream("POST", "/api/chat", json=STORY) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            eventually(lambda: "stopping: no new requests" in site.log, GONE_S)
            server.send_signal(signal.SIGTERM)
            assert json.loads(list(lines)[-1]) == {"error": "the server is shutting down"}
        assert server.wait(GONE_S) == 0
        assert psutil.wait_procs(family, GONE_S)[1] == []
        assert "requests that did not end in time and are ended: 1" in site.log
