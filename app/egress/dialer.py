"""Connects to what the guard lets pass: a name is looked up once, and what was checked is connected to."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from app.core.errors import FetchFailed
from app.core.pool import Pool
from app.egress.guard import Guard
from app.egress.target import is_address, shown

MOST_ADDRESSES = 8
"""Of a name's addresses, so many are tried."""
_NEXT_S = 3.0
"""Longest time that a connection may take to be made while there is another address to try."""

T = TypeVar("T")
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name, the best first; `OSError` where there are none."""
Connect: TypeAlias = Callable[[str, int], Awaitable[T]]
"""Connects to an address and a port; `OSError` where nothing answers."""


class SystemNames:
    """Names as the system knows them. Look-ups cannot be stopped, so they have threads of their own."""

    def __init__(self) -> None:
        self._pool = Pool("names", workers=8, waiting=256)

    async def __call__(self, host: str) -> Sequence[str]:
        found = await self._pool.run(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Dialer:
    """Opens connections for a client. `resolve` is asked once for each connection to a name."""

    def __init__(self, guard: Guard, resolve: Resolve | None = None) -> None:
        self._guard = guard
        self._resolve = resolve or SystemNames()

    async def addresses(self, host: str, port: int) -> list[str]:
        """The checked addresses of a host as `read_host` returns it; there is one at least.

        Raises:
            AddressRefused: where the host or one of its addresses may not be opened.
            FetchFailed: where the name has no address.
            Overloaded: while too many names are looked up.
        """
        self._guard.check_host(host, port)
        if is_address(host):
            return [host]
        try:
            found = await self._resolve(host)
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"{shown(host)} cannot be opened: the name has no address") from error
        if not found:
            raise FetchFailed(f"{shown(host)} cannot be opened: the name has no address")
        return [str(address) for address in self._guard.checked(host, port, found)][:MOST_ADDRESSES]

    async def connect(self, host: str, port: int, connect: Connect[T]) -> T:
        """What `connect` returns for the first checked address that answers.

        Raises:
            AddressRefused, FetchFailed, Overloaded: as `addresses`, or where nothing answers.
        """
        addresses = await self.addresses(host, port)
        failure: Exception | None = None
        for place, address in enumerate(addresses, 1):
            try:
                async with asyncio.timeout(_NEXT_S if place < len(addresses) else None):
                    return await connect(address, port)
            except (OSError, TimeoutError) as error:
                failure = error
        raise FetchFailed(f"{shown(host)} cannot be reached at port {port}") from failure
