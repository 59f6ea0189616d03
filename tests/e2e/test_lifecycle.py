"""Models come and go: engines are loaded once, shared, evicted, unloaded, and leave nothing behind."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from harness.models.catalogue import GREETING, LONG_STORY
from harness.server import MIB, models, serving
from tests.e2e.engines import (
    STORY,
    OwnServer,
    asking,
    busy,
    eventually,
    load,
    loaded,
    metric,
    own,
    unload,
)

pytestmark = pytest.mark.engine

GONE_S = 15.0
LOADED_S = 60.0
HELLO = {"model": "tool", "prompt": "Hello", "think": False, "stream": False, "options": {"temperature": 0}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """One engine at a time: `tool`, also under the name of `twin`, or `llama`. The last test stops it."""
    scratch = tmp_path_factory.mktemp("lifecycle")
    served = [model for model in models() if model["name"] in {"tool", "llama"}]
    twin = {"name": "twin", "source": "tool", "system": "You are a pirate."}
    with (
        serving([*served, twin], scratch, CARAVAN_MAX_LOADED_MODELS="1") as live,
        own(live, scratch) as running,
    ):
        yield running


@pytest.fixture
def empty(site: OwnServer) -> OwnServer:
    for model in loaded(site.client):
        unload(site.client, model)
    eventually(lambda: not site.engines(), GONE_S)
    return site


def loads(site: OwnServer, model: str = "tool") -> int:
    return site.log.count(f"loading {model}:latest")


def test_nothing_runs_before_the_first_request(site: OwnServer) -> None:
    assert (loaded(site.client), site.engines(), loads(site)) == ([], [], 0)
    assert [site.client.get(path).text for path in ("/livez", "/readyz")] == ["ok", "ok"]


def test_many_requests_for_an_unloaded_model_load_it_once(empty: OwnServer) -> None:
    before = loads(empty)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: empty.client.post("/api/generate", json=HELLO), range(20)))
    assert [answer.json()["response"] for answer in answers] == [GREETING] * 20
    assert loads(empty) == before + 1
    assert len(empty.engines()) == 2, "one core and one worker"
    assert all(answer.json()["load_duration"] > 10**8 for answer in answers), "each waited for the load"


def test_names_that_share_weights_share_an_engine(empty: OwnServer) -> None:
    before = loads(empty)
    load(empty.client, "tool")
    answer = empty.client.post("/api/generate", json=HELLO | {"model": "twin"}).json()
    assert (answer["model"], answer["response"]) == ("twin", "Ahoy, matey!")
    assert answer["load_duration"] < 10**9
    assert loaded(empty.client) == ["tool"]
    assert len(empty.engines()) == 2
    assert loads(empty) == before + 1
    unload(empty.client, "tool")


@pytest.mark.unloads
def test_models_built_on_the_bundled_one_share_its_engine(client: httpx.Client) -> None:
    unload(client, "plain")
    for name in ("sys", "plain", "msgs"):
        load(client, name)
    assert [name for name in loaded(client) if name in {"plain", "sys", "msgs"}] == ["sys"]
    tokens = [metric(client, "generation_tokens_total", name) for name in ("plain", "sys", "msgs")]
    assert len([count for count in tokens if count is not None]) == 1


def test_unloading_ends_the_processes_and_gives_the_memory_back(empty: OwnServer) -> None:
    sizes: list[int] = []
    files = empty.process.num_fds()
    for _ in range(3):
        load(empty.client, "tool")
        processes = empty.engines()
        assert sum(process.memory_info().rss for process in processes) > 100 * MIB
        unload(empty.client, "tool")
        assert psutil.wait_procs(processes, GONE_S)[1] == []
        eventually(lambda: empty.process.num_fds() <= files, GONE_S)
        sizes.append(empty.process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 50 * MIB
    assert metric(empty.client, "num_requests_running", "tool") is None


def test_idle_time_over_means_unloaded(empty: OwnServer) -> None:
    load(empty.client, "tool", keep_alive=1)
    asked = time.monotonic()
    processes = empty.engines()
    assert len(processes) == 2
    assert psutil.wait_procs(processes, GONE_S)[1] == []
    assert time.monotonic() - asked > 0.9
    assert loaded(empty.client) == []
    assert empty.client.post("/api/generate", json=HELLO).json()["response"] == GREETING


def test_a_stream_outlives_its_keep_alive(empty: OwnServer) -> None:
    load(empty.client, "tool")
    answer = empty.client.post("/api/chat", json=STORY | {"stream": False, "keep_alive": 0})
    assert answer.json()["message"]["content"] == LONG_STORY
    eventually(lambda: not empty.engines(), GONE_S)


def test_a_model_makes_room_for_another_when_it_is_idle(empty: OwnServer) -> None:
    load(empty.client, "tool")
    before = empty.engines()
    with ThreadPoolExecutor(2) as pool:
        story = pool.submit(empty.client.post, "/api/chat", json=STORY | {"stream": False})
        eventually(lambda: busy(empty.client, "tool"), LOADED_S)
        hello = pool.submit(empty.client.post, "/api/generate", json=HELLO | {"model": "llama"})
        assert story.result().json()["message"]["content"] == LONG_STORY, "it was not evicted while in use"
        assert hello.result().json()["response"] == GREETING
    assert loaded(empty.client) == ["llama"]
    assert psutil.wait_procs(before, GONE_S)[1] == []
    assert len(empty.engines()) == 2
    assert metric(empty.client, "num_requests_running", "tool") is None


def test_a_client_that_leaves_while_its_model_loads_costs_only_the_load(empty: OwnServer) -> None:
    before = loads(empty)
    with asking(empty.url, "/api/chat", STORY):
        eventually(lambda: loads(empty) > before, LOADED_S)
        assert loaded(empty.client) == []
    eventually(lambda: loaded(empty.client) == ["tool"], LOADED_S)
    assert busy(empty.client, "tool") == 0
    assert metric(empty.client, "generation_tokens_total", "tool") == 1, "more than the warm-up was asked for"
    unload(empty.client, "tool")
    eventually(lambda: not empty.engines(), GONE_S)


def test_sigterm_lets_streams_end_and_leaves_no_process(site: OwnServer) -> None:
    load(site.client, "tool")
    server, family = site.process, site.family()
    assert len(family) == 4, "resource tracker, fork server, core and worker"
    with site.client.stream("POST", "/api/chat", json=STORY) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.send_signal(signal.SIGTERM)
        last = list(lines)[-1]
    assert '"done":true' in last
    assert server.wait(GONE_S) == 0
    assert psutil.wait_procs(family, GONE_S)[1] == []
    assert "Traceback" not in site.log
    assert "ERROR" not in site.log
