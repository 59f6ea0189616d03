"""How soon a key's answers begin while another key floods the server, beside how soon they begin alone.

`bench.overload` runs it. The flood keeps so many requests under way at all times; the other key sends one
after another, each on a connection of its own.
"""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from app.access.keys import new_key
from bench.asking import quantile
from bench.servers import Body

FLOOD = "flood"
OTHER = "other"
REPLY_S = 600.0


class Lost(Exception):
    """An answer of the other key that did not begin well."""


@contextmanager
def keys() -> Generator[tuple[Path, dict[str, str]]]:
    """A key file, and the keys in it by their ids."""
    made = {key_id: new_key(key_id) for key_id in (FLOOD, OTHER)}
    records = [{"id": key_id, "hash": made[key_id][1], "scopes": ["admin"]} for key_id in made]
    with TemporaryDirectory() as folder:
        file = Path(folder, "keys.yaml")
        file.write_text(yaml.safe_dump({"keys": records}))
        yield file, {key_id: key for key_id, (key, _) in made.items()}


async def first_token_s(port: int, body: bytes, key: str) -> float:
    """From before the connection is made to the first token; the answer is read to its end."""
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    async with asyncio.timeout(REPLY_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + body)
            received = await reader.readuntil(b'"content":"')
            first = time.perf_counter() - start
            received += await reader.read(-1)
        finally:
            writer.close()
    if not received.startswith(b"HTTP/1.1 200 ") or b'"done":true' not in received:
        raise Lost(received[-300:].decode(errors="replace"))
    return first


async def turns(port: int, body: bytes, key: str, count: int) -> list[float]:
    return [await first_token_s(port, body, key) for _ in range(count)]


async def fairness(port: int, body: bytes, keyed: dict[str, str], *, flood: int, count: int) -> Body:
    """The times to the first token of one key, alone and while the other has `flood` requests under way."""
    await turns(port, body, keyed[OTHER], 2)
    alone = await turns(port, body, keyed[OTHER], count)
    served = 0

    async def flooding() -> None:
        nonlocal served
        while True:
            # Who floods may be turned away; it comes again.
            with suppress(Lost, asyncio.IncompleteReadError, OSError):
                await first_token_s(port, body, keyed[FLOOD])
                served += 1

    flooders = [asyncio.create_task(flooding()) for _ in range(flood)]
    await asyncio.sleep(3.0)
    beside = await turns(port, body, keyed[OTHER], count)
    for each in flooders:
        each.cancel()
    await asyncio.gather(*flooders, return_exceptions=True)
    return {
        "p95 time to a key's first token, alone, ms": 1000 * quantile(alone, 0.95),
        f"the same while another key has {flood} requests under way, ms": 1000 * quantile(beside, 0.95),
        "times as long": quantile(beside, 0.95) / quantile(alone, 0.95),
        "requests of the flood that were served meanwhile": served,
    }
