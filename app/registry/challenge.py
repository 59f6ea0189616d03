"""Tokens for registries: what a 401 asks for, and the request that gets it (docs/reference 12.3).

A token is asked for without a name or by HTTP basic authentication. ollama.com's own form, a challenge signed
by an ed25519 key, is not spoken: a push to it, and a pull of a private model, end in `access denied`.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httpx
import orjson

from app.core.errors import RegistryFailed

TOKEN_BYTES = 64 << 10
_HEADER_CHARS = 4_096
"""What a challenge may have: however it is encoded, it makes a URL that httpx takes."""
_FIELD = re.compile(r'([a-z_]+)\s*=\s*(?:"([^"]*)"|([^\s",]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Login:
    """A name and password as the client sent them; both empty is nobody in particular."""

    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a header, or ""."""
        if not self.username:
            return ""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A `Bearer` challenge; `scopes` are one word each."""

    realm: str
    service: str
    scopes: tuple[str, ...]

    @property
    def params(self) -> list[tuple[str, str]]:
        service = [("service", self.service)] if self.service else []
        return [*service, *(("scope", scope) for scope in self.scopes)]


def scheme_of(header: str) -> str:
    """`bearer`, `basic` or what else a `WWW-Authenticate` begins with, lower-case."""
    return header.strip().partition(" ")[0].lower()


def read_challenge(header: str, registry: httpx.URL) -> Challenge:
    """Raises: RegistryFailed: where the realm is no place to ask, or not on the registry's own host."""
    if len(header) > _HEADER_CHARS:
        raise RegistryFailed(f"the registry's challenge is over {_HEADER_CHARS} characters")
    found = _FIELD.findall(header)
    fields: Mapping[str, str] = {name.lower(): quoted or bare for name, quoted, bare in found}
    realm = fields.get("realm", "")
    try:
        parts = urlsplit(realm)
        netloc = parts.netloc.lower()
        httpx.URL(realm)
    except (ValueError, httpx.InvalidURL) as error:
        raise RegistryFailed(f"the token realm {ascii(realm)[:200]} is no URL") from error
    own = registry.netloc.decode("ascii").lower()
    # A name and password would go there (docs/reference 12.1).
    if netloc != own:
        raise RegistryFailed(f'realm host "{netloc[:200]}" does not match original host "{own}"')
    if parts.scheme != "https" and parts.scheme != registry.scheme:
        raise RegistryFailed(f"the token realm {ascii(realm)[:200]} is not https")
    return Challenge(realm, fields.get("service", ""), tuple(fields.get("scope", "").split()))


def read_token(body: bytes) -> str:
    """The token of an answer, under either of its two names.

    Raises:
        RegistryFailed: where there is none that a header can carry.
    """
    try:
        read: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RegistryFailed("the registry's token is not JSON") from error
    answer = cast(Mapping[str, object], read) if isinstance(read, dict) else {}
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise RegistryFailed("the registry's answer has no token")
    return token
