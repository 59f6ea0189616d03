"""What the text of a setting stands for: addresses, durations, lists, switches and what they may hold."""

import json
import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import goduration
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import NoDecode

from app.api.origins import Origins
from app.catalogue.names import parse_name
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits
from app.egress.rules import read_rules as read_fetch_rules
from app.egress.upstream import read_upstream
from app.settings.address import split_address

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


class Address(BaseModel):
    """Where to listen. An empty host means every interface."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=11434, ge=0, le=65535)


def read_address(value: object) -> object:
    """`OLLAMA_HOST`'s grammar; its scheme and path are for clients alone."""
    if not isinstance(value, str):
        return value
    address = split_address(value)
    return {"host": address.host, "port": address.port}


def read_seconds(value: object) -> object:
    """A Go duration (`5m`, `1h30m`) or whole seconds, as a number of seconds; negative is forever."""
    if isinstance(value, bool) or value != value:
        raise ValueError(f"{value} is not a duration")
    if isinstance(value, str):
        value = float(value) if _WHOLE_NUMBER.fullmatch(value) else _go_seconds(value)
    return math.inf if isinstance(value, int | float) and value < 0 else value


def _go_seconds(value: str) -> float:
    try:
        return goduration.Duration.parse(value).nanoseconds / 1e9
    except ValueError as error:
        raise ValueError(f"{value!r} is not a duration such as 5m or a number of seconds") from error


def read_list(value: object) -> object:
    """A comma-separated list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def read_paths(value: object) -> object:
    """A comma-separated list, or `none`: a variable that is empty counts as not set."""
    return [] if value == "none" else read_list(value)


def read_json(value: object) -> object:
    """A JSON text, or what a configuration file holds in its place."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def read_limits(value: object) -> InputLimits:
    """Rows of the table of limits by name, each a whole number of which 0 is no limit."""
    if isinstance(value, InputLimits):
        return value
    rows = read_json(value)
    if not isinstance(rows, dict):
        raise ValueError("it must hold names of limits and their numbers")
    for name, most in rows.items():
        if name not in InputLimits.__slots__:
            raise ValueError(f"{name!r} is not a limit; there are: {', '.join(InputLimits.__slots__)}")
        if type(most) is not int or most < 0:
            raise ValueError(f"{name}: {most!r} is not a whole number from 0 on")
    return InputLimits(**rows)


def read_message(value: object) -> object:
    """A pair of role and content, or an object of the two as the API has it."""
    if not isinstance(value, dict):
        return value
    message = cast(dict[str, object], value)
    if unknown := message.keys() - {"role", "content"}:
        raise ValueError(f"a message has role and content, not {', '.join(sorted(map(str, unknown)))}")
    if missing := [key for key in ("role", "content") if key not in message]:
        raise ValueError(f"a message without {' and '.join(missing)}")
    return message["role"], message["content"]


def read_texts(value: object) -> object:
    """A list of texts; one needs no list."""
    return [value] if isinstance(value, str) else value


def in_model(value: object, error: ValidationError, keys: Iterable[str]) -> ValidationError:
    """What is wrong with a model of these `keys`, told with its name: its place in the list says little."""
    name = cast(dict[str, object], value).get("name") if isinstance(value, dict) else None
    of_model = f" (model {name!r})" if isinstance(name, str) else ""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "model",
                "{told}",
                {
                    "told": (
                        f"a model has no such key; there are: {', '.join(keys)}"
                        if each["type"] == "extra_forbidden"
                        else each["msg"].removeprefix("Value error, ")
                    )
                    + of_model
                },
            ),
            loc=each["loc"],
            input=each["input"],
        )
        for each in error.errors()
    ]
    return ValidationError.from_exception_data("model", details)


def read_switch(value: object) -> object:
    """A boolean, or a level of which 0 is off."""
    return int(value) != 0 if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) else value


def read_capture(value: object) -> object:
    """A boolean, or OpenTelemetry's word for where content may go: anywhere is yes."""
    words = {"no_content": False, "span_only": True, "event_only": True, "span_and_event": True}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def check_origins(value: list[str]) -> list[str]:
    Origins(value)
    return value


def check_peers(value: list[str]) -> list[str]:
    for url in value:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"{url!r} is not a base URL such as http://caravan:11434")
    return value


def check_registries(value: list[str]) -> list[str]:
    for entry in value:
        host, *more = entry.split("/")
        if not host or len(more) > 1 or not all(more):
            raise ValueError(f"{entry!r} is neither a host nor host/organisation")
    return value


def check_fetch_rules(value: list[str]) -> list[str]:
    read_fetch_rules(value)
    return value


def check_upstream(value: str) -> str:
    read_upstream(value)
    return value


def check_name(value: str) -> str:
    try:
        parse_name(value)
    except InvalidRequest as error:
        raise ValueError(f"{error} {value!r}") from error
    return value


def check_parameters(value: dict[str, Any]) -> dict[str, Any]:
    try:
        read_parameters(value)
    except InvalidRequest as error:
        raise ValueError(str(error)) from error
    return value


OriginList = Annotated[list[str], BeforeValidator(read_list), AfterValidator(check_origins), NoDecode]
PeerList = Annotated[list[str], BeforeValidator(read_list), AfterValidator(check_peers), NoDecode]
RegistryList = Annotated[list[str], BeforeValidator(read_list), AfterValidator(check_registries), NoDecode]
FetchRules = Annotated[list[str], BeforeValidator(read_list), AfterValidator(check_fetch_rules), NoDecode]
EgressProxy = Annotated[str, AfterValidator(check_upstream)]
ToolName: TypeAlias = Literal["net", "webview", "images"]
ToolList = Annotated[list[ToolName], BeforeValidator(read_list), NoDecode]
OpenPaths = Annotated[list[Literal["/", "/api/version", "/metrics"]], BeforeValidator(read_paths), NoDecode]
InputLimitsMap = Annotated[InputLimits, PlainValidator(read_limits), NoDecode]
TextList = Annotated[list[str], BeforeValidator(read_texts)]
PresetMessage = Annotated[tuple[str, str], BeforeValidator(read_message)]
Seconds = Annotated[float, BeforeValidator(read_seconds)]
Limit = Annotated[Seconds, AfterValidator(lambda seconds: seconds or math.inf)]
"""Seconds of which 0 means no limit, like less than 0."""
