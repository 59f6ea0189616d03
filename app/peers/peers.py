"""Asks the other servers of a cluster for their lists, so that one server can tell of all."""

import asyncio
import logging
import random
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import httpx

from app.core.errors import Forbidden, PeersSilent, RateLimited, RequestRateExceeded, Unauthorized

Rows: TypeAlias = list[dict[str, Any]]
"""What a server lists in `models`."""

ASKED_BY_PEER = "x-caravan-peer"
"""Marks a request of this kind, which is answered for one server alone: servers may name each other.

Its value is what the client signed (`METHOD,PATH?QUERY`), which is another request than this one, or `1`.
"""

PS = "/api/ps"
"""Lists what is loaded; the other paths list what there is."""

LISTS: Mapping[str, re.Pattern[str]] = {
    "/api/tags": re.compile(r"(GET|HEAD),/api/tags|GET,/v1/models(/.*)?|POST,/api/pull"),
    PS: re.compile(r"GET,/api/ps"),
    "/api/experimental/model-recommendations": re.compile(r"GET,/api/experimental/model-recommendations"),
}
"""The paths that are asked for, each to answer which requests (`METHOD,PATH`)."""

_Refused: TypeAlias = Unauthorized | Forbidden | RateLimited
_REFUSALS = {HTTPStatus.UNAUTHORIZED: Unauthorized, HTTPStatus.FORBIDDEN: Forbidden}
_log = logging.getLogger(__name__)


Failure: TypeAlias = Literal["rate", "silent"]
"""Why a server is left out: the client's key is over a limit there, or it does not answer as it should."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""The addresses of a host and a port; `OSError` where there are none."""


def is_asked_for(path: str, signed: str) -> bool:
    """Whether a server asks another one for the list `path` to answer the request that `signed` is of."""
    asking = LISTS.get(path)
    return asking is not None and asking.fullmatch(signed.partition("?")[0]) is not None


async def resolve(host: str, port: int) -> set[str]:
    """As the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


@dataclass(frozen=True, slots=True)
class _Question:
    """What each server is asked, and what the client shows for it."""

    path: str
    member: str
    authorization: str
    signed: str

    def headers(self, url: httpx.URL) -> list[tuple[bytes, bytes]]:
        found = [(b"host", url.netloc), (ASKED_BY_PEER.encode(), self.signed.encode("latin-1") or b"1")]
        if self.authorization:
            found.append((b"authorization", self.authorization.encode("latin-1")))
        return found


def name_of(row: Mapping[str, Any]) -> str:
    """Of a model in a list; recommendations have it as `model` alone."""
    return str(row.get("name") or row.get("model", ""))


class Peers:
    """`urls` are bases such as `http://qwen3:11434`; a host name stands for every address that it has.

    `pools` are bases of which all addresses serve one store. So any of them tells which models there are,
    and a name that one of `urls` has too is left out of theirs, as requests do not reach it there.

    Each server has `timeout_s` to answer. One that does not is left out, so that the others are listed, and
    `on_failure` hears of it.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout_s: float,
        resolve: Resolve = resolve,
        *,
        pools: Sequence[str] = (),
        on_failure: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self._urls = [httpx.URL(url) for url in urls]
        self._pools = [httpx.URL(url) for url in pools]
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._on_failure = on_failure
        self._verifies = any(url.scheme == "https" for url in (*self._urls, *self._pools))

    async def rows(
        self, path: str, authorization: str, signed: str = "", *, member: str = "models"
    ) -> list[Rows]:
        """The `member` of `path`, one of `LISTS`, on each server, asked with what the client showed.

        `signed` is what a signature in `authorization` is of.

        Raises:
            Unauthorized, Forbidden, RateLimited: where servers refuse the key and none takes it.
            PeersSilent: where there are servers and none answers.
        """
        places = [*self._urls, *self._pools]
        found = dict(zip(places, await asyncio.gather(*map(self._addresses, places)), strict=True))
        asked = [[(url, host)] for url in self._urls for host in found[url]]
        pooled = [[(url, host) for host in found[url]] for url in self._pools if found[url]]
        if path == PS:
            pooled = [[each] for pool in pooled for each in pool]
        if not asked and not pooled:
            return []
        question = _Question(path, member, authorization, signed)
        # No client that stays: the servers come and go, and are asked now and then.
        async with httpx.AsyncClient(
            trust_env=False, verify=self._verifies, limits=httpx.Limits(), timeout=self._timeout_s
        ) as client:
            asking = (self._ask_one_of(client, each, question) for each in (*asked, *pooled))
            answers = await asyncio.gather(*asking)
        rows = [answer for answer in answers[: len(asked)] if isinstance(answer, list)]
        own = {name_of(row).lower() for each in rows for row in each}
        rows += [
            [row for row in answer if name_of(row).lower() not in own]
            for answer in answers[len(asked) :]
            if isinstance(answer, list)
        ]
        if not rows:
            refused = (answer for answer in answers if isinstance(answer, _Refused))
            raise next(refused, PeersSilent("none of the servers behind this one answers"))
        return rows

    async def _ask_one_of(
        self,
        client: httpx.AsyncClient,
        servers: Sequence[tuple[httpx.URL, str]],
        question: _Question,
    ) -> Rows | _Refused | None:
        """The answer of the first, in any order, that lists its models; else the last one's.

        Whole pools may hang: after two that did no more are asked.
        """
        answer, loop = None, asyncio.get_running_loop()
        last_s = loop.time() + 2 * self._timeout_s
        for url, host in random.sample(servers, len(servers)):
            if loop.time() >= last_s:
                break
            answer = await self._ask(client, url, host, question)
            if isinstance(answer, list):
                break
        return answer

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """The hosts to ask: where a certificate is checked, the name; else each address of it."""
        if url.scheme == "https":
            return [url.host]
        try:
            async with asyncio.timeout(self._timeout_s):
                return sorted(await self._resolve(url.host, url.port or 80))
        except (OSError, TimeoutError) as error:
            # A model of which no replica runs has no address.
            _log.debug("no address of %s: %s", url.host, error)
            return []

    async def _ask(
        self, client: httpx.AsyncClient, url: httpx.URL, host: str, question: _Question
    ) -> Rows | _Refused | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                place = url.copy_with(host=host, path=question.path)
                answer = await client.get(place, headers=question.headers(url))
            if refusal := _REFUSALS.get(HTTPStatus(answer.status_code)):
                return refusal(str(answer.json()["error"]))
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                self._on_failure("rate")
                _log.warning("peer %s (%s) is left out of a list: the key is over a limit there", url, host)
                return RequestRateExceeded(
                    str(answer.json()["error"]), int(answer.headers.get("retry-after", 1))
                )
            return list(answer.raise_for_status().json()[question.member])
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self._on_failure("silent")
            _log.warning("peer %s (%s) did not list its models: %s", url, host, error or type(error).__name__)
            return None
