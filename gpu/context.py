"""What a step works with: the models, servers of them, and what the driver says of the devices."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from gpu import shapes
from gpu.driver import Findings
from harness.models.build import build
from harness.ports import free_port
from harness.process import offline, running, wait_ready
from harness.server import embedding_model

MIB = 1 << 20
PROGRAM = "app.cli"
_ASK_S = 600.0
"""Longer than any step: a load belongs to the request that asks for it, and a step's deadline ends it."""
_PHASES = {
    "weights_gib": r"Model loading took ([\d.]+) GiB memory",
    "weights_s": r"Model loading took [\d.]+ GiB memory and ([\d.]+)",
    "compile_s": r"torch\.compile took ([\d.]+)",
    "graphs_s": r"Graph capturing finished in ([\d.]+)",
    "engine_s": r"init engine .* took ([\d.]+)",
    "context": r"context length of \S+: (\d+)",
}
"""What vLLM's log and ours tell of a start."""
_ASKED = r"loading \S+ \("
_MARKS = {
    "engine imported at, s": r"Initializing a V1 LLM engine",
    "weights there at, s": r"Model loading took",
    "engine ready at, s": r"init engine ",
}
"""Lines by whose time of day, in whole seconds, it is told how long after the request something was."""


class Skipped(Exception):
    """The step cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running Caravan."""

    url: str
    client: httpx.Client
    process: psutil.Process
    log: Path
    ready_s: float

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """The document that comes back."""
        answer = self.client.post(path, json={"stream": False} | body)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def gauges(self) -> dict[str, float]:
        """The values of `/metrics`, those of a name and different labels added up."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                told = (sample.labels.get(label) for label in ("state", "reason"))
                name = " ".join([sample.name, *filter(None, told)])
                found[name] = found.get(name, 0.0) + sample.value
        return found

    def phases(self) -> dict[str, float]:
        return phases(self.log.read_text(errors="replace"))


def phases(log: str) -> dict[str, float]:
    """What the log of a server tells of the start of an engine: of the first, if there were several."""
    found = {name: re.search(pattern, log) for name, pattern in _PHASES.items()}
    told = {name: float(match[1]) for name, match in found.items() if match}
    times = {name: _time_of(pattern, log) for name, pattern in _MARKS.items()}
    if (began := _time_of(_ASKED, log)) is not None:
        told |= {name: float((at - began) % 86400) for name, at in times.items() if at is not None}
    return told


def _time_of(pattern: str, log: str) -> int | None:
    """The time of day of the first line with this, in seconds."""
    found = re.search(rf"^.*?\b(\d\d):(\d\d):(\d\d) .*?{pattern}", log, re.MULTILINE)
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]) if found else None


@dataclass(frozen=True, slots=True)
class Context:
    """`on_gpu` is False in a dry run, which has small models and short durations.

    All steps share `cache` (the test models) and `scratch`; the folder for temporary files is a step's own.
    """

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
        """A real one; where the package is not installed that carries it, one of a shape alone."""
        if importlib.util.find_spec("all_minilm_l6_v2") or (self.cache / "all-minilm-l6-v2").exists():
            return {"name": "e", "source": str(embedding_model(self.cache))}
        folder = self.scratch / "embedder"
        if not folder.exists():
            shapes.make(folder, shapes.SMALL, embeds=True)
        return {"name": "e", "source": str(folder), "engine": {"load_format": "dummy"}}

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
    def server(self, *models: dict[str, Any], program: str = "", **environment: str) -> Generator[Server]:
        """Caravan with these models, or `program` in its place, once it answers; what it loads it loads when
        it is asked."""
        port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="server-"))
        config = folder / "caravan.yaml"
        config.write_text(json.dumps({"models": models, "keep_alive": -1}))  # which is YAML as well
        command = [
            sys.executable,
            "-m",
            program or PROGRAM,
            "serve",
            "--port",
            str(port),
            "--config",
            str(config),
        ]
        own = {
            "VLLM_LOGGING_LEVEL": "INFO",
            "CARAVAN_LOG_FORMAT": "text",
            "CARAVAN_PRELOAD": "false",
            "HF_HUB_OFFLINE": "1",
        }
        began = time.monotonic()
        with running(command, folder / "log", offline() | own | environment) as process:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url, process)
            ready_s = time.monotonic() - began
            with httpx.Client(base_url=url, timeout=_ASK_S) as client:
                yield Server(url, client, process, folder / "log", ready_s)


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


def utilisation() -> int:
    """Percent of the last moment in which a GPU computed, as the server's watchdog reads it."""
    from app.engine.vllm.gpus import Gpus  # which takes seconds

    return max(Gpus().utilisation(), default=0)


@contextmanager
def watching(read: Callable[[], int], seen: list[int]) -> Generator[None]:
    """Read every half a second in a thread, at least once."""
    ended = Event()

    def look() -> None:
        while True:
            seen.append(read())
            if ended.wait(0.5):
                return

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield
        finally:
            ended.set()
            looking.result()


def until(look: Any, within_s: float) -> float:
    """Seconds until it is true; a `TimeoutError` if that takes too long."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"not within {within_s} s")
        time.sleep(0.1)  # other processes change it, and nothing tells
    return round(time.monotonic() - began, 2)
