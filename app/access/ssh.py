"""Public keys as OpenSSH writes them, `ssh-ed25519 AAAA... comment`: reading, writing and naming them.

Ed25519 alone: Ollama's command line has no other kind (docs/reference 19.3).
"""

import base64
import hashlib

KIND = "ssh-ed25519"
KEY_BYTES = 32

_HEAD = len(KIND).to_bytes(4, "big") + KIND.encode()
"""How the wire form of a key begins: a text, after its length in four bytes."""

_SIZE = KEY_BYTES.to_bytes(4, "big")
_PRIVATE = "-----BEGIN"
_P = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_WEAK = frozenset({0, 1, _P - 1, _P, _P + 1, _Y8, _P - _Y8})
"""The y of the points whose order divides 8 (RFC 8032, section 5.1): no secret stands behind such a key, and
whoever tries a few messages has a signature that fits. All zeros, a natural placeholder, is one."""


def read_public_key(text: str) -> bytes:
    """The 32 bytes of the key in a line of a `.pub` file; its comment says nothing.

    Raises:
        ValueError: saying what is wrong with the key, without quoting it: it may be a private one.
    """
    words = text.split()
    if text.lstrip().startswith(_PRIVATE):
        raise ValueError("is a private key, which belongs to its owner alone; give the .pub file")
    if len(text.strip().splitlines()) > 1 or len(words) < 2:
        raise ValueError(f"must be one line that reads `{KIND} AAAA...`, as a .pub file does")
    if words[0] != KIND:
        raise ValueError(f"is not of the type {KIND}")
    return read_wire(words[1])


def read_wire(encoded: str) -> bytes:
    """The 32 bytes of the key whose wire form is given in base64: the second word of a `.pub` file.

    Raises:
        ValueError: saying what is wrong with the key.
    """
    wire = unbase64(encoded)
    if not wire.startswith(_HEAD):
        raise ValueError(f"is not of the type {KIND}")
    size, key = wire[len(_HEAD) : len(_HEAD) + 4], wire[len(_HEAD) + 4 :]
    if size != _SIZE or len(key) != KEY_BYTES:
        raise ValueError(f"does not have the {KEY_BYTES} bytes of an Ed25519 key")
    if int.from_bytes(key, "little") & ((1 << 255) - 1) in _WEAK:
        raise ValueError("is one that anybody can sign with")
    return key


def write_public_key(key: bytes) -> str:
    """The line of a `.pub` file, without a comment."""
    return f"{KIND} {base64.b64encode(_wire(key)).decode()}"


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -l` tells it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(_wire(key)).digest()).decode().rstrip("=")


def unbase64(text: str) -> bytes:
    """Raises `ValueError` for what is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is not base64") from None


def _wire(key: bytes) -> bytes:
    return _HEAD + _SIZE + key
