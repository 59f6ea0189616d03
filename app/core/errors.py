"""What can go wrong, without a word about HTTP: `api.errors` maps each class to a status.

The text of an error is what the client reads, so it is written for the client.
"""

from typing import ClassVar


class AppError(Exception):
    """Root of every failure that Caravan explains to a client.

    `rejection` is the reason for which a request was turned away, as the metrics call it; empty for what is
    no refusal.
    """

    rejection: ClassVar[str] = ""


class InvalidRequest(AppError):
    """The request can never succeed as it was sent."""


class BodyTooLarge(InvalidRequest):
    """The body is over the configured limit."""

    rejection = "too_large"


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    rejection = "slow_body"


class UnsupportedEncoding(InvalidRequest):
    """The body is encoded in a way that is not undone here."""

    rejection = "encoding"


class AddressRefused(InvalidRequest):
    """A URL that is not opened for a client, or leads to where none is."""

    rejection = "address"


class FetchFailed(AppError):
    """A page could not be had: it is not there, too slow, or nothing that is read."""


class RegistryFailed(AppError):
    """A model could not be had from a registry or hub, or not be brought there."""


class Unauthorized(AppError):
    """No key came with the request, or none that is good."""

    rejection = "unauthorized"


class Forbidden(AppError):
    """The request is understood and not allowed."""

    rejection = "forbidden"


class ModelNotFound(AppError):
    """No model of that name is served.

    `name` is the name as the route wants it shown: routes differ in the text around it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"model '{name}' not found")


class Overloaded(AppError):
    """The queue is full; trying again later may succeed."""

    rejection = "queue_full"


class BodiesFull(Overloaded):
    """The bodies that are arriving take all the memory that is theirs."""

    rejection = "bodies_full"


class PeersSilent(AppError):
    """There are other servers to tell of, and none of them answers."""


class Draining(Overloaded):
    """The server takes no more work, or has ended what it had; another replica may take it."""

    rejection = "draining"

    def __init__(self, text: str = "the server is shutting down") -> None:
        super().__init__(text)


class LimitsUnknown(Overloaded):
    """The limits store is unavailable, and the operator wants no request to pass unchecked."""

    rejection = "limits_unknown"

    def __init__(self) -> None:
        super().__init__("the limits of this API key cannot be checked at the moment, please try again")


class RateLimited(AppError):
    """A limit of the caller's key is used up; trying again after `retry_after_s` seconds may succeed."""

    def __init__(self, text: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(text)


class RequestRateExceeded(RateLimited):
    """Requests per minute."""

    rejection = "request_rate"


class TokenRateExceeded(RateLimited):
    """Tokens per minute."""

    rejection = "token_rate"


class ConcurrencyExceeded(RateLimited):
    """Requests at once."""

    rejection = "concurrency"


class InvalidDigest(InvalidRequest):
    """A blob's digest is not `sha256:` and 64 lower-case hex digits."""

    def __init__(self) -> None:
        super().__init__("invalid digest format")


class DigestMismatch(InvalidRequest):
    """What came is not what its digest says; nothing of it was kept. Both are `sha256:...`."""

    def __init__(self, wanted: str, got: str) -> None:
        self.wanted, self.got = wanted, got
        super().__init__(f'digest mismatch, expected "{wanted}", got "{got}"')


class BlobMissing(InvalidRequest):
    """The store has no blob of this digest, which is named as Ollama does less the server's own folder."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"open blobs/{digest.replace(':', '-')}: no such file or directory")


class BadManifest(AppError):
    """A manifest or its configuration in the store cannot be read."""


class OverLimit(BadManifest):
    """A model of the store has more of something than is served: it stays so until the model is another."""


class StoreFailed(AppError):
    """The model store could not do what it was asked for, and is as it was."""


class StoreReadOnly(StoreFailed):
    """Nothing can be written to the model store."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the model store of this server is read-only ({reason}): "
            "models cannot be pulled, created, copied or deleted here"
        )


class StoreFull(StoreFailed):
    """There is no room in the model store."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model store of this server is full ({reason}): delete models to make room")


class StoreBusy(StoreFailed):
    """Another process has what is asked for; trying again later may succeed."""


class CreateFailed(AppError):
    """A model cannot be made of what was asked for, in cases where Ollama blames the server."""


class DeadlineExceeded(AppError):
    """The request took longer than any may."""


class LoadFailed(AppError):
    """A model's engine could not be started."""


class EngineFailed(AppError):
    """The engine failed while it worked on the request."""


class ConstraintFailed(EngineFailed):
    """The engine ended a constrained answer before it was whole."""

    def __init__(self, reason: str = "the engine's grammar matcher gave up") -> None:
        super().__init__(f"the answer could not be kept to the format: {reason}")


_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check the server logs for details"
)


class EngineDied(EngineFailed):
    """The engine's process is gone; the model must be loaded again."""

    def __init__(self, text: str = _DIED) -> None:
        super().__init__(text)
