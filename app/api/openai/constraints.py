"""What an answer must be, by OpenAI's fields and vLLM's: of a schema, of a pattern, one of several texts."""

from collections.abc import Mapping

import orjson

from app.api.bounds import refuse_nested, written_bytes
from app.api.format import read_format
from app.api.openai.extras import wrong_value
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits, refuse_over
from app.core.request import Constraint, Json

_OUTPUT_FIELDS = ("json", "regex", "choice", "json_object")
_OUTPUT_OFF: Mapping[str, tuple[Json, ...]] = {
    "grammar": (),
    "structural_tag": (),
    "disable_fallback": (True, False),
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
}


def read_response_format(wanted: Mapping[str, Json] | None) -> Json:
    """The value of Ollama's `format` that it comes to; types that Ollama does not know are none.

    Raises:
        InvalidRequest: for a type that would bind the answer and cannot, and for a schema that is missing.
    """
    if wanted is None:
        return None
    match str(wanted.get("type", "")).strip().lower():
        case "json_object":
            return "json"
        case "json_schema":
            return _schema_of(wanted)
        case "structural_tag":
            raise wrong_value("response_format.type", "structural_tag", '"json_object" or "json_schema"')
        case _:
            return None


def _schema_of(wanted: Mapping[str, Json]) -> Json:
    named = wanted.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format: json_schema needs a schema, which must be an object")
    return schema


def read_guided(extra: Mapping[str, Json], limits: InputLimits) -> Constraint | None:
    """The constraint of vLLM's fields.

    Raises:
        InvalidRequest: for one that cannot be honoured, and for more than one.
    """
    outputs = extra.get("structured_outputs")
    wanted: dict[str, Json] = {}
    if outputs is not None:
        if not isinstance(outputs, dict):
            raise InvalidRequest("structured_outputs must be an object")
        _refuse_others(outputs)
        wanted = {f"structured_outputs.{name}": outputs.get(name) for name in _OUTPUT_FIELDS}
    wanted |= {f"guided_{name}": extra.get(f"guided_{name}") for name in _OUTPUT_FIELDS[:3]}
    found = [(name, value) for name, value in wanted.items() if value is not None and value is not False]
    if len(found) > 1:
        raise InvalidRequest(f"{found[0][0]} and {found[1][0]}: an answer can be kept to one of them")
    return _constraint(*found[0], limits) if found else None


def _refuse_others(outputs: Mapping[str, Json]) -> None:
    for name, value in outputs.items():
        if name in _OUTPUT_FIELDS or value is None:
            continue
        if name.startswith("_") or value in _OUTPUT_OFF.get(name, ()):
            continue
        raise InvalidRequest(f"structured_outputs.{name} is not supported; use json, regex or choice")


def _constraint(name: str, value: Json, limits: InputLimits) -> Constraint | None:
    match name.rpartition(".")[2].removeprefix("guided_"):
        case "json_object":
            return Constraint()
        case "json":
            return _of_schema(name, value, limits)
        case "regex":
            if not isinstance(value, str):
                raise InvalidRequest(f"{name} must be a string")
            refuse_over(name, limits.regex_chars, len(value), " characters")
            return Constraint(regex=value)
        case _:
            return _of_choices(name, value, limits)


def _of_schema(name: str, value: Json, limits: InputLimits) -> Constraint | None:
    """A schema may come as the text of its JSON."""
    if isinstance(value, str):
        refuse_over(name, limits.schema_bytes, len(value), " bytes of JSON")
        try:
            value = orjson.loads(value)
        except ValueError:
            raise InvalidRequest(f"{name} is no JSON") from None
    refuse_nested(name, value, limits)
    refuse_over(name, limits.schema_bytes, written_bytes(value), " bytes of JSON")
    return read_format(value)


def _of_choices(name: str, value: Json, limits: InputLimits) -> Constraint:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise InvalidRequest(f"{name} must be a list of strings")
    refuse_over(name, limits.guided_choices, len(value))
    refuse_over(name, limits.guided_chars, sum(map(len, value)), " characters together")
    return Constraint(choices=tuple(value))
