"""The encodings of a request's body that are undone: gzip, deflate and zstd."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from app.api.zstd import Damaged, ZstdFrame
from app.core.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

SLICE_BYTES = 256 << 10
"""What is decoded before others have their turn: about a millisecond."""

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ZSTD = "zstd"


class Decompressor(Protocol):
    """Takes an encoding off piece by piece, as `zlib`'s own objects do."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def encoding_of(headers: Iterable[tuple[bytes, bytes]], limit_bytes: int) -> "Encoding | None":
    """None where the body is as it is.

    Raises:
        UnsupportedEncoding: for any other encoding than one of those above, or several.
    """
    values = b",".join(value for name, value in headers if name == b"content-encoding").decode("latin-1")
    names = [name for each in values.lower().split(",") if (name := each.strip()) not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in (*_WINDOWS, _ZSTD):
        raise UnsupportedEncoding(
            f"content encoding {values.strip()!r} is not supported: use gzip, deflate, zstd or none"
        )
    return Encoding(names[0], limit_bytes)


class Encoding:
    """Decodes one body. What it comes to is bounded, whatever it is made of."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._name = name
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._inflate: Decompressor = ZstdFrame() if name == _ZSTD else zlib.decompressobj(_WINDOWS[name])
        self._begun = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What this much comes to, slice by slice.

        Raises:
            BodyTooLarge, InvalidRequest
        """
        self._begun = self._begun or bool(piece)
        some = b""
        # After a full slice there may be more, though all of the piece has been taken.
        while piece or len(some) >= SLICE_BYTES:
            some = self._decompress(piece)
            piece = self._inflate.unconsumed_tail
            self._size_bytes += len(some)
            if self._limit_bytes and self._size_bytes > self._limit_bytes:
                raise BodyTooLarge(
                    f"request body is too large: the limit is {self._limit_bytes} bytes once decoded"
                )
            yield some

    def end(self) -> None:
        """Raises: InvalidRequest: where more must come; a body of nothing at all is one of nothing."""
        if self._begun and not self._inflate.eof:
            raise InvalidRequest(f"the body ends in the middle of its {self._name} encoding")

    def _decompress(self, piece: bytes) -> bytes:
        if self._inflate.eof and piece:
            raise self._damaged("data after its end")
        try:
            some = self._inflate.decompress(piece, SLICE_BYTES)
        except Damaged as error:
            raise self._damaged(str(error)) from error
        except zlib.error as error:
            raise self._damaged(str(error).rpartition(": ")[2]) from error
        # A second member, which gzip allows, is work without data that would count: nobody sends one.
        if self._inflate.unused_data:
            raise self._damaged("data after its end")
        return some

    def _damaged(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"the body is not valid {self._name}: {what}")
