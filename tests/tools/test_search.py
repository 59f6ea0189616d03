"""A search asks the operator's SearXNG, and says clearly what is wrong with it."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from app.core.errors import FetchFailed, InvalidRequest
from app.tools.page import SearchResult
from app.tools.search import QUERY_CHARS, RESULTS, WebSearch
from tests.egress.site import page, site

ROW = {"title": "A\n title", "url": "https://site.example/a", "content": "An  excerpt"}


def searching(answer: Callable[[httpx.Request], httpx.Response]) -> WebSearch:
    return WebSearch("http://searxng.example:8080/x/", transport=httpx.MockTransport(answer))


def always(status: int = 200, **more: object) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, **more)  # pyright: ignore[reportArgumentType]


async def test_results() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"query": "q", "results": [ROW]})

    tool = searching(answer)
    assert await tool.search("  what\nis & this? ") == [
        SearchResult("A title", "https://site.example/a", "An excerpt")
    ]
    assert str(asked[0].url) == "http://searxng.example:8080/x/search?q=what+is+%26+this%3F&format=json"
    assert asked[0].headers["user-agent"].startswith("Caravan/")
    assert "cookie" not in asked[0].headers
    await tool.aclose()


async def test_results_are_as_many_as_asked_for_and_each_once() -> None:
    rows = [ROW | {"url": f"https://site.example/{number // 2}"} for number in range(200)]
    tool = searching(always(json={"results": rows}))
    assert [each.url[-1] for each in await tool.search("q", 3)] == ["0", "1", "2"]
    assert len(await tool.search("q", 1_000_000)) == RESULTS
    assert len(await tool.search("q", -1)) == 1
    await tool.aclose()


async def test_rows_that_are_none_are_left_out() -> None:
    rows = [None, [], {}, {"url": 1}, {"url": "javascript:1"}, {"url": "/a"}, {"url": "http://" + "x" * 5000}]
    tool = searching(always(json={"results": [*rows, {"url": ROW["url"], "title": None, "content": [1]}]}))
    assert await tool.search("q") == [SearchResult("", "https://site.example/a", "")]
    await tool.aclose()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (always(403), "`json` must be one of `search.formats`"),
        (always(html="<html>"), "`json` must be one of `search.formats`"),
        (always(429), "asked too often"),
        (always(401), "wants a login"),
        (always(500), "answered 500"),
        (always(302, headers={"location": "http://127.0.0.1/"}), "answered 302"),
        (always(content=b"{"), "no JSON"),
        (always(content=b"[" * 1_000_000), "no JSON"),
        (always(json=[1]), "another kind"),
        (always(json={"results": {}}), "another kind"),
        (always(content=b" " * (3 << 20)), "more than 2 MiB"),
        (
            always(json={"results": [], "unresponsive_engines": [["a", "timeout"], ["b", "CAPTCHA"], 1]}),
            "nothing was found, and these engines did not answer: a, b",
        ),
    ],
)
async def test_what_is_wrong_is_told_in_one_line(
    answer: Callable[[httpx.Request], httpx.Response], told: str
) -> None:
    tool = searching(answer)
    with pytest.raises(FetchFailed, match=told) as failed:
        await tool.search("q")
    assert "\n" not in str(failed.value)
    await tool.aclose()


async def test_nothing_found_is_no_failure() -> None:
    tool = searching(always(json={"results": [], "unresponsive_engines": []}))
    assert await tool.search("q") == []
    await tool.aclose()


@pytest.mark.parametrize("query", ["", " \n", "x" * (QUERY_CHARS + 1)])
async def test_a_query_is_bounded(query: str) -> None:
    tool = searching(always(500))
    with pytest.raises(InvalidRequest, match="query: "):
        await tool.search(query)
    await tool.aclose()


async def test_over_a_real_connection() -> None:
    async with site({"/search": page(b'{"results": []}', "application/json")}) as running:
        tool = WebSearch(f"http://127.0.0.1:{running.port}")
        assert await tool.search("q") == []
        await tool.aclose()
        gone = running.port
    tool = WebSearch(f"http://127.0.0.1:{gone}")
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await tool.search("q")
    await tool.aclose()


async def test_an_engine_that_is_silent_is_not_waited_for() -> None:
    async def silent(_: object) -> None:
        await asyncio.sleep(60)

    async with site({"/search": silent}) as running:
        tool = WebSearch(f"http://127.0.0.1:{running.port}", timeout_s=0.1)
        with pytest.raises(FetchFailed, match=r"did not answer in 0\.1 s"):
            await tool.search("q")
        await tool.aclose()
