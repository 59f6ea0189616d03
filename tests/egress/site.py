"""A web site of the test's own: each path is a function that writes what it likes to the connection."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Answer: TypeAlias = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Site:
    """`heads` are the requests that came, `connections` counts all, `open` those that there are now."""

    port: int = 0
    heads: list[str] = field(default_factory=list[str])
    connections: int = 0
    open: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    all_closed: asyncio.Event = field(default_factory=asyncio.Event)


def page(body: bytes = b"hello", media_type: str = "text/html", status: int = 200, **headers: str) -> bytes:
    """A whole response; an underscore in the name of a header stands for a hyphen."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nlocation: {location}\r\n\r\n".encode()


@asynccontextmanager
async def site(pages: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> AsyncGenerator[Site]:
    """Served on loopback until left; a path that is not in `pages` is a 404."""
    state = Site()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        state.connections += 1
        state.open += 1
        state.all_closed.clear()
        # The end of the test ends whoever still waits for a request.
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await _answer(pages, state, reader, writer)
        writer.close()
        state.open -= 1
        if not state.open:
            state.all_closed.set()

    tasks = set[asyncio.Task[None] | None]()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    async with server:
        yield state
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.sleep(0)


async def _answer(
    pages: Mapping[str, Answer], state: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        state.heads.append(head)
        state.asked.set()
        answer = pages.get(head.split(" ", 2)[1].partition("?")[0], page(b"not here", status=404))
        if not isinstance(answer, bytes):
            return await answer(writer)
        writer.write(answer)
        await writer.drain()


def certificate(folder: Path, *names: str) -> Path:
    """A self-signed certificate with its key, in one file."""
    made = folder / f"{names[0]}.pem"
    public = made.with_suffix(".crt")
    alternatives = ",".join(f"DNS:{name}" for name in names)
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}"]
    subprocess.run([*command, "-keyout", made, "-out", public], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + public.read_bytes())
    return made


def serves_with(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def trusts(file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(file))
