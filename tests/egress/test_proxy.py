"""A browser's proxy opens what the guard lets pass, for pages that are open, within their limits."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from app.egress.access import PageAccess, PageLimits
from app.egress.guard import Guard
from app.egress.proxy import EgressProxy
from app.egress.upstream import read_upstream
from tests.egress.names import Names, dns_server
from tests.egress.site import Site, page, site

HOST = "site.example"
LIMITS = PageLimits()


class Asking:
    """A browser's side of the proxy: each call is a connection of its own."""

    def __init__(self, proxy: EgressProxy) -> None:
        self._proxy = proxy

    async def open(self, text: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.port)
        writer.write(text.encode("latin-1"))
        return reader, writer

    async def raw(self, text: str) -> str:
        """The whole answer to `text`, until the proxy closes."""
        reader, writer = await self.open(text)
        try:
            async with asyncio.timeout(5):
                return (await reader.read()).decode("latin-1")
        finally:
            writer.close()

    async def status(self, start: str, access: PageAccess | None = None) -> int:
        return int((await self.raw(head(start, access))).split(" ")[1])


def head(start: str, access: PageAccess | None = None) -> str:
    login = f"Proxy-Authorization: {access.authorization}\r\n" if access else ""
    return f"{start} HTTP/1.1\r\nHost: ignored.example\r\n{login}Proxy-Connection: keep-alive\r\n\r\n"


@asynccontextmanager
async def proxied(running: Site, *more: str) -> AsyncGenerator[tuple[EgressProxy, Asking, list[str]]]:
    """A proxy that may open the site at its port by the name of HOST; the list holds what was refused."""
    refused = list[str]()
    guard = Guard([f"{HOST}:{running.port}", *more])
    names = Names({HOST: "127.0.0.1", "inner.example": "10.0.0.1"})
    async with EgressProxy(guard, resolve=names, on_refused=refused.append) as proxy:
        yield proxy, Asking(proxy), refused


async def test_who_has_no_credential_of_an_open_page_gets_nowhere() -> None:
    async with site({"/": page()}) as running, proxied(running) as (proxy, asking, _):
        start = f"CONNECT {HOST}:{running.port}"
        assert await asking.status(start) == 407
        async with proxy.page(LIMITS) as access, proxy.page(LIMITS) as other:
            assert access.authorization != other.authorization
            for wrong in ("Basic eDp5", "Basic ", "Bearer x", "Basic " + base64.b64encode(b"\xff:").decode()):
                text = f"{start} HTTP/1.1\r\nProxy-Authorization: {wrong}\r\n\r\n"
                assert " 407 " in await asking.raw(text)
        assert await asking.status(start, access) == 407
    assert running.heads == []


async def test_a_tunnel_carries_both_directions() -> None:
    async with site({"/": page(b"through")}) as running, proxied(running) as (proxy, asking, _):
        async with proxy.page(LIMITS) as access:
            reader, writer = await asking.open(head(f"CONNECT {HOST}:{running.port}", access))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readuntil(b"through")).startswith(b"HTTP/1.1 200")
            assert access.received_bytes == 2 * len(page(b"through"))
            assert access.sent_bytes == 2 * len(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        # The end of the page is that of its tunnels.
        async with asyncio.timeout(5):
            assert await reader.read() == b""
            await running.all_closed.wait()
        writer.close()


async def test_a_request_in_absolute_form_is_one_to_a_connection_and_keeps_the_credential() -> None:
    async with (
        site({"/a": page(b"plain", connection="keep-alive")}) as running,
        proxied(running) as (proxy, asking, _),
        proxy.page(LIMITS) as access,
    ):
        text = head(f"GET http://{HOST}:{running.port}/a?b=c", access)
        reader, writer = await asking.open(text)
        answer = await reader.readuntil(b"plain")
        assert answer.lower().count(b"connection:") == 1
        assert b"\r\nConnection: close\r\n" in answer
        writer.close()
    (sent,) = running.heads
    assert sent.startswith("GET /a?b=c HTTP/1.1\r\n")
    assert f"Host: {HOST}:{running.port}\r\n" in sent
    assert "ignored.example" not in sent
    assert "proxy-" not in sent.lower()


REFUSED = (
    "CONNECT 127.0.0.1:80",
    "CONNECT 127.0.0.1:{port}",
    "CONNECT localhost:{port}",
    "CONNECT localhost.:443",
    "CONNECT [::1]:443",
    "CONNECT [::ffff:127.0.0.1]:443",
    "CONNECT 169.254.169.254:80",
    "CONNECT metadata.google.internal:80",
    "CONNECT 2130706433:80",
    "CONNECT 0x7f000001:80",
    "CONNECT 0177.0.0.1:80",
    "CONNECT inner.example:443",
    "CONNECT site.example:22",
    "GET http://127.0.0.1/",
    "GET http://127.0.0.1:{port}/",
    "GET http://169.254.169.254/latest/meta-data/",
    "GET http://[::1]/",
    "GET http://inner.example/",
    "GET http://user@site.example:{port}/",
    "POST http://0/",
)


@pytest.mark.parametrize("start", REFUSED)
async def test_what_may_not_be_opened_is_refused_and_told(start: str) -> None:
    async with (
        site({"/": page()}) as running,
        proxied(running) as (proxy, asking, refused),
        proxy.page(LIMITS) as access,
    ):
        assert await asking.status(start.format(port=running.port), access) == 403
        assert len(access.refused) == len(refused) == 1
    assert running.heads == []


@pytest.mark.parametrize(
    "text",
    [
        "nonsense\r\n\r\n",
        "GET / HTTP/2\r\n\r\n",
        "GET http://a/ HTTP/1.1 x\r\n\r\n",
        "G?T http://a/ HTTP/1.1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nno header\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nspace : x\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nfolded: x\r\n y\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nx: a\nb\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nx: " + "y" * 70_000 + "\r\n\r\n",
    ],
    ids=range(9),
)
async def test_what_is_no_request_is_told(text: str) -> None:
    async with site({}) as running, proxied(running) as (_, asking, _):
        assert " 400 " in await asking.raw(text)


@pytest.mark.parametrize(
    "start", ["CONNECT", "CONNECT nowhere", "CONNECT a:0", "GET /path", "GET https://site.example/"]
)
async def test_what_names_no_host_is_no_gateway(start: str) -> None:
    async with site({}) as running, proxied(running) as (proxy, asking, _), proxy.page(LIMITS) as access:
        assert await asking.status(start, access) in (400, 403, 502)


async def test_each_connection_is_checked_by_the_look_up_that_it_uses() -> None:
    async with site({"/": page()}) as running, dns_server("127.0.0.1", "10.0.0.1") as (server, resolve):
        guard = Guard([f"127.0.0.1:{running.port}"])
        async with EgressProxy(guard, resolve=resolve) as proxy, proxy.page(LIMITS) as access:
            start = f"GET http://rebind.example:{running.port}/"
            reader, writer = await Asking(proxy).open(head(start, access))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert server.lookups == 1
            writer.close()
            assert await Asking(proxy).status(start, access) == 403
            assert server.lookups == 2


class TestLimits:
    async def test_connections_at_once(self) -> None:
        limits = PageLimits(at_once=2)
        async with site({}) as running, proxied(running) as (proxy, asking, _), proxy.page(limits) as access:
            start = f"CONNECT {HOST}:{running.port}"
            kept = [await asking.open(head(start, access)) for _ in range(2)]
            for reader, _ in kept:
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await asking.status(start, access) == 503
            assert not access.is_exhausted
            for _, writer in kept:
                writer.close()

    async def test_connections_in_all(self) -> None:
        limits = PageLimits(connections=2)
        async with site({}) as running, proxied(running) as (proxy, asking, _), proxy.page(limits) as access:
            found = [await asking.status("CONNECT 127.0.0.1:80", access) for _ in range(3)]
            assert found == [403, 403, 503]
            assert access.is_exhausted

    @pytest.mark.parametrize("form", ["CONNECT {host}:{port}", "GET http://{host}:{port}/"])
    async def test_bytes(self, form: str) -> None:
        async def endless(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()

        limits = PageLimits(wire_bytes=100_000)
        async with (
            site({"/": endless}) as running,
            proxied(running) as (proxy, asking, _),
            proxy.page(limits) as access,
        ):
            start = form.format(host=HOST, port=running.port)
            reader, writer = await asking.open(head(start, access))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1_000_000)
            assert access.is_exhausted
            writer.close()
            async with asyncio.timeout(5):
                await running.all_closed.wait()

    async def test_time(self) -> None:
        limits = PageLimits(time_s=0.3)
        async with site({}) as running, proxied(running) as (proxy, asking, _), proxy.page(limits) as access:
            start = f"CONNECT {HOST}:{running.port}"
            reader, writer = await asking.open(head(start, access))
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(5):
                await access.exhausted.wait()
                with suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
            assert await asking.status(start, access) == 407

    async def test_the_end_of_the_proxy_ends_everything(self) -> None:
        async with site({}) as running:
            async with proxied(running) as (proxy, asking, _), proxy.page(LIMITS) as access:
                reader, writer = await asking.open(head(f"CONNECT {HOST}:{running.port}", access))
                await reader.readuntil(b"\r\n\r\n")
                await proxy.__aexit__()
                assert await reader.read() == b""
                writer.close()
            async with asyncio.timeout(5):
                await running.all_closed.wait()


async def test_behind_an_upstream_it_resolves_and_the_credential_of_the_page_stays_here() -> None:
    answers = {"public.example:443": page(b"tunnel"), "http://public.example/x": page(b"plain")}
    async with site(answers) as upstream:
        way = read_upstream(f"http://user:pass@127.0.0.1:{upstream.port}")
        proxy = EgressProxy(Guard(proxied=True), resolve=Names({}), upstream=way)
        async with proxy, proxy.page(LIMITS) as access:
            asking = Asking(proxy)
            reader, writer = await asking.open(head("CONNECT public.example:443", access))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            writer.close()
            reader, writer = await asking.open(head("GET http://public.example/x", access))
            assert b" 200 " in await reader.readuntil(b"plain")
            writer.close()
            assert await asking.status("CONNECT metadata:80", access) == 403
            assert await asking.status("CONNECT no.example:443", access) == 502
    connect, plain, missing = upstream.heads
    assert connect.startswith("CONNECT public.example:443 HTTP/1.1\r\n")
    assert plain.startswith("GET http://public.example/x HTTP/1.1\r\n")
    assert missing.startswith("CONNECT no.example:443 ")
    for sent in upstream.heads:
        assert sent.count("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n") == 1
        assert access.password not in sent
        assert sent.lower().count("proxy-authorization") == 1
