"""The settings of engines: when they are loaded, on what, and what each may take."""

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings.values import Limit, Seconds


def as_ollama(name: str) -> AliasChoices:
    """A variable that Ollama has as well."""
    return AliasChoices(f"CARAVAN_{name}", f"OLLAMA_{name}")


class EngineSettings(BaseSettings):
    """The part of `Settings` that says how models are run."""

    model_config = SettingsConfigDict(
        env_prefix="CARAVAN_", env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    load_timeout: Limit = Field(
        default=300.0,
        validation_alias=as_ollama("LOAD_TIMEOUT"),
        description="Longest time that a load may stand still; 0 or less is no limit.",
    )
    load_total_timeout: Limit = Field(
        default=3600.0, description="Longest time that a load may take in all; 0 or less is no limit."
    )
    num_parallel: int = Field(
        default=0,
        ge=0,
        validation_alias=as_ollama("NUM_PARALLEL"),
        description="Requests a model works on at once; 0 leaves it to vLLM.",
    )
    adapters: int = Field(
        default=4,
        ge=1,
        le=64,
        description="LoRA adapters that one batch of a model may hold ([docs/models.md](docs/models.md)).",
    )
    max_loaded_models: int = Field(
        default=0,
        ge=0,
        validation_alias=as_ollama("MAX_LOADED_MODELS"),
        description="Engines that may be loaded at once; 0 is no limit.",
    )
    kv_cache_bytes: int = Field(
        default=1 << 30, ge=1 << 20, description="Key-value cache of each model on CPU, in bytes."
    )
    stream_interval: int = Field(
        default=0,
        ge=0,
        description="Tokens per streamed line, waited for up to 50 ms; the first and the last go at once. 0: "
        "one, and more where an engine makes over 8,000 tokens a second.",
    )
    front_ends: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that take requests for the same engines "
        "([docs/scaling.md](docs/scaling.md)); above 1 no adapters, sleep, `data_parallel_size` or `nnodes`.",
    )
    engine_hang_timeout: Limit = Field(
        default=60.0,
        description="An engine that shows no progress for so long is taken for hung and restarted; 0: never.",
    )
    crash_limit: int = Field(
        default=5,
        ge=0,
        description="Deaths and failed loads in a row after which the server exits with status 1; 0: never.",
    )
    crash_window: Seconds = Field(
        default=300.0,
        gt=0,
        description="An engine that ran for so long makes up for the deaths and failed loads before it.",
    )
    memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes that models may take of each device (of the host on a CPU); 0 is what is there.",
    )
    sleep_memory: int = Field(
        default=0,
        ge=0,
        description="Bytes of the host's memory for models on GPUs that are put to sleep in place of being "
        "unloaded ([docs/operations.md](docs/operations.md#several-models-and-their-memory)); 0: none is.",
    )
    load_patience: Limit = Field(
        default=30.0,
        description="How long a model waits for room that others in use have, before these take no new "
        "requests; 0 or less waits until they are idle by themselves.",
    )
