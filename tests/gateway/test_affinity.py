"""Which replica gets a request: the one that has its beginning cached, unless that is too busy (row C7)."""

from contextlib import AsyncExitStack

import httpx

from tests.gateway.conftest import HELD, Cluster

CONVERSATIONS = 12


def turns(number: int, count: int) -> list[dict[str, str]]:
    """A chat after so many questions."""
    said = [{"role": "system", "content": "Be brief."}]
    for turn in range(count):
        said += [{"role": "user", "content": f"{number}.{turn}?"}, {"role": "assistant", "content": "So."}]
    return said[:-1]


def growth(before: list[int], after: list[int]) -> list[int]:
    return [new - old for old, new in zip(before, after, strict=True)]


def test_a_conversation_stays_and_conversations_spread(cluster: Cluster) -> None:
    homes: list[int] = []
    for number in range(CONVERSATIONS):
        before = cluster.served()
        for count in (1, 2, 3):
            asked = {"model": "qwen3", "messages": turns(number, count), "options": {"num_predict": 1}}
            cluster.client.post("/api/chat", json={**asked, "stream": False}).raise_for_status()
        served = growth(before, cluster.served())
        assert sorted(served) == [0, 3], f"conversation {number} went to {served}"
        homes.append(served.index(3))
    assert len(set(homes)) == 2, "one replica has them all"


async def test_one_conversation_for_all_does_not_keep_the_other_replica_idle(cluster: Cluster) -> None:
    """A beginning that everybody sends spills over once its home has 1.5 times its share.

    Each request begins when the one before has its first word: requests that come in the same moment are
    all sent off before the first of them counts.
    """
    before = cluster.served()
    cluster.release.clear()
    asked = {"model": "qwen3", "messages": [{"role": "user", "content": HELD}]}
    async with AsyncExitStack() as stack:
        stack.callback(cluster.release.set)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=cluster.gateway.url, timeout=30))
        for _ in range(12):
            answer = await stack.enter_async_context(client.stream("POST", "/api/chat", json=asked))
            assert answer.status_code == 200
    away, home = sorted(growth(before, cluster.served()))
    assert away + home == 12
    assert home <= 10, "1.5 times its share, and what a whole number makes of it"
