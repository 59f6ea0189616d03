"""Two servers on one store: how soon one serves what the other has made, and whether anything is lost.

Run it with `python -m chaos.two_servers`. It ends with status 1 if what the store holds at the end is not
what the answers said, or if a model took longer than `--within` seconds to be seen.

Workers of both servers create, copy, delete, look at, list and use models at once. Each has names of its own,
of which it knows at any time what must be there; others are shared by all, of which the end must be what some
order of the answered changes gives.
"""

import argparse
import asyncio
import hashlib
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.core.model import ModelName
from app.store.store import Store
from chaos.tally import shown
from harness.pool_server import pool_nursery
from harness.ports import free_port
from harness.report import machine_lines
from harness.tiny_gguf import gguf

SERVERS = ("a", "b")
START_S = 120.0
ANSWER_S = 120.0
SETTLE_S = 30.0
OWN, SHARED = 6, 4
"""Names of each worker, and of all."""
WEIGHTS = 3
"""Files of weights that models are made of."""


@dataclass(frozen=True, slots=True)
class Change:
    """An answered change of a shared name: when it was asked for and answered, and what it left there."""

    begun: float
    ended: float
    system: str | None


@dataclass(slots=True)
class Run:
    """What both servers were asked for, and what was wrong with their answers."""

    urls: Sequence[str]
    operations: int
    seed: int
    done: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    own: dict[str, str] = field(default_factory=dict[str, str])
    """The models that must be there, by name: what their system prompt is."""
    gone: set[str] = field(default_factory=set[str])
    shared: dict[str, list[Change]] = field(default_factory=dict[str, list[Change]])
    problems: list[str] = field(default_factory=list[str])

    def counted(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def may_be(self, name: str) -> set[str | None]:
        """What a shared name may hold in the end: what a change left after which no other began."""
        changes = [Change(0, 0, None), *self.shared.get(name, ())]
        return {each.system for each in changes if not any(other.begun > each.ended for other in changes)}


class Worker:
    """Asks one server, one thing after the other."""

    def __init__(self, run: Run, number: int, client: httpx.AsyncClient, other: httpx.AsyncClient) -> None:
        self._run = run
        self._client = client
        self._other = other
        self._random = random.Random(f"{run.seed}.{number}")
        self._names = [f"own-{number}-{each}" for each in range(OWN)]
        self._number = number
        self._made = 0
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "create": (30, self._create),
            "upload and create": (5, self._upload),
            "copy": (20, self._copy),
            "delete": (20, self._delete),
            "show": (10, self._show),
            "list": (10, self._list),
            "chat": (5, self._chat),
        }

    async def work(self) -> None:
        weights = [weight for weight, _ in self._kinds.values()]
        while self._run.done < self._run.operations:
            self._run.done += 1
            (kind,) = self._random.choices(list(self._kinds), weights)
            try:
                await self._kinds[kind][1]()
            except (httpx.HTTPError, ValueError, KeyError) as error:
                self._wrong(f"{kind} failed: {error or type(error).__name__}")
            self._run.counted(kind)

    async def _create(self) -> None:
        await self._made_of({"from": f"base-{self._random.randrange(WEIGHTS)}"})

    async def _upload(self) -> None:
        """A blob that the other server takes, and at once a model of it here."""
        data = gguf(f"{self._run.seed}.{self._number}.{self._made}")
        digest = await upload(self._other, data)
        await self._made_of({"files": {"m.gguf": digest}})

    async def _made_of(self, base: dict[str, Any]) -> None:
        name, system = self._any_name(), f"{self._number}.{self._made}"
        self._made += 1
        body = {"model": name, "system": system, "stream": False, **base}
        async with self._changing(name) as change:
            answer = await self._client.post("/api/create", json=body)
            if answer.status_code == HTTPStatus.OK and answer.json() == {"status": "success"}:
                change(system)
            else:
                self._wrong(f"create {name}: {answer.status_code} {answer.text[:200]}")

    async def _copy(self) -> None:
        """Of a name of its own, or of a shared one, of which it then looks at what it got."""
        source, name = self._any_name(), self._any_name()
        async with self._changing(name) as change:
            answer = await self._client.post("/api/copy", json={"source": source, "destination": name})
            if source == name and source in self._run.own:
                return
            if answer.status_code == HTTPStatus.NOT_FOUND:
                if source in self._run.own:
                    self._wrong(f"copy of {source}, which is there: 404")
            elif answer.status_code != HTTPStatus.OK:
                self._wrong(f"copy {source} to {name}: {answer.status_code} {answer.text[:200]}")
            elif source in self._names and source not in self._run.own:
                self._wrong(f"copy of {source}, which is not there: 200")
            elif source in self._run.own:
                change(self._run.own[source])
            elif name in self._names:
                change(await self._system(name))
            else:
                change("?")

    async def _delete(self) -> None:
        name = self._any_name()
        async with self._changing(name) as change:
            answer = await self._client.request("DELETE", "/api/delete", json={"model": name})
            if answer.status_code == HTTPStatus.OK:
                change(None)
            elif answer.status_code != HTTPStatus.NOT_FOUND:
                self._wrong(f"delete {name}: {answer.status_code} {answer.text[:200]}")
            elif name in self._run.own:
                self._wrong(f"delete of {name}, which is there: 404")

    async def _show(self) -> None:
        name = self._random.choice(self._names)
        found = await self._system(name)
        if found != self._run.own.get(name):
            self._wrong(f"{name} is {found!r} and should be {self._run.own.get(name)!r}")

    async def _list(self) -> None:
        listed = await names_of(self._client)
        there = {name for name in self._names if name in self._run.own}
        if lost := there - listed:
            self._wrong(f"not listed: {sorted(lost)}")
        if kept := (set(self._names) - there) & listed:
            self._wrong(f"listed though deleted: {sorted(kept)}")

    async def _chat(self) -> None:
        name = next((each for each in self._names if each in self._run.own), "base-0")
        if (status := await use(self._client, name)) != HTTPStatus.OK:
            self._wrong(f"chat with {name}: {status}")

    async def _system(self, name: str) -> str | None:
        return await system_of(self._client, name)

    def _any_name(self) -> str:
        shared = [f"shared-{each}" for each in range(SHARED)]
        return self._random.choice([*self._names, *shared])

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncGenerator[Callable[[str | None], None]]:
        """What is called with what an answered change has left under the name."""
        begun = time.monotonic()
        left: list[str | None] = []
        yield left.append
        if not left:
            return
        if name not in self._names:
            self._run.shared.setdefault(name, []).append(Change(begun, time.monotonic(), left[0]))
        elif left[0] is None:
            self._run.own.pop(name, None)
        else:
            self._run.own[name] = left[0]

    def _wrong(self, what: str) -> None:
        self._run.problems.append(f"worker {self._number}: {what}")


async def mixed(urls: Sequence[str], *, operations: int, seed: int, workers: int, store: Path) -> Run:
    """That many operations by `workers` at each server, and then what the store holds."""
    run = Run(urls, operations, seed)
    async with clients(urls) as each:
        for number in range(WEIGHTS):
            digest = await upload(each[0], gguf(f"base {number}"))
            body = {"model": f"base-{number}", "files": {"m.gguf": digest}, "stream": False}
            (await each[1].post("/api/create", json=body)).raise_for_status()
            await until(each[0], f"base-{number}", HTTPStatus.OK)
        async with asyncio.TaskGroup() as group:
            for number in range(workers * len(urls)):
                one, other = each[number % 2], each[1 - number % 2]
                group.create_task(Worker(run, number, one, other).work())
        for url, client in zip(urls, each, strict=True):
            run.problems += [f"{url}: {fault}" for fault in await settled(run, client)]
    run.problems += broken(run, store)
    return run


async def settled(run: Run, client: httpx.AsyncClient) -> list[str]:
    """What is wrong with what a server serves, once it has had time to see all."""
    faults = await differences(run, client)
    deadline = time.monotonic() + SETTLE_S
    while faults and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        faults = await differences(run, client)
    for name in () if faults else (*run.own, *(f"base-{number}" for number in range(WEIGHTS))):
        if (status := await use(client, name)) != HTTPStatus.OK:
            faults.append(f"chat with {name}: {status}")
    return faults


async def differences(run: Run, client: httpx.AsyncClient) -> list[str]:
    listed = await names_of(client)
    faults: list[str] = []
    for name in run.own.keys() - listed:
        faults.append(f"{name} is lost")
    for name in listed:
        if name.startswith("own-") and name not in run.own:
            faults.append(f"{name} is there though it was deleted")
    for name, system in run.own.items():
        if name in listed and (found := await system_of(client, name)) != system:
            faults.append(f"{name} is {found!r} and should be {system!r}")
    for number in range(SHARED):
        name = f"shared-{number}"
        expected, found = run.may_be(name), await system_of(client, name)
        if found not in expected and not (found is not None and "?" in expected):
            faults.append(f"{name} is {found!r}, and no order of the changes gives that: {expected}")
    return faults


def broken(run: Run, store: Path) -> list[str]:
    """What is wrong on the disk: manifests that are none, blobs that are missing or have another content."""
    opened = Store(store)
    listing = opened.manifests.list()
    faults = [f"{bad.path}: {bad.reason}" for bad in listing.bad]
    for stored in listing.models:
        for layer in stored.manifest.blobs:
            path = opened.blobs.path(layer.digest)
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
            if f"sha256:{digest}" != layer.digest:
                faults.append(f"{stored.name}: the blob {layer.digest} is {digest}")
    for name in run.own:
        if opened.manifests.find(ModelName(name)) is None:
            faults.append(f"{name} has no manifest")
    scratch = store / ".caravan" / "scratch"
    faults += [f"left over: {each.name}" for each in scratch.glob("*")]
    return faults


async def visible(urls: Sequence[str], *, times: int, seed: int) -> list[float]:
    """Seconds from the answer to a create, a copy or a delete at one server until the other goes by it."""
    taken: list[float] = []
    chance = random.Random(seed)
    async with clients(urls) as each:
        digest = await upload(each[0], gguf("seen"))
        body = {"model": "seen", "files": {"m.gguf": digest}, "stream": False}
        (await each[0].post("/api/create", json=body)).raise_for_status()
        for number in range(times):
            await asyncio.sleep(chance.random())  # wherever in its second the other one is
            one, other = each[number % 2], each[1 - number % 2]
            name = f"seen-{number}"
            body = {"model": name, "from": "seen", "system": name, "stream": False}
            (await one.post("/api/create", json=body)).raise_for_status()
            taken.append(await until(other, name, HTTPStatus.OK))
            (await one.request("DELETE", "/api/delete", json={"model": name})).raise_for_status()
            taken.append(await until(other, name, HTTPStatus.NOT_FOUND))
    return taken


async def until(client: httpx.AsyncClient, name: str, status: int) -> float:
    """Seconds until a chat with a model has that status."""
    begun = time.monotonic()
    while (found := await use(client, name)) != status:
        if time.monotonic() - begun > SETTLE_S:
            raise TimeoutError(f"a chat with {name} is {found} after {SETTLE_S:.0f} s")
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


@asynccontextmanager
async def clients(urls: Sequence[str]) -> AsyncGenerator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=ANSWER_S)) for url in urls
        ]


async def names_of(client: httpx.AsyncClient) -> set[str]:
    rows = (await client.get("/api/tags")).raise_for_status().json()["models"]
    return {row["name"].removesuffix(":latest") for row in rows}


async def system_of(client: httpx.AsyncClient, name: str) -> str | None:
    """The system prompt of a model, None where there is no such model."""
    answer = await client.post("/api/show", json={"model": name})
    if answer.status_code == HTTPStatus.NOT_FOUND:
        return None
    return answer.raise_for_status().json().get("system", "")


async def use(client: httpx.AsyncClient, name: str) -> int:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": name, "messages": messages, "options": {"num_predict": 1}, "stream": False}
    return (await client.post("/api/chat", json=body)).status_code


async def upload(client: httpx.AsyncClient, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (await client.post(f"/api/blobs/{digest}", content=data)).raise_for_status()
    return digest


@asynccontextmanager
async def two_servers(scratch: Path) -> AsyncGenerator[list[str]]:
    """The addresses of two server processes on one store, which is in `models` of the folder."""
    ports = {name: free_port() for name in SERVERS}
    with pool_nursery(scratch) as servers:
        for name, port in ports.items():
            servers.start(name, port, scratch / f"{name}.log")
        urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
        async with clients(urls) as each:
            await asyncio.gather(*map(ready, each))
        yield urls
        for name in ports:
            await asyncio.to_thread(servers.end, name, signal.SIGTERM)


async def ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                if (await client.get("/readyz")).status_code == HTTPStatus.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def run(plan: argparse.Namespace) -> list[str]:
    with TemporaryDirectory(prefix="caravan-two-") as folder:
        async with two_servers(Path(folder)) as urls:
            taken = await visible(urls, times=plan.times, seed=plan.seed)
            begun = time.monotonic()
            found = await mixed(
                urls,
                operations=plan.operations,
                seed=plan.seed,
                workers=plan.workers,
                store=Path(folder) / "models",
            )
            spent = time.monotonic() - begun
    problems = list(found.problems)
    if max(taken) > plan.within:
        problems.append(f"a change was seen after {max(taken):.2f} s")
    print(machine_lines())
    print(f"Seen by the other server after {statistics.median(taken):.2f} s in the median,")
    print(f"{max(taken):.2f} s at the most, of {len(taken)} changes.")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.counts.items()))
    print(
        f"{found.done} operations by {2 * plan.workers} workers in {spent:.0f} s, seed {plan.seed}: {kinds}."
    )
    print(
        shown(problems) if problems else f"Nothing was lost: {len(found.own)} models are as they should be."
    )
    return problems


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.two_servers", description=__doc__)
    parser.add_argument("--operations", type=int, default=1000, help="operations of both servers together")
    parser.add_argument("--workers", type=int, default=4, help="workers at each server")
    parser.add_argument(
        "--times", type=int, default=20, help="models of which it is measured when they are seen"
    )
    parser.add_argument("--within", type=float, default=2.0, help="seconds until they must be")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is drawn")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(run(options())) else 0)
