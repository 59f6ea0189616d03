"""What many clients at once may take of quota, memory and threads. Nothing here goes by the clock."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.access.keys import new_key
from app.api.body import OpenBodies, Uploads
from app.catalogue import conversion
from app.catalogue.adapteruses import AdapterUses
from app.core.errors import BodiesFull, ConcurrencyExceeded, LoadFailed
from tests.api.managed import Site, digest_of, gguf, managed
from tests.api.test_adapters import base_in
from tests.registry.faulty import Asked, Faulty, Reply, faulty
from tests.registry.models import model_of
from tests.unit.lora_files import lora, lora_config

KIB = 1 << 10
WAIT_S = 60


@dataclass
class Sending:
    """A blob whose last byte is kept back until `gate` opens."""

    site: Site
    data: bytes
    gate: asyncio.Event
    paused: asyncio.Event = field(default_factory=asyncio.Event)

    async def _body(self) -> AsyncGenerator[bytes]:
        for at in range(0, len(self.data) - 1, 64 * KIB):
            yield self.data[at : min(at + 64 * KIB, len(self.data) - 1)]
        self.paused.set()
        await self.gate.wait()
        yield self.data[-1:]

    async def send(self, *, announced: bool = True) -> int:
        headers = {"content-length": str(len(self.data))} if announced else {}
        path = f"/api/blobs/{digest_of(self.data)}"
        answer = await self.site.client.post(path, content=self._body(), headers=headers)
        return answer.status_code


async def settled(tasks: Iterable["asyncio.Task[Any]"], paused: Iterable[Awaitable[Any]]) -> None:
    """Until each task is over or has paused."""
    for task, pause in zip(tasks, paused, strict=True):
        waiting = asyncio.ensure_future(pause)
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


async def sent_at_once(site: Site, blobs: Iterable[bytes], *, announced: bool) -> list[int]:
    gate = asyncio.Event()
    sendings = [Sending(site, data, gate) for data in blobs]
    tasks = [asyncio.create_task(each.send(announced=announced)) for each in sendings]
    await settled(tasks, (each.paused.wait() for each in sendings))
    gate.set()
    return await asyncio.gather(*tasks)


def blob_bytes(site: Site) -> int:
    folder = site.store.root / "blobs"
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


@pytest.mark.parametrize(("announced", "status"), [(True, 403), (False, 507)])
async def test_uploads_at_once_stay_within_the_quota(tmp_path: Path, announced: bool, status: int) -> None:
    async with managed(tmp_path, models_max_bytes=40_000) as site:
        blobs = [os.urandom(15_000) for _ in range(8)]
        assert sorted(await sent_at_once(site, blobs, announced=announced)) == [201, 201, *[status] * 6]
        assert blob_bytes(site) == 30_000
        assert list((site.store.root / ".caravan" / "scratch").iterdir()) == []
        assert await sent_at_once(site, [os.urandom(10_000)], announced=announced) == [201]


async def test_pulls_at_once_stay_within_the_quota(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def held_back(asked: Asked) -> Awaitable[Reply] | None:
        async def answer() -> Reply:
            begun[asked.headers["host"]].set()
            await gate.wait()
            return next(each for each in sites if each.host == asked.headers["host"]).honest(asked)

        return answer() if "/blobs/" in asked.path else None

    models = [model_of(gguf(number) + os.urandom(15_000), b"{}") for number in range(2)]
    async with faulty(models[0], held_back) as one, faulty(models[1], held_back) as two:
        sites = (one, two)
        hosts = [site.host for site in sites]
        begun = {host: asyncio.Event() for host in hosts}
        async with managed(
            tmp_path,
            models_max_bytes=20_000,
            registry_allow=hosts,
            registry_insecure=True,
            fetch_allow=[*hosts, "127.0.0.1"],
        ) as site:
            pulls = [
                asyncio.create_task(
                    site.send("/api/pull", model=f"{host}/library/m", insecure=True, stream=False)
                )
                for host in hosts
            ]
            await settled(pulls, (begun[host].wait() for host in hosts))
            gate.set()
            answers = await asyncio.gather(*pulls)
            assert sorted(answer.status_code for answer in answers) == [200, 403]
            assert blob_bytes(site) <= 20_000
            assert len(await site.names()) == 2


async def test_texts_and_copies_count(tmp_path: Path) -> None:
    async with managed(tmp_path, models_max_bytes=30_000) as site:
        await site.made(model="one", **{"from": "plain"}, system="x" * 20_000)
        answer = await site.send(
            "/api/create", model="two", **{"from": "plain"}, system="y" * 20_000, stream=False
        )
        assert answer.status_code == 403
        assert "delete a model first" in answer.json()["error"]
        assert await site.names() == ["one:latest", "plain:latest"]
        codes = [
            (await site.send("/api/copy", source="one", destination=f"copy{n}")).status_code
            for n in range(60)
        ]
        assert codes[0] == 200
        assert codes[-1] == 403
        await site.client.request("DELETE", "/api/delete", json={"model": "copy0"})
        assert (await site.send("/api/copy", source="one", destination="last")).status_code == 200


async def test_what_of_uploads_is_in_memory_is_bounded(tmp_path: Path) -> None:
    budget = 1024 * KIB
    async with managed(
        tmp_path, max_body_bytes=budget, limits={"open_body_bytes": budget, "small_body_bytes": 0}
    ) as site:
        gate = asyncio.Event()
        sendings = [Sending(site, os.urandom(900 * KIB), gate) for _ in range(10)]
        tasks = [asyncio.create_task(each.send()) for each in sendings]
        await settled(tasks, (each.paused.wait() for each in sendings))
        scratch = site.store.root / ".caravan" / "scratch"
        written = sum(path.stat().st_size for path in scratch.iterdir())
        assert written >= 10 * 900 * KIB - budget // 4 - 10 * 128 * KIB
        # They turn nobody else away.
        answer = await site.send("/api/generate", model="plain", prompt="x " * (100 * KIB), stream=False)
        assert answer.status_code == 200
        gate.set()
        assert await asyncio.gather(*tasks) == [201] * 10


async def test_uploads_at_once_are_bounded(tmp_path: Path) -> None:
    async with managed(tmp_path, limits={"uploads": 2}) as site:
        gate = asyncio.Event()
        sendings = [Sending(site, os.urandom(1_000), gate) for _ in range(2)]
        tasks = [asyncio.create_task(each.send()) for each in sendings]
        await settled(tasks, (each.paused.wait() for each in sendings))
        answer = await site.client.post(f"/api/blobs/{digest_of(b'third')}", content=b"third")
        assert answer.status_code == 503
        assert answer.json() == {
            "error": "the server has too many blobs that arrive at once, please try again"
        }
        assert answer.headers["retry-after"] == "1"
        gate.set()
        assert await asyncio.gather(*tasks) == [201, 201]
        await site.uploaded(b"third")


class TestUploads:
    def test_a_key_has_its_own_bound(self) -> None:
        uploads = Uploads(OpenBodies(), most=3, most_per_key=2)
        with uploads.one("a"), uploads.one("a"):
            with pytest.raises(ConcurrencyExceeded), uploads.one("a"):
                pass
            with uploads.one("b"), pytest.raises(BodiesFull), uploads.one("c"):
                pass
        with uploads.one("a"):
            pass

    def test_without_keys_only_the_servers_bound_counts(self) -> None:
        uploads = Uploads(OpenBodies(), most=3, most_per_key=1)
        with uploads.one(""), uploads.one(""), uploads.one(""), pytest.raises(BodiesFull), uploads.one(""):
            pass

    def test_what_is_held_is_of_the_budget_of_bodies_and_given_back(self) -> None:
        bodies = OpenBodies(4096 * KIB)
        uploads = Uploads(bodies)
        with uploads.one("") as one, uploads.one("") as two:
            assert one.fits(64 * KIB)
            assert bodies.held_bytes == 0
            assert one.fits((64 + 1000) * KIB)
            assert not two.fits((64 + 100) * KIB), "a quarter of the budget is all that uploads have"
            assert bodies.held_bytes == 1000 * KIB
            assert one.fits(0)
            assert two.fits((64 + 100) * KIB)
        assert (bodies.held_bytes, uploads.held_bytes) == (0, 0)
        bodies.hold(4096 * KIB)
        with uploads.one("") as one:
            assert not one.fits(65 * KIB)


async def test_conversions_hold_up_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, begun = threading.Event(), threading.Event()
    runs: list[Path] = []

    def run(blob: Path, *_more: object) -> None:
        runs.append(blob)
        begun.set()
        assert release.wait(WAIT_S)
        raise LoadFailed("not in this test")

    monkeypatch.setattr(conversion, "run", run)
    async with managed(tmp_path) as site:
        bases = [await site.uploaded(gguf(number)) for number in range(3)]
        for number, blob in enumerate(bases):
            await site.made(model=f"base{number}", files={"m.gguf": blob})
        adapters = {
            "adapter_model.safetensors": await site.uploaded(lora()),
            "adapter_config.json": await site.uploaded(lora_config()),
        }
        # More than there are threads for anything.
        creates = [
            asyncio.create_task(
                site.send(
                    "/api/create",
                    model=f"made{number}",
                    **{"from": f"base{number % 3}"},
                    adapters=adapters,
                    stream=False,
                )
            )
            for number in range(3 * ((os.cpu_count() or 1) + 8))
        ]
        try:
            assert await asyncio.to_thread(begun.wait, WAIT_S)
            async with asyncio.timeout(WAIT_S / 2):
                assert (await site.send("/api/copy", source="plain", destination="copy")).status_code == 200
                await site.made(model="quick", **{"from": "plain"}, system="Quick.")
                await site.uploaded(b"a blob")
                gone = await site.client.request("DELETE", "/api/delete", json={"model": "copy"})
                assert gone.status_code == 200
            assert len(runs) == 1
        finally:
            release.set()
        answers = await asyncio.gather(*creates)
        assert {answer.status_code for answer in answers} == {400}
        assert all("not in this test" in answer.text for answer in answers)


async def test_a_store_that_went_away_is_told(tmp_path: Path) -> None:
    async with managed(tmp_path) as site:
        await site.made(model="one", **{"from": "plain"}, system="One.")
        away = site.store.root.rename(tmp_path / "elsewhere")
        site.store.root.mkdir()
        for path, body in (
            ("/api/create", {"model": "two", "from": "plain", "system": "Two.", "stream": False}),
            ("/api/copy", {"source": "plain", "destination": "two"}),
        ):
            answer = await site.send(path, **body)
            assert answer.status_code == 500
            assert answer.json()["error"].startswith("the model store of this server is not there any more")
        answer = await site.client.post(f"/api/blobs/{digest_of(b'x')}", content=b"x")
        assert answer.status_code == 500
        assert list(site.store.root.iterdir()) == []
        site.store.root.rmdir()
        away.rename(site.store.root)
        await site.made(model="two", **{"from": "plain"}, system="Two.")


class TestAdapterCopies:
    @staticmethod
    @asynccontextmanager
    async def site(tmp_path: Path, **settings: Any) -> AsyncGenerator[Site]:
        async with managed(tmp_path, base_in(tmp_path), **settings) as site:
            yield site

    @staticmethod
    def copies(tmp_path: Path) -> list[str]:
        folder = tmp_path / "cache" / "adapters"
        return (
            sorted(path.name for path in folder.iterdir() if path.name != ".uses") if folder.is_dir() else []
        )

    @staticmethod
    async def create(site: Site, name: str, fill: float = 0.5, **more: Any) -> httpx.Response:
        files = {
            "adapter_model.safetensors": await site.uploaded(lora(fill=fill)),
            "adapter_config.json": await site.uploaded(lora_config()),
        }
        return await site.send(
            "/api/create", model=name, **{"from": "plain"}, adapters=files, stream=False, **more
        )

    @staticmethod
    async def delete(site: Site, name: str) -> None:
        answer = await site.client.request("DELETE", "/api/delete", json={"model": name})
        assert answer.status_code == 200

    async def test_a_copy_goes_with_the_last_model_that_has_it(self, tmp_path: Path) -> None:
        async with self.site(tmp_path) as site:
            for name in ("one", "same"):
                assert (await self.create(site, name)).status_code == 200
            assert len(self.copies(tmp_path)) == 1
            await self.delete(site, "one")
            assert len(self.copies(tmp_path)) == 1
            await self.delete(site, "same")
            assert self.copies(tmp_path) == []

    async def test_a_model_that_is_refused_leaves_none(self, tmp_path: Path) -> None:
        async with self.site(tmp_path) as site:
            for number in range(3):
                answer = await self.create(site, "one", 0.1 * (number + 1), capabilities=["vision"])
                assert answer.status_code == 400
            assert self.copies(tmp_path) == []

    async def test_they_count_in_the_quota(self, tmp_path: Path) -> None:
        # Room for the files and what else a model has, and not for a copy of the weights.
        quota = 2 * len(lora()) + len(lora_config())
        async with self.site(tmp_path, models_max_bytes=quota) as site:
            answer = await self.create(site, "one")
            assert answer.status_code == 403
            assert "delete a model first" in answer.json()["error"]
            assert self.copies(tmp_path) == []
        async with self.site(tmp_path, models_max_bytes=quota + 4_000) as site:
            assert (await self.create(site, "one")).status_code == 200
            assert len(self.copies(tmp_path)) == 1
            data = os.urandom(4_000)
            answer = await site.client.post(f"/api/blobs/{digest_of(data)}", content=data)
            assert answer.status_code == 403

    async def test_a_request_keeps_it_to_its_end(self, tmp_path: Path) -> None:
        async with self.site(tmp_path) as site:
            assert (await self.create(site, "one")).status_code == 200
            assert (await site.answer("one")).status_code == 200
            site.engines[0].gate = gate = asyncio.Event()
            running = asyncio.create_task(site.answer("one"))
            while not site.engines[0].metrics()["running"]:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)
            await self.delete(site, "one")
            assert len(self.copies(tmp_path)) == 1
            gate.set()
            assert (await running).status_code == 200
            await site.library.use_adapters()  # as `watch` does each second
            assert self.copies(tmp_path) == []

    async def test_another_process_keeps_it(self, tmp_path: Path) -> None:
        other = AdapterUses(tmp_path / "cache")
        async with self.site(tmp_path) as site:
            assert (await self.create(site, "one")).status_code == 200
            (digest,) = self.copies(tmp_path)
            other.add(digest)
            await self.delete(site, "one")
            assert self.copies(tmp_path) == [digest]
            other.only(())
            assert self.copies(tmp_path) == []


async def test_changes_of_models_at_once_are_bounded(tmp_path: Path) -> None:
    """Each holds what it was asked for, and a manifest; those that wait for a thread as well."""
    async with (
        holding() as (registry, gate, begun),
        managed(
            tmp_path,
            limits={"model_changes": 1},
            registry_allow=[registry.host],
            registry_insecure=True,
            fetch_allow=[registry.host, "127.0.0.1"],
        ) as site,
    ):
        name = f"{registry.host}/library/m"
        pull = asyncio.create_task(site.send("/api/pull", model=name, insecure=True, stream=False))
        await settled([pull], [begun.wait()])
        for path, body in (
            ("/api/create", {"model": "n", "from": "plain", "system": "x"}),
            ("/api/pull", {"model": name}),
            ("/api/push", {"model": name}),
        ):
            answer = await site.send(path, **body, stream=False)
            assert answer.status_code == 503, path
            assert "too many changes of models at once" in answer.json()["error"]
        gate.set()
        assert (await pull).json() == {"status": "success"}
        await site.made(model="n", **{"from": "plain"}, system="x")


async def test_changes_of_models_at_once_are_bounded_for_a_key(tmp_path: Path) -> None:
    """One key's pulls that wait for a slow registry keep no other key from its own."""
    keys = {name: new_key(name) for name in ("one", "other")}
    records = [{"id": name, "hash": stored, "scopes": ["models:write"]} for name, (_, stored) in keys.items()]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": records}))

    async with (
        holding() as (registry, gate, begun),
        managed(
            tmp_path,
            keys_file=tmp_path / "keys.yaml",
            limits={"model_changes_per_key": 1},
            registry_allow=[registry.host],
            registry_insecure=True,
            fetch_allow=[registry.host, "127.0.0.1"],
        ) as site,
    ):
        site.client.headers["authorization"] = f"Bearer {keys['one'][0]}"
        name = f"{registry.host}/library/m"
        pull = asyncio.create_task(site.send("/api/pull", model=name, insecure=True))
        await settled([pull], [begun.wait()])
        for path, body in (
            ("/api/create", {"model": "n", "from": "plain", "system": "x"}),
            ("/api/pull", {"model": name, "insecure": True}),
            ("/api/push", {"model": name, "insecure": True}),
        ):
            answer = await site.send(path, **body)
            assert answer.status_code == 429, path
            assert "this API key has too many changes of models at once" in answer.json()["error"]
            assert answer.headers["retry-after"] == "1"
        site.client.headers["authorization"] = f"Bearer {keys['other'][0]}"
        await site.made(model="n", **{"from": "plain"}, system="x")
        gate.set()
        assert (await pull).text.endswith('{"status":"success"}\n')
        site.client.headers["authorization"] = f"Bearer {keys['one'][0]}"
        await site.made(model="o", **{"from": "plain"}, system="x")


async def test_changes_of_models_under_way_are_told_of_the_servers_end(tmp_path: Path) -> None:
    """What has come of a pull stays for the next server."""
    async with (
        holding() as (registry, _, begun),
        managed(
            tmp_path,
            registry_allow=[registry.host],
            registry_insecure=True,
            fetch_allow=[registry.host, "127.0.0.1"],
        ) as site,
    ):
        asked = {"model": f"{registry.host}/library/m", "insecure": True}
        pulls = [
            asyncio.create_task(site.send("/api/pull", **asked, stream=stream)) for stream in (True, False)
        ]
        await settled(pulls[:1], [begun.wait()])
        await site.lifecycle.end()
        async with asyncio.timeout(WAIT_S):
            lines, document = await asyncio.gather(*pulls)
    text = '{"error":"the server is shutting down"}'
    assert lines.text.splitlines()[-1] == text
    assert (document.status_code, document.text) == (503, text)


@asynccontextmanager
async def holding() -> AsyncGenerator[tuple[Faulty, asyncio.Event, asyncio.Event]]:
    """A registry that keeps blobs back until the first event, and tells by the second that it was asked."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def held_back(asked: Asked) -> Reply | None:
        if "/blobs/" in asked.path:
            begun.set()
            await gate.wait()
        return None

    async with faulty(model_of(gguf(), b"{}")) as registry:
        registry.answer = lambda asked: _then(held_back(asked), registry.honest(asked))
        yield registry, gate, begun


async def _then(first: Awaitable[Reply | None], otherwise: Reply) -> Reply:
    return await first or otherwise


async def test_the_store_has_so_many_models_and_no_more(tmp_path: Path) -> None:
    """Each is kept in memory and looked at every second, and over 200,000 not all are even listed."""
    async with managed(tmp_path, limits={"stored_models": 2}) as site:
        await site.made(model="one", **{"from": "plain"}, system="x")
        assert (await site.send("/api/copy", source="one", destination="two")).status_code == 200
        for path, body in (
            ("/api/copy", {"source": "one", "destination": "three"}),
            ("/api/create", {"model": "three", "from": "plain", "stream": False}),
            ("/api/pull", {"model": "three", "stream": False}),
        ):
            answer = await site.send(path, **body)
            assert answer.status_code == 403, path
            assert "there are 2 models in the store, of at most 2" in answer.json()["error"]
        await site.made(model="two", **{"from": "plain"}, system="another")
        await site.client.request("DELETE", "/api/delete", json={"model": "one"})
        assert (await site.send("/api/copy", source="two", destination="three")).status_code == 200
