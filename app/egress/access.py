"""What one page of a browser may use of the proxy, and what it has used."""

import asyncio
import base64
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageLimits:
    """How much one page may use, with all that it loads.

    `at_once` and `connections` are connections, at a time and in all; a request that is refused counts as
    one. `wire_bytes` counts both directions. After `time_s` the credential is no longer good.
    """

    at_once: int = 64
    connections: int = 1_000
    wire_bytes: int = 64 << 20
    time_s: float = 300.0


class PageAccess:
    """The credential of one page, and the books on it. It is good until `close`."""

    def __init__(self, limits: PageLimits) -> None:
        self.username, self.password = secrets.token_urlsafe(12), secrets.token_urlsafe(32)
        self.received_bytes = self.sent_bytes = self.connections = 0
        self.refused: list[str] = []
        self.exhausted = asyncio.Event()
        self._limits = limits
        self._tasks = set[asyncio.Task[None]]()

    @property
    def is_exhausted(self) -> bool:
        """Whether it wanted more than it may have."""
        return self.exhausted.is_set()

    @property
    def authorization(self) -> str:
        """The value of Proxy-Authorization."""
        login = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(login).decode()}"

    def enter(self, task: asyncio.Task[None]) -> bool:
        """Whether one more connection may be opened; `task` serves it and is cancelled by `close`."""
        self.connections += 1
        if self.connections > self._limits.connections or len(self._tasks) >= self._limits.at_once:
            if self.connections > self._limits.connections:
                self.exhausted.set()
            return False
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def received(self, size_bytes: int) -> None:
        """Write down what came over the network; over the limit every connection of the page ends."""
        self.received_bytes += size_bytes
        self._check_bytes()

    def sent(self, size_bytes: int) -> None:
        """Likewise what went out."""
        self.sent_bytes += size_bytes
        self._check_bytes()

    def _check_bytes(self) -> None:
        if self.received_bytes + self.sent_bytes > self._limits.wire_bytes:
            self.exhaust()

    def refuse(self, host: str) -> None:
        # A page can ask for any number of them, and one that does is known by the first.
        if len(self.refused) < 100:
            self.refused.append(host)

    def exhaust(self) -> None:
        """It has used what it may: every connection of the page ends."""
        self.exhausted.set()
        self.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def closed(self) -> None:
        """Close, and wait until nothing is open."""
        self.close()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
