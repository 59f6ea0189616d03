"""Requests to one server and to where it sends: who gets credentials, which redirects are followed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

import httpx

from app.core.brief import brief
from app.core.errors import RegistryFailed
from app.egress.target import MAX_URL_CHARS
from app.registry.policy import Policy
from app.registry.transport import Charged

REDIRECTS = 5
WHOLE_S = 60.0
"""For an answer that is read whole, from the wait for a connection to its last byte."""
NOT_THERE = "file does not exist"
DENIED = "unauthorized: access denied"
PLAIN = "http: server gave HTTP response to HTTPS client"
"""In Go's words; what helps against it is `insecure`."""
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_ERROR_BYTES = 4_096
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Refused(RegistryFailed):
    """The server answered with a failure; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@dataclass(slots=True)
class Site:
    """The server at `origin`, reached by `client`, whose transport has the address guard.

    `authorization` is the value of that header and goes to the origin alone. `log_in` gets a new one for the
    `WWW-Authenticate` of a 401. `plain` lets redirects leave TLS.
    """

    client: httpx.AsyncClient
    origin: httpx.URL
    policy: Policy
    plain: bool = False
    authorization: str = field(default="", repr=False)
    log_in: Callable[[str], Awaitable[str]] | None = None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str] = _NOTHING,
        content: bytes | Callable[[], AsyncIterator[bytes]] | None = None,
        follow: bool = True,
        whole: bool = False,
    ) -> AsyncGenerator[httpx.Response]:
        """The answer to a request, its body unread. One 401 of the origin is answered by logging in, and the
        request is sent again, for which `content` is called again.

        Redirects are followed where `follow`: to any host that policy and guard let pass, over TLS unless
        `plain`, and without credentials. `whole` is for an answer that is small: all of it has `WHOLE_S`.

        Raises:
            Refused: for a status of 400 or more.
            RegistryFailed, Forbidden: as `hop`.
            httpx.TransportError, FetchFailed, AddressRefused: as the client's transport.
        """
        logged_in = False
        hops = 0
        async with AsyncExitStack() as stack:
            if whole:
                await stack.enter_async_context(_in_time())
            while True:
                sent = dict(headers)
                own = same_origin(url, self.origin)
                if own and self.authorization:
                    sent["Authorization"] = self.authorization
                body = content() if callable(content) else content
                async with self._sent(method, url, sent, body, whole=whole) as answer:
                    log_in = self.log_in if answer.status_code == 401 and own and not logged_in else None
                    sends_on = follow and answer.status_code in _REDIRECT
                    location = answer.headers.get("location", "") if sends_on else ""
                    challenge = answer.headers.get("www-authenticate", "")
                    if not log_in and not location:
                        if answer.status_code >= 400:
                            raise await _refusal(answer)
                        yield answer
                        return
                # The answer has given its connection back: whoever logs in waits for one, too.
                if log_in:
                    logged_in = True
                    self.authorization = await log_in(challenge)
                    continue
                hops += 1
                if hops > REDIRECTS:
                    raise RegistryFailed(f"{url.host} redirects more than {REDIRECTS} times")
                url = self.hop(url, location)

    @asynccontextmanager
    async def ask(
        self, url: httpx.URL, headers: Mapping[str, str] = _NOTHING
    ) -> AsyncGenerator[httpx.Response]:
        """The answer to one GET, whatever it is; all of it has `WHOLE_S`.

        Raises:
            httpx.TransportError, FetchFailed, AddressRefused: as the client's transport.
        """
        async with _in_time(), self._sent("GET", url, headers, None, whole=True) as answer:
            yield answer

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] | None,
        *,
        whole: bool,
    ) -> AsyncGenerator[httpx.Response]:
        charged = Charged(self.origin.netloc.decode("ascii").lower(), is_blob=not whole)
        request = self.client.build_request(
            method, url, headers=headers, content=content, extensions=dict(charged.extensions)
        )
        answer = await self.client.send(request, stream=True, auth=None)
        try:
            yield answer
        finally:
            await answer.aclose()

    def hop(self, url: httpx.URL, location: str) -> httpx.URL:
        """Where `location` leads from `url`.

        Raises:
            RegistryFailed: for what is no URL, or one without TLS.
            Forbidden: for a host that the policy leaves out.
        """
        try:
            if len(location) > MAX_URL_CHARS:  # before parameters are added to it
                raise httpx.InvalidURL("too long")
            to = url.join(location)
        except httpx.InvalidURL as error:
            raise RegistryFailed(f"{url.host} redirects to what is no URL") from error
        if same_origin(to, self.origin):
            return to
        if to.scheme != "https" and not self.plain:
            raise RegistryFailed(f"{url.host} redirects to {to.host[:200]} without TLS")
        self.policy.check_redirect(to.host)
        return to


@asynccontextmanager
async def _in_time() -> AsyncGenerator[None]:
    """Raises: httpx.ReadTimeout: where what is done in it takes longer than `WHOLE_S`."""
    try:
        async with asyncio.timeout(WHOLE_S):
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no answer within {WHOLE_S:g} s") from error


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)


async def read_all(answer: httpx.Response, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RegistryFailed: where it is longer than `limit_bytes`, or encoded.
    """
    if is_encoded(answer):
        raise RegistryFailed("the registry's answer is encoded, which was not asked for")
    body = bytearray()
    async with aclosing(raw_pieces(answer)) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit_bytes:
                raise RegistryFailed(f"the registry's answer is over {limit_bytes} bytes")
    return bytes(body)


def check_digest(answer: httpx.Response, digest: str) -> None:
    """Raises: RegistryFailed: where the registry calls what it sends, or has taken, something else."""
    named = answer.headers.get("docker-content-digest", "")
    # Other algorithms may be named there; what is stored goes by this one.
    if named.startswith("sha256:") and named != digest:
        raise RegistryFailed(f"digest mismatch: the registry has {named[:80]}, and it is {digest}")


def raw_pieces(answer: httpx.Response) -> AsyncGenerator[bytes]:
    """The body as it comes; httpx declares less than it gives."""
    return cast(AsyncGenerator[bytes], answer.aiter_raw())


def is_encoded(answer: httpx.Response) -> bool:
    return answer.headers.get("content-encoding", "identity").lower() not in ("identity", "")


async def _refusal(answer: httpx.Response) -> Refused:
    """What a status means, in Ollama's words (docs/reference 12.1)."""
    if answer.status_code == 404:
        return Refused(404, NOT_THERE)
    if answer.status_code == 401:
        return Refused(401, DENIED)
    try:
        async with _in_time():
            body = (await read_all(answer, _ERROR_BYTES)).decode(errors="replace").strip()
    except (RegistryFailed, httpx.TransportError):
        body = ""
    return Refused(answer.status_code, f"{answer.status_code}: {brief(body)}")


def told(method: str, url: httpx.URL, error: Exception) -> str:
    """A failure of the network, as Go's client puts it."""
    return f'{method.capitalize()} "{url}": {reason_of(error)}'


def reason_of(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if "WRONG_VERSION_NUMBER" in str(error):  # how OpenSSL takes an answer in plain text
        return PLAIN
    return brief(str(error) or type(error).__name__)
