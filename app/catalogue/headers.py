"""Headers of GGUF and safetensors files, held against the file before anything is mapped or handed on.

A file that says it has more than it has makes a careless reader read past its end, or past what it was given:
every count, length, shape and offset is checked here, in bounded time and memory, whatever the file says.
"""

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import orjson

from app.core.model import TensorInfo

MOST_HEADER_BYTES = 32 << 20
"""Of a safetensors header: a third of what the format allows, and several times what any model needs."""

MOST_TENSORS = 200_000
MOST_KEYS = 65_536
MOST_STRINGS = 2_000_000
"""Strings in all lists of a GGUF file together: a large vocabulary has a quarter of a million."""

MOST_JSON_VALUES = 4_000_000
"""Of a safetensors header, roughly: a tensor has about a dozen."""

MOST_TEXT_BYTES = 8 << 20
"""Of all texts of a GGUF header that are kept, the chat template and the names of tensors among them: of each
model that is listed they stay in memory."""

_MOST_DIMENSIONS = 4
_MOST_NESTING = 3
_MOST_ALIGNMENT = 1 << 20
_INT64_MAX = 2**63 - 1
_SKIPPED_BY_SEEK = 1 << 16

_UINT8, _INT8, _UINT16, _INT16, _UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = range(10)
_SCALARS: Mapping[int, struct.Struct] = {
    kind: struct.Struct(f"<{code}") for kind, code in enumerate("BbHhIif?") if kind != _STRING
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}

GGUF_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Element types of GGUF by number: name, elements of a block, bytes of a block."""

_SAFETENSORS_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class BadHeader(Exception):
    """A header that does not fit its file; the text is one sentence that quotes nothing of the file."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says: its texts, numbers and switches by key, and its tensors; lists are left out."""

    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_gguf(file: Path) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Raises:
        BadHeader: where it does not fit the file.
        OSError: where the file cannot be read.
    """
    with file.open("rb") as stream:
        return _Gguf(stream, os.fstat(stream.fileno()).st_size).read()


def read_safetensors(file: Path) -> list[TensorInfo]:
    """Read and check the header of a safetensors file: its tensors fill the file without gap or overlap.

    Raises:
        BadHeader: where it does not fit the file.
        OSError: where the file cannot be read.
    """
    with file.open("rb") as stream:
        room = os.fstat(stream.fileno()).st_size - 8
        size = int.from_bytes(stream.read(8), "little")
        if room < 0 or not 0 < size <= room:
            raise BadHeader("its header is longer than the file")
        if size > MOST_HEADER_BYTES:
            raise BadHeader(f"its header has more than {MOST_HEADER_BYTES} bytes")
        header = stream.read(size)
    # Before anything is built of it: a byte or two of text may be a value of sixty bytes of memory.
    if sum(map(header.count, (b",", b"[", b"{"))) > MOST_JSON_VALUES:
        raise BadHeader("its header has more values than any model's")
    try:
        entries = orjson.loads(header)
    except ValueError:
        raise BadHeader("its header is not JSON") from None
    if not isinstance(entries, dict):
        raise BadHeader("its header is not a JSON object")
    entries.pop("__metadata__", None)
    if len(entries) > MOST_TENSORS:
        raise BadHeader(f"it has more than {MOST_TENSORS} tensors")
    read = [_safetensor(name, entry) for name, entry in entries.items()]
    if _filled((span for _, span in read), gaps=False) != room - size:
        raise BadHeader("its tensors do not end where the file does")
    return [tensor for tensor, _ in read]


def _safetensor(name: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    """A tensor and its place, the bytes from start to end of the data."""
    if not isinstance(entry, dict):
        raise BadHeader("a tensor is not an object")
    kind, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or not _is_counts(shape) or not _is_counts(place) or len(place) != 2:
        raise BadHeader("a tensor has no type, shape or place")
    start, end = place
    count = _count(shape)
    bits = _SAFETENSORS_BITS.get(kind)
    if bits is not None and count * bits != (end - start) * 8:
        raise BadHeader("a tensor's shape does not fit its place")
    return TensorInfo(name, kind, tuple(shape)), (start, end)


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _INT64_MAX for item in value)


def _count(shape: Iterable[int]) -> int:
    count = math.prod(shape)
    if count > _INT64_MAX:
        raise BadHeader("a tensor's shape is larger than any memory")
    return count


def _filled(spans: Iterable[tuple[int, int]], *, gaps: bool) -> int:
    """Where the last span ends."""
    at = 0
    for start, end in sorted(spans):
        if start > end or start < at or (start > at and not gaps):
            raise BadHeader("its tensors overlap, or leave gaps")
        at = end
    return at


class _Gguf:
    """One reading of a GGUF header, which never goes past `size`."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size
        self._size = size
        self._strings = 0
        self._text_bytes = 0

    def read(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise BadHeader("it does not begin with GGUF")
        version = self._number(_UINT32)
        if version not in (2, 3):
            raise BadHeader("its version is neither 2 nor 3 (or its numbers have the other byte order)")
        tensors, keys = self._number(10), self._number(10)
        # What each takes at least: a length, a type and one byte; a length, dimensions, a type and an offset.
        if keys > min(MOST_KEYS, self._left // 13) or tensors > min(MOST_TENSORS, self._left // 24):
            raise BadHeader("it counts more keys or tensors than fit in it")
        metadata = self._metadata(keys)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise BadHeader("its alignment is no power of two")
        found = [self._tensor(alignment) for _ in range(tensors)]
        if len({tensor.name for tensor, _ in found}) != tensors:
            raise BadHeader("two of its tensors have one name")
        self._check_blocks(metadata, tensors)
        at = self._size - self._left
        start = -(-at // alignment) * alignment
        if tensors and _filled((span for _, span in found), gaps=True) > self._size - start:
            raise BadHeader("its tensors end behind the file")
        return GgufHeader(metadata, tuple(tensor for tensor, _ in found))

    def _check_blocks(self, metadata: Mapping[str, Any], tensors: int) -> None:
        """Each block of a model has a tensor at least: who converts it makes as many as it says."""
        family = metadata.get("general.architecture")
        blocks = metadata.get(f"{family}.block_count", 0)
        if type(blocks) is not int or not 0 <= blocks <= max(tensors, 1):
            raise BadHeader("it counts more blocks than it has tensors")

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in range(count):
            key = self._text()
            if key in seen:
                raise BadHeader("one of its keys stands twice")
            seen.add(key)
            kind = self._number(_UINT32)
            if kind == _ARRAY:
                self._skip_array(0)
            else:
                metadata[key] = self._text() if kind == _STRING else self._number(kind)
        return metadata

    def _tensor(self, alignment: int) -> tuple[TensorInfo, tuple[int, int]]:
        name = self._text()
        dimensions = self._number(_UINT32)
        if dimensions > _MOST_DIMENSIONS:
            raise BadHeader(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
        shape = tuple(self._number(10) for _ in range(dimensions))
        kind, offset = self._number(_UINT32), self._number(10)
        if kind not in GGUF_TYPES:
            raise BadHeader("a tensor's type is not known")
        type_name, block, block_bytes = GGUF_TYPES[kind]
        count = _count(shape)
        if (shape[0] if shape else 1) % block or offset % alignment:
            raise BadHeader("a tensor's shape or offset does not fit its type")
        return TensorInfo(name, type_name, shape), (offset, offset + count // block * block_bytes)

    def _skip_array(self, depth: int) -> None:
        kind, count = self._number(_UINT32), self._number(10)
        if kind in _SCALARS:
            self._skip(count * _SCALARS[kind].size)
        elif kind == _STRING:
            self._strings += count
            if count > self._left // 8 or self._strings > MOST_STRINGS:
                raise BadHeader("it counts more texts than fit in it")
            for _ in range(count):
                self._skip(self._number(10))
        elif kind == _ARRAY and depth < _MOST_NESTING and count <= min(MOST_KEYS, self._left // 12):
            for _ in range(count):
                self._skip_array(depth + 1)
        else:
            raise BadHeader("a list has a type that is not known")

    def _text(self) -> str:
        size = self._number(10)
        self._text_bytes += size
        if self._text_bytes > MOST_TEXT_BYTES:
            raise BadHeader(f"its texts have more than {MOST_TEXT_BYTES} bytes")
        return self._take(size).decode("utf-8", "replace")

    def _number(self, kind: int) -> Any:
        if kind not in _SCALARS:
            raise BadHeader("a value has a type that is not known")
        form = _SCALARS[kind]
        return form.unpack(self._take(form.size))[0]

    def _take(self, size: int) -> bytes:
        self._count_off(size)
        data = self._stream.read(size)
        if len(data) != size:
            raise BadHeader("it became shorter while it was read")
        return data

    def _skip(self, size: int) -> None:
        if size < _SKIPPED_BY_SEEK:
            self._take(size)
        else:
            self._count_off(size)
            self._stream.seek(size, os.SEEK_CUR)

    def _count_off(self, size: int) -> None:
        if size > self._left:
            raise BadHeader("it ends before its header does")
        self._left -= size
