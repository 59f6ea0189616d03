"""What a key is: its text, the record that is kept of it, and whether the two belong together.

A key reads `cvn_ID_SECRET`. The secret is shown once, when the key is made; what is kept is a salted hash. In
place of that a record may have a public key, whose owner signs requests (`signing.py`).
"""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from app.access.ssh import read_public_key, write_public_key
from app.catalogue.names import parse_name
from app.core.context import Caller, Limits, Scope
from app.core.errors import InvalidRequest

DEFAULT_SCOPES: tuple[Scope, ...] = ("inference", "models:read")
"""What a client of Ollama needs that only talks to models."""

MOST = 10**9
"""The largest value of any limit: more is a slip of the pen, and far more does not fit what counts it."""

FARTHEST = 1000
"""How far a priority may be from 0: the engine's number holds the place in the queue as well."""

_PREFIX = "cvn"
_ID = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_KEY = re.compile(rf"{_PREFIX}_(?P<id>{_ID})_(?P<secret>[0-9a-f]{{64}})")
_HASH = re.compile(r"sha256:(?P<salt>[0-9a-f]{32}):(?P<digest>[0-9a-f]{64})")


def check_model(entry: str) -> str:
    """A name as Ollama reads it (`qwen3` is `qwen3:latest`), or a pattern where `*` stands for any text."""
    try:
        name = parse_name(entry.replace("*", "x"))
    except InvalidRequest as error:
        raise ValueError("not the name of a model") from error
    return entry.lower() if "*" in entry else str(name).lower()


def read_moment(value: object) -> object:
    """A date is its midnight; what names no zone is UTC."""
    if value is None:
        return None
    try:  # YAML may have read it already, as a time or as a date
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("not a date such as 2027-01-31 or 2027-01-31T12:00:00Z") from error


def check_hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise ValueError("must be sha256:SALT:DIGEST, as `caravan keys create` writes it")
    return value


def check_public_key(value: str) -> str:
    """The key alone: what follows it in a `.pub` file is a comment."""
    return write_public_key(read_public_key(value))


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Moment = Annotated[datetime, BeforeValidator(read_moment), PlainSerializer(_stamp)]
ModelPattern = Annotated[str, AfterValidator(check_model)]
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]


class LimitsRecord(BaseModel):
    """The fields of `core.context.Limits` as a key file holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    max_context: Count | None = None
    max_predict: Count | None = None
    max_tool_calls: Count | None = None


class KeyRecord(BaseModel):
    """All that is kept of one key, which is known by its hash or by its public key."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str = Field(pattern=rf"^{_ID}$")
    name: str = ""
    hash: Annotated[str, AfterValidator(check_hash)] | None = None
    public_key: Annotated[str, AfterValidator(check_public_key)] | None = None
    scopes: list[Scope] = Field(min_length=1)
    models: Annotated[list[ModelPattern], Field(min_length=1)] | None = None
    created: Moment | None = None
    expires: Moment | None = None
    limits: LimitsRecord = LimitsRecord()
    priority: Annotated[int, Field(strict=True, ge=-FARTHEST, le=FARTHEST)] = 0

    @model_validator(mode="after")
    def _known_by_one(self) -> "KeyRecord":
        if (self.hash is None) == (self.public_key is None):
            raise ValueError("must have a `hash` or a `public_key`, and not both")
        return self

    def caller(self) -> Caller:
        return Caller(
            key_id=self.id,
            name=self.name,
            scopes=frozenset(self.scopes),
            models=None if self.models is None else frozenset(self.models),
            limits=Limits(**self.limits.model_dump()),
            priority=self.priority,
        )

    def fields(self) -> dict[str, Any]:
        """What a key file holds of it: nothing that says no more than its absence."""
        return self.model_dump(mode="json", exclude_defaults=True)


def new_id() -> str:
    return secrets.token_hex(6)


def new_key(key_id: str) -> tuple[str, str]:
    """A new key of that id, and its hash."""
    secret = secrets.token_hex(32)
    return f"{_PREFIX}_{key_id}_{secret}", _hash(secret)


def split_key(text: str) -> tuple[str, str] | None:
    """The id and the secret in a key; None for what is no key."""
    found = _KEY.fullmatch(text)
    return (found["id"], found["secret"]) if found else None


class SaltedHash:
    """A hash to compare secrets with.

    A secret is 256 random bits, so nobody can go through them all and a fast hash is as safe as a slow one,
    which is meant for passwords and would cost each request its milliseconds. The salt keeps two files from
    being compared.
    """

    __slots__ = ("_digest", "_salt")

    def __init__(self, text: str) -> None:
        found = _HASH.fullmatch(text)
        if found is None:
            raise ValueError("not a hash")
        self._salt = bytes.fromhex(found["salt"])
        self._digest = bytes.fromhex(found["digest"])

    def fits(self, secret: str) -> bool:
        """Takes as long for a wrong secret as for the right one."""
        return hmac.compare_digest(_digest(self._salt, secret), self._digest)


def _hash(secret: str) -> str:
    salt = secrets.token_bytes(16)
    return f"sha256:{salt.hex()}:{_digest(salt, secret).hex()}"


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()


NOBODY = SaltedHash(_hash(secrets.token_hex(32)))
"""Fits no secret: an unknown id is compared with it, so that it takes as long as a wrong secret."""
