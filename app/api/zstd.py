"""Takes zstd off a body with bounded work at a time: one frame, block by block (RFC 8878).

zstandard's own streams have no bound on what a piece comes to: 64 KiB can be 2 GiB. So it is handed whole
blocks, none of which comes to more than 128 KiB.
"""

import zstandard

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_BYTES = 128 << 10
_RAW, _RLE, _RESERVED = 0, 1, 3
_BLOCK_HEAD, _CHECKSUM = 3, 4
_DICTIONARY_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)
_WINDOW_BYTES = 8 << 20
"""What every decoder must have, by the standard; a frame that asks for more is refused."""


class Damaged(Exception):
    """Its text says how the data is no frame of zstd."""


class ZstdFrame:
    """One frame, decoded as `zlib`'s objects do; `unused_data` is what comes behind its end."""

    def __init__(self) -> None:
        made = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._decompressor = made.decompressobj()
        self._held = bytearray()
        self._in_head = True
        self._has_checksum = self._was_last = False
        self.eof = False
        self.unconsumed_tail = b""
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """What `data` comes to, at most `max_length` or one block; where more is ready, some data is left.

        Raises:
            Damaged
        """
        self._held += data
        at = comes_to = 0
        self.unconsumed_tail = b""
        while not self.eof and (part := self._part(at)) is not None:
            size, most = part
            if comes_to and comes_to + most > max_length:
                # One byte is enough to be asked again.
                self.unconsumed_tail = bytes(self._held[-1:])
                break
            self._pass(at)
            at += size
            comes_to += most
        ready = bytes(self._held[:at])
        del self._held[:at]
        if self.unconsumed_tail:
            del self._held[-1:]
        if self.eof:
            self.unused_data = bytes(self._held)
        try:
            return self._decompressor.decompress(ready) if ready else b""
        except zstandard.ZstdError as error:
            raise Damaged(str(error).rpartition(": ")[2]) from error

    def _part(self, at: int) -> tuple[int, int] | None:
        """Bytes of the frame's next part, and what it comes to at most; None where it is not there whole."""
        size, most = self._head(at) if self._in_head else self._block(at)
        return (size, most) if 0 < size <= len(self._held) - at else None

    def _head(self, at: int) -> tuple[int, int]:
        head = self._held[at : at + 5]
        if not _MAGIC.startswith(head[:4]):
            raise Damaged("it does not begin as a frame does")
        if len(head) < 5:
            return 0, 0
        described = head[4]
        single = described >> 5 & 1
        size = _SIZE_BYTES[described >> 6] or single
        return 5 + (1 - single) + _DICTIONARY_BYTES[described & 3] + size, 0

    def _block(self, at: int) -> tuple[int, int]:
        if self._was_last:
            return _CHECKSUM, 0
        if len(self._held) - at < _BLOCK_HEAD:
            return 0, 0
        kind, size = self._block_head(at)
        if kind == _RESERVED or size > _BLOCK_BYTES:
            raise Damaged("it has a block of no known kind")
        if kind == _RLE:
            return _BLOCK_HEAD + 1, size
        return _BLOCK_HEAD + size, size if kind == _RAW else _BLOCK_BYTES

    def _block_head(self, at: int) -> tuple[int, int]:
        head = int.from_bytes(self._held[at : at + _BLOCK_HEAD], "little")
        return head >> 1 & 3, head >> 3

    def _pass(self, at: int) -> None:
        """Go on behind the part at `at`."""
        if self._in_head:
            self._in_head = False
            self._has_checksum = bool(self._held[at + 4] & 4)
        elif self._was_last:
            self.eof = True
        elif self._held[at] & 1:
            self._was_last = True
            self.eof = not self._has_checksum
