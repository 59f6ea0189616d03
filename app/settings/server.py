"""The settings of the server, read once at start.

Each field can be set by `CARAVAN_<NAME>` and, where Ollama has a variable of the same meaning, by that one.
The README's table is made from this class.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
)

from app.core.limits import InputLimits
from app.settings.engines import EngineSettings, as_ollama
from app.settings.environment import BadSetting, trimmed
from app.settings.models import ModelConfig
from app.settings.values import (
    Address,
    EgressProxy,
    FetchRules,
    InputLimitsMap,
    Limit,
    OpenPaths,
    OriginList,
    PeerList,
    RegistryList,
    Seconds,
    ToolList,
    ToolName,
    read_address,
    read_capture,
    read_json,
    read_switch,
)
from app.telemetry.logs import LogFormat

CONFIG_VARIABLE = "CARAVAN_CONFIG"


class Settings(EngineSettings):
    """All settings. Precedence: command line, environment, configuration file, default."""

    host: Annotated[Address, BeforeValidator(read_address), NoDecode] = Field(
        default=Address(),
        validation_alias=as_ollama("HOST"),
        description="Address to listen on, `host:port`.",
    )
    models: Annotated[list[ModelConfig], BeforeValidator(read_json), NoDecode] = Field(
        default_factory=list[ModelConfig],
        description="Models to serve, as a JSON list; left out it is the bundled smollm2:135m, "
        "and `[]` is none besides those of the store.",
    )
    peers: PeerList = Field(
        default_factory=list[str],
        description="Servers to list the models of too, comma-separated: `http://name:port`, where a name "
        "stands for all its addresses. With peers, no models means none.",
    )
    peer_pools: PeerList = Field(
        default_factory=list[str],
        description="Peers of which all addresses of a name serve one store: one of them is asked for the "
        "models, all for what is loaded.",
    )
    peer_timeout: Seconds = Field(
        default=2.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time that a peer may take to list its models before it is left out.",
    )
    preload: bool = Field(
        default=True, description="Load the first model at start instead of on its first request."
    )
    cache_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default=Path("~/.cache/caravan"),
        validate_default=True,
        description="Converted models and file digests; in its folder `server` what engines compile.",
    )
    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default=Path("~/.caravan/models"),
        validate_default=True,
        validation_alias=AliasChoices("CARAVAN_MODELS_DIR", "OLLAMA_MODELS"),
        description="Store of models that are created, pulled and copied, in Ollama's own layout.",
    )
    models_max_bytes: int = Field(
        default=0, ge=0, description="What all blobs of that store may take; 0 is no limit."
    )
    pull: bool = Field(
        default=True,
        description="Whether models may be pulled and pushed ([docs/models.md](docs/models.md)).",
    )
    registry_allow: RegistryList = Field(
        default=["registry.ollama.ai", "hf.co", "huggingface.co"],
        description="Registries and hubs that are used, comma-separated: `host` or `host/organisation`.",
    )
    registry_insecure: bool = Field(
        default=False, description="Whether a pull or push may ask for `insecure`: http, or TLS unchecked."
    )
    hub_token: str = Field(
        default="",
        repr=False,
        validation_alias=AliasChoices("CARAVAN_HUB_TOKEN", "HF_TOKEN"),
        description="Token for the Hugging Face hub.",
    )
    keep_alive: Seconds = Field(
        default=300.0,
        validation_alias=as_ollama("KEEP_ALIVE"),
        description="Idle time before a model is unloaded: a duration or seconds; negative is forever.",
    )
    context_length: int = Field(
        default=0,
        ge=0,
        validation_alias=as_ollama("CONTEXT_LENGTH"),
        description="Default num_ctx; 0 means 4096, or the model's own length if that is shorter.",
    )
    max_queue: int = Field(
        default=512,
        ge=0,
        validation_alias=as_ollama("MAX_QUEUE"),
        description="Requests that may wait for a model, to load or to be free, before new ones get 503.",
    )
    max_queue_tokens: int = Field(
        default=2 << 20,
        ge=0,
        description="Tokens of all prompts that may wait for a model before new ones get 503; 0 is no limit.",
    )
    cache_per_key: bool = Field(
        default=True,
        description="Whether a cached beginning of a prompt serves only the API key whose prompt it was.",
    )
    origins: OriginList = Field(
        default_factory=list[str],
        validation_alias=as_ollama("ORIGINS"),
        description="Browser origins allowed besides localhost, comma-separated.",
    )
    keys_file: Annotated[Path, AfterValidator(Path.expanduser)] | None = Field(
        default=None,
        description="File of API keys, or a folder of such files; none leaves the server open to everybody.",
    )
    open_paths: OpenPaths = Field(
        default=["/", "/api/version"],
        description="Paths that need no API key: `none`, or any of `/`, `/api/version`, `/metrics`.",
    )
    signin_url: str = Field(
        default="",
        pattern=r"^(https?://.+)?$",
        description="Page to which Ollama's command line sends people whose request has no good API key.",
    )
    debug: Annotated[bool, BeforeValidator(read_switch)] = Field(
        default=False, validation_alias=as_ollama("DEBUG"), description="Log more, vLLM's own log included."
    )
    log_format: LogFormat = Field(
        default="auto",
        description="`json`, `text`, or `auto`: text on a terminal, JSON elsewhere.",
    )
    capture_content: Annotated[bool, BeforeValidator(read_capture)] = Field(
        default=False,
        validation_alias=AliasChoices(
            "CARAVAN_CAPTURE_CONTENT", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
        ),
        description="Put prompts and answers into logs and traces.",
    )
    tools: ToolList = Field(
        default_factory=list[ToolName],
        description="What the server may open for models, comma-separated: `net`, `webview`, `images` "
        "([docs/tools.md](docs/tools.md)); none leaves it off.",
    )
    tools_urls: Literal["known", "any"] = Field(
        default="known",
        description="Addresses that a model may open: those that the user, a search or a page named "
        "(`known`), or `any`.",
    )
    tools_turns: int = Field(
        default=6,
        ge=2,
        le=100,
        description="Turns that a model with built-in tools has, its answer included.",
    )
    tools_calls: int = Field(
        default=10, ge=1, le=1000, description="Calls of built-in tools that one request may have."
    )
    tools_timeout: Seconds = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time that the built-in tools of one request may take together.",
    )
    tools_max_bytes: int = Field(
        default=32 << 20, ge=1, description="Bytes that the built-in tools of one request may receive."
    )
    search_url: str = Field(
        default="",
        pattern=r"^(https?://.+)?$",
        description="SearXNG instance with which `net` searches; none leaves the search off.",
    )
    fetch_robots: bool = Field(
        default=True, description="Whether `net` keeps to the robots.txt of the sites it fetches from."
    )
    max_body_bytes: int = Field(
        default=64 << 20, ge=1, description="Largest request body; a larger one gets 413."
    )
    body_timeout: Seconds = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time a request body may take to arrive: a duration or seconds.",
    )
    headers_timeout: Seconds = Field(
        default=15.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time the head of a request may take to arrive: a duration or seconds.",
    )
    send_timeout: Limit = Field(
        default=60.0,
        description="Longest time in which a client may take nothing of its answer; 0 is no limit.",
    )
    request_timeout: Limit = Field(
        default=0.0,
        validate_default=True,
        description="Longest time a request may take, from its head to the end of its answer; 0 is no limit.",
    )
    limits: InputLimitsMap = Field(
        default=InputLimits(),
        description="What a request may hold at most, `{name: number}` (JSON in the variable), for rows of "
        "[docs/limits.md](docs/limits.md); 0 is no limit.",
    )
    fetch_allow: FetchRules = Field(
        default_factory=list[str],
        description="What may be opened for a client although it is private, comma-separated: hosts, "
        "`*.suffix`, addresses or networks, each with or without `:port`; without, ports 80 and 443.",
    )
    fetch_deny: FetchRules = Field(
        default_factory=list[str],
        description="What is never opened for a client, in the same form; it wins over what is allowed.",
    )
    fetch_proxy: EgressProxy = Field(
        default="",
        description="Egress proxy through which everything is opened for clients, "
        "`http[s]://[user:password@]host:port`; it then resolves names.",
    )
    browser_url: str = Field(
        default="",
        pattern=r"^((wss?|https?)://.+)?$",
        description="Chromium that shows pages (its DevTools address); without it one is started here.",
    )
    browser_pages: int = Field(
        default=4, ge=1, description="Pages that may be open in the browser at once before 503."
    )
    limits_redis_url: str = Field(
        default="",
        pattern=r"^((rediss?|redis\+unix)://.+)?$",
        description="Redis that counts for all replicas what keys use; without it each counts for itself.",
    )
    limits_redis_timeout: Seconds = Field(
        default=0.25,
        gt=0,
        allow_inf_nan=False,
        description="Longest time that Redis may take to answer before a request goes on without it.",
    )
    limits_redis_fail: Literal["open", "closed"] = Field(
        default="open",
        description="Whether requests of keys with limits pass (`open`) or get 503 while that Redis is gone.",
    )
    grace_period: Seconds = Field(
        default=30.0,
        allow_inf_nan=False,
        description="Longest time that requests under way may take to end once the server is told to stop.",
    )
    drain_delay: Seconds = Field(
        default=0.0,
        allow_inf_nan=False,
        description="Shortest time that a stopping server stays there to say that it is not ready.",
    )
    tool_calls_done_reason: Literal["tool_calls", "stop"] = Field(
        default="tool_calls", description="done_reason after a tool call; Ollama itself says `stop`."
    )
    stream_default: bool = Field(
        default=True, description="Whether an answer streams where the request does not say; Ollama's do."
    )
    repeat_text: bool = Field(
        default=False,
        description="Whether the last line of a stream has the whole text once more; Ollama's has none.",
    )

    @property
    def server_dir(self) -> Path:
        """All that a server writes to in a cache that was filled before it: what it compiles and measures."""
        return self.cache_dir / "server"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = EnvSettingsSource(settings_cls)
        environment.env_vars = trimmed(environment.env_vars)
        return (init_settings, environment, InitSettingsSource(settings_cls, _read_file()))


def _read_file() -> dict[str, Any]:
    """What the configuration file says, if there is one."""
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        return {}
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise BadSetting(f"configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise BadSetting(f"configuration file {path}: {_one_line(str(error))}") from error
    if not isinstance(found, dict | None) or not all(isinstance(key, str) for key in found or ()):
        raise BadSetting(f"configuration file {path}: it must hold names and values of settings")
    return found or {}


def read_settings(*, port: int | None = None, **given: Any) -> Settings:
    """The settings, `given` ones (from the command line) first; `port` replaces that of the address.

    Raises:
        BadSetting: naming the variable, option or key of the file and what is wrong with it.
    """
    try:
        settings = Settings(**given)
        if port is None:
            return settings
        given = {"port": port}
        return settings.model_copy(update={"host": Address(host=settings.host.host, port=port)})
    except ValidationError as error:
        first = error.errors()[0]
        name, *inner = (str(part) for part in first["loc"])
        where = ".".join([_where_set(name, given), *inner])
        raise BadSetting(f"{where}: {_one_line(first['msg'].removeprefix('Value error, '))}") from error


def _where_set(name: str, given: Mapping[str, Any]) -> str:
    """What the operator has to mend: an option of the command line, a variable or a key of the file."""
    name = name.removeprefix("CARAVAN_").removeprefix("OLLAMA_").lower()
    if name in given:
        return "--" + name.removesuffix("s")
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else None
    known = alias.choices if isinstance(alias, AliasChoices) else [f"CARAVAN_{name.upper()}"]
    variables = {variable.upper() for variable in trimmed(os.environ)}
    used = (variable for variable in map(str, known) if field and variable in variables)
    return next(used, f"configuration file {os.environ.get(CONFIG_VARIABLE)}: {name}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
