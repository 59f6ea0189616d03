"""How much memory a JSON text will take, told before any of it is decoded.

A byte or two of text can be a value of two hundred bytes, and a single character that is not ASCII makes its
whole string four times as large.
"""

from dataclasses import dataclass

from app.core.errors import InvalidRequest
from app.core.limits import InputLimits

_CHUNK_BYTES = 256 << 10
"""What is looked at in one go. The interpreter is held meanwhile, for a millisecond or so."""


def refuse_large(body: bytes, limits: InputLimits) -> None:
    """Refuse a body of too many values, or of too much text that is not ASCII.

    Bounds that cost next to nothing come first: each value but the first follows a comma or an opening
    bracket. Texts may be full of those, so a body over a bound is looked at closely.

    Raises:
        InvalidRequest: naming the limit.
    """
    containers = body.count(b"[") + body.count(b"{")
    if (
        0 < limits.json_values <= containers + body.count(b",")
        or 0 < limits.json_containers < containers
        or (0 < limits.body_bytes < len(body) and _is_wide(body))
    ):
        _Count(limits).feed(body)


def _is_wide(text: bytes) -> bool:
    return not text.isascii() or b"\\u" in text


@dataclass(slots=True)
class _Count:
    """What there was so far. Of a text that is not JSON it counts no less than a decoder would have built."""

    limits: InputLimits
    values: int = 1
    containers: int = 0
    wide_bytes: int = 0
    open_bytes: int = 0
    """Of the string that is open, its quote included; 0 outside strings."""
    open_wide: bool = False

    def feed(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            chunk = body[at : at + _CHUNK_BYTES]
            if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:
                chunk = body[at : at + _CHUNK_BYTES + 1]  # an escape is not cut in two
            at += len(chunk)
            self._read(chunk)
            self._refuse_over()

    def _read(self, chunk: bytes) -> None:
        plain = chunk.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in chunk else chunk
        parts = plain.split(b'"')
        inside = 0 if self.open_bytes else 1
        outside = b"".join(parts[1 - inside :: 2])
        containers = outside.count(b"[") + outside.count(b"{")
        self.containers += containers
        self.values += containers + outside.count(b",")
        self._read_strings(parts[inside::2], ends_open=len(parts) % 2 != inside, wide=_is_wide(plain))

    def _read_strings(self, strings: list[bytes], *, ends_open: bool, wide: bool) -> None:
        """`strings` are the pieces of strings in a chunk; the first may go on from the chunk before."""
        if self.open_bytes:
            first = strings.pop(0)
            self._open(self.open_bytes + len(first), wide=self.open_wide or (wide and _is_wide(first)))
            if ends_open and not strings:
                return
            self.wide_bytes += self.open_bytes - 1 if self.open_wide else 0
        self._open(0, wide=False)
        if ends_open:
            last = strings.pop()
            self._open(1 + len(last), wide=wide and _is_wide(last))
        if wide:
            self.wide_bytes += sum(len(each) for each in strings if _is_wide(each))

    def _open(self, size_bytes: int, *, wide: bool) -> None:
        self.open_bytes, self.open_wide = size_bytes, wide

    def _refuse_over(self) -> None:
        limits = self.limits
        for name, most, count in (
            ("values", limits.json_values, self.values),
            ("objects and lists", limits.json_containers, self.containers),
            ("bytes of text", limits.body_bytes, self.wide_bytes + (self.open_wide and self.open_bytes)),
        ):
            if 0 < most < count:
                raise InvalidRequest(f"request body: at most {most} {name}, this one has {count} or more")
