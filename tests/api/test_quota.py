"""Keys that have used up what they may use, over the whole server and over the layer alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.keys import new_key
from app.access.limiter import Limiter
from app.access.store import Store, open_storage
from app.api.context import CONTEXT
from app.api.quota import Quota
from app.core.context import Caller, Limits, RequestContext
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.runtime import policy
from harness.fake_model import fake_model
from harness.redis_server import running_redis
from tests.api.gates import Gate
from tests.api.scrape import value
from tests.e2e.engines import asking, eventually
from tests.e2e.fake_site import FakeSite, fake_site
from tests.programs import program

TOKENS = 7


class Known:
    """Stands in for the keys: every request comes from the caller whose id it names."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, Limits]) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key_id = httpx.Headers(scope["headers"])["x-key"]
        caller = Caller(key_id=key_id, limits=self._limits[key_id])
        await self._app({**scope, CONTEXT: RequestContext(caller=caller)}, receive, send)


async def spend(scope: Scope, receive: Receive, send: Send) -> None:
    scope[CONTEXT].work.output_tokens = TOKENS
    await PlainTextResponse("ok")(scope, receive, send)


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    limits = {
        "requests": Limits(requests_per_minute=2),
        "tokens": Limits(tokens_per_minute=10),
        "free": Limits(),
    }
    app = Known(Quota(spend, Limiter(Store(open_storage()))), limits)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as opened:
        yield opened


async def ask(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.get("/", headers={"x-key": key})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("requests", "this API key has used up its 2 requests per minute"),
        ("tokens", "this API key has used up its 10 tokens per minute"),
    ],
)
async def test_a_used_up_limit_is_429_in_ollamas_shape_with_the_time_to_wait(
    client: httpx.AsyncClient, key: str, text: str
) -> None:
    assert [(await ask(client, key)).status_code for _ in range(2)] == [200, 200]
    refused = await ask(client, key)
    assert (refused.status_code, refused.json()) == (429, {"error": text})
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert (await ask(client, "free")).status_code == 200


async def test_the_lost_store_is_503_where_that_closes_the_server() -> None:
    gone = Store(open_storage("redis://127.0.0.1:1"))
    limits: dict[str, Any] = {"k": Limits(requests_per_minute=1)}
    app = Known(Quota(spend, Limiter(gone, fail_open=False)), limits)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        refused = await ask(client, "k")
    await gone.close()
    text = "the limits of this API key cannot be checked at the moment, please try again"
    assert (refused.status_code, refused.json()) == (503, {"error": text})


# The whole server, with keys from a file.

SOON_S, GUARD_S = 10.0, 60.0
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
KEYED: dict[str, dict[str, Any]] = {
    "rate": {"limits": {"requests_per_minute": 2}},
    "tokens": {"limits": {"tokens_per_minute": 100}},
    "one": {"limits": {"concurrent_requests": 1}},
    "small": {"limits": {"max_context": 64, "max_predict": 3}, "priority": 7},
    "free": {},
}
SECRETS = {key_id: new_key(key_id) for key_id in KEYED}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    records = [
        {"id": key_id, "hash": SECRETS[key_id][1], "scopes": ["admin"], **more}
        for key_id, more in KEYED.items()
    ]
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": records}))
    return file


@pytest.fixture
def site(keys_file: Path) -> Generator[FakeSite]:
    models = [fake_model("m"), fake_model("vec", "embedding")]
    with fake_site(*models, keys_file=keys_file, context_length=128) as running:
        yield running


def post(site: FakeSite, key: str, path: str = "/api/chat", **body: Any) -> httpx.Response:
    return site.client.post(path, json=CHAT | body, headers=as_key(key))


def as_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[key][0]}"}


@pytest.mark.row("A1", "B9")
def test_a_key_over_its_rate_is_refused_before_its_body_is_read(site: FakeSite) -> None:
    assert [post(site, "rate").status_code for _ in range(2)] == [200, 200]
    asked = len(site.engines[0].asked)
    refused = site.client.post("/api/chat", content=b"{", headers=as_key("rate"))
    assert refused.status_code == 429
    assert refused.json() == {"error": "this API key has used up its 2 requests per minute"}
    assert refused.headers["retry-after"].isdigit()
    assert len(site.engines[0].asked) == asked
    assert post(site, "free").status_code == 200
    who = {"reason": "request_rate", "caravan_key_id": "rate"}
    site.client.headers.update(as_key("free"))
    assert value(site.client, "caravan_rejections_total", **who) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_the_tokens_of_a_chat_are_those_of_its_counts(site: FakeSite, stream: bool) -> None:
    used, prompt = 0, 0
    while (answer := post(site, "tokens", stream=stream)).status_code == 200:
        counts = yaml.safe_load(answer.text.splitlines()[-1])
        prompt = counts["prompt_eval_count"]
        used += prompt + counts["eval_count"]
    assert answer.status_code == 429
    assert answer.headers["retry-after"].isdigit()
    assert "too few are left for this request" in answer.json()["error"]
    # A tenth of the limit is the least that an answer begins with.
    assert 100 - prompt - 10 < used <= 100


def test_several_answers_are_charged_each_and_give_back_what_they_set_aside(site: FakeSite) -> None:
    """The engine reads the prompt for each of them, whatever `usage` says of it."""
    body = CHAT | {"n": 2, "max_tokens": 5}
    path = "/v1/chat/completions"
    first = site.client.post(path, json=body, headers=as_key("tokens"))
    usage = first.json()["usage"]
    used = 2 * usage["prompt_tokens"] + usage["completion_tokens"]
    room = 100 - used - usage["prompt_tokens"]
    one = {**CHAT, "max_tokens": room}
    assert (
        site.client.post(path, json={**one, "max_tokens": room + 1}, headers=as_key("tokens")).status_code
        == 429
    )
    assert site.client.post(path, json=one, headers=as_key("tokens")).status_code == 200
    too_many = site.client.post(path, json={**CHAT, "n": 50}, headers=as_key("tokens"))
    assert too_many.status_code == 429
    assert too_many.json()["error"]["type"] == "api_error"
    assert too_many.headers["retry-after"].isdigit()


@pytest.mark.parametrize(("named", "served"), [(True, 3), (False, 1)])
def test_requests_at_once_stay_within_the_tokens_a_minute(keys_file: Path, named: bool, served: int) -> None:
    """F11: 200 at once were all let in, and the debt ended with the minute."""
    go_on = Gate()

    def engine() -> FakeEngine:
        return FakeEngine(default=Reply([" a"] * 20), gate=go_on)

    body = CHAT | {"stream": False} | ({"options": {"num_predict": 20}} if named else {})
    with (
        fake_site(fake_model("m"), engine=engine, keys_file=keys_file) as site,
        ThreadPoolExecutor(200) as many,
    ):
        site.client.post("/api/generate", json={"model": "m"}, headers=as_key("free")).raise_for_status()
        with httpx.Client(
            limits=httpx.Limits(max_connections=200), timeout=GUARD_S, headers=as_key("tokens")
        ) as client:
            asked = [
                many.submit(client.post, f"http://127.0.0.1:{site.port}/api/chat", json=body)
                for _ in range(200)
            ]
            eventually(lambda: sum(each.done() for each in asked) == 200 - served, GUARD_S)
            go_on.open()
            ends = [each.result() for each in asked]
    answers = [end.json() for end in ends if end.status_code == 200]
    assert len(answers) == served
    assert sum(each["prompt_eval_count"] + each["eval_count"] for each in answers) <= 100
    assert Counter(end.status_code for end in ends) == {200: served, 429: 200 - served}


@pytest.mark.parametrize(
    "body", [{"options": {"num_predict": 93}}, {"messages": [{"role": "user", "content": "a " * 100}]}]
)
def test_a_request_that_the_limit_can_never_hold_is_refused_for_good(
    site: FakeSite, body: dict[str, Any]
) -> None:
    refused = post(site, "tokens", **body)
    assert refused.status_code == 403
    assert refused.json()["error"].startswith(
        "this API key allows 100 tokens per minute; this request has a prompt of"
    )
    assert post(site, "tokens").status_code == 200


def test_embeddings_are_charged_too(site: FakeSite) -> None:
    body = {"model": "vec", "input": "word " * 90}
    assert post(site, "tokens", "/api/embed", **body).status_code == 200
    assert post(site, "tokens").status_code == 429
    assert post(site, "tokens", "/api/embed", **body).status_code == 429
    assert post(site, "small", "/api/embed", **body).status_code == 200


def test_embeddings_that_are_abandoned_are_charged(keys_file: Path) -> None:
    """F12: a client that left before the end of its embeddings paid nothing."""
    gate = Gate()
    body = {"model": "vec", "input": ["word " * 30] * 3}
    with fake_site(
        fake_model("vec", "embedding"), engine=lambda: FakeEngine(gate=gate), keys_file=keys_file
    ) as site:
        url = f"http://127.0.0.1:{site.port}"
        site.client.post("/api/embed", json={"model": "vec"}, headers=as_key("free")).raise_for_status()
        with asking(url, "/api/embed", body, key=SECRETS["tokens"][0]):
            eventually(lambda: site.running == 1, SOON_S)
        eventually(lambda: site.running == 0, SOON_S)
        eventually(
            lambda: post(site, "tokens", "/api/embed", **body | {"input": "word " * 30}).status_code == 429,
            SOON_S,
        )
        gate.open()


def test_a_client_that_leaves_is_charged_and_frees_its_place(keys_file: Path) -> None:
    def gate(index: int) -> Any:
        return asyncio.sleep(0) if index < 2 else asyncio.Event().wait()

    def engine() -> FakeEngine:
        return FakeEngine(default=Reply([" a"] * 9, gate=gate))

    long = CHAT | {"messages": [{"role": "user", "content": "word " * 88}]}
    with fake_site(fake_model("m"), engine=engine, keys_file=keys_file) as site:
        for key, after in (("one", 200), ("tokens", 429)):
            with site.client.stream("POST", "/api/chat", json=long, headers=as_key(key)) as answer:
                lines = answer.iter_lines()
                next(lines)  # Kept: an iterator that is dropped closes the answer.
                if key == "one":
                    busy = post(site, "one")
                    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
            eventually(lambda: site.running == 0, SOON_S)
            eventually(partial(answers, site, key, after), SOON_S)


def answers(site: FakeSite, key: str, status: int) -> bool:
    """A request is charged a moment after its engine is free."""
    if status == 429:
        return post(site, key).status_code == status
    return site.client.get("/api/tags", headers=as_key(key)).status_code == status


def test_what_a_client_does_not_name_is_capped_and_what_it_names_is_kept_or_refused(site: FakeSite) -> None:
    capped = post(site, "small", stream=False).json()
    assert (capped["done_reason"], capped["eval_count"]) == ("length", 3)
    assert site.engines[0].asked[-1].run.max_tokens == 3
    assert 0 < site.engines[0].asked[-1].run.priority // policy.engine_priority(1, 0) == 7
    kept = post(site, "small", stream=False, options={"num_predict": 2, "num_ctx": 32}).json()
    assert kept["eval_count"] == 2
    for options in ({"num_predict": 4}, {"num_predict": -1}, {"num_ctx": 65}):
        (name,) = options
        for path in ("/api/chat", "/api/generate"):
            refused = post(site, "small", path, options=options, prompt="Hi")
            assert refused.status_code == 403
            assert f"this API key allows a {name} of at most" in refused.json()["error"]
    embedded = post(site, "small", "/api/embed", model="vec", input="word " * 100)
    assert embedded.json()["prompt_eval_count"] == 64
    refused = post(site, "small", "/api/embed", model="vec", input="x", options={"num_ctx": 65})
    assert refused.status_code == 403
    assert post(site, "free", stream=False).json()["eval_count"] == 5


def test_two_replicas_with_one_redis_count_together(keys_file: Path, tmp_path: Path) -> None:
    with running_redis(program("redis-server"), tmp_path) as redis:
        settings: dict[str, Any] = {
            "keys_file": keys_file,
            "limits_redis_url": redis.url,
            "limits_redis_timeout": 10,
        }
        with (
            fake_site(fake_model("m"), **settings) as first,
            fake_site(fake_model("m"), **settings) as second,
        ):
            assert [post(site, "rate").status_code for site in (first, second)] == [200, 200]
            assert [post(site, "rate").status_code for site in (first, second)] == [429, 429]
            redis.stop()
            assert [post(site, "rate").status_code for site in (first, second)] == [200, 200]
            first.client.headers.update(as_key("free"))
            failures = value(first.client, "caravan_limits_store_failures_total")
            assert failures == 1
