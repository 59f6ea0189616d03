"""`python -m loadtest` tests two real servers, Caravan by Ollama's API, vLLM's own by OpenAI's."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.compare import VLLM, engine_arguments
from bench.servers import NAME, serving
from harness.models.build import build
from harness.ports import free_port
from harness.process import wait_ready
from harness.server import LiveServer
from loadtest.samples import load

pytestmark = [pytest.mark.engine, pytest.mark.row("C7")]

RUN_S = 5
ONE_PROCESS = "env VLLM_ENABLE_V1_MULTIPROCESSING=0 "
"""For vLLM's engine: a worker of its own would import vLLM once more, and take as long again."""


@pytest.fixture(scope="module")
def vllm_server() -> Iterator[str]:
    port, model = free_port(), build("llama")
    url = f"http://127.0.0.1:{port}"
    engine = engine_arguments(model, {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20})
    with serving(ONE_PROCESS + VLLM, model, engine, port) as process:
        wait_ready(f"{url}/health", process)
        yield url


def test_the_same_mix_side_by_side(server: LiveServer, vllm_server: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "--out", str(tmp_path)),
            *("--target", f"caravan={server.url}#llama", "--target", f"vllm=openai+{vllm_server}#{NAME}"),
            *("--users=4", f"--run-time={RUN_S}", "--lengths=16/24", "--mix=chat=2,generate=1,schema=1"),
            "--thresholds=errors<=0,chat:ttft.max<=30000,chat:tpot.max<=5000",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("caravan", "vllm"):
        run = load(tmp_path / name)
        assert run.name == name
        assert (
            min(Counter(each.kind for each in run.samples)[kind] for kind in ("chat", "generate", "schema"))
            > 2
        )
        assert all(each.prompt_tokens > 0 and each.output_tokens > 0 for each in run.samples)
        assert (tmp_path / name / "locust.html").exists()
    page = (tmp_path / "report.html").read_text()
    assert "<td>all</td><td>caravan</td>" in page
    assert "<td>all</td><td>vllm</td>" in page
    assert "caravan, p95" in page
    assert "vllm, p95" in page
