"""The client of soak and chaos against servers that answer badly: none of it may pass for an answer."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from chaos.answers import Outcome
from chaos.client import ask, leave
from chaos.fuzz import exchange
from chaos.requests import Judge, Request, Where, greeting, refused

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b'{"message":{"content":"Hello!"},"done":false}\n'
CHUNK = b"%x\r\n%s\r\n" % (len(LINE), LINE)
REFUSAL = b'HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\n{"error":"no"}'


@asynccontextmanager
async def answering(answer: bytes, *, hangs: bool = False) -> AsyncGenerator[str, None]:
    """The URL of a server that sends `answer` to whoever connects, then ends or falls silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hangs:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "hangs", "reason"),
    [
        (b"", False, "RemoteProtocolError"),
        (HEAD + CHUNK, False, "RemoteProtocolError"),
        (HEAD + CHUNK[:20], False, "RemoteProtocolError"),
        (HEAD + CHUNK + b"0\r\n\r\n", False, "the stream ends without its last line"),
        (HEAD + b"0\r\n\r\n", False, "the stream ends within a line"),
        (b"", True, "no end within 0.2 s"),
        (HEAD + CHUNK, True, "no end within 0.2 s"),
        (b"junk\r\n\r\n", False, "RemoteProtocolError"),
    ],
)
async def test_what_is_lost(answer: bytes, hangs: bool, reason: str) -> None:
    async with answering(answer, hangs=hangs) as url, httpx.AsyncClient(base_url=url) as client:
        verdict = Judge().verdict(greeting(), await ask(client, greeting(), 0.2 if hangs else 30))
    assert verdict.outcome is Outcome.LOST
    assert verdict.reason.startswith(reason)


async def test_nobody_listens() -> None:
    async with answering(b"") as url:
        pass
    async with httpx.AsyncClient(base_url=url) as client:
        verdict = Judge().verdict(greeting(), await ask(client, greeting(), 30))
    assert verdict.outcome is Outcome.LOST


async def test_a_refusal_that_should_be() -> None:
    request = Request("bad", "/api/chat", b"{}", check=refused(404))
    async with answering(REFUSAL) as url, httpx.AsyncClient(base_url=url) as client:
        assert Judge().verdict(request, await ask(client, request, 30)).outcome is Outcome.WHOLE


@pytest.mark.parametrize("where", ["in the body", "before the first token", "in the stream"])
async def test_a_client_that_leaves(where: Where) -> None:
    request = Request("aborted", "/api/chat", b"{}" * 50, leaves=where)
    async with answering(HEAD + CHUNK * 300, hangs=True) as url:
        answer = await leave(url, request, random.Random(1), 30, (0.0,))
    assert answer.left


async def test_a_leaver_that_never_gets_what_it_waits_for() -> None:
    request = Request("aborted", "/api/chat", b"{}", leaves="in the stream")
    async with answering(b"", hangs=True) as url:
        answer = await leave(url, request, random.Random(1), 0.2)
    assert (answer.left, answer.fault) == (False, "nothing came within 0.2 s")


async def test_generated_bytes_that_are_answered_with_a_fault() -> None:
    async with answering(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n") as url:
        assert (await exchange(url, b"GET / HTTP/1.1\r\n\r\n")).startswith("a status of 500")
    async with answering(REFUSAL) as url:
        assert await exchange(url, b"GET / HTTP/1.1\r\n\r\n") == ""
