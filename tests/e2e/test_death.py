"""Engines that die, hang or lose their server: clients hear of it at once, and can go on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.models.catalogue import GREETING, LONG_STORY
from harness.server import models, serving
from tests.e2e.engines import (
    DIED,
    STORY,
    OwnServer,
    busy,
    eventually,
    load,
    loaded,
    metric,
    own,
    served,
    unload,
)

pytestmark = pytest.mark.engine

NOTICED_S = 2.0
LOADED_S = 60.0
GONE_S = 20.0
HANG_S = 5.0
STREAMS = 4
HELLO = {"model": "tool", "prompt": "Hello", "think": False, "stream": False, "options": {"temperature": 0}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Has `tool` and `emb`; every test may kill what it likes, the last one the server."""
    scratch = tmp_path_factory.mktemp("death")
    served = [model for model in models() if model["name"] in {"tool", "emb"}]
    with (
        serving(
            served, scratch, CARAVAN_ENGINE_HANG_TIMEOUT=f"{HANG_S:.0f}s", CARAVAN_CRASH_WINDOW="1ms"
        ) as live,
        own(live, scratch) as running,
    ):
        yield running


@pytest.fixture
def healthy(site: OwnServer) -> OwnServer:
    """Only `tool` is loaded."""
    for model in loaded(site.client):
        if model != "tool":
            site.client.post("/api/generate", json={"model": model, "keep_alive": 0}).raise_for_status()
    load(site.client, "tool")
    eventually(lambda: len(site.engines()) == 2, LOADED_S)
    assert readiness(site) == 200
    return site


def readiness(site: OwnServer) -> int:
    return site.client.get("/readyz").status_code


def red(site: OwnServer) -> str:
    """What the readiness probe says while it is red."""
    answer = site.client.get("/readyz")
    return answer.text if answer.status_code == 503 else ""


def restarts(site: OwnServer) -> float:
    """Of `tool`, as the server counts them; the ones that failed are not among them."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(site.client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "caravan_engine_restarts_total"
        and sample.labels["gen_ai_request_model"] == "tool:latest"
    )


def check_recovery(site: OwnServer, dead: list[psutil.Process], before: float) -> None:
    """Red until the model is loaded again, without a request; nothing is left of what died."""
    assert eventually(lambda: red(site), NOTICED_S) == "tool:latest: restarting"
    assert site.client.get("/livez").status_code == 200
    eventually(lambda: readiness(site) == 200, LOADED_S)
    assert restarts(site) == before + 1
    assert loaded(site.client) == ["tool"]
    assert site.client.post("/api/generate", json=HELLO).json()["response"] == GREETING
    assert psutil.wait_procs(dead, GONE_S)[1] == []
    assert len(site.engines()) == 2


@pytest.mark.point(95)
@pytest.mark.parametrize("part", ["EngineCore", "Worker"])
def test_a_killed_engine_ends_every_request_with_an_error(healthy: OwnServer, part: str) -> None:
    before, dead = restarts(healthy), healthy.engines()
    begun = Barrier(STREAMS + 1)

    def stream() -> tuple[list[Any], float]:
        with healthy.client.stream("POST", "/api/chat", json=STORY) as answer:
            lines = answer.iter_lines()
            got = [next(lines)]
            begun.wait(LOADED_S)
            got += lines
            return [json.loads(line) for line in got], time.monotonic()

    def whole() -> tuple[int, Any]:
        answer = healthy.client.post("/api/chat", json=STORY | {"stream": False})
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(STREAMS + 1) as pool:
        waiting = pool.submit(whole)
        eventually(lambda: busy(healthy.client, "tool"), LOADED_S)
        streams = [pool.submit(stream) for _ in range(STREAMS)]
        begun.wait(LOADED_S)
        healthy.engine(part).kill()
        killed = time.monotonic()
        for lines, ended in (each.result() for each in streams):
            assert lines[-1] == {"error": DIED}
            assert not any(line.get("done") for line in lines)
            assert ended - killed < NOTICED_S
        assert waiting.result() == (500, {"error": DIED})
    check_recovery(healthy, dead, before)


@pytest.mark.parametrize("part", ["EngineCore", "Worker"])
def test_the_death_of_an_idle_engine_is_noticed(healthy: OwnServer, part: str) -> None:
    before, dead = restarts(healthy), healthy.engines()
    healthy.engine(part).kill()
    check_recovery(healthy, dead, before)


@pytest.mark.point(169)
def test_a_dead_embedding_engine_fails_its_request_and_no_other(healthy: OwnServer) -> None:
    generating = healthy.engines()
    load(healthy.client, "emb")
    (core,) = (each for each in healthy.engines() if each not in generating and "Core" in each.name())
    texts = {"model": "emb", "input": [f"{at} llamas in a row" for at in range(1500)]}
    with ThreadPoolExecutor(2) as pool:
        story = pool.submit(healthy.client.post, "/api/chat", json=STORY | {"stream": False})
        vectors = pool.submit(healthy.client.post, "/api/embed", json=texts)
        eventually(lambda: served(healthy.client, "emb"), LOADED_S)
        core.kill()
        failed = vectors.result()
        assert (failed.status_code, failed.json()) == (500, {"error": DIED})
        assert story.result().json()["message"]["content"] == LONG_STORY
    assert metric(healthy.client, "num_requests_running", "tool") == 0
    eventually(lambda: readiness(healthy) == 200, LOADED_S)
    load(healthy.client, "emb", input="again")


def test_requests_wait_for_the_engine_that_takes_over(healthy: OwnServer) -> None:
    healthy.engine("EngineCore").kill()
    eventually(lambda: readiness(healthy) == 503, NOTICED_S)
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = list(pool.map(lambda _: healthy.client.post("/api/generate", json=HELLO), range(STREAMS)))
    assert [answer.json()["response"] for answer in answers] == [GREETING] * STREAMS


@pytest.mark.parametrize("part", ["EngineCore", "Worker"])
def test_a_hung_engine_is_ended_and_replaced(healthy: OwnServer, part: str) -> None:
    dead = healthy.engines()
    with healthy.client.stream("POST", "/api/chat", json=STORY) as answer:
        lines = answer.iter_lines()
        next(lines)
        healthy.engine(part).suspend()
        stopped = time.monotonic()
        assert json.loads(list(lines)[-1]) == {"error": DIED}
        assert time.monotonic() - stopped < 2 * HANG_S
    assert "the engine of tool:latest is hung and is killed" in healthy.log
    eventually(lambda: readiness(healthy) == 200, LOADED_S)
    assert healthy.client.post("/api/generate", json=HELLO).json()["response"] == GREETING
    assert psutil.wait_procs(dead, GONE_S)[1] == []


@pytest.mark.parametrize("part", ["EngineCore", "Worker"])
def test_an_engine_killed_while_it_loads_fails_its_request_with_the_reason(
    healthy: OwnServer, part: str
) -> None:
    unload(healthy.client, "tool")
    eventually(lambda: not healthy.engines(), GONE_S)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(healthy.client.post, "/api/generate", json=HELLO)
        eventually(lambda: [each for each in healthy.engines() if part in each.name()], LOADED_S)[0].kill()
        failed = asked.result()
    assert failed.status_code == 500
    assert failed.json()["error"].startswith("failed to load model tool:latest: ")
    assert failed.json()["error"].endswith("as happens when memory runs out")
    assert readiness(healthy) == 200, "nobody but that request wanted it"
    assert healthy.client.post("/api/generate", json=HELLO).json()["response"] == GREETING


def test_a_hung_worker_does_not_outlive_its_core(healthy: OwnServer) -> None:
    """It cannot see that its core is gone, and nothing but its number is left to find it by."""
    before, worker = restarts(healthy), healthy.engine("Worker")
    worker.suspend()
    healthy.engine("EngineCore").kill()
    check_recovery(healthy, [worker], before)


def test_a_hung_engine_is_unloaded_all_the_same(healthy: OwnServer) -> None:
    hung = healthy.engines()
    for process in hung:
        process.suspend()
    healthy.client.post("/api/generate", json={"model": "tool", "keep_alive": 0}).raise_for_status()
    assert healthy.client.post("/api/generate", json=HELLO).json()["response"] == GREETING
    assert psutil.wait_procs(hung, GONE_S)[1] == []
    assert readiness(healthy) == 200


def test_without_its_fork_server_the_server_starts_another(healthy: OwnServer) -> None:
    before, dead = restarts(healthy), healthy.engines()
    fork_server = healthy.engine("EngineCore").parent()
    assert fork_server is not None
    fork_server.kill()
    check_recovery(healthy, dead, before)


def test_a_killed_server_takes_its_engines_with_it(healthy: OwnServer) -> None:
    family = healthy.family()
    assert len(family) == 4, "resource tracker, fork server, core and worker"
    os.kill(healthy.live.pid, signal.SIGKILL)
    assert psutil.wait_procs(family, GONE_S)[1] == []
    with pytest.raises(httpx.ConnectError):
        healthy.client.get("/livez")
