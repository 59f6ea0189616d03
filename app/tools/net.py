"""Opens a page for a model: robots.txt, the fetch, and what the body says."""

from app import __version__
from app.core.errors import Overloaded
from app.egress.client import Fetched, FetchLimits
from app.tools.cache import Cache, fresh_s
from app.tools.client import Client
from app.tools.extract import READABLE
from app.tools.page import Page
from app.tools.reader import Reader
from app.tools.robots import Robots
from app.tools.visits import normalized

AGENT = "Caravan"
HEADERS = {
    "user-agent": f"{AGENT}/{__version__}",
    "accept": "text/markdown,text/html,application/xhtml+xml;q=0.9,application/pdf;q=0.8,"
    "application/json;q=0.8,text/plain;q=0.8,*/*;q=0.5",
    "accept-language": "en,*;q=0.5",
}
"""What is said of the request; never a cookie or a referrer."""

LIMITS = FetchLimits(
    wire_bytes=8 << 20, decoded_bytes=16 << 20, time_s=20.0, redirects=5, media_types=READABLE
)
_CACHE_BYTES = 16 << 20
_AT_ONCE = 32
"""Of all requests together: each may hold a body of `decoded_bytes`."""
_KEPT_S = 900.0
_OVERHEAD_BYTES = 512


class WebFetch:
    """Pages by their addresses.

    Pages that HTTP lets be kept are, for `kept_s` seconds at most and within `cache_bytes` in all. At most
    `at_once` are fetched and read at a time.

    Nobody's cookies or keys are sent, so a page that is kept is what anybody would see.
    """

    def __init__(
        self,
        client: Client,
        reader: Reader,
        *,
        limits: FetchLimits = LIMITS,
        obeys_robots: bool = True,
        cache_bytes: int = _CACHE_BYTES,
        kept_s: float = _KEPT_S,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._client, self._reader, self._limits, self._kept_s = client, reader, limits, kept_s
        self._left = at_once
        self._robots = Robots(client, reader, AGENT, HEADERS) if obeys_robots else None
        self._pages: Cache[Page] = Cache(cache_bytes)

    async def open(self, url: str) -> Page:
        """The page at `url`, whatever its status. Errors are one line each, for the model.

        Raises:
            AddressRefused: where the address or one that it leads to is not opened.
            FetchFailed: where it cannot be had or read, or robots.txt forbids it.
            Overloaded: when too many pages are being fetched or read.
        """
        url = url.partition("#")[0]
        if page := self._pages.get(normalized(url)):
            return page
        if not self._left:
            raise Overloaded("too many pages are being fetched, please try again")
        self._left -= 1
        try:
            return await self._open(url)
        finally:
            self._left += 1

    async def _open(self, url: str) -> Page:
        if self._robots:
            await self._robots.check(url)
        fetched = await self._client.get(url, limits=self._limits, headers=HEADERS)
        # Where a redirect leads is known only once it was followed; what stands there is not shown then.
        if self._robots and normalized(fetched.url) != normalized(url):
            await self._robots.check(fetched.url)
        page = await self._read(fetched)
        # Not under `url` where a redirect led on: whether that may be kept, its own headers said.
        if fetched.status == 200 and not fetched.is_truncated:
            self._pages.put(
                normalized(fetched.url), page, _size(page), fresh_s(fetched.headers, self._kept_s)
            )
        return page

    async def aclose(self) -> None:
        """End the processes that read."""
        await self._reader.aclose()

    async def _read(self, fetched: Fetched) -> Page:
        found = await self._reader.extract(fetched.body, fetched.media_type, fetched.charset, fetched.url)
        return Page(
            url=fetched.url,
            status=fetched.status,
            media_type=fetched.media_type,
            title=found.title,
            text=found.text,
            links=found.links,
            is_truncated=fetched.is_truncated or found.is_truncated,
            received_bytes=fetched.received_bytes,
        )


def _size(page: Page) -> int:
    """About what a page takes in memory: a character of other scripts than Latin takes 2 bytes or 4."""
    texts = (page.url, page.title, page.text, *page.links)
    return _OVERHEAD_BYTES + sum((1 if text.isascii() else 4) * len(text) + 64 for text in texts)
