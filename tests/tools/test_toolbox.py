"""What is reported of a call of a built-in tool."""

from collections.abc import Sequence

import pytest

from app.core.errors import FetchFailed
from app.tools.functions import functions
from app.tools.page import Page, SearchResult
from app.tools.toolbox import Toolbox


class Web:
    async def open(self, url: str) -> Page:
        raise FetchFailed("there is nothing")

    async def search(self, query: str, count: int) -> Sequence[SearchResult]:
        return []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.COM:8080/path?secret", "example.com"),
        ("http://[::1]/", "::1"),
        ("http://my\u2028secret/", "?"),
        ("http://what the user said/", "?"),
        ("http://user said@it/", "it"),
        ("http://\x1b[2J/", ""),
        ("http://" + "a" * 300, "?"),
        ("what the user said", ""),
    ],
)
async def test_a_host_is_told_only_if_it_is_one(url: str, host: str) -> None:
    """Models may write what they have read into an address, and hosts are logged where content is not."""
    box = Toolbox(functions(Web(), Web(), None))
    tool = box.named("web_fetch")
    assert tool is not None
    _, report = await box.call(tool, {"url": url}, box.session(()))
    assert report.host == host


async def test_of_a_long_address_only_the_beginning_is_kept() -> None:
    box = Toolbox(functions(Web(), Web(), None))
    tool = box.named("web_search")
    assert tool is not None
    _, report = await box.call(tool, {"query": "q" * 1_000_000}, box.session(()))
    assert len(report.target) == 2_048
