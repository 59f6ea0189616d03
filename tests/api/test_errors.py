import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from app.api.errors import STATUS, body_of, status_of
from app.api.transport import install
from app.core import errors
from app.core.errors import AppError


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
    assert body_of(errors.InvalidRequest('<a & "b">')) == (rb'{"error":"\u003ca \u0026 \"b\"\u003e"}')


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
