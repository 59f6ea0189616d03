import asyncio
import json
import logging
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.types import Message, Scope

from app.api.context import context_of
from app.api.dialect import DIALECT
from app.api.errors import STATUS, status_of, text_of
from app.api.ollama.encoder import ChatEncoder
from app.api.ollama.failure import OLLAMA, failure
from app.api.stream import DocumentResponse, EventResponse, Events
from app.api.transport import install
from app.core import errors
from app.core.brief import ERROR_BYTES, brief
from app.core.errors import AppError
from app.core.events import Content


def below(cls: type[AppError]) -> Iterator[type[AppError]]:
    for child in cls.__subclasses__():
        yield child
        yield from below(child)


def app_that_raises(error: Exception) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.get("/fail")
    async def fail() -> None:
        raise error

    @app.get("/number/{number}")
    async def number(number: int) -> None:
        raise error

    install(app, loopback=False)
    return app


async def get(app: FastAPI, path: str = "/fail", *, origin: str = "") -> httpx.Response:
    headers = {"origin": origin} if origin else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.get(path, headers=headers)


def test_every_failure_has_its_own_row() -> None:
    """A dialect may word a failure in a class of its own, which takes the status of the one it words."""
    failures = [cls for cls in below(AppError) if cls.__module__ == AppError.__module__]
    assert len(failures) > 5
    assert [cls for cls in failures if cls not in STATUS] == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("x"), 400),
        (errors.Forbidden("x"), 403),
        (errors.ModelNotFound("m"), 404),
        (errors.BodyTimeout("x"), 408),
        (errors.BodyTooLarge("x"), 413),
        (errors.UnsupportedEncoding("x"), 415),
        (errors.BodiesFull("x"), 503),
        (errors.LoadFailed("x"), 500),
        (errors.EngineFailed("x"), 500),
        (errors.EngineDied("x"), 500),
        (errors.Overloaded("x"), 503),
    ],
)
async def test_a_failure_is_answered_with_its_status_and_text(error: AppError, status: int) -> None:
    response = await get(app_that_raises(error))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.content == b'{"error":"%s"}' % str(error).encode()


def test_a_class_without_a_row_takes_that_of_its_nearest_base() -> None:
    class Rare(errors.BodyTooLarge):
        pass

    assert status_of(Rare()) == 413
    assert status_of(KeyError()) == 500


def test_an_error_text_is_escaped_as_ollama_does() -> None:
    assert failure(errors.InvalidRequest('<a & "b">')).body == (rb'{"error":"\u003ca \u0026 \"b\"\u003e"}')


async def test_an_unexpected_exception_is_logged_once_and_told_in_general_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await get(app_that_raises(KeyError("secret")), origin="http://localhost:3000")
    assert response.status_code == 500
    assert response.content == b'{"error":"internal server error"}'
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_a_failure_on_purpose_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    await get(app_that_raises(errors.InvalidRequest("x")))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_what_fastapi_finds_invalid_is_the_clients_mistake() -> None:
    response = await get(app_that_raises(KeyError()), "/number/many")
    assert response.status_code == 400
    assert json.loads(response.content)["error"].startswith("path.number: ")
    assert status_of(RequestValidationError([])) == 400


def test_what_a_401_says_is_its_status_too() -> None:
    """Ollama's own command line shows nothing else of it."""
    assert json.loads(failure(errors.Unauthorized("no key")).body) == {"error": "no key", "status": "no key"}
    assert json.loads(failure(errors.Forbidden("no scope")).body) == {"error": "no scope"}


# F19, F20


@pytest.mark.parametrize("char", ["a", "\n", "<", "é", "€", "🦙", "\ud800"], ids=ascii)
@pytest.mark.parametrize("size", [1, 500, 1012, 1013, 1014, 4096, 5000, 100_000])
def test_an_error_text_is_cut_to_a_size_between_characters(char: str, size: int) -> None:
    text = f"begins {char * size} ends"
    known, told = text.encode(errors="replace").decode(), brief(text)
    if len(known.encode()) <= ERROR_BYTES:
        assert told == text
        return
    front, mark, back = told.partition(f" ... [cut from {len(text)} characters] ... ")
    assert mark
    assert known.startswith(front)
    assert known.endswith(back)
    assert back.endswith(" ends")
    assert ERROR_BYTES - 8 < len(told.encode()) <= ERROR_BYTES


@pytest.mark.parametrize("size", [0, 300, 700, 1000, 4000, 1 << 20])
def test_an_error_text_holds_no_address(size: int) -> None:
    for text in (f"{'x' * size}{object()!r}{'x' * size}", f"{object()!r} " * (size // 40 + 1)):
        told = brief(text)
        assert " at 0x" not in told
        assert "<object object" in told or len(text) > ERROR_BYTES


def test_a_number_that_is_no_address_stays() -> None:
    assert brief("invalid character at 0x1f") == "invalid character at 0x1f"


def test_cutting_costs_no_more_for_a_long_text() -> None:
    long = " at 0x" * (4 << 20)
    begun = time.thread_time()
    for _ in range(20):
        brief(long)
    assert time.thread_time() - begun < 0.5


@pytest.mark.parametrize("stream", [None, False, True])
async def test_what_is_cut_is_cut_in_the_answer_and_in_the_record(*, stream: bool | None) -> None:
    error = errors.InvalidRequest("bad number: " + "1" * (8 << 20))
    scope: Scope = {"type": "http", DIALECT: OLLAMA}
    sent: list[Message] = []

    async def fails() -> bytes:
        raise error

    async def events() -> Events:
        if stream:
            yield [Content("x")]
        raise error

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    if stream is None:
        response: Response = DocumentResponse(fails, media_type="application/json")
    else:
        response = EventResponse(events(), ChatEncoder("m"), stream=stream)
    await response(scope, receive, send)
    told = json.loads(sent[-1]["body"].splitlines()[-1])["error"]
    assert told == text_of(error) == context_of(scope).error
    assert len(told) <= ERROR_BYTES
