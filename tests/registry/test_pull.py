"""Pull from a registry that cuts, stalls, lies and sends elsewhere."""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.errors import AddressRefused, AppError, Forbidden, RegistryFailed, StoreFailed, StoreReadOnly
from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry.challenge import Login
from app.registry.client import Clients, Registry
from app.registry.manifest import Document, read_document
from app.registry.policy import Policy
from app.registry.progress import SUCCESS, Progress
from app.registry.pull import pull
from app.registry.transport import make_client
from app.store.manifest import LICENSE
from app.store.partial import Partial
from tests.registry.faulty import Answer, Asked, Faulty, Reply, as_json, faulty, ranged
from tests.registry.models import LAYER, QUICK, Model, digest_of, model_of, place, told

DATA = random.Random(1).randbytes(1_500_000)
MODEL = model_of(DATA, b"{}")
BLOB = digest_of(DATA)
WAIT_S = 10


def name_at(site: Faulty) -> ModelName:
    return ModelName("m", "latest", "library", site.host)


def on_blob(answer: Callable[[Asked], Reply | None]) -> Answer:
    return lambda asked: answer(asked) if asked.path.endswith(BLOB) else None


def once_each(spoil: Callable[[Reply], Reply]) -> Answer:
    """The first answer for each range is spoilt."""
    seen: set[object] = set()

    def answer(asked: Asked) -> Reply | None:
        end = (asked.range or (0, 0))[1]
        if end in seen:
            return None
        seen.add(end)
        return spoil(ranged(asked, DATA))

    return on_blob(answer)


async def pulled(site: Faulty, root: Path, **changes: object) -> list[Progress]:
    async with asyncio.timeout(WAIT_S), place(root, site.host, replace(QUICK, **changes)) as here:  # type: ignore[arg-type]
        lines = await told(here.pull(name_at(site)))
        assert here.blobs.path(BLOB).read_bytes() == DATA
        assert here.left() == []
        return lines


async def refused(site: Faulty, root: Path, **changes: object) -> str:
    """The error's text; nothing is there afterwards."""
    async with asyncio.timeout(WAIT_S), place(root, site.host, replace(QUICK, **changes)) as here:  # type: ignore[arg-type]
        with pytest.raises(AppError) as error:
            await told(here.pull(name_at(site)))
        assert not here.has(BLOB)
        assert here.names() == []
        assert here.downloads.running == 0
        return str(error.value)


async def test_manifests_are_read_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one with 50,000 layers the loop read for half a second, and added them up anew for each line."""
    threads: list[threading.Thread] = []

    def read(raw: bytes) -> Document:
        threads.append(threading.current_thread())
        document = read_document(raw)
        assert document.blobs is document.blobs, "made once"
        return document

    monkeypatch.setattr("app.registry.client.read_document", read)
    async with faulty(MODEL) as site:
        await pulled(site, tmp_path)
    assert threads
    assert threading.main_thread() not in threads


async def test_no_cookie_of_one_pull_is_sent_with_another(tmp_path: Path) -> None:
    """Many registries send one for a login, and whoever asked next would have come in by it."""
    login = {"Set-Cookie": "sid=of-another; Path=/"}

    def with_cookie(asked: Asked) -> Reply | None:
        return Reply(headers=login) if asked.path == "/v2/" else None

    async with faulty(MODEL, with_cookie) as site, place(tmp_path, site.host) as here:
        for _ in range(2):
            await told(here.pull(name_at(site)))
        assert len([each for each in site.asked if each.path == "/v2/"]) == 2
        assert not any("cookie" in each.headers for each in site.asked)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: replace(reply, cut=1_000),
        lambda reply: replace(reply, cut=0),
        lambda reply: Reply(500, b"oops"),
        lambda reply: Reply(503),
        lambda reply: Reply(429),
        lambda reply: replace(reply, headers={"Content-Range": "bytes 0-9/10"}),
        lambda reply: replace(reply, headers={}),
        lambda reply: Reply(204, length=None),
        lambda reply: replace(reply, body=reply.body[:-100]),
    ],
)
async def test_what_passes_is_asked_for_again(spoil: Callable[[Reply], Reply], tmp_path: Path) -> None:
    async with faulty(MODEL, once_each(spoil)) as site:
        assert (await pulled(site, tmp_path))[-1] == SUCCESS


async def test_a_stalled_connection_is_left_and_what_came_is_kept(tmp_path: Path) -> None:
    async with faulty(MODEL, once_each(lambda reply: replace(reply, stall=50_000))) as site:
        await pulled(site, tmp_path)
        sizes = [end - begin for begin, end in (each.range or (0, 0) for each in site.blob_requests())]
    assert sum(sizes) < 2 * len(DATA)


async def test_a_server_without_ranges(tmp_path: Path) -> None:
    async with faulty(MODEL, on_blob(lambda asked: Reply(body=DATA))) as site:
        await pulled(site, tmp_path)


async def test_a_server_without_ranges_that_cuts(tmp_path: Path) -> None:
    cuts = iter([100_000, 900_000])
    async with faulty(MODEL, on_blob(lambda asked: Reply(body=DATA, cut=next(cuts, None)))) as site:
        await pulled(site, tmp_path, parts=1)


async def test_a_body_without_an_end_is_cut_off(tmp_path: Path) -> None:
    def endless(asked: Asked) -> Reply:
        reply = ranged(asked, DATA)
        return replace(reply, body=reply.body + os.urandom(8 << 20), length=None)

    async with faulty(MODEL, on_blob(endless)) as site:
        await pulled(site, tmp_path)


async def test_a_wrong_digest_leaves_nothing(tmp_path: Path) -> None:
    wrong = b"x" + DATA[1:]
    async with faulty(MODEL, on_blob(lambda asked: ranged(asked, wrong))) as site:
        text = await refused(site, tmp_path)
        assert text == (
            f"digest mismatch, file must be downloaded again: want {BLOB}, got {digest_of(wrong)}"
        )
        async with place(tmp_path, site.host) as here:
            assert here.left() == []
        site.answer = lambda asked: None
        await pulled(site, tmp_path)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(404), "file does not exist"),
        (Reply(403, b"no"), "403: no"),
        (Reply(500, b"oops"), "max retries exceeded: 500: oops"),
        (Reply(206, b"", {"Content-Range": "bytes 5-9/10"}), "max retries exceeded: bytes "),
        (Reply(200, b"x" * 10), "max retries exceeded: the blob has 1500000 bytes and the registry sends 10"),
        (Reply(200, DATA, {"Content-Encoding": "gzip"}), "the registry's answer is encoded"),
        (Reply(307, headers={"Location": "/v2/library/m/blobs/again"}), "file does not exist"),
        (Reply(302, headers={"Location": f"/{BLOB}"}), "127.0.0.1 redirects more than 5 times"),
        (
            Reply(307, headers={"Location": "http://a:b:c/"}),
            "max retries exceeded: Invalid URL",
        ),
    ],
)
async def test_what_stays_wrong_is_told(reply: Reply, text: str, tmp_path: Path) -> None:
    async with faulty(MODEL, on_blob(lambda asked: reply)) as site:
        assert (await refused(site, tmp_path)).startswith(text)


async def test_a_trickle_is_no_progress(tmp_path: Path) -> None:
    def trickle(asked: Asked) -> Reply:
        return replace(ranged(asked, DATA), pace_s=0.01)

    async with faulty(MODEL, on_blob(trickle)) as site:
        text = await refused(site, tmp_path, patience_s=0.5)
    assert text.startswith("max retries exceeded: ")
    assert text.endswith(" bytes came in 0.5 s")


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x",
        "http://2130706433/x",
        "http://127.0.0.1.nip.io@10.0.0.1/x",
        "https://192.168.1.1/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
    ],
)
async def test_a_redirect_to_a_private_host_is_not_followed(url: str, tmp_path: Path) -> None:
    async with faulty(MODEL, on_blob(lambda asked: Reply(307, headers={"Location": url}))) as site:
        async with place(tmp_path, site.host) as here:
            with pytest.raises(AddressRefused):
                await told(here.pull(name_at(site)))
            assert not here.has(BLOB)
        assert len(site.blob_requests()) <= QUICK.parts


async def test_a_redirect_leaves_credentials_behind(tmp_path: Path) -> None:
    async with faulty(MODEL) as cdn, faulty(MODEL) as site:
        there = f"http://{cdn.host}/v2/cdn/{BLOB}"

        def answer(asked: Asked) -> Reply | None:
            if asked.path.startswith("/token"):
                return as_json({"token": "abc"})
            if asked.headers.get("authorization") != "Bearer abc" and asked.path != "/v2/":
                return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{site.host}/token"'})
            return Reply(307, headers={"Location": there}) if asked.path.endswith(BLOB) else None

        site.answer = answer
        async with place(tmp_path, site.host) as here:
            here.clients = Clients(
                here.clients.secure, make_client(Guard(allow=[site.host, cdn.host]), verify=False)
            )
            await told(here.pull(name_at(site)))
            assert here.has(BLOB)
            assert here.clients.insecure is not None
            await here.clients.insecure.aclose()
        assert cdn.asked
        assert not any("authorization" in each.headers for each in cdn.asked)


async def test_a_redirect_may_be_left_out_by_policy(tmp_path: Path) -> None:
    redirect = Reply(307, headers={"Location": "https://cdn.example.com/x"})
    async with faulty(MODEL, on_blob(lambda asked: redirect)) as site:
        policy = Policy(registries=(site.host,), insecure=True, redirects=("*.r2.dev",))
        async with place(tmp_path, site.host, policy=policy) as here:
            with pytest.raises(Forbidden, match=r"no blobs from cdn\.example\.com"):
                await told(here.pull(name_at(site)))


class TestTokens:
    @staticmethod
    def keeper(site: Faulty, challenge: str, login: str = "") -> Answer:
        def answer(asked: Asked) -> Reply | None:
            if asked.path.startswith("/token"):
                good = asked.headers.get("authorization", "") == login
                return as_json({"access_token": "abc"}) if good else Reply(401)
            if asked.path != "/v2/" and asked.headers.get("authorization") != "Bearer abc":
                return Reply(401, headers={"WWW-Authenticate": challenge.format(host=site.host)})
            return None

        return answer

    BEARER = 'Bearer realm="http://{host}/token",service="reg",scope="repository:library/m:pull a:b:c"'

    async def test_a_challenge_is_met_once(self, tmp_path: Path) -> None:
        async with faulty(MODEL) as site:
            site.answer = self.keeper(site, self.BEARER)
            await pulled(site, tmp_path)
            tokens = [each.path for each in site.asked if each.path.startswith("/token")]
        assert tokens == ["/token?service=reg&scope=repository%3Alibrary%2Fm%3Apull&scope=a%3Ab%3Ac"]

    async def test_with_a_name_and_password(self, tmp_path: Path) -> None:
        async with faulty(MODEL) as site, place(tmp_path, site.host) as here:
            site.answer = self.keeper(site, self.BEARER, "Basic YTpi")
            for login, good in ((Login("a", "b"), True), (Login("a", "x"), False), (Login(), False)):
                registry = Registry(here.clients, name_at(site), here.policy, login=login, insecure=True)
                lines = pull(registry, here.store, here.downloads)
                if good:
                    assert (await told(lines))[-1] == SUCCESS
                    continue
                with pytest.raises(
                    RegistryFailed, match=r"^pull model manifest: unauthorized: access denied$"
                ):
                    await told(lines)

    @pytest.mark.parametrize(
        ("challenge", "text"),
        [
            (
                'Bearer realm="https://evil.example/token"',
                'realm host "evil.example" does not match',
            ),
            ('Bearer realm="http://127.0.0.1:1/token"', 'realm host "127.0.0.1:1" does not match original'),
            ('Bearer realm="http://u@{host}/token"', "realm host "),
            ('Bearer realm="http://{host}/a\tb"', "the token realm "),
            ("Bearer", 'realm host "" does not match original host'),
            ("Digest realm=x", "unauthorized: access denied"),
            ("", "unauthorized: access denied"),
            ('Bearer realm="http://{host}/v2/again"', "unauthorized: access denied"),
        ],
    )
    async def test_challenges_that_are_not_met(self, challenge: str, text: str, tmp_path: Path) -> None:
        async with faulty(MODEL) as site:
            site.answer = self.keeper(site, challenge)
            assert (await refused(site, tmp_path)).startswith(f"pull model manifest: {text}")
            assert len(site.asked) < 6

    @pytest.mark.parametrize(("words", "text"), [(700, "a URL has at most "), (4000, "over 4096 characters")])
    async def test_a_challenge_that_no_url_can_hold(self, words: int, text: str, tmp_path: Path) -> None:
        word = "\U0001f600 ".encode().decode("latin-1")
        challenge = 'Bearer realm="http://{host}/token",scope="' + words * word + '"'
        async with faulty(MODEL) as site:
            site.answer = self.keeper(site, challenge)
            with pytest.raises((AddressRefused, RegistryFailed), match=text):
                await pulled(site, tmp_path)

    async def test_a_token_that_helps_nothing_is_asked_for_once(self, tmp_path: Path) -> None:
        def answer(asked: Asked) -> Reply:
            if asked.path.startswith("/token"):
                return as_json({"token": "useless"})
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{site.host}/token"'})

        async with faulty(MODEL, answer) as site:
            assert await refused(site, tmp_path) == "pull model manifest: unauthorized: access denied"
            assert sum(each.path.startswith("/token") for each in site.asked) == 1

    @pytest.mark.parametrize("token", ["a b", "a\r\nX: y", "", 5, None, "\u00e9"])
    async def test_a_token_that_no_header_can_carry(self, token: object, tmp_path: Path) -> None:
        def answer(asked: Asked) -> Reply:
            if asked.path.startswith("/token"):
                return as_json({"token": token})
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="http://{site.host}/token"'})

        async with faulty(MODEL, answer) as site:
            text = await refused(site, tmp_path)
        assert text == "pull model manifest: the registry's answer has no token"


def manifest_with(**changes: object) -> bytes:
    document = json.loads(MODEL.raw)
    document["layers"][0] |= changes
    return json.dumps(document).encode()


def manifest_of_licenses(count: int, size: int) -> bytes:
    """One blob under many names: fetched once, and read for each."""
    document = json.loads(MODEL.raw)
    license_layer = {**document["layers"][0], "mediaType": LICENSE, "size": size}
    document["layers"] += [license_layer] * count
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "it has no layers"),
        (b'{"layers":[]}', "it has no layers"),
        (b'{"layers":[null],"config":{}}', "a layer is not an object"),
        (manifest_with(digest="sha256:../../etc/passwd"), "a layer's digest is not sha256"),
        (manifest_with(digest=f"sha256:{'A' * 64}"), "a layer's digest is not sha256"),
        (manifest_with(digest=f"{BLOB}\n"), "a layer's digest is not sha256"),
        (manifest_with(digest="md5:abc"), "a layer's digest is not sha256"),
        (manifest_with(size=-1), "a layer's size is not a number"),
        (manifest_with(size=True), "a layer's size is not a number"),
        (manifest_with(size=1.5), "a layer's size is not a number"),
        (manifest_with(size=1 << 60), f"{BLOB} has {1 << 60} bytes"),
        (manifest_with(digest=digest_of(b"{}")), f"{digest_of(b'{}')} has two sizes"),
        (b'{"layers":[' + b"1," * 70_000 + b"1]}", "it has more than 16384 layers"),
        (manifest_of_licenses(5_000, 1 << 20), "it has more than 4096 texts"),
        (manifest_of_licenses(65, 1 << 20), "its texts have more than 67108864 bytes"),
    ],
)
async def test_manifests_that_are_none(raw: bytes, text: str, tmp_path: Path) -> None:
    async with faulty(Model(raw, MODEL.blobs)) as site:
        told = await refused(site, tmp_path)
    assert told.startswith(f"pull model manifest: the manifest cannot be used: {text}")


async def test_a_list_of_builds(tmp_path: Path) -> None:
    build = {"runner": "llamacpp", "format": "gguf", "digest": BLOB}
    async with faulty(Model(json.dumps({"manifests": [build]}).encode(), {})) as site:
        assert await refused(site, tmp_path) == "pull model manifest: no compatible manifest found"


async def test_a_manifest_without_an_end(tmp_path: Path) -> None:
    def endless(asked: Asked) -> Reply | None:
        return Reply(body=b" " * (64 << 20), length=None) if "/manifests/" in asked.path else None

    async with faulty(MODEL, endless) as site:
        assert "is over" in await refused(site, tmp_path)


async def test_a_manifest_that_is_not_what_its_digest_says(tmp_path: Path) -> None:
    def other(asked: Asked) -> Reply | None:
        wrong = {"Docker-Content-Digest": BLOB}
        return Reply(body=MODEL.raw, headers=wrong) if "/manifests/" in asked.path else None

    async with faulty(MODEL, other) as site:
        assert (await refused(site, tmp_path)).startswith("pull model manifest: digest mismatch")


async def test_a_size_that_is_not_the_blobs(tmp_path: Path) -> None:
    async with faulty(Model(manifest_with(size=len(DATA) - 1), MODEL.blobs)) as site:
        text = await refused(site, tmp_path)
    # Parts are asked for, and what they are parts of is told with them.
    assert text.startswith("max retries exceeded: ")


@pytest.mark.point(207)
@pytest.mark.parametrize(
    ("answer", "text"),
    [(Reply(412, b"newer version"), "412: newer version"), (Reply(404), "file does not exist")],
)
async def test_what_a_registry_refuses_is_told_in_ollamas_words(
    answer: Reply, text: str, tmp_path: Path
) -> None:
    async with faulty(MODEL, lambda asked: answer if "/manifests/" in asked.path else None) as site:
        assert await refused(site, tmp_path) == f"pull model manifest: {text}"


async def test_a_registry_that_nobody_runs(tmp_path: Path) -> None:
    async with faulty(MODEL) as site:
        pass
    text = await refused(site, tmp_path)
    assert text.startswith(f'pull model manifest: Get "http://127.0.0.1:{site.port}/v2/')
    assert "cannot be reached" in text


class TestSharing:
    async def test_two_pulls_share_one_download(self, tmp_path: Path) -> None:
        async with faulty(MODEL) as site, place(tmp_path, site.host) as here:
            both = [told(here.pull(name_at(site))) for _ in range(2)]
            for lines in await asyncio.gather(*both):
                assert lines[-1] == SUCCESS
            asked = [each.range for each in site.blob_requests()]
        assert len(asked) == len(set(asked))
        assert here.left() == []

    async def test_two_servers_share_one_download(self, tmp_path: Path) -> None:
        """Two owners of downloads over one store, as two processes are."""
        async with faulty(MODEL) as site:
            async with place(tmp_path, site.host) as one, place(tmp_path, site.host) as two:
                for lines in await asyncio.gather(
                    told(one.pull(name_at(site))), told(two.pull(name_at(site)))
                ):
                    assert lines[-1] == SUCCESS
            received = sum(end - begin for begin, end in (a.range or (0, 0) for a in site.blob_requests()))
        assert received == len(DATA) + 2

    async def test_the_second_goes_on_when_the_first_leaves(self, tmp_path: Path) -> None:
        slow = on_blob(lambda asked: replace(ranged(asked, DATA), stall=1_000))
        async with faulty(MODEL, slow) as site, place(tmp_path, site.host) as here:
            first, second = here.pull(name_at(site)), here.pull(name_at(site))
            for lines in (first, second):
                await anext(lines)
                await anext(lines)
            await first.aclose()
            assert here.downloads.running == 1
            site.answer = lambda asked: None
            assert (await told(second))[-1] == SUCCESS

    @pytest.mark.point(210)
    async def test_leaving_stops_within_a_second_and_the_rest_is_fetched_later(self, tmp_path: Path) -> None:
        slow = on_blob(lambda asked: replace(ranged(asked, DATA), stall=40_000))
        async with faulty(MODEL, slow) as site:
            async with place(tmp_path, site.host) as here:
                async with aclosing(here.pull(name_at(site))) as lines:
                    async for line in lines:
                        if line.completed:
                            break
                    await asyncio.sleep(0.2)
                    began = time.monotonic()
                assert time.monotonic() - began < 1
                assert here.downloads.running == 0
                await asyncio.sleep(0.1)
                assert site.open == 0
                assert here.left() != []
            site.asked.clear()
            site.answer = lambda asked: None
            await pulled(site, tmp_path)
            asked = sum(end - begin for begin, end in (a.range or (0, 0) for a in site.blob_requests()))
        assert asked <= len(DATA) - 4 * 40_000 + 2

    async def test_leaving_while_the_store_is_slow_leaves_no_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with faulty(MODEL) as site, place(tmp_path, site.host) as here:
            inside, go = threading.Event(), threading.Event()
            begin = here.blobs.begin

            def slow(digest: str, size: int, *, shared: bool) -> Partial:
                found = begin(digest, size, shared=shared)
                inside.set()
                go.wait(WAIT_S)
                return found

            monkeypatch.setattr(here.blobs, "begin", slow)
            left = asyncio.ensure_future(told(here.pull(name_at(site))))
            await asyncio.to_thread(inside.wait, WAIT_S)
            left.cancel()
            await asyncio.wait({left}, timeout=1)
            assert left.cancelled()
            go.set()
            monkeypatch.undo()
            async with asyncio.timeout(WAIT_S):
                assert (await told(here.pull(name_at(site))))[-1] == SUCCESS

    async def test_a_failure_of_the_first_is_not_the_seconds(self, tmp_path: Path) -> None:
        begun, joined = asyncio.Event(), asyncio.Event()

        async def late(asked: Asked) -> Reply:
            begun.set()
            await joined.wait()
            return Reply(403)

        async with faulty(MODEL) as bad, faulty(MODEL) as good:
            bad.answer = lambda asked: late(asked) if asked.path.endswith(BLOB) else None
            policy = Policy(registries=(bad.host, good.host), insecure=True)
            async with place(tmp_path, bad.host, policy=policy) as here:
                here.clients = Clients(here.clients.secure, make_client(Guard(allow=[bad.host, good.host])))
                first = asyncio.ensure_future(told(here.pull(name_at(bad))))
                await begun.wait()
                second = here.pull(name_at(good))
                while not (await anext(second)).digest:
                    pass
                joined.set()
                with pytest.raises(RegistryFailed, match="403"):
                    await first
                assert (await told(second))[-1] == SUCCESS
                assert here.clients.insecure is not None
                await here.clients.insecure.aclose()


async def test_progress_is_told_at_a_bounded_rate(tmp_path: Path) -> None:
    cut = once_each(lambda reply: replace(reply, cut=1_000))
    async with faulty(MODEL, cut) as site, place(tmp_path, site.host, replace(QUICK, backoff_s=0.5)) as here:
        began = time.monotonic()
        lines = [line for line in await told(here.pull(name_at(site))) if line.digest == BLOB]
        took_s = time.monotonic() - began
    assert 3 < len(lines) <= took_s / 0.06 + 2
    assert [line.completed for line in lines] == sorted(line.completed for line in lines)
    assert lines[-1] == Progress(f"pulling {BLOB[7:19]}", BLOB, len(DATA), len(DATA))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("tensor", "this model requires MLX support, but the MLX runtime is not available"),
        ("adapter", "the model cannot be served here: its adapter is in GGUF, and vLLM takes those of PEFT"),
        ("system", "the model cannot be served here: it has no weights"),
    ],
)
@pytest.mark.row("C4")
async def test_what_is_served_by_nobody_here_does_not_come(kind: str, reason: str, tmp_path: Path) -> None:
    """Before a blob of it, which may have gigabytes (row C4)."""
    model = model_of(b"one", b"three", b"{}", media_type=f"{LAYER}.{kind}")
    async with faulty(model) as site, place(tmp_path, site.host) as here:
        with pytest.raises(RegistryFailed) as failure:
            await told(here.pull(name_at(site)))
    assert str(failure.value) == reason
    assert not site.blob_requests()


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "text"),
        [
            (Policy(enabled=False), "this server does not pull models: pulling and pushing are off"),
            (Policy(), "this server does not use the registry 127.0.0.1:"),
            (Policy(organisations=("*/good",)), "this server does not use models of 127.0.0.1:"),
            (Policy(insecure=False), "this server does not use insecure connections"),
            (Policy(model_bytes=1_000), "the model has 1500002 bytes, and this server takes none over 1000"),
            (
                Policy(quota_bytes=1_000),
                "1500002 bytes would come, and all models here may have at most 1000 together",
            ),
        ],
    )
    async def test_what_is_not_allowed(self, policy: Policy, text: str, tmp_path: Path) -> None:
        async with faulty(MODEL) as site:
            registries = () if policy == Policy() else (site.host,)
            insecure = policy != Policy(insecure=False) or policy == Policy()
            if "insecure" in text:
                registries, insecure = (site.host,), False
            asked = replace(policy, registries=registries, insecure=insecure)
            async with place(tmp_path, site.host, policy=asked) as here:
                with pytest.raises(Forbidden) as error:
                    await told(here.pull(name_at(site)))
                assert str(error.value).startswith(text)
                assert site.blob_requests() == []

    def test_by_default_three_registries_are_open_and_push_has_its_own_switch(self) -> None:
        policy = Policy(push=False)
        for host in ("registry.ollama.ai", "hf.co", "HuggingFace.co"):
            policy.check_pull(ModelName("m", "t", "ns", host))
        for host in ("registry.ollama.ai.evil.example", "localhost", "ollama.com", "hf.co:8443"):
            with pytest.raises(Forbidden):
                policy.check_pull(ModelName("m", "t", "ns", host))
        with pytest.raises(Forbidden, match="pushing is off"):
            policy.check_push(ModelName("m"))

    def test_insecure_needs_a_client_for_it(self) -> None:
        secure = make_client(Guard())
        with pytest.raises(Forbidden, match="insecure"):
            Clients(secure).choose(True)


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A file where the store's folder would have to be, which stops root too."""
    (tmp_path / "store").write_text("")
    return tmp_path / "store"


async def test_a_store_that_takes_nothing_is_told(read_only: Path) -> None:
    async with faulty(MODEL) as site, place(read_only, site.host) as here:
        with pytest.raises(StoreFailed):
            await told(here.pull(name_at(site)))


async def test_a_disk_that_fills_up_is_told_and_what_came_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from app.store import partial

    written = 0
    whole = partial.write_whole

    def full(descriptor: int, data: bytes, offset: int | None = None) -> None:
        nonlocal written
        written += len(data)
        if written > 500_000 and len(data) > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(descriptor, data, offset)

    monkeypatch.setattr(partial, "write_whole", full)
    async with faulty(MODEL) as site:
        assert "full" in await refused(site, tmp_path)
        monkeypatch.undo()
        site.asked.clear()
        await pulled(site, tmp_path)
        asked = sum(end - begin for begin, end in (a.range or (0, 0) for a in site.blob_requests()))
    assert asked < len(DATA)


def test_a_read_only_store_is_an_error_of_its_own() -> None:
    assert issubclass(StoreReadOnly, StoreFailed)


async def test_a_name_that_has_a_private_address_is_not_connected_to(tmp_path: Path) -> None:
    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    async with faulty(MODEL) as site, place(tmp_path, site.host) as here:
        client = make_client(Guard(), resolve=resolve)
        name = ModelName("m", host=f"registry.test:{site.port}")
        for host in ("registry.test", name.host):
            policy = Policy(registries=(host,), insecure=True)
            named = replace(name, host=host)
            registry = Registry(Clients(client, client), named, policy, insecure=True)
            with pytest.raises(AddressRefused):
                await told(pull(registry, here.store, here.downloads))
        await client.aclose()
        assert site.asked == []
