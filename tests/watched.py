"""A server with the scripted engine that tells how long its event loop was held and how far its memory grew.

`python -m tests.watched` is the server, in a process of its own; `watched()` starts and asks it.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from app.catalogue.library import Library
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.engine.fake.words import Words
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import EVERYTHING, fake_model

_PATH = "/watched"
_STATUS = Path("/proc/self/status")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """Of the time since it was last asked for: the longest callback of the loop in CPU seconds of its thread,
    the CPU seconds of the process, and by how many bytes its memory grew at the highest."""

    callback_s: float
    cpu_s: float
    grown_bytes: int


@dataclass(frozen=True, slots=True)
class Watched:
    client: httpx.Client

    def seen(self) -> Seen:
        return Seen(**self.client.get(_PATH).json())


@contextmanager
def watched(**environment: str) -> Generator[Watched]:
    command = [sys.executable, "-m", "tests.watched"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                for path in ("chat", "generate", "embed", "show"):
                    client.post(
                        f"/api/{path}", content=b'{"model":"m","prompt":"a","input":"a","stream":false}'
                    )
                yield Watched(client)
        finally:
            process.kill()


class _Counted(Words):
    """A token for every four characters, and no words: the engine must not be what is measured."""

    def encode(self, text: str) -> Any:
        return range(1, len(text) // 4 + 2)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "word" * min(len(token_ids), 100)


class _Engine(FakeEngine):
    def __init__(self) -> None:
        super().__init__(words=_Counted(), window=1 << 24, embedding_length=64)
        self.asked, self.renderings = deque(maxlen=0), deque(maxlen=0)


class _Watch:
    """Answers for itself what it saw of the loop, and hands everything else on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._longest_s = self._cpu_s = 0.0
        self._resting_bytes = 0

    def measure(self) -> None:
        """Time every callback from now on. It needs asyncio's own loop: uvloop's handles are not Python."""
        run = asyncio.Handle._run  # pyright: ignore[reportPrivateUsage]  # asyncio's debug mode has no numbers

        watch = self

        def timed(self: asyncio.Handle) -> None:
            began_s = time.thread_time()
            run(self)
            watch._longest_s = max(watch._longest_s, time.thread_time() - began_s)

        asyncio.Handle._run = timed  # pyright: ignore[reportPrivateUsage]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _PATH:
            await self._app(scope, receive, send)
            return
        body = json.dumps(asdict(self._seen())).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _seen(self) -> Seen:
        grown_bytes = _bytes_of("VmHWM") - self._resting_bytes
        seen = Seen(self._longest_s, time.process_time() - self._cpu_s, grown_bytes)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        self._longest_s, self._cpu_s = 0.0, time.process_time()
        self._resting_bytes = _bytes_of("VmRSS")
        return seen


def _bytes_of(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def main() -> None:
    async def start(_: Model) -> FakeEngine:
        return _Engine()

    watch = _Watch(
        build_app(read_settings(preload=False), Library([fake_model("m", *EVERYTHING, "embedding")]), start)
    )
    watch.measure()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(watch, loop="asyncio", ws="none", log_config=None)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
