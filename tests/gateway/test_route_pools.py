"""route.lua with pools: which of them takes a name, and what keeps a model on few of its pods (row C7)."""

import json
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.lua_route import runtime
from tests.gateway.test_route_apis import asks

Pools = Sequence[tuple[str, int, Sequence[str]]]
ONE: Pools = [("all", 1, ())]
TWO: Pools = [("large", 1, ("*:70b*", "hub.co/acme/*")), ("all", 1, ())]
CHAT = "/api/chat"


class Script:
    """route.lua over some pools."""

    def __init__(self, pools: Pools = ONE, **given: Any) -> None:
        self._lua = runtime(pools=pools, **given).globals()

    def body(self, body: Any, path: str = CHAT) -> tuple[str | None, str | None]:
        return _pair(self._lua[b"route_text"](json.dumps(body).encode(), path.encode()))

    def path(self, path: str) -> tuple[str | None, str | None]:
        return _pair(self._lua[b"route_path"](path.encode()))

    def blob(self, path: str) -> tuple[str | None, str | None]:
        return _pair(self._lua[b"route_blob"](path.encode()))


def _pair(found: Any) -> tuple[str | None, str | None]:
    if not isinstance(found, tuple):
        return (None if found is None else found.decode()), None
    first, second = found
    return first.decode(), None if second is None else second.decode()


def chat(model: str, text: str = "Hi") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3", "q"),
        ("mario", "all"),
        ("MARIO:Latest", "all"),
        ("llama3.3:70B", "large"),
        ("llama3.3:70b-instruct", "large"),
        ("llama3.3:170b", "all"),
        ("hub.co/Acme/model:q4", "large"),
        ("hub.co/acme/model", "large"),
        ("hub.co/other/model", "all"),
        ("no name at all", "all"),
        ("x" * 1025, None),
        ("", None),
        ("  ", None),
    ],
)
def test_a_name_without_a_workload_goes_to_the_first_pool_that_takes_it(
    name: str, expected: str | None
) -> None:
    assert Script(TWO).body(chat(name))[0] == expected


def test_what_no_pool_takes_is_the_directorys() -> None:
    script = Script([("large", 1, ("*:70b",))])
    assert script.body(chat("mario")) == (None, None)
    assert script.path("/v1/models/mario") == (None, None)
    assert script.body(chat("x:70b"))[0] == "large"


NAMES = st.text("ab:/.*", max_size=8)


@given(NAMES, st.text("ab:/.", min_size=1, max_size=10))
def test_patterns_are_as_those_of_keys(pattern: str, name: str) -> None:
    taken = f"x{name}:t"
    found = Script([("one", 1, (pattern or "*",))]).body(chat(taken))[0]
    assert (found == "one") == fnmatchcase(taken, pattern or "*")


def test_a_pattern_of_many_stars_costs_no_time() -> None:
    script = Script([("one", 1, ("*a" * 60 + "*b",))])
    begun = time.perf_counter()
    assert script.body(chat("a" * 1000)) == (None, None)
    assert time.perf_counter() - begun < 0.5


def test_a_model_has_one_hash_whatever_its_conversation_and_however_it_is_named() -> None:
    """A load costs more than a prompt that is not cached."""
    script = Script()
    _, home = script.body(chat("mario"))
    for name in ("MARIO", "mario:latest", "library/mario", "registry.ollama.ai/library/mario"):
        assert script.body(chat(name, "Another")) == ("all", home)
    assert script.body({"model": "mario", "prompt": "x"}, "/api/generate") == ("all", home)
    assert script.body({"model": "mario"}, "/api/show") == ("all", home)
    assert script.body({"name": "mario"}, "/api/delete") == ("all", home)
    assert script.path("/v1/models/mario%3Alatest") == ("all", home)
    assert home is not None
    assert script.body(chat("luigi"))[1] != home
    assert Script([("other", 1, ())]).body(chat("mario"))[1] != home


def test_with_several_pods_for_a_model_a_conversation_keeps_to_one() -> None:
    script = Script([("all", 3, ())])
    homes: set[str | None] = set()
    for number in range(24):
        asked = chat("mario", f"{number}?")
        _, home = script.body(asked)
        asked["messages"] += [{"role": "assistant", "content": "A"}, {"role": "user", "content": "More"}]
        assert script.body(asked) == ("all", home)
        homes.add(home)
    assert len(homes) == 3
    # What has no beginning goes to each in turn.
    embedded = [script.body({"model": "mario", "input": "a"}, "/api/embed")[1] for _ in range(6)]
    assert set(embedded) == homes
    assert embedded[:3] == embedded[3:]


def test_without_affinity_a_model_still_has_its_pods() -> None:
    assert len({Script(affinity=False).body(chat("mario", text))[1] for text in "abc"}) == 1
    script = Script([("all", 2, ())], affinity=False)
    assert len({script.body(chat("mario", "a"))[1] for _ in range(4)}) == 2


def test_workloads_are_hashed_as_without_pools() -> None:
    with_pools, without = Script(), Script(())
    assert with_pools.body(chat("qwen3")) == without.body(chat("qwen3"))
    assert with_pools.path("/v1/models/qwen3") == ("q", None)


@pytest.mark.parametrize("path", ["/api/create", "/api/pull", "/api/push", "/api/delete"])
def test_what_changes_the_store_goes_where_the_model_is_served(path: str) -> None:
    script = Script()
    assert script.body({"model": "mario", "from": "qwen3"}, path) == script.body(chat("mario"))
    assert script.body({"model": "qwen3", "from": "mario"}, path)[0] == "q"
    assert script.body({"from": "mario"}, path) == (None, None)


def test_a_copy_goes_where_the_new_model_is_served() -> None:
    script = Script()
    copied = script.body({"source": "mario", "destination": "luigi"}, "/api/copy")
    assert copied == script.body(chat("luigi"))
    assert script.body({"source": "mario", "destination": "qwen3"}, "/api/copy")[0] == "q"
    assert script.body({"source": "qwen3", "destination": "luigi"}, "/api/copy") == copied
    assert script.body({"source": "mario"}, "/api/copy") == (None, None)
    assert Script(()).body({"source": "mario", "destination": "qwen3"}, "/api/copy") == (None, None)


def test_blobs_go_to_a_pool_each_to_its_own_pod() -> None:
    script = Script(TWO)
    digests = [f"/api/blobs/sha256:{number:064x}" for number in range(4)]
    found = [script.blob(path) for path in digests]
    assert {pool for pool, _ in found} == {"all"}
    assert len({home for _, home in found}) == 4
    assert [script.blob(path) for path in digests] == found
    assert script.blob("/api/blobs") == (None, None)
    assert Script(()).blob(digests[0]) == (None, None)


BLOB = f"/api/blobs/sha256:{0:064x}"


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_a_blob_goes_to_a_pool_without_a_look_at_its_body(method: str) -> None:
    """It may be larger than all memory. A body of none here would raise."""
    ask = asks(pools=ONE, keyed=True)
    found = ask(BLOB, None, method, x_api_key="k")
    assert found == (b"all", ask(BLOB, None, "HEAD", x_api_key="k")[1], None)
    assert ask(BLOB, None, method) == (None, None, None), "who shows no key gets no further"
    assert ask(BLOB, b"", "GET", x_api_key="k") == (None, None, None)


@pytest.mark.parametrize("path", ["/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push", CHAT])
def test_an_encoded_body_is_refused_where_there_are_pools(path: str) -> None:
    models = {"qwen3": "q"}
    assert asks(pools=ONE, models=models)(path, content_encoding="zstd")[2] == b"415"
    assert asks(pools=ONE, models={})(path, content_encoding="zstd")[2] == b"415"
    if path != CHAT:
        assert asks(models=models)(path, content_encoding="zstd")[2] is None


def test_a_request_has_the_hash_of_its_pool() -> None:
    ask = asks(pools=ONE)
    body = json.dumps(chat("mario")).encode()
    assert ask(CHAT, body)[:2] == ask("/v1/models/mario", b"", "GET")[:2]
    assert ask(CHAT, body)[0] == b"all"
