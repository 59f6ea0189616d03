"""The settings of one model, as an item of `models` in the configuration file."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from app.settings.values import PresetMessage, TextList, check_name, check_parameters, in_model


class ModelConfig(BaseModel):
    """One served model, as in a Modelfile: `source` is FROM, the rest its commands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(check_name)] = Field(
        description="Name that clients use, `model[:tag]`."
    )
    source: str = Field(
        min_length=1,
        description="Folder, .gguf file, hub repository, the name of another model here, or `bundled`.",
    )
    system: str = Field(default="", description="System prompt, as SYSTEM in a Modelfile.")
    template: str = Field(default="", description="Go template, as TEMPLATE in a Modelfile.")
    chat_template: str = Field(default="", description="Jinja chat template instead of the model's own.")
    parameters: Annotated[dict[str, Any], AfterValidator(check_parameters)] = Field(
        default_factory=dict[str, Any], description="Options by name, as PARAMETER in a Modelfile."
    )
    messages: list[PresetMessage] = Field(
        default_factory=list[PresetMessage],
        description="Messages that every chat begins with, as MESSAGE in a Modelfile: `{role, content}` or "
        "pairs of the two.",
    )
    license: TextList = Field(
        default_factory=list[str], description="License texts that show prints; one needs no list."
    )
    tool_parser: str | None = Field(default=None, description="vLLM tool parser; `none` turns tools off.")
    reasoning_parser: str | None = Field(default=None, description="vLLM reasoning parser; `none`: off.")
    engine: dict[str, Any] = Field(default_factory=dict[str, Any], description="vLLM engine arguments.")
    adapter: str = Field(
        default="", description="Folder of a LoRA adapter as PEFT writes it, as ADAPTER in a Modelfile."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _named(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(value)
        except ValidationError as error:
            raise in_model(value, error, cls.model_fields) from error
