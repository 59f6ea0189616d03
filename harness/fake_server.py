"""Servers over scripted engines, each a process of its own that can be killed: the whole server but vLLM.

A process that has everything imported forks them, so that one is there in a moment:

    with fake_servers() as servers:
        server = servers.start(models_dir=root)
        server.kill()
"""

import asyncio
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import httpx
import psutil

_GONE_S = 20.0
_LOOK_S = 0.005
_KIB = 1024


@dataclass(frozen=True, slots=True)
class FakeServer:
    """`client` speaks to it, one request after another; others may be made with `url`."""

    url: str
    pid: int

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left when this returns."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._end(signal.SIGTERM)

    @property
    def runs(self) -> bool:
        return psutil.pid_exists(self.pid)

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """What it has in memory now; `VmHWM` is the most that it ever had."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * _KIB
        raise ValueError(f"the kernel tells no {field}")

    def _end(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        deadline = time.monotonic() + _GONE_S
        while self.runs:
            assert time.monotonic() < deadline, f"process {self.pid} has not ended"
            time.sleep(_LOOK_S)  # another process: there is nothing to wait on


class FakeServers:
    """Starts servers. Each serves `plain`, which is configured, and what is in its store."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log
        self._running: list[FakeServer] = []

    def start(self, *, converts: bool = False, most_file_bytes: int = 0, **settings: Any) -> FakeServer:
        """A server that listens.

        `converts` makes of a GGUF file what vLLM would load, before its engine. No file may become larger
        than `most_file_bytes` (0: no limit), as on a disk that is full.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "converts": converts,
            "most_file_bytes": most_file_bytes,
            "log": str(self._log),
            "settings": settings,
        }
        self._process.stdin.write(json.dumps(asked, default=str).encode() + b"\n")
        self._process.stdin.flush()
        told = json.loads(cast(IO[bytes], self._process.stdout).readline())
        self._running.append(FakeServer(f"http://127.0.0.1:{told['port']}", told["pid"]))
        return self._running[-1]

    def end(self) -> None:
        for server in self._running:
            if server.runs:
                server.kill()


@contextmanager
def fake_servers(scratch: Path) -> Generator[FakeServers]:
    """What they write is in `server.log`, and is printed when the block fails."""
    log = scratch / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=Path(__file__).parents[1],
        )
    servers = FakeServers(process, log)
    try:
        yield servers
    except BaseException:
        print(f"{log} ends:\n{log.read_text(errors='replace')[-8000:]}", file=sys.stderr)
        raise
    finally:
        servers.end()
        process.kill()
        process.communicate()


def request(
    server: FakeServer, method: str, path: str, *, content: bytes | None = None, **body: Any
) -> httpx.Response:
    """One request of a client that goes away again."""
    url = server.url + path
    return httpx.request(method, url, json=body or None, content=content, timeout=60, trust_env=False)


def _main() -> None:
    """Read what to start, a line of JSON each, and fork; a line tells the port and the process."""
    _warm()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries those that have ended
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _serve(asked, listener)
            told = {"port": listener.getsockname()[1], "pid": pid}
        print(json.dumps(told), flush=True)


def _warm() -> None:
    for module in ("app.serve", "app.tools.setup", "app.catalogue.facts", "huggingface_hub"):
        importlib.import_module(module)


def _serve(asked: dict[str, Any], listener: socket.socket) -> None:
    """The child's life, which ends here."""
    from app.catalogue.library import Library
    from app.core.model import Model
    from app.engine.fake.engine import FakeEngine
    from app.main import build_app
    from app.runtime.lifecycle import Lifecycle
    from app.serve import listen
    from app.settings.server import read_settings
    from app.telemetry import logs
    from harness.fake_model import fake_model

    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        if most := asked["most_file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        logs.start("text", debug=False)
        library = Library([fake_model("plain", "completion")])

        async def start(model: Model) -> FakeEngine:
            if asked["converts"]:
                await library.materialized(model)
            await asyncio.sleep(0)
            return FakeEngine()

        settings = read_settings(preload=False, **asked["settings"])
        lifecycle = Lifecycle(grace_s=1)
        listen(build_app(settings, library, start, lifecycle=lifecycle), settings, lifecycle, listener)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _main()
