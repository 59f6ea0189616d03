"""A blob that is here already, hashed once more as it comes: that whoever names it has its content."""

import hashlib

from app.core.errors import DigestMismatch
from app.store.digests import hex_of


class Witness:
    """Takes what a `Download` of one part brings, in order, and keeps nothing of it."""

    def __init__(self, digest: str, size: int) -> None:
        self._digest, self._size = f"sha256:{hex_of(digest)}", size
        self._at = 0
        self._hash = hashlib.sha256()

    def missing(self) -> list[tuple[int, int]]:
        return [(self._at, self._size)] if self._at < self._size else []

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert offset == self._at, "what comes out of order has no hash"
        self._hash.update(data)
        self._at += len(data)

    def commit(self) -> None:
        """Raises: DigestMismatch: where it is not what the digest says."""
        if (got := f"sha256:{self._hash.hexdigest()}") != self._digest:
            raise DigestMismatch(self._digest, got)

    def abort(self, keep: bool) -> None:
        pass
