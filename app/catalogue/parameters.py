"""The parameters of a model, which a request may change by its `options` (docs/reference 5)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from app.core.errors import InvalidRequest
from app.core.request import Json, Overrides

OptionType: TypeAlias = Literal["integer", "float32", "boolean", "array"]

_SMALLEST_CONTEXT = 4
_FLOAT32_MAX = 3.4028234663852886e38
_INT64_MAX = 2**63 - 1
_UINT64_END = 2**64


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its type as the error texts name it and, where it changes nothing here, why."""

    type: OptionType
    no_op: str = ""


_ENGINE_PLACES = "the engine places the whole model on the devices it was started with"

OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "num_ctx": Option("integer"),
        "num_batch": Option("integer", no_op="the engine forms its own batches, request by request"),
        "num_gpu": Option("integer", no_op=_ENGINE_PLACES),
        "main_gpu": Option("integer", no_op=_ENGINE_PLACES),
        "use_mmap": Option("boolean", no_op="the engine has its own way to read weights"),
        "num_thread": Option("integer", no_op="threads are set when the engine starts, for all requests"),
        "draft_num_predict": Option("integer", no_op="speculation is set per engine, not per request"),
        "num_keep": Option("integer"),
        "seed": Option("integer"),
        "num_predict": Option("integer"),
        "top_k": Option("integer"),
        "top_p": Option("float32"),
        "min_p": Option("float32"),
        "typical_p": Option("float32"),
        "repeat_last_n": Option("integer"),
        "temperature": Option("float32"),
        "repeat_penalty": Option("float32"),
        "presence_penalty": Option("float32"),
        "frequency_penalty": Option("float32"),
        "stop": Option("array"),
    }
)
"""Every option Ollama knows. The ones with `no_op` are checked for their type and then left out."""


def read_parameters(values: Mapping[str, Json]) -> Overrides:
    """The sampling that `values` name; null and keys that Ollama does not know are left out, as it does.

    Raises:
        InvalidRequest: for a value of the wrong type, or a number that its type cannot hold.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        option = OPTIONS.get(key)
        if option is None or value is None:
            continue
        read = _READERS[option.type](key, value)
        if not option.no_op:
            found[key] = read
    if "num_ctx" in found:
        found["num_ctx"] = max(found["num_ctx"], _SMALLEST_CONTEXT)
    return found


def _read_integer(key: str, value: Json) -> int:
    if _is_number(value) and abs(value) <= _INT64_MAX:
        return int(value)
    if key == "seed" and _is_number(value) and abs(value) < _UINT64_END:
        # Any number is as good as another, and clients draw theirs from 64 bits without a sign.
        return int(value) & _INT64_MAX
    raise InvalidRequest(f'option "{key}" must be of type integer')


def _read_float(key: str, value: Json) -> float:
    if _is_number(value) and abs(value) <= _FLOAT32_MAX:
        return float(value)
    raise InvalidRequest(f'option "{key}" must be of type float32')


def _read_boolean(key: str, value: Json) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidRequest(f'option "{key}" must be of type boolean')


def _read_strings(key: str, value: Json) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f'option "{key}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f'option "{key}" must be of an array of strings')
    return tuple(value)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_READERS: Mapping[OptionType, Callable[[str, Json], Any]] = {
    "integer": _read_integer,
    "float32": _read_float,
    "boolean": _read_boolean,
    "array": _read_strings,
}
