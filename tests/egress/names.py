"""Names as a test wants them: a table, or a real DNS server whose answers change between look-ups."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

from dnslib import AAAA, QTYPE, RR, A, DNSRecord


class Names:
    """A resolver that reads a table and remembers what it was asked for."""

    def __init__(self, table: Mapping[str, str | Sequence[str]]) -> None:
        self._table = table
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        found = self._table.get(host)
        if found is None:
            raise OSError("no such name")
        return [found] if isinstance(found, str) else found


class DnsServer(asyncio.DatagramProtocol):
    """Answers the first look-up of an A record with the first of `answers`, the next with the next.

    The last one stays; the records may not be kept (a time to live of 0).
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.lookups = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asked = DNSRecord.parse(data)
        reply = asked.reply()
        if asked.q.qtype == QTYPE.A:
            answer = self._answers[min(self.lookups, len(self._answers) - 1)]
            self.lookups += 1
            reply.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A(answer), ttl=0))
        self._transport.sendto(reply.pack(), addr)


@asynccontextmanager
async def dns_server(*answers: str) -> AsyncGenerator[tuple[DnsServer, "DnsResolver"]]:
    """A DNS server on a port of its own, and a resolver that asks it each time."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: DnsServer(answers), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, DnsResolver(transport.get_extra_info("sockname"))
    finally:
        transport.close()


class DnsResolver:
    """Asks one DNS server over UDP, without a cache: a rebinding server is asked anew for each look-up."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server

    async def __call__(self, host: str) -> Sequence[str]:
        found = [*await self._ask(host, "A"), *await self._ask(host, "AAAA")]
        return [str(each.rdata) for each in found if isinstance(each.rdata, A | AAAA)]

    async def _ask(self, host: str, kind: str) -> list[RR]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Once(answer), remote_addr=self._server)
        try:
            transport.sendto(DNSRecord.question(host, kind).pack())
            async with asyncio.timeout(5):
                return list(DNSRecord.parse(await answer).rr)
        finally:
            transport.close()


class _Once(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._answer.done():
            self._answer.set_result(data)
