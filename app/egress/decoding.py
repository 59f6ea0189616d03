"""Undoes the encoding of a page, so much of it as may be."""

import zlib
from collections.abc import Iterator

from app.core.errors import FetchFailed

ACCEPTED = "gzip, deflate"
_KNOWN = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "zstd"})
"""Of HTTP: only these are repeated in an error, which models read as our words."""
_SLICE_BYTES = 256 << 10
"""What is decoded before others have their turn: about a millisecond."""
_GZIP = 16 + zlib.MAX_WBITS


class Decoding:
    """One body's encoding. `feed` gives it slice by slice, so whoever has enough just stops.

    Raises:
        FetchFailed: for an encoding that was not asked for, or several.
    """

    def __init__(self, content_encoding: str) -> None:
        names = [name for each in content_encoding.lower().split(",") if (name := each.strip())]
        names = [name.removeprefix("x-") for name in names if name != "identity"]
        if len(names) > 1 or any(name not in ("gzip", "deflate") for name in names):
            told = ", ".join(name for name in names[:4] if name in _KNOWN)
            raise FetchFailed(f"the page came in an encoding that is not undone: {told or 'an unknown one'}")
        self._name = names[0] if names else ""
        self._inflate = zlib.decompressobj(_GZIP if self._name == "gzip" else zlib.MAX_WBITS)
        self._begun = False

    @property
    def is_complete(self) -> bool:
        """Whether what came ends where its encoding does; a body of nothing is one of nothing."""
        return not self._name or not self._begun or self._inflate.eof

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What this much comes to. What follows the end of the encoding is left out, as browsers do.

        Raises:
            FetchFailed: for a damaged encoding.
        """
        if not self._name:
            yield piece
            return
        some = b""
        # After a full slice there may be more, though all of the piece has been taken.
        while not self._inflate.eof and (piece or len(some) == _SLICE_BYTES):
            some = self._decompress(piece)
            piece = self._inflate.unconsumed_tail
            yield some

    def _decompress(self, piece: bytes) -> bytes:
        try:
            some = self._inflate.decompress(piece, _SLICE_BYTES)
        except zlib.error as error:
            if self._begun or self._name == "gzip":
                raise FetchFailed(f"the page is not valid {self._name}") from error
            # Many servers mean by deflate the bare format, without zlib's frame around it.
            self._begun, self._inflate = True, zlib.decompressobj(-zlib.MAX_WBITS)
            return self._decompress(piece)
        self._begun = True
        return some
