"""Large bodies at once: the gateway stays under its memory limit, refuses clearly and serves others (F9)."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.envoy import HOST, Gateway, gateway, rendered
from harness.ports import free_port

MIB = 1 << 20
BODY = 15 * MIB
LIMIT = 256 * MIB
"""A quarter of the chart's own figures: 16 MiB of 64, 256 MiB of 1 GiB."""
VALUES: dict[str, Any] = {
    "models": [{"name": "qwen3", "source": "x/qwen3"}],
    "gateway": {
        "maxBodyBytes": 16 * MIB,
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"memory": "64Mi"}},
    },
}
WAIT_S = 60
FULL = (503, '{"error":"the gateway has no memory left for this request, please try again"}\n')
SERVED = (200, "{}")


async def serve(goes_on: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read requests away; those to /api/chat are answered once `goes_on` is set."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            left = int((re.search(rb"content-length: (\d+)", head) or [b"", b"0"])[1])
            while left and (data := await reader.read(min(left, MIB))):
                left -= len(data)
            if b"/api/chat" in head:
                await goes_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def ask(port: int, body: bytes, path: str = "/api/chat", *, cut: int = 0) -> tuple[int, str]:
    """The status and body of an answer, also of one before the end of the body, which lacks `cut` bytes."""
    reader, writer = await asyncio.open_connection(HOST, port)

    async def send() -> None:
        writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        try:
            for start in range(0, len(body) - cut, MIB // 4):
                writer.write(memoryview(body)[start : min(start + MIB // 4, len(body) - cut)])
                await writer.drain()
        except ConnectionError:
            pass

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(WAIT_S):
            head, _, text = (await reader.read(4096)).partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        assert (b"\r\nretry-after: 1" in head.lower()) is (status == 503)
        return status, text.decode()
    finally:
        sending.cancel()
        writer.close()


@asynccontextmanager
async def upstream(goes_on: asyncio.Event) -> AsyncGenerator[int]:
    async with await asyncio.start_server(partial(serve, goes_on), HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


def peak(made: Gateway) -> int:
    status = Path(f"/proc/{made.pid}/status").read_text()
    return int((re.search(r"VmHWM:\s+(\d+) kB", status) or ["", "0"])[1]) * 1024


async def served_soon(port: int, body: bytes) -> bool:
    """Whether a small request is served, at the second attempt at the latest, as `Retry-After` says."""
    for _ in range(2):
        answer = await ask(port, body, "/api/generate")
        if answer == SERVED:
            return True
        assert answer == FULL
        await asyncio.sleep(1)
    return False


async def test_many_large_bodies_leave_it_under_its_limit_and_serving(tmp_path: Path) -> None:
    body = b'{"model": "qwen3", "prompt": "'
    body += b"x" * (BODY - len(body) - 2) + b'"}'
    small, goes_on = b'{"model": "qwen3"}', asyncio.Event()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(upstream(goes_on))
        made = await asyncio.to_thread(
            stack.enter_context, gateway(VALUES, {"qwen3": [port]}, free_port(), tmp_path)
        )
        stream = asyncio.create_task(ask(made.port, small))
        large = [asyncio.create_task(ask(made.port, body)) for _ in range(20)]
        while sum(task.done() for task in large) < 3:
            await asyncio.wait(
                [task for task in large if not task.done()],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=WAIT_S,
            )
        assert await served_soon(made.port, small)
        goes_on.set()
        answers = Counter(await asyncio.gather(*large))
        assert answers.keys() == {FULL, SERVED}
        assert await stream == SERVED
        unfinished = [asyncio.create_task(ask(made.port, body, cut=BODY // 2)) for _ in range(12)]
        for _ in range(20):
            assert await served_soon(made.port, small)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        assert peak(made) < LIMIT


def test_a_body_has_a_time_to_come_and_the_heap_is_what_the_memory_limit_leaves(tmp_path: Path) -> None:
    config = rendered(VALUES | {"gateway": {**VALUES["gateway"], "bodySeconds": 7}}, tmp_path)["envoy.yaml"]
    assert "request_timeout: 7s" in config
    assert f"max_heap_size_bytes: {LIMIT * 3 // 4}" in config


def test_without_a_key_a_body_is_refused_before_it_has_come(tmp_path: Path) -> None:
    """The directory refuses, as each server would; it gets the head alone."""
    values = VALUES | {"keys": {"existingSecret": "keys"}}

    async def attempt() -> tuple[int, str]:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
            await reader.read()
            writer.close()

        async with await asyncio.start_server(refuse, HOST, 0) as directory:
            port = directory.sockets[0].getsockname()[1]
            context = gateway(values, {"qwen3": []}, port, tmp_path)
            made = await asyncio.to_thread(context.__enter__)
            try:
                return await ask(made.port, b'{"model": "qwen3"' + b" " * MIB, cut=MIB)
            finally:
                await asyncio.to_thread(context.__exit__, None, None, None)

    assert asyncio.run(attempt()) == (401, "{}")
