"""Registries that take their time: whoever waits for one keeps nobody from another."""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.core.errors import RegistryFailed
from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry import site as site_module
from app.registry import transport
from app.registry.client import Clients, Registry
from app.registry.download import Tuning
from app.registry.policy import Policy
from app.registry.progress import SUCCESS, Progress
from app.registry.pull import pull
from app.registry.transport import make_client
from tests.registry.faulty import Asked, Faulty, Reply, as_json, faulty, ranged
from tests.registry.models import QUICK, Place, digest_of, model_of, place, told

DATA = random.Random(2).randbytes(1_500_000)
MODEL = model_of(DATA, b"{}")
BLOB = digest_of(DATA)
WAIT_S = 20
MANY = replace(QUICK, parts=92, least_bytes=16 << 10, most_bytes=16 << 10, patience_s=60)


@asynccontextmanager
async def beside(root: Path, *sites: Faulty, tuning: Tuning = QUICK) -> AsyncGenerator[Place]:
    """A place that reaches all of them, and waits for each as long as it has to."""
    hosts = tuple(site.host for site in sites)
    policy = Policy(registries=hosts, insecure=True)
    async with place(root, hosts[0], tuning, policy, stall_s=60) as here:
        unused, guard = here.clients.insecure, Guard(allow=["127.0.0.1", *hosts])
        here.clients = Clients(here.clients.secure, make_client(guard, verify=False, stall_s=60))
        assert unused is not None
        await unused.aclose()
        async with asyncio.timeout(WAIT_S):
            yield here


def lines_of(here: Place, site: Faulty, model: str = "m") -> AsyncGenerator[Progress]:
    name = ModelName(model, "latest", "library", site.host)
    registry = Registry(here.clients, name, here.policy, insecure=True)
    return pull(registry, here.store, here.downloads)


async def ended(pulls: list["asyncio.Task[list[Progress]]"]) -> None:
    for each in pulls:
        each.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - requests that arrive, which no event tells of
        await asyncio.sleep(0.01)


def silent(where: str) -> Callable[[Asked], Awaitable[Reply] | None]:
    async def never() -> Reply:
        await asyncio.Event().wait()
        return Reply(500)

    return lambda asked: never() if where in asked.path else None


def waiting(site: Faulty, where: str) -> int:
    return sum(where in asked.path for asked in site.asked)


async def test_a_registry_that_never_answers_keeps_nobody_from_another(tmp_path: Path) -> None:
    most = transport.CONNECTIONS
    async with (
        faulty(MODEL, silent("/manifests/")) as slow,
        faulty(MODEL) as good,
        beside(tmp_path, slow, good) as here,
    ):
        pulls = [asyncio.ensure_future(told(lines_of(here, slow, f"m{n}"))) for n in range(most + 6)]
        await until(lambda: waiting(slow, "/manifests/") == most)
        assert (await told(lines_of(here, good)))[-1] == SUCCESS
        assert waiting(slow, "/manifests/") == most, "no more than its own connections"
        await ended(pulls)
        slow.answer = lambda asked: None
        assert (await told(lines_of(here, slow)))[-1] == SUCCESS, "what is left gives its places back"


async def test_downloads_keep_no_manifest_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    most = transport.CONNECTIONS
    async with faulty(MODEL, silent("/blobs/")) as site, beside(tmp_path, site, tuning=MANY) as here:
        pulls = [asyncio.ensure_future(told(lines_of(here, site)))]
        await until(lambda: waiting(site, "/blobs/") == most)
        lines = lines_of(here, site, "other")
        while not (await anext(lines)).digest:
            pass
        await lines.aclose()
        await ended(pulls)
    gc.collect()
    assert caplog.records == [], "leaving is no error"


async def test_where_a_registry_sends_to_takes_its_own_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that send to one server, which is slow with what the first of them has."""
    monkeypatch.setattr(transport, "CONNECTIONS", 2)
    other = model_of(DATA[::-1], b"{}")
    async with faulty(MODEL) as one, faulty(other) as two, faulty(MODEL, silent(BLOB)) as store:
        store.model = replace(MODEL, blobs=MODEL.blobs | other.blobs)

        def send(asked: Asked) -> Reply | None:
            if asked.path.endswith(digest_of(b"{}")) or "/blobs/" not in asked.path:
                return None
            return Reply(307, headers={"Location": f"http://{store.host}{asked.path}"})

        one.answer = two.answer = send
        async with beside(tmp_path, one, two, store) as here:
            pulls = [asyncio.ensure_future(told(lines_of(here, one)))]
            await until(lambda: waiting(store, BLOB) == 2)
            assert (await told(lines_of(here, two)))[-1] == SUCCESS
            assert waiting(store, BLOB) == 2
            await ended(pulls)


async def test_a_login_has_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are refused at once ask for a token then, and none keeps its connection for that."""
    monkeypatch.setattr(transport, "CONNECTIONS", 1)

    def answer(asked: Asked) -> Reply | None:
        if asked.path.startswith("/token"):
            return as_json({"token": "abc"})
        if asked.path != "/v2/" and asked.headers.get("authorization") != "Bearer abc":
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{site.host}/token"'})
        return None

    async with faulty(MODEL, answer) as site, beside(tmp_path, site) as here:
        for lines in await asyncio.gather(*(told(lines_of(here, site, f"m{n}")) for n in range(3))):
            assert lines[-1] == SUCCESS


@pytest.mark.parametrize("where", ["/v2/", "/manifests/", "/token"])
@pytest.mark.parametrize("begun", [b"HTTP/1.1 %d X\r\nX: ", b"HTTP/1.1 %d X\r\n\r\n"])
async def test_what_is_read_whole_has_its_time(
    where: str, begun: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no pause, and would go on for days."""
    monkeypatch.setattr(site_module, "WHOLE_S", 0.3)

    def answer(asked: Asked) -> Reply | None:
        if asked.path == where or (where in asked.path and where != "/v2/"):
            return Reply(drip=begun % (400 if where == "/v2/" else 200))
        if where == "/token" and "/manifests/" in asked.path:
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{site.host}/token"'})
        return None

    async with faulty(MODEL, answer) as site, beside(tmp_path, site) as here:
        with pytest.raises(RegistryFailed, match="no answer in time"):
            await told(lines_of(here, site))


def late(held: asyncio.Event) -> Callable[[Asked], Awaitable[Reply] | None]:
    """The blob comes when `held` is set."""

    async def begin(asked: Asked) -> Reply:
        await held.wait()
        return ranged(asked, DATA)

    return lambda asked: begin(asked) if asked.path.endswith(BLOB) else None


async def test_a_blob_that_one_registry_is_slow_with_comes_from_another(tmp_path: Path) -> None:
    held = asyncio.Event()
    async with (
        faulty(MODEL, late(held)) as slow,
        faulty(MODEL) as good,
        beside(tmp_path, slow, good) as here,
    ):
        first = asyncio.ensure_future(told(lines_of(here, slow)))
        await until(lambda: waiting(slow, BLOB) > 0)
        assert (await told(lines_of(here, good)))[-1] == SUCCESS
        assert not first.done()
        held.set()
        assert (await first)[-1] == SUCCESS, "that it is here by then is no failure"
        assert here.holds(MODEL)
        assert here.left() == []


@pytest.mark.parametrize("comes", [False, True])
async def test_what_another_process_is_slow_with_is_left(comes: bool, tmp_path: Path) -> None:
    """Two owners of downloads over one store, as two processes are. One that is fast is waited for."""
    held = asyncio.Event()
    soon = replace(QUICK, share_s=0.3 if not comes else 60)
    async with (
        faulty(MODEL, late(held)) as slow,
        faulty(MODEL) as good,
        beside(tmp_path, slow) as one,
        beside(tmp_path, good, tuning=soon) as two,
    ):
        first = asyncio.ensure_future(told(lines_of(one, slow)))
        await until(lambda: waiting(slow, BLOB) > 0)
        second = asyncio.ensure_future(told(lines_of(two, good, "n")))
        if comes:
            await until(lambda: waiting(good, "/manifests/") > 0)
            held.set()
        assert (await second)[-1] == SUCCESS
        assert bool(waiting(good, BLOB)) is not comes
        held.set()
        assert (await first)[-1] == SUCCESS


async def test_waiting_for_a_connection_is_no_lack_of_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECTIONS", 1)
    held, other = asyncio.Event(), model_of(DATA[::-1], b"{}")
    async with (
        faulty(replace(MODEL, blobs=MODEL.blobs | other.blobs), late(held)) as site,
        beside(tmp_path, site, tuning=replace(QUICK, patience_s=0.1)) as here,
    ):
        first = asyncio.ensure_future(told(lines_of(here, site)))
        await until(lambda: waiting(site, BLOB) > 0)
        site.model = replace(site.model, raw=other.raw)
        second = asyncio.ensure_future(told(lines_of(here, site, "n")))
        await asyncio.wait({first, second}, timeout=0.5)
        held.set()
        for lines in await asyncio.gather(first, second):
            assert lines[-1] == SUCCESS


async def test_a_blob_whose_head_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HEAD_S", 0.1)
    drip = Reply(drip=b"HTTP/1.1 206 X\r\nX: ")
    async with (
        faulty(MODEL, lambda asked: drip if asked.path.endswith(BLOB) else None) as site,
        beside(tmp_path, site) as here,
    ):
        with pytest.raises(RegistryFailed, match="max retries exceeded: no answer in time"):
            await told(lines_of(here, site))


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_connection_that_never_comes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HEAD_S", 0.1)

    async def never(_: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    async with transport.make_client(Guard(), resolve=never) as client, asyncio.timeout(10):
        with pytest.raises(httpx.ReadTimeout):
            await client.request(method, "https://registry.example/", content=b"x")


async def test_a_body_may_take_longer_than_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HEAD_S", 0.2)

    async def slow() -> AsyncGenerator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.1)
            yield b"x"

    async with faulty(MODEL) as site, beside(tmp_path, site) as here:
        answer = await here.clients.secure.post(
            f"http://{site.host}/v2/", content=slow(), headers={"content-length": "4"}
        )
        assert answer.status_code == 200


async def test_what_is_not_the_callers_is_sent_once_more(tmp_path: Path) -> None:
    """A caller whose key names models gets no blob by its digest: the registry has to have it."""
    async with faulty(MODEL) as site, beside(tmp_path, site) as here:

        async def again(model: str) -> list[Progress]:
            registry = Registry(
                here.clients, ModelName(model, "latest", "library", site.host), here.policy, insecure=True
            )
            return await told(pull(registry, here.store, here.downloads, lacking=set))

        assert (await again("first"))[-1] == SUCCESS, "nor is it shared while it is not here"
        site.asked.clear()
        assert (await again("m"))[-1] == SUCCESS
        ranges = [each.range or (0, 0) for each in site.blob_requests() if each.path.endswith(BLOB)]
        assert sum(end - begin for begin, end in ranges) == len(DATA)
        site.answer = lambda asked: ranged(asked, DATA[:-1] + b"x") if asked.path.endswith(BLOB) else None
        with pytest.raises(RegistryFailed, match="digest mismatch"):
            await again("other")
        site.answer = lambda asked: Reply(404) if asked.path.endswith(BLOB) else None
        with pytest.raises(RegistryFailed, match="file does not exist"):
            await again("other")
        assert here.holds(MODEL)
        assert sorted(here.names()) == sorted(f"{site.host}/library/{name}:latest" for name in ("first", "m"))
