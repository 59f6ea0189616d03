"""Requests that Ollama's command line signed: reading what they bring and checking it (docs/reference 19.3).

The header is `Authorization: KEY:SIGNATURE`, without a scheme: the wire form of a public key and 64 bytes,
each in base64. What is signed is `METHOD,TARGET`; TARGET is the path and `?ts=<unix seconds>`.
"""

import re
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.access.ssh import read_wire, unbase64
from app.core.errors import Unauthorized

WRONG_SIGNATURE = "unauthorized: the signature does not fit the request, or its key is not known here"
STALE_SIGNATURE = (
    "unauthorized: the request was signed more than 5 minutes before or after the time of this server; "
    "are both clocks right?"
)
NO_TIME = "unauthorized: a signed request has `ts=<unix seconds>` in its query, once"
TOO_LONG = "unauthorized: the request is too long to be a signed one"

_APART_S = 300
_MOST_CHARS = 4096
"""Of the header and of what is signed, so that a check costs the same whatever the client sends. The command
line's have 157 and about 100; a header with a key of another type, which is told apart, has 1,500 at most."""

_SIGNATURE_BYTES = 64
_TIME = re.compile(r"[?&]ts=([0-9]{1,12})(?=&|$)")
_TIMES = re.compile(r"[?&]ts=")


class Signed(NamedTuple):
    """What the header of a signed request holds: 32 bytes of a key, and 64 of a signature."""

    key: bytes
    signature: bytes


class Verifier:
    """A public key to check signatures with.

    A check takes 0.13 to 0.19 ms of a core, about what the application takes for its smallest request, so it
    runs on the event loop; a wrong signature takes as long as a right one.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(key)

    def fits(self, target: str, signature: bytes) -> bool:
        try:
            self._key.verify(signature, target.encode("latin-1"))
        except InvalidSignature:
            return False
        return True


NOBODY_SIGNS = Verifier(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
"""Nobody has its private half: a signature of an unknown key is checked with it, so that it takes as long."""


def is_signed(authorization: str) -> bool:
    """Whether a header is of this form, well or badly."""
    return ":" in authorization and " " not in authorization


def read_signed(authorization: str) -> Signed:
    """What a header holds for which `is_signed`.

    Raises:
        Unauthorized: saying what is wrong with its form.
    """
    if len(authorization) > _MOST_CHARS:
        raise Unauthorized(TOO_LONG)
    key, _, signature = authorization.partition(":")
    try:
        found = read_wire(key)
    except ValueError as error:
        raise Unauthorized(f"unauthorized: the public key {error}") from None
    try:
        signed = unbase64(signature)
    except ValueError as error:
        raise Unauthorized(f"unauthorized: the signature {error}") from None
    if len(signed) != _SIGNATURE_BYTES:
        raise Unauthorized(f"unauthorized: the signature does not have {_SIGNATURE_BYTES} bytes")
    return Signed(found, signed)


def check_time(target: str, now_s: float) -> None:
    """Refuse what was signed at another time than `now_s`, in unix seconds.

    The same request may come again within that time: the command line sends equal ones in one second.

    Raises:
        Unauthorized: for a `METHOD,TARGET` of another time, without a time or with two, or a very long one.
    """
    if len(target) > _MOST_CHARS:
        raise Unauthorized(TOO_LONG)
    found = _TIME.search(target)
    if found is None or len(_TIMES.findall(target)) > 1:
        raise Unauthorized(NO_TIME)
    if abs(now_s - int(found[1])) > _APART_S:
        raise Unauthorized(STALE_SIGNATURE)
