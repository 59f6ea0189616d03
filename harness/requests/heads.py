"""Requests that no client should send, from the first byte on: methods, paths and headers of any kind."""

from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from hypothesis import strategies as st

from harness.requests.api_bodies import API_FIELDS, api_requests, api_tamed
from harness.requests.bodies import TEXTS, broken, encoded, requests, tamed

Strategy: TypeAlias = st.SearchStrategy[Any]

METHODS: Strategy = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
_ODD_METHODS: Strategy = st.sampled_from(["CONNECT", "get", "BREW", "PRI", "", "X" * 200])
_PIECES: Strategy = st.one_of(
    st.sampled_from(["/", "//", "/..", "/.", "%2e%2e", "%2F", "%00", "%ff", "%", "?a=1", ";", "\\", "*"]),
    st.sampled_from(["api", "v1", "chat", "blobs", "sha256:" + "0" * 64, "x" * 5000]),
    TEXTS.map(lambda text: quote(text.encode("utf-8", "surrogatepass"))),
)
_ODD_PIECES: Strategy = st.one_of(
    st.sampled_from(["#", " ", "\t", "http://localhost/api/tags", "*"]),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass").decode("latin-1")),
)
_NAMES: Strategy = st.one_of(
    st.sampled_from(
        [
            "Host",
            "Origin",
            "Accept",
            "Accept-Encoding",
            "Authorization",
            "Connection",
            "Content-Type",
            "Content-Encoding",
            "Cookie",
            "Expect",
            "Range",
            "Upgrade",
            "User-Agent",
            "X-Forwarded-For",
            "X-Request-Id",
            "traceparent",
            "tracestate",
            "baggage",
        ]
    ),
    st.text("abcXYZ-_", min_size=1, max_size=12),
)
_ODD_NAMES: Strategy = st.sampled_from(["Content-Length", "Transfer-Encoding", "a b", "", "é", "Connection"])
_VALUES: Strategy = st.one_of(
    st.sampled_from(
        [
            "",
            "localhost",
            "example.com",
            "http://localhost",
            "null",
            "gzip",
            "chunked",
            "100-continue",
            "close",
            "keep-alive, Upgrade",
            "websocket",
            "h2c",
            "0",
            "-1",
            "9" * 30,
            "Bearer ",
            "Bearer x",
            "Basic eDp5",
            "text/plain; charset=utf-16",
            "bytes=0-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-" + "0" * 32 + "-" + "f" * 16 + "-zz",
            "x" * 9000,
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
)


class Sent(NamedTuple):
    """The bytes of a request. `proper`: well-formed HTTP of which only the body may be bad."""

    data: bytes
    path: str
    proper: bool


def head(method: str, path: str, headers: list[tuple[str, str]]) -> bytes:
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{method} {path} HTTP/1.1\r\n{rows}\r\n".encode("latin-1", "replace")


def proper(path: str, body: bytes) -> Sent:
    """A request that only a bad body can be wrong with."""
    given = [("Host", "localhost"), ("Content-Length", str(len(body))), ("Connection", "close")]
    return Sent(head("POST", path, given) + body, path, True)


def posted(routes: list[str], models: Strategy, keep_alive: Strategy) -> Strategy:
    """Requests of the routes that read a body: good ones, wrong ones, broken ones."""

    def of(path: str) -> Strategy:
        if path in API_FIELDS:
            asked = api_requests(path, models).map(api_tamed)
        else:
            asked = requests(path, models, keep_alive).map(tamed)
        bodies = st.one_of(encoded(asked), encoded(asked), broken(asked), st.binary(max_size=60))
        return bodies.map(lambda body: proper(path, body))

    return st.one_of([of(path) for path in routes])


def odd(paths: list[str]) -> Strategy:
    """Any method on any path, near to a known one or not, with any headers and a few bytes of a body."""
    return _heads(METHODS, _paths(paths, _PIECES), _NAMES)


def improper(paths: list[str]) -> Strategy:
    """The same with methods, paths and headers that HTTP does not allow, or that contradict each other."""
    return _heads(
        st.one_of(METHODS, _ODD_METHODS),
        _paths(paths, st.one_of(_PIECES, _ODD_PIECES)),
        st.one_of(_NAMES, _ODD_NAMES),
    )


def _paths(known: list[str], pieces: Strategy) -> Strategy:
    path = st.sampled_from(known)
    return st.one_of(path, st.builds(str.__add__, path, pieces), st.lists(pieces, max_size=4).map(_joined))


def _joined(pieces: list[str]) -> str:
    return "/" + "/".join(pieces)


def _heads(methods: Strategy, paths: Strategy, names: Strategy) -> Strategy:
    headers = st.lists(st.tuples(names, _VALUES), max_size=5)
    return st.builds(_with_head, methods, paths, headers, st.binary(max_size=40), st.booleans())


def garbage() -> Strategy:
    """What is no HTTP at all, or only begins like it."""
    starts = st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /api/chat HTTP/1.1\r\n", b"\x16\x03\x01"])
    return st.builds(lambda start, rest: Sent(start + rest, "", False), starts, st.binary(max_size=80))


def _with_head(method: str, path: str, headers: list[tuple[str, str]], body: bytes, hosted: bool) -> Sent:
    given = [("Host", "localhost")] if hosted else []
    if body:
        given.append(("Content-Length", str(len(body))))
    return Sent(head(method, path, [*given, *headers, ("Connection", "close")]) + body, path, False)
