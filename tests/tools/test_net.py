"""A page is opened politely, within robots.txt and HTTP's rules of keeping, and read."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio

from app import __version__
from app.core.errors import AddressRefused, FetchFailed, Overloaded
from app.egress.client import EgressClient, Fetched, FetchLimits
from app.egress.guard import Guard
from app.tools.net import LIMITS, WebFetch
from app.tools.page import Page
from app.tools.reader import Reader
from tests.egress.names import Names
from tests.egress.site import page, redirect, site
from tests.egress.test_client import NO_CERTIFICATES

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "https://site.example/a"
ROBOTS = "https://site.example/robots.txt"
FOUND = Fetched(URL, 200, {}, "text/html", "", b"<title>T</title><p>text", False, 123)
KEPT = replace(FOUND, headers={"cache-control": "max-age=60"})


@dataclass(slots=True)
class Client:
    """Answers from `pages`; what is not there is a 404, an exception is raised."""

    pages: dict[str, Fetched | Exception]
    asked: list[str] = field(default_factory=list[str])
    sent: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    limits: dict[str, FetchLimits] = field(default_factory=dict[str, FetchLimits])

    async def get(self, url: str, *, limits: FetchLimits, headers: Mapping[str, str]) -> Fetched:
        self.asked.append(url)
        self.sent[url], self.limits[url] = headers, limits
        answer = self.pages.get(url, replace(FOUND, url=url, status=404, media_type="text/plain", body=b"no"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncGenerator[Reader]:
    made = Reader()
    yield made
    await made.aclose()


def robots(body: bytes, status: int = 200) -> Fetched:
    return Fetched(ROBOTS, status, {}, "text/plain", "", body, False, len(body))


async def test_a_page(reader: Reader) -> None:
    client = Client({URL: FOUND})
    found = await WebFetch(client, reader).open(f"{URL}#part")
    assert found == Page(URL, 200, "text/html", "T", "text", received_bytes=123)
    assert client.asked == [ROBOTS, URL]
    assert client.limits[URL] == LIMITS


async def test_what_is_said_of_the_request(reader: Reader) -> None:
    client = Client({URL: FOUND})
    await WebFetch(client, reader).open(URL)
    for headers in client.sent.values():
        assert headers["user-agent"] == f"Caravan/{__version__}"
        assert not headers.keys() & {"cookie", "referer", "authorization"}
    assert "text/html" in client.sent[URL]["accept"]


async def test_an_error_of_the_site_is_a_page_with_its_status(reader: Reader) -> None:
    found = await WebFetch(Client({}), reader).open(URL)
    assert (found.status, found.text) == (404, "no")


async def test_what_the_fetch_cut_is_told(reader: Reader) -> None:
    client = Client({URL: replace(KEPT, is_truncated=True)})
    tool = WebFetch(client, reader, obeys_robots=False)
    assert (await tool.open(URL)).is_truncated
    await tool.open(URL)
    assert client.asked == [URL, URL]


@pytest.mark.parametrize("error", [FetchFailed("it is gone"), AddressRefused("not there")])
async def test_why_there_is_no_page_is_passed_on(reader: Reader, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        await WebFetch(Client({URL: error, ROBOTS: error}), reader, obeys_robots=False).open(URL)


@pytest.mark.parametrize("url", ["http://[", "https://a]b/", "http://\u2100.example/"])
async def test_what_is_no_url_is_refused_in_one_line(reader: Reader, url: str) -> None:
    client = Client({url: AddressRefused("no URL")})
    with pytest.raises(AddressRefused, match="no URL"):
        await WebFetch(client, reader, obeys_robots=False).open(url)


async def test_more_than_may_be_fetched_at_once_is_overload(reader: Reader) -> None:
    """Each may hold a body in memory."""
    opens, goes_on = asyncio.Event(), asyncio.Event()

    class Slow(Client):
        async def get(self, url: str, *, limits: FetchLimits, headers: Mapping[str, str]) -> Fetched:
            opens.set()
            await goes_on.wait()
            return FOUND

    web = WebFetch(Slow({}), reader, obeys_robots=False, at_once=1)
    first = asyncio.create_task(web.open(URL))
    await opens.wait()
    with pytest.raises(Overloaded):
        await web.open(URL)
    goes_on.set()
    assert (await first).title == "T"
    assert (await web.open(URL)).title == "T"
    left = asyncio.create_task(web.open(URL + "?"))
    goes_on.clear()
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    goes_on.set()
    assert (await web.open(URL + "?2")).title == "T"


async def test_an_unreadable_page_is_told(reader: Reader) -> None:
    client = Client({URL: replace(FOUND, media_type="image/png")})
    with pytest.raises(FetchFailed, match="image/png"):
        await WebFetch(client, reader).open(URL)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (robots(b"User-agent: *\nDisallow: /a"), "does not let programs open"),
        (robots(b"User-agent: *\nDisallow: /b"), ""),
        (robots(b"User-agent: Caravan\nDisallow: /"), "does not let programs open"),
        (robots(b"Disallow: /", 404), ""),
        (robots(b"", 401), ""),
        (robots(b"", 503), "the status is 503"),
        (FetchFailed("too slow"), "too slow"),
        (AddressRefused("inside"), ""),
    ],
)
async def test_robots_is_obeyed(reader: Reader, answer: Fetched | Exception, refusal: str) -> None:
    client = Client({URL: FOUND, ROBOTS: answer})
    tool = WebFetch(client, reader)
    if not refusal:
        assert (await tool.open(URL)).text == "text"
    else:
        with pytest.raises(FetchFailed, match=refusal):
            await tool.open(URL)
        assert URL not in client.asked
    assert client.limits[ROBOTS].decoded_bytes <= 512 << 10
    client.asked.clear()
    assert (await WebFetch(client, reader, obeys_robots=False).open(URL)).text == "text"
    assert client.asked == [URL]


async def test_robots_is_asked_for_once_for_an_origin(reader: Reader) -> None:
    client = Client({ROBOTS: robots(b"User-agent: *\nDisallow: /b")})
    tool = WebFetch(client, reader)
    await tool.open(URL)
    await tool.open("https://site.example/c")
    with pytest.raises(FetchFailed, match="robots"):
        await tool.open("https://site.example/b")
    assert client.asked.count(ROBOTS) == 1
    await tool.open("https://site.example:8443/b")
    assert client.asked[-2:] == ["https://site.example:8443/robots.txt", "https://site.example:8443/b"]


async def test_where_a_redirect_leads_robots_is_obeyed_too(reader: Reader) -> None:
    start = "https://start.example/"
    client = Client({start: FOUND, ROBOTS: robots(b"User-agent: *\nDisallow: /a")})
    with pytest.raises(FetchFailed, match=r"site\.example does not let"):
        await WebFetch(client, reader).open(start)


async def test_a_page_is_kept_as_http_lets_it(reader: Reader) -> None:
    client = Client({URL: KEPT})
    tool = WebFetch(client, reader, obeys_robots=False)
    first = await tool.open(URL)
    assert await tool.open("HTTPS://SITE.example:443/a#b") is first
    assert client.asked == [URL]


@pytest.mark.parametrize(
    "answer",
    [
        replace(FOUND, headers={"cache-control": "no-store"}),
        replace(KEPT, status=500),
        replace(KEPT, headers={"cache-control": "max-age=60", "set-cookie": "id=1"}),
    ],
)
async def test_a_page_is_not_kept_where_http_forbids_it(reader: Reader, answer: Fetched) -> None:
    client = Client({URL: answer})
    tool = WebFetch(client, reader, obeys_robots=False)
    await tool.open(URL)
    await tool.open(URL)
    assert client.asked == [URL, URL]


async def test_a_redirected_page_is_kept_where_it_stands_alone(reader: Reader) -> None:
    start = "https://start.example/"
    client = Client({start: KEPT, URL: KEPT})
    tool = WebFetch(client, reader, obeys_robots=False)
    await tool.open(start)
    await tool.open(URL)
    assert client.asked == [start]
    await tool.open(start)
    assert client.asked == [start, start]


async def test_with_the_real_client_and_a_real_site(reader: Reader) -> None:
    pages = {
        "/robots.txt": page(b"User-agent: *\nDisallow: /private", "text/plain"),
        "/": redirect("/page"),
        "/page": page(b"<title>T</title><p>text <a href='/next'>next</a>", "text/html"),
        "/private": page(b"secret"),
        "/picture": page(b"PNG", "image/png"),
        "/untyped": b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\ntext",
    }
    async with site(pages) as running:
        base = f"http://site.example:{running.port}"
        guard = Guard([f"site.example:{running.port}"])
        names = Names({"site.example": "127.0.0.1", "inside.example": "127.0.0.1"})
        tool = WebFetch(EgressClient(guard, resolve=names, certificates=NO_CERTIFICATES), reader)
        found = await tool.open(base)
        assert (found.url, found.title, found.links) == (f"{base}/page", "T", (f"{base}/next",))
        assert found.text.startswith("text")
        assert (await tool.open(f"{base}/untyped")).text == "text"
        assert (await tool.open(f"{base}/missing")).status == 404
        for path, told in (("/private", "robots"), ("/picture", "image/png")):
            with pytest.raises(FetchFailed, match=told):
                await tool.open(base + path)
        for url in (
            "http://inside.example/",
            "http://127.0.0.1/",
            "file:///etc/passwd",
            "http://[",
            "javascript:1",
        ):
            with pytest.raises(AddressRefused) as refused:
                await tool.open(url)
            assert "\n" not in str(refused.value)
        assert not any("private" in head.split("\r\n")[0] for head in running.heads)
        assert all(f"user-agent: caravan/{__version__}" in head.lower() for head in running.heads)
        assert not any("cookie:" in head.lower() or "referer:" in head.lower() for head in running.heads)
