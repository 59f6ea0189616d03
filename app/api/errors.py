"""What a failure is to a client of any API: its status, its text and the headers that go with it."""

from http import HTTPStatus

from fastapi.exceptions import RequestValidationError

from app.core import errors
from app.core.brief import brief

STATUS: dict[type[Exception], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BodyTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.UnsupportedEncoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.AddressRefused: HTTPStatus.BAD_REQUEST,
    errors.FetchFailed: HTTPStatus.BAD_GATEWAY,
    errors.RegistryFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.ModelNotFound: HTTPStatus.NOT_FOUND,
    errors.Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BodiesFull: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PeersSilent: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Draining: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.LimitsUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.RequestRateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TokenRateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ConcurrencyExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.InvalidDigest: HTTPStatus.BAD_REQUEST,
    errors.DigestMismatch: HTTPStatus.BAD_REQUEST,
    errors.BlobMissing: HTTPStatus.BAD_REQUEST,
    errors.BadManifest: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.OverLimit: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StoreFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StoreReadOnly: HTTPStatus.FORBIDDEN,
    errors.StoreFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.StoreBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CreateFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    errors.LoadFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.EngineFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ConstraintFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.EngineDied: HTTPStatus.INTERNAL_SERVER_ERROR,
    RequestValidationError: HTTPStatus.BAD_REQUEST,
}

HANDLED: tuple[type[Exception], ...] = (errors.AppError, RequestValidationError)
"""What a route may raise on purpose; anything else is a fault of the server."""


def status_of(error: Exception) -> HTTPStatus:
    known = (STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def text_of(error: Exception) -> str:
    """What the client may read: a fault of the server keeps its details for the log."""
    match error:
        case errors.AppError():
            return brief(str(error))
        case RequestValidationError():
            return brief("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
        case _:
            return "internal server error"


def headers_of(error: Exception) -> dict[str, str]:
    """What a client, or a load balancer, is to know besides the text."""
    headers: dict[str, str] = {}
    if isinstance(error, errors.BodyTimeout | errors.BodiesFull | errors.Draining):
        # Whoever sends too slowly is cut off, or it could hold the connection forever; what is left of a
        # refused body need not be sent; and nobody must send a next request to a server that ends.
        headers["connection"] = "close"
    if isinstance(error, errors.Draining):
        # Envoy asks such a server no more until it finds it ready again.
        headers["x-envoy-immediate-health-check-fail"] = "true"
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.UnsupportedEncoding):
        headers["accept-encoding"] = "gzip, deflate, zstd"
    if isinstance(error, errors.BodiesFull):
        headers["retry-after"] = "1"
    if isinstance(error, errors.RateLimited):
        headers["retry-after"] = str(error.retry_after_s)
    return headers
