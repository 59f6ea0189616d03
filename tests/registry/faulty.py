"""A registry that misbehaves as a test wants: each answer may be cut, stalled, wrong or without an end."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.registry.models import Model, digest_of

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(slots=True)
class Asked:
    """A request: `range` is [begin, end), and None where none was asked for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def range(self) -> tuple[int, int] | None:
        found = _RANGE.fullmatch(self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


@dataclass(slots=True)
class Reply:
    """`length` is what the head says, None being that there is no such line; after `cut` bytes the connection
    ends, after `stall` nothing more comes. Status 0 ends the connection without an answer. `drip` is how an
    answer begins that goes on with a space now and then, and has no end."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    length: int | None = -1
    cut: int | None = None
    stall: int | None = None
    pace_s: float = 0.0
    drip: bytes = b""


Answer: TypeAlias = Callable[[Asked], Reply | Awaitable[Reply] | None]


@dataclass(slots=True)
class Faulty:
    """Serves `model` under any name. `answer` is asked first; None leaves the request to the honest one."""

    model: Model
    answer: Answer = lambda asked: None
    port: int = 0
    asked: list[Asked] = field(default_factory=list[Asked])
    open: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blob_requests(self) -> list[Asked]:
        return [each for each in self.asked if "/blobs/" in each.path]

    def honest(self, asked: Asked) -> Reply:
        if asked.path == "/v2/":
            return Reply()
        if "/manifests/" in asked.path:
            return Reply(body=self.model.raw, headers={"Docker-Content-Digest": digest_of(self.model.raw)})
        data = self.model.blobs.get(asked.path.rpartition("/")[2])
        return Reply(404) if data is None else ranged(asked, data)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.open -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, headers, body)
        self.asked.append(asked)
        reply = self.answer(asked)
        if isinstance(reply, Awaitable):
            reply = await reply
        reply = reply or self.honest(asked)
        return await _send(reader, writer, reply, with_body=method != "HEAD")


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply, *, with_body: bool
) -> bool:
    """Whether the connection goes on."""
    if reply.drip:
        writer.write(reply.drip)
        while not reader.at_eof():
            await asyncio.sleep(0.02)
            writer.write(b" ")
            await writer.drain()
    if reply.drip or not reply.status:
        return False
    length = len(reply.body) if reply.length == -1 else reply.length
    headers = dict(reply.headers) | ({} if length is None else {"Content-Length": str(length)})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode("latin-1"))
    if not with_body:
        return True
    limit = min(each for each in (reply.cut, reply.stall, len(reply.body)) if each is not None)
    step = 1 if reply.pace_s else 64 << 10
    for at in range(0, limit, step):
        writer.write(reply.body[at : min(at + step, limit)])
        await writer.drain()
        if reply.pace_s:
            await asyncio.sleep(reply.pace_s)
    if reply.stall is not None:
        await reader.read()  # until the client goes
    return reply.cut is None and length == len(reply.body)


def ranged(asked: Asked, data: bytes) -> Reply:
    """What an honest server answers for `data`."""
    if asked.range is None:
        return Reply(body=data)
    begin, end = asked.range
    return Reply(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})


def as_json(document: object) -> Reply:
    return Reply(body=json.dumps(document).encode(), headers={"Content-Type": "application/json"})


@asynccontextmanager
async def faulty(
    model: Model, answer: Answer = lambda asked: None, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Faulty]:
    site = Faulty(model, answer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await site.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
