"""Headers of GGUF and safetensors files that lie: seeded changes of real ones, of fields and of bytes."""

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_FORMS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


@dataclass(frozen=True, slots=True)
class Field:
    """A number of a header: where it is, how long, and what it says (`count`, `length`, `type`...)."""

    at: int
    size: int
    kind: str


def fields_of_gguf(data: bytes) -> tuple[list[Field], int]:
    """Every number of a sound GGUF header, and where that ends."""
    walk = _Walk(data)
    return list(walk.fields()), walk.at


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 4

    def fields(self) -> Iterator[Field]:
        yield self._field(4, "version")
        yield (tensors := self._field(8, "count"))
        yield (keys := self._field(8, "count"))
        for _ in range(self._value(keys)):
            yield from self._text("name")
            yield (kind := self._field(4, "type"))
            yield from self._of(self._value(kind))
        for _ in range(self._value(tensors)):
            yield from self._text("name")
            yield (dimensions := self._field(4, "count"))
            for _ in range(self._value(dimensions)):
                yield self._field(8, "shape")
            yield self._field(4, "type")
            yield self._field(8, "offset")

    def _of(self, kind: int) -> Iterator[Field]:
        if kind == _STRING:
            yield from self._text("text")
        elif kind == _ARRAY:
            yield (inner := self._field(4, "type"))
            yield (count := self._field(8, "count"))
            for number in range(self._value(count)):
                # Of long lists the first few stand for all.
                found = list(self._of(self._value(inner)))
                yield from found if number < 3 else ()
        else:
            yield self._field(_SCALAR_BYTES[kind], "value")

    def _text(self, kind: str) -> Iterator[Field]:
        yield (length := self._field(8, "length"))
        size = self._value(length)
        if size:
            yield Field(self.at, 1, kind)
        self.at += size

    def _field(self, size: int, kind: str) -> Field:
        self.at += size
        return Field(self.at - size, size, kind)

    def _value(self, field: Field) -> int:
        (value,) = struct.unpack_from(_FORMS[field.size], self._data, field.at)
        return value


def lying_gguf(data: bytes, fields: list[Field], head: int, chance: random.Random) -> bytes:
    """`data` with one to three numbers or bytes of its header changed, or cut short."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.7:
            field = chance.choice(fields)
            most = 256**field.size
            struct.pack_into(_FORMS[field.size], changed, field.at, _extreme(chance, len(data)) % most)
        else:
            _change_bytes(changed, head, chance)
    return _cut(bytes(changed), head, chance)


def lying_safetensors(data: bytes, chance: random.Random) -> bytes:
    """`data` with a value of its header replaced, one put in or one left out, or bytes of it changed."""
    size = int.from_bytes(data[:8], "little")
    if chance.random() < 0.3:
        changed = bytearray(data)
        _change_bytes(changed, 8 + size, chance)
        return _cut(bytes(changed), 8 + size, chance)
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    for _ in range(chance.randint(1, 2)):
        name = chance.choice(sorted(header))
        match chance.randrange(5):
            case 0:
                header[name] = chance.choice([None, [], 1, "x", {}, {"dtype": "F32"}])
            case 1:
                header[chance.choice(["", "a" * 5000, "\0", "../x", "é", name.upper()])] = header[name]
            case 2:
                header.pop(name)
            case _ if isinstance(header[name], dict):
                _change_tensor(header[name], chance, len(data))
            case _:
                pass
        if not header:
            break
    text = json.dumps(header).encode()
    told = len(text) if chance.random() < 0.9 else _extreme(chance, len(data)) % 2**64
    return told.to_bytes(8, "little") + text + _cut(data[8 + size :], 0, chance)


def lying_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON file with one to three values, at any depth, replaced by what nobody expects there."""
    value: Any = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        at: Any = value
        while True:
            keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = chance.choice(keys)
            if not isinstance(at[key], dict | list) or chance.random() < 0.3:
                at[key] = chance.choice(
                    [
                        *(
                            None,
                            True,
                            -1,
                            0,
                            2**31,
                            2**63,
                            2**64,
                            1e308,
                            -1.5,
                            "",
                            "x" * 3000,
                            "\0",
                            "{{" * 9000,
                        ),
                        *(
                            "{% for",
                            "(" * 5000,
                            [],
                            {},
                            [[[]]],
                            {"a": {"content": {}}},
                            [None],
                            [{}],
                            "\u202e",
                        ),
                        _extreme(chance, len(data)),
                    ]
                )
                break
            at = at[key]
    text = json.dumps(value).encode()
    if chance.random() < 0.1:
        text = text.replace(b"4096", chance.choice([b"1e999", b"[" * 20_000, b"9" * 400]))
    return _cut(text, 0, chance)


def _change_tensor(tensor: dict[str, Any], chance: random.Random, size: int) -> None:
    key = chance.choice(["dtype", "shape", "data_offsets", "shape", "data_offsets"])
    value = tensor.get(key)
    if key == "dtype":
        tensor[key] = chance.choice(["F64", "F4", "I8", "", "nonsense", None, "BF16", 3])
    elif not isinstance(value, list) or not value or chance.random() < 0.2:
        tensor[key] = chance.choice([[], None, [0], [0, 0, 0], "x", [[1]], [True], [1.5], [2**64], {}])
    else:
        value[chance.randrange(len(value))] = chance.choice([-1, 0, _extreme(chance, size), 2**64, None, "1"])


def _extreme(chance: random.Random, size: int) -> int:
    return chance.choice(
        [
            *(0, 1, 2, 3, 8, 9, 13, 31, 32, 33, 255, 4096, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
            *(2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32, size - 1, size, size + 1, size // 2),
            chance.randrange(2**16),
            chance.randrange(2**64),
        ]
    )


def _change_bytes(changed: bytearray, head: int, chance: random.Random) -> None:
    at = chance.randrange(4, max(min(head, len(changed)), 5))
    match chance.randrange(4):
        case 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        case 1:
            del changed[at : at + chance.randrange(1, 32)]
        case 2:
            changed[at:at] = chance.randbytes(chance.randrange(1, 32))
        case _:
            length = chance.randrange(1, 64)
            changed[at:at] = changed[at : at + length]


def _cut(data: bytes, head: int, chance: random.Random) -> bytes:
    if chance.random() < 0.85:
        return data
    return data[: chance.randrange(4 if head else 0, max(len(data), 5))]
