"""Fetches a page for a client: every hop is checked, and what a server chooses the size of has a limit."""

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from fnmatch import fnmatchcase
from types import MappingProxyType
from urllib.parse import urljoin

import httpcore
import httpx

from app import __version__
from app.core.errors import AddressRefused, FetchFailed
from app.egress.decoding import ACCEPTED, Decoding
from app.egress.dialer import Dialer, Resolve
from app.egress.guard import Guard
from app.egress.network import Meter, Network, WireLimit
from app.egress.target import PORTS, Target, read_target, shown
from app.egress.upstream import Upstream

USER_AGENT = f"Caravan/{__version__}"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}")
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much of a page is fetched.

    `wire_bytes` counts what all hops send, heads included, and `decoded_bytes` the body; what is over them is
    cut off. `time_s` is the time for all of it. `media_types` are patterns such as `text/*`; none is any.
    """

    wire_bytes: int = 8 << 20
    decoded_bytes: int = 16 << 20
    time_s: float = 20.0
    redirects: int = 5
    media_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was received.

    `url` is where redirects ended; `headers` have lower-case names; `media_type` and `charset` are lower-case
    and "" where not told. `body` is decoded, and cut where `is_truncated`. `received_bytes` came over the
    network, of all hops and with their heads.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    media_type: str
    charset: str
    body: bytes
    is_truncated: bool
    received_bytes: int


class EgressClient:
    """GET requests to what `guard` lets pass, directly or through `upstream`, which then resolves names.

    Each fetch has connections of its own, which end with it. `certificates` is what servers are checked by;
    by default the certificates of certifi, or those that SSL_CERT_FILE or SSL_CERT_DIR name.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        resolve: Resolve | None = None,
        upstream: Upstream | None = None,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._dialer = Dialer(guard, resolve)
        self._upstream = upstream
        self._certificates = certificates or httpx.create_ssl_context()

    async def get(
        self, url: str, *, limits: FetchLimits, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Fetched:
        """The page at `url`, whatever its status. Leaving early ends the connection.

        `headers` go to each hop, but credentials only to hosts of the same origin as `url`.

        Raises:
            AddressRefused: where `url`, or a redirect from it, leads to what may not be opened.
            FetchFailed: where there is no page, or none within `limits`.
            Overloaded: while too many names are looked up.
        """
        meter = Meter(limits.wire_bytes)
        try:
            async with asyncio.timeout(limits.time_s), self._pool(meter) as pool:
                return await self._follow(pool, meter, url, limits, headers)
        except TimeoutError as error:
            raise FetchFailed(f"{shown(url)} took longer than {limits.time_s:g} s") from error
        except httpcore.ConnectError as error:
            raise FetchFailed(_told(url, error)) from error
        except httpcore.ProxyError as error:
            raise FetchFailed(f"the egress proxy does not open {shown(url)}: {error}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise FetchFailed(f"{shown(url)} did not answer with a whole page") from error

    def _pool(self, meter: Meter) -> httpcore.AsyncConnectionPool:
        upstream = self._upstream
        if upstream is None:
            return httpcore.AsyncConnectionPool(
                self._certificates, network_backend=Network(meter, self._dialer)
            )
        login = [("proxy-authorization", upstream.authorization)] if upstream.authorization else []
        return httpcore.AsyncHTTPProxy(
            upstream.url,
            proxy_headers=login,
            ssl_context=self._certificates,
            proxy_ssl_context=self._certificates if upstream.is_tls else None,
            network_backend=Network(meter, None),
        )

    async def _follow(
        self,
        pool: httpcore.AsyncConnectionPool,
        meter: Meter,
        url: str,
        limits: FetchLimits,
        headers: Mapping[str, str],
    ) -> Fetched:
        first = target = self._guard.target(url)
        seen: set[str] = set()
        while target.url not in seen:
            seen.add(target.url)
            if len(seen) > limits.redirects + 1:
                raise FetchFailed(f"{shown(url)} redirects more than {limits.redirects} times")
            sent = {
                name: value
                for name, value in headers.items()
                if target.origin == first.origin or name.lower() not in _SECRET
            }
            # What stands in `target` goes to httpcore part by part: nobody reads the URL again.
            port = None if target.port == PORTS[target.scheme] else target.port
            where = httpcore.URL(scheme=target.scheme, host=target.host, port=port, target=target.path)
            async with pool.stream("GET", where, headers=list(_head(target, sent).items())) as response:
                told = _headers(response)
                location = told.get("location")
                if response.status not in _REDIRECTS or location is None:
                    return await _read(response, told, target, meter, limits)
            target = self._redirected(target, location)
        raise FetchFailed(f"{shown(url)} redirects in a circle")

    def _redirected(self, base: Target, location: str) -> Target:
        """Raises: AddressRefused: of what the server has written a host is quoted at most."""
        url = _joined(base, location)
        try:
            target = read_target(url)
        except AddressRefused as error:
            raise AddressRefused(f"{shown(base.url)} redirects to what is no URL that is opened") from error
        self._guard.check_host(target.host, target.port)
        return target


async def _read(
    response: httpcore.Response, headers: dict[str, str], target: Target, meter: Meter, limits: FetchLimits
) -> Fetched:
    media_type, charset = media_type_of(headers.get("content-type", ""))
    if limits.media_types and not any(fnmatchcase(media_type, each) for each in limits.media_types):
        # Models read errors as our words, so nothing that could be a sentence of the server's is quoted.
        kind = media_type if _MEDIA_TYPE.fullmatch(media_type) else "of no named media type"
        raise FetchFailed(f"{shown(target.url)} is {kind}, which is not read")
    decoding = Decoding(headers.get("content-encoding", ""))
    body = bytearray()
    is_truncated = False
    try:
        async for piece in response.aiter_stream():
            for some in decoding.feed(piece):
                body += some
                if len(body) > limits.decoded_bytes:
                    break
                # One piece of a few bytes may come to very much.
                await asyncio.sleep(0)
            if len(body) > limits.decoded_bytes:
                is_truncated = True
                del body[limits.decoded_bytes :]
                break
    except WireLimit:
        is_truncated = True
    if not is_truncated and not decoding.is_complete:
        raise FetchFailed(f"{shown(target.url)} ends in the middle of its encoding")
    return Fetched(
        target.url,
        response.status,
        MappingProxyType(headers),
        media_type,
        charset,
        bytes(body),
        is_truncated,
        meter.received_bytes,
    )


def media_type_of(content_type: str) -> tuple[str, str]:
    """Media type and charset of a Content-Type, lower-case, "" for what it does not say."""
    if "/" not in content_type:
        return "", ""
    message = Message()
    message["content-type"] = content_type
    return message.get_content_type(), (message.get_content_charset() or "").lower()


def _head(target: Target, headers: Mapping[str, str]) -> dict[str, str]:
    own = {
        "host": target.netloc,
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": ACCEPTED,
    }
    return own | {name.lower(): value for name, value in headers.items()}


def _headers(response: httpcore.Response) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _joined(base: Target, location: str) -> str:
    """Where a redirect leads. What `urljoin` would quietly leave out of it is looked for before."""
    try:
        text = location.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError as error:
        raise AddressRefused(f"{shown(base.url)} redirects to what is no URL") from error
    if any(char < "!" or char == "\x7f" for char in text):
        raise AddressRefused(f"{shown(base.url)} redirects to what is no URL")
    try:
        return urljoin(base.url, text)
    except ValueError as error:
        raise AddressRefused(f"{shown(base.url)} redirects to what is no URL") from error


def _told(url: str, error: Exception) -> str:
    """Why no connection came about; httpcore keeps the reason below its own error."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, ssl.SSLError):
        reason = reason.__cause__ or reason.__context__
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"{shown(url)}: the certificate is not valid for it: {reason.verify_message}"
    if reason is not None:
        return f"{shown(url)}: no secure connection could be made"
    return f"{shown(url)} cannot be reached"
