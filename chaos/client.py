"""Sends one request and brings back what arrived, or leaves on the way as the request says."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from chaos.answers import Answer
from chaos.requests import Request

PAUSES_S = (0.0, 0.0, 0.002, 0.02, 0.2)
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time: the connection ends with a reset instead of a farewell."""


async def ask(client: httpx.AsyncClient, request: Request, deadline_s: float) -> Answer:
    """The answer, read to its end within `deadline_s`."""
    began = time.monotonic()
    status, kind, body = 0, "", bytearray()
    fault = ""
    try:
        async with (
            asyncio.timeout(deadline_s),
            client.stream(request.method, request.path, content=request.content or None) as response,
        ):
            status, kind = response.status_code, response.headers.get("content-type", "")
            async for piece in response.aiter_raw():
                body += piece
    except TimeoutError:
        fault = f"no end within {deadline_s:g} s, {len(body)} bytes came"
    except httpx.HTTPError as error:
        fault = f"{type(error).__name__}: {error}, {len(body)} bytes came"
    return Answer(status, kind, bytes(body), fault, began, time.monotonic(), path=request.path)


async def leave(
    url: str, request: Request, dice: random.Random, deadline_s: float, pauses: Sequence[float] = PAUSES_S
) -> Answer:
    """Send a request, or part of it, and go away at the point where `request.leaves` says.

    Who reads nothing waits for one of the `pauses` first.
    """
    began = time.monotonic()
    place = urlsplit(url)
    fault = ""
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                await _converse(reader, writer, request, dice, pauses)
            finally:
                _hang_up(writer, reset=dice.random() < 0.5)
    except TimeoutError:
        fault = f"nothing came within {deadline_s:g} s"
    except OSError as error:
        fault = f"{type(error).__name__}: {error}"
    return Answer(fault=fault, began=began, ended=time.monotonic(), left=not fault)


async def _converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: Request,
    dice: random.Random,
    pauses: Sequence[float],
) -> None:
    head = (
        f"{request.method} {request.path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(request.content)}\r\n\r\n"
    )
    message = head.encode() + request.content
    if request.leaves == "in the body":
        message = message[: dice.randrange(1, len(message))]
    writer.write(message)
    await writer.drain()
    if request.leaves == "in the stream":
        wanted = dice.choice([1, 200, 2000, 10_000])
        while wanted > 0 and (piece := await reader.read(wanted)):
            wanted -= len(piece)
    elif pause_s := dice.choice(pauses):
        await asyncio.sleep(pause_s)


def _hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        with suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    else:
        writer.close()
