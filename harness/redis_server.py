"""A real Redis of our own on loopback, that may be stopped, hung and started again."""

import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from harness.ports import free_port
from scripts.tools import Tool

_START_S = 20.0


class Redis:
    """Its URL stays the same when it is started again; what it held is gone then."""

    def __init__(self, program: Tool, scratch: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._program = program
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": self._scratch}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [str(self._program.path), *words], env=self._program.env, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            assert self._process.poll() is None, "redis-server ended"
            time.sleep(0.02)  # another process: there is nothing to wait on

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """It takes connections, as the system does that for it, and answers none."""
        assert self._process is not None
        self._process.send_signal(SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(SIGCONT)

    def _answers(self) -> bool:
        from redis import Redis as Client
        from redis import RedisError

        with suppress(RedisError), Client(port=self.port, socket_timeout=1) as client:
            return bool(client.ping())
        return False


@contextmanager
def running_redis(program: Tool, scratch: Path) -> Generator[Redis]:
    server = Redis(program, scratch)
    server.start()
    try:
        yield server
    finally:
        server.stop()
