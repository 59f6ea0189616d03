import logging
from collections.abc import AsyncIterator, Iterator, Mapping

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from app.api.transport import install
from tests.api.live import connect, exchange, read_to_end, serving

LOCAL = "http://localhost:3000"
FOREIGN = "http://example.com"
ALLOW_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,X-Api-Key,Anthropic-Version,Anthropic-Beta,"
    "Anthropic-Dangerous-Direct-Browser-Access"
)


async def alive() -> Response:
    return PlainTextResponse("Ollama is running")


async def listing() -> Response:
    return JSONResponse({"models": []})


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def name(model: str) -> Response:
    return PlainTextResponse(model)


async def broken() -> Response:
    async def frames() -> AsyncIterator[bytes]:
        yield b"begun"
        raise KeyError("too late")

    return StreamingResponse(frames())


def build(*, origins: tuple[str, ...] = (), loopback: bool = False) -> FastAPI:
    """A few routes of Ollama's table, registered in another order than Ollama's."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/", alive, methods=["GET", "HEAD"])
    app.add_api_route("/api/tags", listing, methods=["GET"])
    app.add_api_route("/api/tags", listing, methods=["HEAD"])
    app.add_api_route("/api/version", listing, methods=["GET", "HEAD"])
    app.add_api_route("/api/ps", listing, methods=["GET"])
    app.add_api_route("/api/generate", echo, methods=["POST"])
    app.add_api_route("/api/chat", echo, methods=["POST"])
    app.add_api_route("/api/blobs/{model}", name, methods=["POST"])
    app.add_api_route("/api/blobs/{model}", name, methods=["HEAD"])
    app.add_api_route("/v1/messages", echo, methods=["POST"])
    app.add_api_route("/v1/models", listing, methods=["GET"])
    app.add_api_route("/v1/models/{model}", name, methods=["GET"])
    app.add_api_route("/broken", broken, methods=["GET"])
    install(app, origins=origins, loopback=loopback)
    return app


OPEN = build()
GUARDED = build(loopback=True)


async def ask(
    method: str, path: str, headers: Mapping[str, str] | None = None, *, app: FastAPI = OPEN
) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        return await client.request(method, path, headers=headers)


def cors_headers(response: httpx.Response) -> list[str]:
    return [key for key in response.headers if key.startswith("access-control-") or key == "vary"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(GUARDED) as port:
        yield port


# Routing


@pytest.mark.point(5)
@pytest.mark.parametrize("path", ["/api/ps", "/v1/models", "/v1/models/m"])
async def test_head_is_not_answered_where_only_get_is_registered(path: str) -> None:
    response = await ask("HEAD", path)
    assert (response.status_code, response.headers["allow"]) == (405, "GET")
    assert response.headers["content-type"] == "text/plain"


@pytest.mark.point(2, 4)
def test_head_is_answered_like_get_without_the_body_where_it_is_registered(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ncontent-length: 17" in head
    assert body == b""


@pytest.mark.point(6)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("POST", "/v1/messages/batches"),
        ("GET", "/API/TAGS"),
        ("GET", "/v1/models/ns/name"),
        ("GET", "/v1"),
        ("POST", "/api/tags/"),
        ("GET", "/api/generate/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/api/tags%0a"),
    ],
)
async def test_what_is_not_routed_is_plainly_not_found(method: str, path: str) -> None:
    response = await ask(method, path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"] == "text/plain"
    assert "allow" not in response.headers


@pytest.mark.point(7, 8)
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/generate", "POST"),
        ("POST", "/api/tags", "HEAD, GET"),
        ("OPTIONS", "/api/chat", "POST"),
        ("GET", "/api/blobs/sha256:0", "HEAD, POST"),
    ],
)
async def test_a_wrong_method_is_told_which_are_right(method: str, path: str, allow: str) -> None:
    response = await ask(method, path)
    assert (response.status_code, response.text) == (405, "405 method not allowed")
    assert (response.headers["allow"], response.headers["content-type"]) == (allow, "text/plain")


async def test_a_path_parameter_is_one_segment() -> None:
    assert (await ask("GET", "/v1/models/m:latest?x=1")).text == "m:latest"


@pytest.mark.point(9, 10)
@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/tags/?a=1&b=2", 301, "/api/tags?a=1&b=2"),
        ("GET", "/v1/models/a%20b%25/", 301, "/v1/models/a%20b%25"),
        ("HEAD", "/api/tags/", 307, "/api/tags"),
        ("POST", "/api/generate/", 307, "/api/generate"),
    ],
)
async def test_a_trailing_slash_is_sent_to_the_path_without(
    method: str, path: str, status: int, location: str
) -> None:
    response = await ask(method, path)
    assert (response.status_code, response.headers["location"]) == (status, location)


async def test_a_redirect_has_a_page_for_get_only() -> None:
    got, posted = await ask("GET", "/api/tags/?a=1&b=2"), await ask("POST", "/api/generate/")
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert got.text == '<a href="/api/tags?a=1&amp;b=2">Moved Permanently</a>.\n\n'
    assert (posted.content, posted.headers.get("content-type")) == (b"", None)


@pytest.mark.point(11)
@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//api/tags", "/api/tags"),
        ("/api//tags?a=1", "/api/tags?a=1"),
        ("/./api/tags", "/api/tags"),
        ("/v1/../api/tags/", "/api/tags/"),
        ("/../../api/tags", "/api/tags"),
        ("/api/..", "/"),
        ("//", "/"),
        ("//a%20b", "/a%20b"),
        ("//example.com/", "/example.com/"),
        ("/./\\example.com", "/%5Cexample.com"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_not_clean_is_sent_to_the_clean_one(
    port: int, method: str, target: str, location: str
) -> None:
    response, body = exchange(port, f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert (response.status, response.headers["location"]) == (307, location)
    page = f'<a href="{location}">Temporary Redirect</a>.\n\n' if method == "GET" else ""
    assert body.decode() == page
    assert response.headers["content-type"] == ("text/html; charset=utf-8" if page else None)


@pytest.mark.parametrize("target", ["/.well-known/x", "/api/..tags", "/%2e%2e/api/tags"])
def test_dots_that_are_not_whole_segments_are_left_alone(port: int, target: str) -> None:
    response, _ = exchange(port, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert response.status == 404


@pytest.mark.parametrize("where", ["starlette", "docs"])
async def test_a_route_that_would_answer_head_unasked_is_refused_at_the_start(where: str) -> None:
    app = FastAPI() if where == "docs" else FastAPI(openapi_url=None, routes=[Route("/x", alive)])
    install(app, loopback=False)
    with pytest.raises(TypeError, match="path operation"):
        await ask("GET", "/x", app=app)


@pytest.mark.point(32)
async def test_an_authorization_header_is_ignored() -> None:
    assert (await ask("GET", "/api/tags", {"authorization": "Bearer x"})).status_code == 200


# CORS


async def test_without_an_origin_nothing_is_added() -> None:
    assert cors_headers(await ask("GET", "/api/tags")) == []


@pytest.mark.point(13, 15)
@pytest.mark.parametrize("origin", [LOCAL, "app://x", "tauri://localhost", "vscode-webview://y", "file://"])
async def test_an_allowed_origin_is_echoed(origin: str) -> None:
    response = await ask("GET", "/api/version", {"origin": origin})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.point(14, 16, 17)
@pytest.mark.parametrize("origin", [FOREIGN, "chrome-extension://abc", "null", "http://localhost.evil.com"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/tags"), ("OPTIONS", "/api/chat"), ("GET", "/no")])
async def test_another_origin_is_forbidden(origin: str, method: str, path: str) -> None:
    response = await ask(method, path, {"origin": origin})
    assert (response.status_code, response.content) == (403, b"")
    assert cors_headers(response) == []
    assert "content-type" not in response.headers


@pytest.mark.point(18)
@pytest.mark.parametrize(("path", "allow"), [("/api/chat", "POST"), ("/nope", None)])
async def test_a_preflight_gets_the_fixed_answer(path: str, allow: str | None) -> None:
    asked = {
        "origin": LOCAL,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-other",
    }
    response = await ask("OPTIONS", path, asked)
    assert (response.status_code, response.content) == (204, b"")
    headers = response.headers
    assert headers["access-control-allow-methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert headers["access-control-allow-headers"] == ALLOW_HEADERS
    assert headers["access-control-max-age"] == "43200"
    assert headers["access-control-allow-origin"] == LOCAL
    assert headers.get_list("vary") == [
        "Origin",
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
    ]
    assert headers.get("allow") == allow


@pytest.mark.point(19)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_page_of_this_server_is_no_cross_origin_request(scheme: str) -> None:
    own = {"host": "10.1.2.3:11434", "origin": f"{scheme}://10.1.2.3:11434"}
    got, options = await ask("GET", "/api/tags", own), await ask("OPTIONS", "/api/chat", own)
    assert (got.status_code, options.status_code) == (200, 405)
    assert cors_headers(got) == cors_headers(options) == []


@pytest.mark.point(20)
@pytest.mark.parametrize(("path", "status"), [("/nope", 404), ("/api/generate", 405)])
async def test_an_allowed_page_may_read_that_a_route_is_missing(path: str, status: int) -> None:
    response = await ask("GET", path, {"origin": LOCAL})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, LOCAL)


@pytest.mark.point(21)
@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://a.bar.com", 200), ("http://a.bar.com", 403), ("http://localhost", 200)],
)
async def test_added_origins_are_allowed_besides_the_usual_ones(origin: str, status: int) -> None:
    app = build(origins=("https://*.bar.com",))
    assert (await ask("GET", "/api/tags", {"origin": origin}, app=app)).status_code == status


async def test_a_star_allows_all_origins_alike() -> None:
    app = build(origins=("*",))
    got = await ask("GET", "/api/tags", {"origin": FOREIGN}, app=app)
    options = await ask("OPTIONS", "/api/chat", {"origin": FOREIGN}, app=app)
    assert (got.status_code, options.status_code) == (200, 204)
    assert got.headers["access-control-allow-origin"] == "*"
    assert options.headers["access-control-allow-origin"] == "*"
    assert "vary" not in [*got.headers, *options.headers]


def test_a_bad_origin_is_refused_when_the_application_is_built() -> None:
    with pytest.raises(ValueError, match=r"bad origin 'bar\.com'"):
        build(origins=("bar.com",))


# The Host guard


@pytest.mark.point(22)
@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "8.8.8.8:11434", "[2001:db8::1]:11434"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/tags"), ("OPTIONS", "/api/chat"), ("GET", "/no")])
async def test_a_foreign_host_is_forbidden(host: str, method: str, path: str) -> None:
    response = await ask(method, path, {"host": host}, app=GUARDED)
    assert (response.status_code, response.content) == (403, b"")


@pytest.mark.point(23)
@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "foo.local", "foo.internal", "10.0.0.5", "[::1]:11434", "[::1]", "::1"],
)
async def test_a_local_host_is_let_in(host: str) -> None:
    assert (await ask("GET", "/api/tags", {"host": host}, app=GUARDED)).status_code == 200


@pytest.mark.point(24)
@pytest.mark.parametrize(("host", "status"), [("localhost", 204), ("foo.local:1", 204), ("127.0.0.1", 405)])
async def test_options_is_answered_for_a_local_name_but_not_an_address(host: str, status: int) -> None:
    response = await ask("OPTIONS", "/api/chat", {"host": host}, app=GUARDED)
    assert (response.status_code, response.headers["allow"]) == (status, "POST")
    assert cors_headers(response) == []


async def test_an_allowed_page_does_not_open_the_guard() -> None:
    response = await ask("GET", "/api/tags", {"host": "example.com", "origin": LOCAL}, app=GUARDED)
    assert (response.status_code, response.content) == (403, b"")


async def test_a_server_that_is_not_on_loopback_has_no_guard() -> None:
    assert (await ask("GET", "/api/tags", {"host": "example.com"})).status_code == 200


@pytest.mark.point(23)
@pytest.mark.parametrize(
    "request_head", ["GET /api/tags HTTP/1.1\r\nHost:\r\n", "GET /api/tags HTTP/1.0\r\n"]
)
def test_a_request_without_a_host_is_let_in(port: int, request_head: str) -> None:
    response, body = exchange(port, f"{request_head}\r\n".encode())
    assert (response.status, body) == (200, b'{"models":[]}')


# Through a real server


def test_http_1_0_is_answered_and_closed(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(b"POST /api/generate HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n{}")


def test_a_refused_client_that_waits_to_be_asked_for_its_body_is_let_go(port: int) -> None:
    with connect(port) as sock:
        sock.sendall(
            b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    last = b"GET /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(port) as sock:
        sock.sendall(
            b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\nGET //x HTTP/1.1\r\nHost:\r\n\r\n" + last
        )
        answers = read_to_end(sock)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"307", b"405"]


def test_a_failure_after_the_start_breaks_the_connection_and_is_logged_once(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as sock:
        sock.sendall(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_to_end(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"5\r\nbegun\r\n")
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
