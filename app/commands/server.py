"""The server that a command talks to: requests, streams of lines, uploads, and what went wrong in words."""

import ssl
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import certifi
import httpx
import orjson

from app import __version__
from app.commands.failure import CommandFailed, Refused, one_line

LOOPBACK = ("127.0.0.1", "::1", "localhost")

_QUICK = httpx.Timeout(60, connect=10)
_LONG = httpx.Timeout(60, connect=10, read=900)
"""A server may read a large file again before it has anything to say of it."""

_MOST_LINE_BYTES = 8 << 20
_MOST_DOCUMENT_BYTES = 64 << 20
_MOST_ERROR_BYTES = 64 << 10
_NO_BLOB = f"sha256:{'0' * 64}"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a stream: as it was sent, without its end, and what it says."""

    line: bytes
    fields: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """A number of bytes; 0 for anything else."""
        value = self.fields.get(key)
        return value if type(value) is int and 0 <= value < 2**63 else 0


class Server:
    """A client of the server at `url`, to be closed by leaving it.

    Every method raises `Refused` for an answer that is an error, and `CommandFailed` where there is no answer
    or one that no such server gives. Redirects are not followed: the key would go where nobody sent it.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url
        headers = {"user-agent": f"Caravan/{__version__}", "accept": "application/json, application/x-ndjson"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        try:
            host = urlsplit(url).hostname
            self._client = httpx.Client(
                base_url=url,
                headers=headers,
                verify=_certificates(),
                # A proxy of the environment is for other machines.
                trust_env=host not in LOOPBACK,
            )
        except (httpx.InvalidURL, ValueError, OSError) as error:
            raise CommandFailed(f"{url} cannot be used: {one_line(str(error))}") from error

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def document(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Event:
        """The whole answer, which is one JSON object."""
        with self._answer(method, path, _QUICK, json=body) as response:
            self._check(response, path)
            text = _whole(response, _MOST_DOCUMENT_BYTES)
        return self._event(text, response)

    def done(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        """A request whose answer says nothing but that it is done."""
        with self._answer(method, path, _QUICK, json=body) as response:
            self._check(response, path)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Event]:
        """The lines of long work, as they come. The last one given may be an error, which is then raised.

        Raises:
            Refused: for an error, be it the answer or a line of it.
            CommandFailed: also for a stream that ends before the work has.
        """
        last = ""
        with self._answer("POST", path, _LONG, json=body) as response:
            self._check(response, path)
            for line in _lines(response.iter_bytes()):
                event = self._event(line, response)
                yield event
                if event.fields.get("error"):
                    raise Refused(_reason(event.fields) or "the server gave no reason")
                last = event.text("status")
        if last != "success":
            raise CommandFailed(f"the answer of the server at {self._url} ended before the work was done")

    def check_takes_blobs(self) -> None:
        """Ask for a blob that nobody has, so that a refusal comes before the work of reading files."""
        self.has_blob(_NO_BLOB)

    def has_blob(self, digest: str) -> bool:
        path = f"/api/blobs/{digest}"
        with self._answer("HEAD", path, _QUICK) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                return False
            self._check(response, path)
            return True

    def upload(self, digest: str, size: int, pieces: Iterable[bytes]) -> None:
        """Send a blob of `size` bytes; `pieces` must be as many."""
        path = f"/api/blobs/{digest}"
        # With its length the server can refuse what has no room before it has come.
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        with self._answer("POST", path, _LONG, content=pieces, headers=headers) as response:
            self._check(response, path)

    @contextmanager
    def _answer(
        self, method: str, path: str, timeout: httpx.Timeout, **sent: Any
    ) -> Generator[httpx.Response]:
        try:
            with self._client.stream(method, path, timeout=timeout, **sent) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise CommandFailed(self._explained(error)) from error

    def _check(self, response: httpx.Response, path: str) -> None:
        if response.status_code in (HTTPStatus.OK, HTTPStatus.CREATED):
            return
        status = response.status_code
        reason = _reason(_object(_whole(response, _MOST_ERROR_BYTES)))
        if status == HTTPStatus.UNAUTHORIZED:
            asked = reason or "the server asks for a key"
            reason = f"{asked}: give a key that it knows by --key or CARAVAN_API_KEY"
        elif status == HTTPStatus.FORBIDDEN and not reason:
            reason = "the server does not allow that: the key needs the scope models:write"
        elif response.is_redirect:
            target = one_line(response.headers.get("location", "nowhere"))
            reason = (
                f"the server at {self._url} answers {path} with a redirect to {target}: give its new address"
            )
        elif not reason:
            reason = self._foreign(response)
        raise Refused(reason, status)

    def _event(self, text: bytes, response: httpx.Response) -> Event:
        fields = _object(text)
        if fields is None:
            raise CommandFailed(self._foreign(response))
        return Event(text, fields)

    def _foreign(self, response: httpx.Response) -> str:
        media_type = one_line(response.headers.get("content-type", "").partition(";")[0]) or "no type"
        told = one_line(f"{response.status_code} {response.reason_phrase}")
        return (
            f"the server at {self._url} answered {told} with {media_type} in place of JSON: "
            "is that the address of a Caravan or Ollama server, and not of a proxy or another program?"
        )

    def _explained(self, error: Exception) -> str:
        server = f"the server at {self._url}"
        match error:
            case httpx.ConnectError():
                reason = _cause(error)
                hint = "; is it running?" if "refused" in reason else ""
                return f"{server} cannot be reached: {reason}{hint}"
            case httpx.ConnectTimeout():
                return f"{server} cannot be reached: it did not answer within {_QUICK.connect:g} seconds"
            case httpx.TimeoutException():
                return f"{server} stopped answering"
            case httpx.ProxyError():
                return f"the proxy before {server} does not let it be reached: {one_line(str(error))}"
            case httpx.RemoteProtocolError() | httpx.NetworkError():
                return f"{server} broke the connection off before its answer was whole"
            case _:
                return f"{server} cannot be asked: {one_line(str(error)) or type(error).__name__}"


def _certificates() -> ssl.SSLContext:
    """The system's certificates, or those of SSL_CERT_FILE or SSL_CERT_DIR; certifi's if there are none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not paths.capath and not context.get_ca_certs():
        context.load_verify_locations(certifi.where())
    return context


def _whole(response: httpx.Response, most_bytes: int) -> bytes:
    """An answer's body, cut behind `most_bytes`: what is longer is no JSON then."""
    data = bytearray()
    for piece in response.iter_bytes():
        data += piece
        if len(data) > most_bytes:
            return bytes(data[:most_bytes])
    return bytes(data)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream that are not blank, the last one with or without its end."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if b"\n" in piece:
            *whole, rest = held.split(b"\n")
            held = bytearray(rest)
            yield from (bytes(line) for line in whole if line.strip())
        if len(held) > _MOST_LINE_BYTES:
            raise CommandFailed(f"the server sent a line of over {_MOST_LINE_BYTES} bytes")
    if held.strip():
        yield bytes(held)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _reason(fields: Mapping[str, Any] | None) -> str:
    """The error of an answer, which is a text, or an object as behind OpenAI's routes."""
    error = (fields or {}).get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return one_line(error) if isinstance(error, str) else ""


def _cause(error: BaseException) -> str:
    """The system's words for a connection that could not be made, without its numbers."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {one_line(found.verify_message)}"
        if isinstance(found, OSError) and found.strerror:
            return one_line(found.strerror[:1].lower() + found.strerror[1:])
        found = found.__cause__ or found.__context__
    return one_line(str(error)) or "no reason is known"
