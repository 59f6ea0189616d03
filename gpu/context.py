"""What a step works with: the models, servers of them, and what the driver says of the devices."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gpu import shapes
from gpu.driver import Findings
from harness.models.build import build
from harness.ports import free_port
from harness.process import offline, running, wait_ready
from harness.server import embedding_model

MIB = 1 << 20
_ASK_S = 60.0
_PHASES = {
    "weights_s": r"Loading (?:model )?weights took ([\d.]+)",
    "compile_s": r"torch\.compile took ([\d.]+)",
    "graphs_s": r"Graph capturing finished in ([\d.]+)",
    "engine_s": r"init engine .* took ([\d.]+)",
    "context": r"context length of \S+: (\d+)",
}
"""What vLLM's log and ours tell of a start."""


class Skipped(Exception):
    """The step cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running Caravan."""

    url: str
    process: psutil.Process
    log: Path
    ready_s: float

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """The document that comes back."""
        answer = httpx.post(self.url + path, json={"stream": False} | body, timeout=_ASK_S)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def gauges(self) -> dict[str, float]:
        """The values of `/metrics`, those of a name and different labels added up."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=10).text):
            for sample in family.samples:
                told = (sample.labels.get(label) for label in ("state", "reason"))
                name = " ".join([sample.name, *filter(None, told)])
                found[name] = found.get(name, 0.0) + sample.value
        return found

    def phases(self) -> dict[str, float]:
        text = self.log.read_text(errors="replace")
        found = {name: re.search(pattern, text) for name, pattern in _PHASES.items()}
        return {name: float(match[1]) for name, match in found.items() if match}


@dataclass(frozen=True, slots=True)
class Context:
    """`on_gpu` is False in a dry run, which has small models and short durations."""

    on_gpu: bool
    cache: Path
    scratch: Path
    reference: dict[str, Any]
    find: Findings

    def need_gpu(self, what: str) -> None:
        if not self.on_gpu:
            raise Skipped(f"{what} needs a GPU")

    def known(self, name: str) -> Any:
        """What a CPU answers; that it is not known is told, since nothing is compared then."""
        if name not in self.reference:
            self.find.tell(**{f"not compared with a CPU's {name}": "gpu/reference.json has none"})
        return self.reference.get(name)

    def tiny(self, name: str, kind: str = "qwen3", /, **engine: Any) -> dict[str, Any]:
        """A trained test model, which gives known answers word for word."""
        own: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 64}
        if self.on_gpu:
            own |= {"gpu_memory_utilization": 0.1, "enforce_eager": True}
        else:
            own |= {"kv_cache_memory_bytes": 64 * MIB}
        return {"name": name, "source": str(build(kind, self.cache)), "engine": own | engine}

    def embedder(self) -> dict[str, Any]:
        return {"name": "e", "source": str(embedding_model(self.cache))}

    def shaped(self) -> Path:
        """The folder of a model of 8 billion parameters without weights; in a dry run of a small one."""
        folder = self.scratch / "shaped"
        return (
            folder
            if folder.exists()
            else shapes.make(folder, shapes.QWEN3_8B if self.on_gpu else shapes.SMALL)
        )

    def shaped_engine(self, **more: Any) -> dict[str, Any]:
        engine: dict[str, Any] = {"load_format": "dummy"}
        if not self.on_gpu:
            engine |= {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory_bytes": 64 * MIB}
        return engine | more

    @contextmanager
    def server(self, *models: dict[str, Any], **environment: str) -> Generator[Server]:
        """Caravan with these models, once it answers; what it loads it loads when it is asked."""
        port = free_port()
        folder = self.scratch / f"server-{port}"
        folder.mkdir()
        config = folder / "caravan.yaml"
        config.write_text(yaml.safe_dump({"models": json.loads(json.dumps(models)), "keep_alive": -1}))
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--config", str(config)]
        own = {
            "VLLM_LOGGING_LEVEL": "INFO",
            "CARAVAN_LOG_FORMAT": "text",
            "CARAVAN_PRELOAD": "false",
            "HF_HUB_OFFLINE": "1",
        }
        began = time.monotonic()
        with running(command, folder / "log", offline() | own | environment) as process:
            wait_ready(f"http://127.0.0.1:{port}", process)
            yield Server(f"http://127.0.0.1:{port}", process, folder / "log", time.monotonic() - began)


def devices() -> list[dict[str, Any]]:
    """Name, driver, and total and used MiB of each GPU by the driver's own program."""
    if (smi := shutil.which("nvidia-smi")) is None:
        return []
    names = ("name", "driver_version", "memory.total", "memory.used")
    query = [smi, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    return [{"name": a, "driver": b, "total": float(c), "used": float(d)} for a, b, c, d in rows]


def used_mib() -> float:
    """Of all GPUs together."""
    return sum(each["used"] for each in devices())


def until(look: Any, within_s: float) -> float:
    """Seconds until it is true; a `TimeoutError` if that takes too long."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"not within {within_s} s")
        time.sleep(0.1)  # other processes change it, and nothing tells
    return round(time.monotonic() - began, 2)
