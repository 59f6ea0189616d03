"""Digests of blobs: how they are written, and how they are taken of a file."""

import hashlib
import os
import re
from collections.abc import Callable

from app.core.errors import InvalidDigest

CHUNK_BYTES = 4 << 20
"""How much of a file is in memory at once."""

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


def hex_of(digest: str) -> str:
    """The 64 hex digits of a digest, `sha256:<hex>` or `sha256-<hex>`.

    Raises:
        InvalidDigest: for anything else, in Ollama's words (docs/reference 11.2). Upper case too: a blob has
            one name, also where the file system does not tell case apart.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidDigest
    return match[1]


def file_name(digest: str) -> str:
    """The name of the blob's file, `sha256-<hex>`; raises `InvalidDigest`."""
    return f"sha256-{hex_of(digest)}"


def sha256_of(descriptor: int, tell: Callable[[int], None] | None = None) -> str:
    """The hash in hex of a file, read from its beginning in pieces of `CHUNK_BYTES`.

    `tell` is given the bytes that were read so far.
    """
    digest, buffer, offset = hashlib.sha256(), bytearray(CHUNK_BYTES), 0
    view = memoryview(buffer)
    while count := os.preadv(descriptor, [buffer], offset):
        digest.update(view[:count])
        offset += count
        if tell is not None:
            tell(offset)
    return digest.hexdigest()
