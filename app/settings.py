"""Every knob, read once at start; the only reader of the environment.

Each field can be set by `CARAVAN_<NAME>`, and where Ollama has a variable of the same meaning, by that one too.
The README's table is made from this class.
"""

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import goduration
import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

CONFIG_VARIABLE = "CARAVAN_CONFIG"


class Address(BaseModel):
    """Where to listen. An empty host means every interface."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=11434, ge=0, le=65535)


def read_address(value: object) -> object:
    """`OLLAMA_HOST`'s grammar: `[scheme://]host[:port][/path]` (ollama-api 1.1)."""
    if not isinstance(value, str):
        return value
    scheme, found, rest = value.partition("://")
    if not found:
        scheme, rest = "", value
    default_port = {"http": 80, "https": 443}.get(scheme, 11434)
    host_port = rest.partition("/")[0]
    if host_port.startswith("["):
        host, _, port = host_port[1:].partition("]")
        port = port.removeprefix(":")
    elif host_port.count(":") > 1:
        host, port = host_port, ""
    else:
        host, _, port = host_port.partition(":")
    if port and not port.isdigit():
        raise ValueError(f"{port!r} is not a port")
    if not found and not host_port:
        host = "127.0.0.1"
    return {"host": host, "port": int(port) if port else default_port}


def read_seconds(value: object) -> object:
    """A Go duration (`5m`, `1h30m`) or whole seconds, as a number of seconds; negative is for ever."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return math.inf if isinstance(value, int | float) and value < 0 else value
    try:
        seconds = float(int(value))
    except ValueError:
        seconds = _go_seconds(value)
    return math.inf if seconds < 0 else seconds


def _go_seconds(value: str) -> float:
    try:
        return goduration.Duration.parse(value).nanoseconds / 1e9
    except goduration.DurationParseError as error:
        raise ValueError(f"{value!r} is not a duration such as 5m or a number of seconds") from error


def read_list(value: object) -> object:
    """A comma-separated list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(read_seconds)]


class ModelConfig(BaseModel):
    """One served model, as in a Modelfile: `source` is FROM, the rest its commands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name that clients use, `model[:tag]`.")
    source: str = Field(description="Folder, .gguf file, hub repository or the name of another model here.")
    system: str = ""
    template: str = Field(default="", description="Go template, as TEMPLATE in a Modelfile.")
    chat_template: str = Field(default="", description="Jinja chat template instead of the model's own.")
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    messages: list[tuple[str, str]] = Field(default_factory=list[tuple[str, str]])
    license: list[str] = Field(default_factory=list[str])
    tool_parser: str | None = Field(default=None, description="vLLM tool parser; `none` turns tools off.")
    reasoning_parser: str | None = Field(default=None, description="vLLM reasoning parser; `none`: off.")
    engine: dict[str, Any] = Field(default_factory=dict[str, Any], description="vLLM engine arguments.")


def _ollama(name: str) -> AliasChoices:
    return AliasChoices(f"CARAVAN_{name}", f"OLLAMA_{name}")


class Settings(BaseSettings):
    """All settings. Precedence: command line, environment, configuration file, default."""

    model_config = SettingsConfigDict(
        env_prefix="CARAVAN_", env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    host: Annotated[Address, BeforeValidator(read_address), NoDecode] = Field(
        default=Address(), validation_alias=_ollama("HOST"), description="Address to listen on, `host:port`."
    )
    models: list[ModelConfig] = Field(
        default_factory=list[ModelConfig],
        description="Models to serve, as a JSON list; none means the bundled smollm2:135m.",
    )
    preload: bool = Field(
        default=True, description="Load the first model at start instead of on its first request."
    )
    cache_dir: Path = Field(
        default=Path.home() / ".cache" / "caravan", description="Converted models and file digests."
    )
    keep_alive: Seconds = Field(
        default=300.0,
        validation_alias=_ollama("KEEP_ALIVE"),
        description="Idle time before a model is unloaded: a duration or seconds; negative is for ever.",
    )
    load_timeout: Seconds = Field(
        default=300.0,
        validation_alias=_ollama("LOAD_TIMEOUT"),
        description="Longest time a model may take to load; 0 or less is no limit.",
    )
    context_length: int = Field(
        default=0,
        ge=0,
        validation_alias=_ollama("CONTEXT_LENGTH"),
        description="Default num_ctx; 0 means 4096, or the model's own length if that is shorter.",
    )
    num_parallel: int = Field(
        default=0,
        ge=0,
        validation_alias=_ollama("NUM_PARALLEL"),
        description="Requests a model works on at once; 0 leaves it to vLLM.",
    )
    max_loaded_models: int = Field(
        default=0,
        ge=0,
        validation_alias=_ollama("MAX_LOADED_MODELS"),
        description="Engines that may be loaded at once; 0 is no limit.",
    )
    max_queue: int = Field(
        default=512,
        ge=0,
        validation_alias=_ollama("MAX_QUEUE"),
        description="Requests that may wait for a model to load before new ones get 503.",
    )
    origins: Annotated[list[str], BeforeValidator(read_list), NoDecode] = Field(
        default_factory=list[str],
        validation_alias=_ollama("ORIGINS"),
        description="Browser origins allowed besides localhost, comma-separated.",
    )
    debug: bool = Field(
        default=False, validation_alias=_ollama("DEBUG"), description="Log more, vLLM's own log included."
    )
    max_body_bytes: int = Field(
        default=64 << 20, ge=1, description="Largest request body; a larger one gets 413."
    )
    body_timeout: Seconds = Field(default=60.0, description="Longest time a request body may take to arrive.")
    tool_calls_done_reason: Literal["tool_calls", "stop"] = Field(
        default="tool_calls", description="done_reason after a tool call; Ollama itself says `stop`."
    )
    kv_cache_bytes: int = Field(
        default=1 << 30, ge=1 << 20, description="Key-value cache of each model on CPU, in bytes."
    )
    stream_interval: int = Field(
        default=1, ge=1, description="Tokens per streamed line; more means less work per token."
    )

    @model_validator(mode="before")
    @classmethod
    def _unquote(cls, values: Any) -> Any:
        """Ollama strips spaces and quotes around its variables."""
        if isinstance(values, dict):
            return {
                key: value.strip().strip("\"'") if isinstance(value, str) else value
                for key, value in values.items()
            }
        return values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        config = os.environ.get(CONFIG_VARIABLE)
        if not config:
            return (init_settings, env_settings)
        return (init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=config))


class BadSetting(Exception):
    """A setting that cannot be used; the text is one line that names its key."""


def read_settings(*, port: int | None = None, **given: Any) -> Settings:
    """The settings, `given` ones (from the command line) first; `port` replaces that of the address.

    Raises:
        BadSetting: naming the variable or option and what is wrong with it.
    """
    try:
        settings = Settings(**given)
        if port is not None:
            given["host"] = {"host": settings.host.host, "port": port}
            settings = Settings(**given)
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        reason = first["msg"].removeprefix("Value error, ")
        raise BadSetting(f"{_key_of(first['loc'])}{'.' if where else ''}{where}: {reason}") from error
    except SettingsError as error:
        cause = error.__cause__
        raise BadSetting(f"{error}: {cause}" if cause else str(error)) from error
    except (OSError, yaml.YAMLError) as error:
        raise BadSetting(f"{CONFIG_VARIABLE}: {error}") from error


def _key_of(loc: tuple[int | str, ...]) -> str:
    """The variable the operator really set, where a field has two."""
    name = str(loc[0] if loc else "").removeprefix("CARAVAN_").removeprefix("OLLAMA_").upper()
    for prefix in ("CARAVAN_", "OLLAMA_"):
        if prefix + name in os.environ:
            return prefix + name
    return f"CARAVAN_{name}"
