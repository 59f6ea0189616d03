"""Searches the web through the operator's own SearXNG."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httpx

from app.core.errors import FetchFailed, InvalidRequest
from app.tools.net import HEADERS
from app.tools.page import SearchResult
from app.tools.visits import URL_CHARS, normalized
from app.tools.words import one_line

QUERY_CHARS = 1000
RESULTS = 20
_BODY_BYTES = 2 << 20
_TITLE_CHARS = 300
_CONTENT_CHARS = 2000
_NO_JSON = (
    "the search engine does not answer in JSON: `json` must be one of `search.formats` in its settings.yml"
)
_REASONS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "the search engine wants a login",
    HTTPStatus.FORBIDDEN: _NO_JSON,
    HTTPStatus.TOO_MANY_REQUESTS: "the search engine was asked too often; try again later",
}


class WebSearch:
    """`base_url` is that of a SearXNG, such as `http://searxng:8080` or `https://host/searxng`.

    It is the operator's and may be private, so it is asked directly and not through the guard. Redirects are
    not followed, and proxies of the environment are not used.
    """

    def __init__(
        self, base_url: str, *, timeout_s: float = 10.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/search"
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            trust_env=False,
            verify=self._url.startswith("https:"),
            timeout=timeout_s,
            transport=transport,
            headers={"user-agent": HEADERS["user-agent"], "accept": "application/json"},
        )

    async def search(self, query: str, count: int = 5) -> list[SearchResult]:
        """The first `count` results, at most `RESULTS`, each address once; none where nothing is found.

        Raises:
            InvalidRequest: for a query that is empty or too long.
            FetchFailed: where the engine does not answer, or not as SearXNG does; in one line.
        """
        query = " ".join(query.split())
        if not query:
            raise InvalidRequest("query: is empty")
        if len(query) > QUERY_CHARS:
            raise InvalidRequest(f"query: at most {QUERY_CHARS} characters, this one has {len(query)}")
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._ask(query)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise FetchFailed(f"the search engine did not answer in {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise FetchFailed("the search engine cannot be reached") from error
        return _results(body, max(1, min(count, RESULTS)))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, query: str) -> bytes:
        asked = {"q": query, "format": "json"}
        async with self._client.stream("GET", self._url, params=asked) as answer:
            if answer.status_code != HTTPStatus.OK:
                told = _REASONS.get(answer.status_code, f"the search engine answered {answer.status_code}")
                raise FetchFailed(told)
            body = bytearray()
            async for piece in answer.aiter_bytes(64 << 10):
                body += piece
                if len(body) > _BODY_BYTES:
                    raise FetchFailed(f"the search engine answered with more than {_BODY_BYTES >> 20} MiB")
            if "html" in answer.headers.get("content-type", ""):
                raise FetchFailed(_NO_JSON)
            return bytes(body)


def _results(body: bytes, count: int) -> list[SearchResult]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FetchFailed("the search engine answered with what is no JSON") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
        raise FetchFailed("the search engine answered with JSON of another kind: is it a SearXNG?")
    found: dict[str, SearchResult] = {}
    for row in answer["results"]:
        if result := _result(row):
            found.setdefault(normalized(result.url), result)
        if len(found) == count:
            break
    if not found and (silent := _silent(answer)):
        raise FetchFailed(f"nothing was found, and these engines did not answer: {silent}")
    return list(found.values())


def _result(row: Any) -> SearchResult | None:
    """A row as a result; None for what names no address of the web."""
    if not isinstance(row, dict) or not isinstance(url := row.get("url"), str):
        return None
    if len(url) > URL_CHARS or not normalized(url):
        return None
    title, content = (text if isinstance(text := row.get(name), str) else "" for name in ("title", "content"))
    return SearchResult(one_line(title, _TITLE_CHARS), url, one_line(content, _CONTENT_CHARS))


def _silent(answer: dict[str, Any]) -> str:
    """Names of the engines behind the search that failed; SearXNG lists pairs of a name and a reason."""
    rows = answer.get("unresponsive_engines")
    names = [str(row[0]) for row in rows if isinstance(row, list) and row] if isinstance(rows, list) else []
    return one_line(", ".join(names[:20]), 200)
