"""`caravan serve` from its first line to Ctrl+C: what it says, what it refuses, what it leaves."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import yaml

from harness.models.build import build
from harness.models.catalogue import GREETING
from harness.server import MIB, models, serving
from tests.e2e.engines import STORY, OwnServer, busy, eventually, own

pytestmark = pytest.mark.engine

END_S = 60.0
LOADED_S = 60.0
GONE_S = 20.0
CARAVAN = [sys.executable, "-m", "app.cli"]


def caravan(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CARAVAN, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What a start that failed says: one line, without a traceback, and exit code 1."""
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if " INFO " not in line)
    assert line.startswith("caravan: ")
    return line


def test_the_version() -> None:
    done = caravan("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{version('caravan-server')}\n", "")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"CARAVAN_KEEP_ALIVE": "soon"}, "CARAVAN_KEEP_ALIVE: 'soon' is not a duration"),
        ({"OLLAMA_HOST": "localhost:llama"}, "OLLAMA_HOST: 'llama' is not a port"),
        ({"CARAVAN_MODELS": '[{"name": "x"}]'}, "CARAVAN_MODELS.0.source: "),
    ],
)
def test_a_bad_setting_is_named(environment: dict[str, str], named: str) -> None:
    assert named in refusal(caravan("serve", **environment))


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    not_gguf = tmp_path / "model.gguf"
    not_gguf.write_bytes(b"no gguf at all")
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(build("llama") / "config.json", folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    torn = tmp_path / "torn"
    shutil.copytree(build("llama"), torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for source, reason in [
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        (str(not_gguf), "gguf"),
        (str(folder), "is not a safetensors file"),
        (str(torn), "its tensors do not end where the file does"),
    ]:
        line = refusal(caravan("serve", "--port", "0", "--model", f"mine={source}"))
        assert line.startswith("caravan: model 'mine:latest': ")
        assert reason in line.lower()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(caravan("serve", "--host", "127.0.0.1", "--port", str(port)))
    assert line == f"caravan: cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Loads `tool` at once; `torn` has weights of other shapes than its configuration says.

    The environment is set for vLLM itself.
    """
    scratch = tmp_path_factory.mktemp("start")
    torn = scratch / "torn"
    shutil.copytree(build("llama"), torn)
    config = json.loads((torn / "config.json").read_text())
    (torn / "config.json").write_text(json.dumps({**config, "intermediate_size": 3 * config["hidden_size"]}))
    served = [model for model in models() if model["name"] == "tool"]
    served.append({"name": "torn", "source": str(torn), "engine": {"kv_cache_memory_bytes": 64 * MIB}})
    with (
        serving(served, scratch, CARAVAN_PRELOAD="true", VLLM_CPU_KVCACHE_SPACE="1") as live,
        own(live, scratch) as running,
    ):
        yield running


def test_the_first_chat_after_a_start(site: OwnServer, capsys: pytest.CaptureFixture[str]) -> None:
    answer = site.client.post(
        "/api/generate", json={"model": "tool", "prompt": "Hello", "think": False, "stream": False}
    )
    assert answer.json()["response"] == GREETING
    took_s = time.time() - site.process.create_time()
    with capsys.disabled():
        print(f"\nfirst answer {took_s:.1f} s after the start of the process")


def test_the_log_says_what_is_loaded_and_how_to_try_it(site: OwnServer) -> None:
    eventually(lambda: "try it" in site.log, LOADED_S)
    said = [line for line in site.log.splitlines() if " INFO " in line and " id " not in line]
    lines = [line.split(" ", 2)[2] for line in said]
    *first, ready, example = lines[-4:] if "torn" not in lines[-1] else lines[-5:-1]
    assert set(first) == {
        f"listening on {site.url}",
        "loading tool:latest (qwen3, 108K parameters, F32, up to 4096 tokens of context)",
    }
    assert ready.startswith("tool:latest is ready after ")
    command = example.removeprefix("try it: ")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=END_S, check=True)
    assert '"done":true' in done.stdout.splitlines()[-1]


def test_nothing_but_the_log_of_the_server_is_printed(site: OwnServer) -> None:
    assert [line for line in site.log.splitlines() if " INFO " not in line and " WARNING " not in line] == []


def test_memory_set_for_vllm_itself_does_not_override_a_model(site: OwnServer) -> None:
    assert "WARNING VLLM_CPU_KVCACHE_SPACE is ignored: set CARAVAN_KV_CACHE_BYTES" in site.log
    configured = (yaml.safe_load((site.log_file.parent / "caravan.yaml").read_text()))["models"][0]["engine"]
    assert configured["kv_cache_memory_bytes"] == 64 * MIB
    worker = site.engine("Worker")
    assert worker.memory_info().rss < 1024 * MIB, "the cache is touched when the engine starts"


def test_weights_that_do_not_fit_fail_the_request_with_the_reason(site: OwnServer) -> None:
    for _ in range(2):
        answer = site.client.post("/api/generate", json={"model": "torn", "prompt": "Hello"})
        assert answer.status_code == 500
        reason = answer.json()["error"].removeprefix("failed to load model torn:latest: ")
        assert reason == "start (0) + length (192) exceeds dimension size (128)."
    assert "the last lines of the engine's own output" in site.log
    assert len(site.engines()) == 2, "of the engine that did not start nothing is left"
    assert site.client.get("/readyz").status_code == 200


def test_ctrl_c_lets_streams_end_and_leaves_no_process(site: OwnServer) -> None:
    """A terminal sends the signal to the whole group of processes, the engines among them."""
    server, family = site.process, site.family()
    with site.client.stream("POST", "/api/chat", json=STORY) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert busy(site.client, "tool") == 1
        for process in (server, *family):
            process.send_signal(signal.SIGINT)
        last = list(lines)[-1]
    assert '"done":true' in last
    assert server.wait(GONE_S) == 0
    assert psutil.wait_procs(family, GONE_S)[1] == []
