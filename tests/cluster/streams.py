"""Clients that stream chats until they are told to stop, and what became of each answer.

`python -m tests.cluster.streams URL CLIENTS BODY` writes a JSON line an answer, in which `ended` is

- `whole`: the last line says that it is done;
- `error`: a status or a line of the stream says that it failed;
- `cut`: it broke off, and the client was told so by its connection.

An answer that ends in good order but without a last line is `silent`: nothing tells the client of its loss.
SIGTERM lets answers under way come to their end.
"""

import asyncio
import json
import signal
import sys
import time
from typing import Any

import httpx

PAUSE_S = 0.05


async def one(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request on a connection of its own."""
    told: dict[str, Any] = {"ended": "silent", "lines": 0, "request": "", "why": "", "from": time.time()}
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=120) as client,
            client.stream("POST", "/api/chat", json=body) as answer,
        ):
            told["request"] = answer.headers.get("x-request-id", "")
            async for line in answer.aiter_lines():
                part = json.loads(line)
                told["lines"] += 1
                if "error" in part:
                    told |= {"ended": "error", "why": f"{answer.status_code} {part['error']}"}
                elif part["done"]:
                    told["ended"] = "whole"
    except httpx.HTTPError as error:
        told |= {"ended": "cut", "why": f"{type(error).__name__} {error}"}
    except ValueError as error:
        told |= {"ended": "error", "why": str(error)}
    return told | {"to": time.time()}


async def main(url: str, clients: str, body: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def ask() -> None:
        while not stopping.is_set():
            print(json.dumps(await one(url, json.loads(body))), flush=True)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(ask() for _ in range(int(clients))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
