"""Harm to models that come and go, over scripted engines: kills, crowds, large blobs, headers that lie.

Run it with `python -m chaos.store`; `make chaos` runs it first. It ends with status 1 where something was
lost, half of something could be seen, something was left over, or memory grew.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.store.store import Store
from chaos.store_clients import Ledger, StoreClient, Wrong, gguf, lines_of, models_of, upload
from chaos.tally import shown
from harness.fake_server import FakeServer, FakeServers, fake_servers
from harness.oci_registry import running_registry
from harness.report import machine_lines, write_section
from harness.sound_store import leftovers, partials, unsound
from scripts.tools import tool

MARK = "<!-- chaos:store -->"
NOTHING = "Nothing was lost, nothing was half there, nothing was left over."
MIB = 1 << 20
_PULLED = 3
_REQUEST_S = 120.0
_MOST_LIFE_S = 3.0


@dataclass
class Found:
    """`told` is what happened, `wrong` what may not."""

    told: str = ""
    wrong: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Place:
    """Servers to be started over the store below `root`, and the models that a registry has for them."""

    servers: FakeServers
    root: Path
    settings: dict[str, Any]
    pulls: tuple[str, ...] = ()

    @property
    def store(self) -> Store:
        return Store(self.root / "models")

    def start(self, **more: Any) -> FakeServer:
        return self.servers.start(
            models_dir=self.root / "models", cache_dir=self.root / "cache", **self.settings, **more
        )


def client_of(server: FakeServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=_REQUEST_S, trust_env=False)


@contextmanager
def place_with_registry(
    servers: FakeServers, scratch: Path, registry: str, size_bytes: int
) -> Generator[Place]:
    """An empty store; the registry has models of that size, which a server has pushed there."""
    names = tuple(f"{registry}/library/r{number}:latest" for number in range(_PULLED))
    settings = {
        "registry_allow": [registry],
        "registry_insecure": True,
        "fetch_allow": [registry, "127.0.0.1"],
    }
    source = Place(servers, scratch / "pushed", settings)
    server = source.start()
    asyncio.run(_push(server, names, size_bytes))
    server.kill()
    yield Place(servers, scratch / "pulled", settings, names)


async def _push(server: FakeServer, names: Sequence[str], size_bytes: int) -> None:
    async with client_of(server) as http:
        for number, name in enumerate(names):
            digest = await upload(http, gguf(number, size_bytes))
            await lines_of(http, "/api/create", model=name, files={"w.gguf": digest}, system=name)
            await lines_of(http, "/api/push", model=name, insecure=True)


async def killed(place: Place, kills: int, chance: random.Random) -> Found:
    """A server that is killed again and again while clients create, copy, upload, delete and pull.

    After each kill the store is held against what was acknowledged, and so is the list of the next server.
    """
    found, ledger, counts = Found(), Ledger(), Counter[str]()
    for number in range(kills):
        server = place.start()
        await _busy_until(server, place, ledger, chance, counts, found)
        found.wrong += [f"after kill {number}: {each}" for each in unsound(place.store)]
        counts["partials"] += partials(place.store)
    server = place.start()
    async with client_of(server) as http:
        listed = await models_of(http)
        found.wrong += ledger.mistakes(listed)
        for name in place.pulls:  # what was broken off is taken up
            await lines_of(http, "/api/pull", model=name, insecure=True)
        for name in await models_of(http):
            await http.request("DELETE", "/api/delete", json={"model": name})
    server.stop()
    if not counts["operations"]:
        found.wrong.append("nothing was acknowledged")
    found.wrong += [*unsound(place.store), *(f"left over: {each}" for each in leftovers(place.store))]
    found.told = (
        f"- {kills} kills of a server at random moments: {counts['operations']:,} operations acknowledged, "
        f"{counts['broken']} broken off, {counts['partials']} partial downloads found after a kill, "
        f"{len(listed)} models at the end as they were acknowledged"
    )
    return found


async def _busy_until(
    server: FakeServer,
    place: Place,
    ledger: Ledger,
    chance: random.Random,
    counts: Counter[str],
    found: Found,
) -> None:
    """Traffic for a random while, then the kill."""
    async with client_of(server) as http:
        found.wrong += ledger.mistakes(await models_of(http))
        clients = [
            *(StoreClient(http, ledger, random.Random(chance.random()), f"c{each}-") for each in range(3)),
        ]
        if place.pulls:
            clients.append(StoreClient(http, ledger, random.Random(chance.random()), "r", place.pulls))
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await asyncio.sleep(chance.random() * _MOST_LIFE_S)
        await asyncio.to_thread(server.kill)
        for task, client in zip(tasks, clients, strict=True):
            counts["operations"] += client.done
            try:
                await task
            except httpx.TransportError:
                counts["broken"] += 1
            except Wrong as error:
                found.wrong.append(str(error))


async def crowded(place: Place, operations: int, processes: int, seed: int) -> Found:
    """Processes that create, copy and delete at one server; meanwhile all that is listed can be shown."""
    server, found = place.start(), Found()
    command = [sys.executable, "-m", "chaos.store", "--client", server.url, "--operations", str(operations)]
    started = [
        await asyncio.create_subprocess_exec(
            *command, "--seed", str(seed * 1000 + number), stdout=asyncio.subprocess.PIPE
        )
        for number in range(processes)
    ]
    looks = asyncio.create_task(_look(server, found))
    ledger = Ledger()
    for process in started:
        out, _ = await process.communicate()
        if process.returncode:
            found.wrong.append(f"a client ended with status {process.returncode}")
            continue
        told = json.loads(out.splitlines()[-1])
        found.wrong += told["wrong"]
        ledger.possible |= {name: set(texts) for name, texts in told["possible"].items()}
    looks.cancel()
    with suppress(asyncio.CancelledError):
        await looks
    async with client_of(server) as http:
        listed = await models_of(http)
        found.wrong += ledger.mistakes(listed)
        for name in listed:
            await http.request("DELETE", "/api/delete", json={"model": name})
    server.stop()
    found.wrong += [*unsound(place.store), *(f"left over: {each}" for each in leftovers(place.store))]
    found.told = (
        f"- {processes} client processes of {operations} operations each at one server: {len(listed)} models "
        "at the end, each as its client left it"
    )
    return found


async def _look(server: FakeServer, found: Found) -> None:
    """List and show until cancelled; what is deleted in between is not found, and nothing else happens."""
    async with client_of(server) as http:
        while True:
            tags = await http.get("/api/tags")
            for item in tags.json()["models"]:
                shown = await http.post("/api/show", json={"model": item["name"]})
                if shown.status_code not in (200, 404):
                    found.wrong.append(f"{item['name']} is shown as {shown.status_code} {shown.text}")
            await asyncio.sleep(0.05)


async def client(url: str, operations: int, seed: int) -> dict[str, Any]:
    """What one client process does and knows."""
    ledger, wrong = Ledger(), list[str]()
    async with httpx.AsyncClient(base_url=url, timeout=_REQUEST_S, trust_env=False) as http:
        try:
            await StoreClient(http, ledger, random.Random(seed), f"p{seed}-").run(operations)
        except (Wrong, httpx.TransportError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return {"possible": {name: list(texts) for name, texts in ledger.possible.items()}, "wrong": wrong}


async def large(place: Place, size_bytes: int, most_growth_bytes: int) -> Found:
    """One blob by HTTP, and what that adds to the most memory that the server ever had."""
    server, found = place.start(), Found()
    async with client_of(server) as http:
        await upload(http, gguf(1, 8 * MIB))  # what is imported and set aside the first time
        before = server.memory_bytes()
        began = time.monotonic()
        digest = await _upload_large(http, size_bytes)
        took_s = time.monotonic() - began
        growth = server.memory_bytes("VmHWM") - before
        there = await http.head(f"/api/blobs/{digest}")
    server.stop()
    if there.status_code != 200:
        found.wrong.append(f"the large blob is not there: {there.status_code}")
    if growth > most_growth_bytes:
        found.wrong.append(f"a blob of {size_bytes // MIB} MiB adds {growth / MIB:.0f} MiB to the server")
    found.wrong += unsound(place.store)
    found.told = (
        f"- a blob of {size_bytes // MIB:,} MiB by HTTP in {took_s:.1f} s: the server's peak is "
        f"{growth / MIB:.1f} MiB over what it had before"
    )
    return found


async def _upload_large(http: httpx.AsyncClient, size_bytes: int) -> str:
    block = random.Random(2).randbytes(MIB)
    digest = hashlib.sha256()
    for number in range(size_bytes // MIB):
        digest.update(number.to_bytes(8, "big") + block[8:])

    async def pieces() -> AsyncGenerator[bytes]:
        for number in range(size_bytes // MIB):
            yield number.to_bytes(8, "big") + block[8:]

    name = f"sha256:{digest.hexdigest()}"
    answer = await http.post(f"/api/blobs/{name}", content=pieces())
    if answer.status_code != 201:
        raise Wrong(f"/api/blobs: {answer.status_code} {answer.text}")
    return name


def acts(plan: argparse.Namespace) -> Sequence[Callable[[FakeServers, Path], Found]]:
    from chaos import store_lies

    def kills(servers: FakeServers, scratch: Path) -> Found:
        with (
            running_registry(tool("docker-registry"), scratch) as registry,
            place_with_registry(servers, scratch, registry, plan.pulled_mib * MIB) as place,
        ):
            return asyncio.run(killed(place, plan.kills, random.Random(plan.seed)))

    def crowds(servers: FakeServers, scratch: Path) -> Found:
        place = Place(servers, scratch, {})
        return asyncio.run(crowded(place, plan.operations, plan.processes, plan.seed))

    def larges(servers: FakeServers, scratch: Path) -> Found:
        place = Place(servers, scratch, {})
        return asyncio.run(large(place, plan.blob_mib * MIB, plan.growth_mib * MIB))

    def lies(servers: FakeServers, scratch: Path) -> Found:
        return asyncio.run(store_lies.lied(Place(servers, scratch, {}), plan.headers, plan.seed))

    return kills, crowds, larges, lies


def run(plan: argparse.Namespace) -> list[str]:
    parts, wrong = list[str](), list[str]()
    with TemporaryDirectory(prefix="caravan-chaos-") as folder, fake_servers(Path(folder)) as servers:
        for act in acts(plan):
            scratch = Path(folder) / act.__name__
            scratch.mkdir()
            found = act(servers, scratch)
            print(found.told, flush=True)
            parts.append(found.told)
            wrong += found.wrong
    parts = [machine_lines(), f"Seed {plan.seed}:", "\n".join(parts)]
    parts.append(shown(wrong) if wrong else NOTHING)
    print(parts[-1])
    if plan.markdown and not wrong:
        write_section(plan.markdown, "\n\n".join(parts), MARK)
    return wrong


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.store", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pulled-mib", type=int, default=96, help="of each model that is pulled meanwhile")
    parser.add_argument("--processes", type=int, default=8, help="clients at once")
    parser.add_argument("--operations", type=int, default=125, help="of each of them")
    parser.add_argument("--blob-mib", type=int, default=2048)
    parser.add_argument("--growth-mib", type=int, default=48, help="what the server may grow by for it")
    parser.add_argument("--headers", type=int, default=200, help="headers of each format that lie")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is drawn")
    parser.add_argument("--markdown", type=Path, help="a file to write the result into, as BENCHMARKS.md")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    plan = options()
    if plan.client:
        print(json.dumps(asyncio.run(client(plan.client, plan.operations, plan.seed))))
        return 0
    return 1 if run(plan) else 0


if __name__ == "__main__":
    sys.exit(main())
