"""What robots.txt lets be opened (RFC 9309)."""

from urllib.parse import urlsplit

from app.core.errors import AddressRefused, FetchFailed
from app.egress.client import FetchLimits
from app.tools.cache import Cache
from app.tools.client import Client
from app.tools.reader import Reader

_LIMITS = FetchLimits(wire_bytes=512 << 10, decoded_bytes=512 << 10, time_s=5.0, redirects=5)
"""A robots.txt is read up to 500 KiB (RFC 9309 2.5), and through five redirects (2.3.1.2)."""

_CACHE_BYTES = 8 << 20
_KEPT_S = 3600.0
_UNREACHABLE_S = 60.0
_OVERHEAD_BYTES = 256


class Robots:
    """Asks each origin for its robots.txt, and keeps it for an hour. `agent` is whom it is read for."""

    def __init__(self, client: Client, reader: Reader, agent: str, headers: dict[str, str]) -> None:
        self._client, self._reader, self._agent = client, reader, agent
        self._headers = headers | {"accept": "text/plain,*/*;q=0.5"}
        self._kept: Cache[tuple[bytes | str]] = Cache(_CACHE_BYTES)

    async def check(self, url: str) -> None:
        """Return if `url` may be opened.

        Without robots.txt (a status of 4xx) all may be, and nothing where it cannot be had (RFC 9309 2.3.1).

        Raises:
            FetchFailed: where robots.txt forbids it, or cannot be had or read.
            Overloaded: when as many jobs wait as may.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            # No URL: the guard says so, in words of its own.
            return
        if parts.path == "/robots.txt":
            return
        where = f"{parts.scheme}://{parts.netloc}/robots.txt"
        kept = self._kept.get(where)
        text = kept[0] if kept else await self._fetch(where)
        if isinstance(text, str):
            raise FetchFailed(f"its robots.txt, which says what may be opened, cannot be had: {text}")
        if text.strip() and not await self._reader.allows(text, self._agent, url):
            raise FetchFailed(f"{parts.netloc} does not let programs open this page (robots.txt)")

    async def _fetch(self, where: str) -> bytes | str:
        """The text, or why there is none."""
        kept_s = _KEPT_S
        try:
            fetched = await self._client.get(where, limits=_LIMITS, headers=self._headers)
        except AddressRefused:
            # Whatever is to be opened there is refused as well, with a better text.
            return b""
        except FetchFailed as error:
            text, kept_s = str(error), _UNREACHABLE_S
        else:
            if 200 <= fetched.status < 300:
                text = fetched.body
            elif 400 <= fetched.status < 500:
                text = b""
            else:
                text, kept_s = f"the status is {fetched.status}", _UNREACHABLE_S
        self._kept.put(where, (text,), len(text) + len(where) + _OVERHEAD_BYTES, kept_s)
        return text
