"""Push to a registry that fails, in parts, and to one that sends elsewhere, as Ollama's does."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.core.errors import AddressRefused, Forbidden, RegistryFailed
from app.core.model import ModelName
from app.registry import transport, upload
from app.registry.policy import Policy
from app.registry.progress import SUCCESS, Progress
from app.registry.push import push
from tests.registry.faulty import Asked, Faulty, Reply, as_json, faulty
from tests.registry.models import Place, digest_of, model_of, place, statuses, told

DATA = random.Random(3).randbytes(1_000_000)
MODEL = model_of(DATA, b"{}")
BLOB = digest_of(DATA)
PART = 300_000


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LEAST_BYTES", PART)


@dataclass
class Taker:
    """A registry that takes uploads. `spoil` is asked before each request; None lets it pass. `elsewhere`
    sends each part to a place of its own by 307."""

    spoil: Callable[[Asked], Reply | None] = lambda asked: None
    elsewhere: str = ""
    held: dict[str, bytes] = field(default_factory=dict[str, bytes])
    parts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    upload: bytes = b""
    etag: str = ""
    manifest: bytes = b""

    def __call__(self, asked: Asked) -> Reply:
        if reply := self.spoil(asked):
            return reply
        path = urlsplit(asked.path)
        match asked.method:
            case "HEAD":
                return Reply() if path.path.rpartition("/")[2] in self.held else Reply(404)
            case "POST":
                self.upload = b""
                return Reply(202, headers={"Location": "/v2/up?state=0"})
            case "PATCH" if self.elsewhere:
                to = f"{self.elsewhere}/part{len(self.parts)}"
                return Reply(307, headers={"Location": to, "Docker-Upload-Location": "/v2/up?state=x"})
            case "PATCH":
                self.upload += asked.body
                return Reply(202, headers={"Location": f"/v2/up?state={len(self.upload)}"})
            case "GET" if path.path == "/v2/up":
                last = max(len(self.upload) - 1, 0)
                return Reply(204, headers={"Location": "/v2/up?state=x", "Range": f"0-{last}"}, length=None)
            case "PUT" if path.path.startswith("/part"):
                self.parts[path.path] = asked.body
                return Reply(200)
            case "PUT" if path.path == "/v2/up":
                query = parse_qs(path.query)
                whole = self.upload or b"".join(self.parts.values())
                self.etag = query["etag"][0]
                self.held[query["digest"][0]] = whole
                good = digest_of(whole) == query["digest"][0]
                self.parts.clear()
                return Reply(201) if good else Reply(400, b"digest invalid")
            case "PUT":
                self.manifest = asked.body
                return Reply(201)
            case _:
                return Reply()


@asynccontextmanager
async def taking(
    taker: Taker, root: Path, policy: Policy | None = None
) -> AsyncGenerator[tuple[Faulty, Place]]:
    async with faulty(MODEL, taker) as site, place(root, site.host, policy=policy) as here:
        here.put(named(site), MODEL)
        yield site, here


def named(site: Faulty) -> ModelName:
    return ModelName("m", "latest", "library", site.host)


def pushing(site: Faulty, here: Place) -> AsyncGenerator[Progress]:
    return push(here.registry(named(site)), here.store, backoff_s=0.01)


def once(where: Callable[[Asked], bool], reply: Reply) -> Callable[[Asked], Reply | None]:
    left = [reply]
    return lambda asked: left.pop() if left and where(asked) else None


async def test_a_blob_goes_in_parts(tmp_path: Path) -> None:
    taker = Taker()
    async with taking(taker, tmp_path) as (site, here):
        lines = await told(pushing(site, here))
        ranges = [asked.headers["content-range"] for asked in site.asked if asked.method == "PATCH"]
    assert taker.held == MODEL.blobs
    assert taker.manifest == MODEL.raw
    assert ranges == ["0-299999", "300000-599999", "600000-899999", "900000-999999", "0-1"]
    short = [f"pushing {digest[7:19]}" for digest in MODEL.blobs]
    assert statuses(lines) == ["retrieving manifest", *short, "pushing manifest", "success"]


async def test_parts_may_be_sent_elsewhere(tmp_path: Path) -> None:
    taker = Taker()
    async with taking(taker, tmp_path) as (site, here):
        taker.elsewhere = f"http://{site.host}"
        assert (await told(pushing(site, here)))[-1] == SUCCESS
        sent = [asked for asked in site.asked if asked.path.startswith("/part")]
    assert taker.held == MODEL.blobs
    assert [len(asked.body) for asked in sent[:4]] == [PART, PART, PART, 100_000]
    hashes = [hashlib.md5(b"{}").digest()]
    assert taker.etag == f"{hashlib.md5(b''.join(hashes)).hexdigest()}-1"


async def test_a_part_is_not_sent_to_a_private_address(tmp_path: Path) -> None:
    taker = Taker(elsewhere="http://10.0.0.1")
    async with taking(taker, tmp_path) as (site, here):
        with pytest.raises(AddressRefused):
            await told(pushing(site, here))
    assert taker.manifest == b""


@pytest.mark.parametrize(
    "reply",
    [Reply(500, b"oops"), Reply(503), Reply(0), Reply(416), Reply(404)],
    ids=["500", "503", "cut", "416", "404"],
)
async def test_a_part_that_failed_is_taken_up(reply: Reply, tmp_path: Path) -> None:
    spoil = once(lambda asked: asked.headers.get("content-range", "").startswith("300000-"), reply)
    taker = Taker(spoil)
    async with taking(taker, tmp_path) as (site, here):
        assert (await told(pushing(site, here)))[-1] == SUCCESS
        begun = [asked.path for asked in site.asked if asked.method == "POST"]
    assert taker.held == MODEL.blobs
    assert len(begun) == 2


async def test_an_upload_that_is_gone_is_begun_anew(tmp_path: Path) -> None:
    part = once(lambda asked: asked.headers.get("content-range", "").startswith("300000-"), Reply(500))
    state = once(lambda asked: asked.method == "GET", Reply(404))
    taker = Taker(lambda asked: part(asked) or (state(asked) if asked.path.startswith("/v2/up") else None))
    async with taking(taker, tmp_path) as (site, here):
        assert (await told(pushing(site, here)))[-1] == SUCCESS
        begun = [asked.path for asked in site.asked if asked.method == "POST"]
    assert taker.held == MODEL.blobs
    assert len(begun) == 3


async def test_what_was_sent_before_is_not_sent_again(tmp_path: Path) -> None:
    taker = Taker(lambda asked: Reply(500, b"no") if "/manifests/" in asked.path else None)
    async with taking(taker, tmp_path) as (site, here):
        with pytest.raises(RegistryFailed, match="500: no"):
            await told(pushing(site, here))
        taker.spoil = lambda asked: None
        site.asked.clear()
        assert (await told(pushing(site, here)))[-1] == SUCCESS
        assert {asked.method for asked in site.asked} == {"GET", "HEAD", "PUT"}


@pytest.mark.parametrize(
    ("where", "reply", "text"),
    [
        ("PATCH", Reply(500, b"oops"), "max retries exceeded: 500: oops"),
        ("PATCH", Reply(403, b"read only"), "403: read only"),
        ("POST", Reply(401), "unauthorized: access denied"),
        ("POST", Reply(202), "the registry does not say where the blob is to be sent"),
        ("POST", Reply(413, b"too large"), "413: too large"),
        ("POST", Reply(308, headers={"Location": "/v2/there"}), "127.0.0.1 answers POST of a blob with 308"),
        ("PATCH", Reply(302, headers={"Location": "/v2/up"}), "127.0.0.1 answers PATCH of a blob with 302"),
        (
            *("PATCH", Reply(307, headers={"Docker-Upload-Location": "/v2/up"})),
            "127.0.0.1 answers PATCH of a blob with 307",
        ),
        ("PUT", Reply(301, headers={"Location": "/v2/up"}), "127.0.0.1 answers PUT of a blob with 301"),
        ("PATCH", Reply(202, headers={"Location": f"/v2/up?{'x' * 65_400}"}), "127.0.0.1 redirects to what"),
        ("HEAD", Reply(403), "403: "),
    ],
)
async def test_what_stays_wrong_is_told(where: str, reply: Reply, text: str, tmp_path: Path) -> None:
    taker = Taker(lambda asked: reply if asked.method == where else None)
    async with taking(taker, tmp_path) as (
        site,
        here,
    ):
        with pytest.raises(RegistryFailed) as error:
            await told(pushing(site, here))
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/uploads/"), ("PUT", "/v2/up"), ("PUT", "/manifests/")],
    ids=["mounted", "sent", "manifest"],
)
async def test_what_the_registry_took_is_what_was_sent(method: str, path: str, tmp_path: Path) -> None:
    """It says so itself, as far as it names a digest; one that was changed on the way is not a success."""
    named = {"": "sha256:" + "0" * 64}

    def spoil(asked: Asked) -> Reply | None:
        is_it = asked.method == method and path in asked.path
        return Reply(201, headers={"Docker-Content-Digest": named[""]}) if is_it else None

    async with taking(Taker(spoil), tmp_path) as (site, here):
        with pytest.raises(RegistryFailed, match="digest mismatch: the registry has sha256:000"):
            await told(pushing(site, here))
        named[""] = "sha512:" + "0" * 128
        assert (await told(pushing(site, here)))[-1] == SUCCESS


@pytest.mark.parametrize("state", [Reply(404), Reply(204, headers={"Range": "0-0"}, length=None)])
async def test_a_registry_that_forgets_what_it_took_is_not_tried_for_ever(
    state: Reply, tmp_path: Path
) -> None:
    def spoil(asked: Asked) -> Reply | None:
        if asked.method == "PATCH" and not asked.headers["content-range"].startswith("0-"):
            return Reply(500, b"oops")
        if asked.method == "GET":
            return replace(state, headers={**state.headers, "Location": "/v2/up?state=0"})
        return None

    async with taking(Taker(spoil), tmp_path) as (site, here):
        async with asyncio.timeout(10):
            with pytest.raises(RegistryFailed, match="max retries exceeded: 500: oops"):
                await told(pushing(site, here))
        assert len([asked for asked in site.asked if asked.method == "PATCH"]) <= 12


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_a_head_that_never_ends(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "HEAD_S", 0.1)
    drip = Reply(drip=b"HTTP/1.1 202 X\r\nX: ")
    taker = Taker(lambda asked: drip if asked.method == method else None)
    async with taking(taker, tmp_path) as (site, here), asyncio.timeout(10):
        with pytest.raises(RegistryFailed, match="no answer in time"):
            await told(pushing(site, here))


async def test_a_token_is_asked_for_in_the_middle(tmp_path: Path) -> None:
    """One that has run out while a part was sent: the part is sent again with the next."""
    tokens = iter(("first", "second"))
    good = {"": "first"}

    def spoil(asked: Asked) -> Reply | None:
        if asked.path.startswith("/token"):
            return as_json({"token": next(tokens)})
        if asked.headers.get("content-range", "").startswith("300000-"):
            good[""] = "second"
        if asked.path != "/v2/" and asked.headers.get("authorization") != f"Bearer {good['']}":
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{host}/token"'})
        return None

    taker = Taker(spoil)
    async with taking(taker, tmp_path) as (site, here):
        host = site.host
        assert (await told(pushing(site, here)))[-1] == SUCCESS
    assert taker.held == MODEL.blobs


async def test_leaving_stops_within_a_second(tmp_path: Path) -> None:
    taker = Taker()

    async def never(asked: Asked) -> Reply:
        await asyncio.sleep(60)
        return Reply()

    async with taking(taker, tmp_path) as (site, here):
        site.answer = lambda asked: never(asked) if asked.method == "PATCH" else taker(asked)
        async with aclosing(pushing(site, here)) as lines:
            async for line in lines:
                if line.digest:
                    break
            began = time.monotonic()
        assert time.monotonic() - began < 1


async def test_a_blob_that_is_gone(tmp_path: Path) -> None:
    async with taking(Taker(), tmp_path) as (site, here):
        here.blobs.remove(BLOB)
        with pytest.raises(RegistryFailed, match="is not here as the manifest says"):
            await told(pushing(site, here))


async def test_a_blob_that_goes_while_it_is_sent(tmp_path: Path) -> None:
    """Its model was deleted: the next part is not there to be read."""
    taker = Taker()
    async with taking(taker, tmp_path) as (site, here):

        def remove(asked: Asked) -> Reply | None:
            if asked.method == "PATCH":
                here.blobs.remove(BLOB)
            return None

        taker.spoil = remove
        with pytest.raises(RegistryFailed, match=f"the blob {BLOB} cannot be read: No such file"):
            await told(pushing(site, here))


async def test_policy_stands_before_the_store(tmp_path: Path) -> None:
    async with taking(Taker(), tmp_path, Policy(push=False)) as (site, here):
        with pytest.raises(Forbidden):
            await told(push(here.registry(named(site)), here.store))
        assert site.asked == []
