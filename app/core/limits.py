"""The table of what a client may choose the size of; `docs/limits.md` is made from it.

A row is a field of `InputLimits`: its default, what is counted, where that is enforced and what the client
is told. A row that is set to 0 is off, which is for tests: `chaos.fuzz` must then find the fault that the row
is there for.
"""

from dataclasses import dataclass, field
from typing import Any

from app.core.errors import InvalidRequest


def _row(default: int, counts: str, where: str, answer: str) -> Any:
    return field(default=default, metadata={"counts": counts, "where": where, "answer": answer})


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How much of each thing a request may bring. 0 is no limit."""

    head_bytes: int = _row(
        64 << 10, "bytes of a request's head, and of its trailers", "api/connection.py", "431"
    )
    open_body_bytes: int = _row(
        192 << 20,
        "bytes of all unfinished bodies together, over the first 64 KiB of each; never less than one body",
        "api/body.py",
        "503",
    )
    decoded_body_bytes: int = _row(
        64 << 20,
        "bytes of a body that came as gzip, deflate or zstd, once decoded",
        "api/encodings.py",
        "413",
    )
    small_body_bytes: int = _row(
        256 << 10, "bytes of a body that has no pictures or prompts (`/api/show`)", "api/services.py", "413"
    )
    blob_bytes: int = _row(
        256 << 30,
        "bytes of a blob (`/api/blobs`), beside the quota of the store",
        "api/ollama/upload.py",
        "413",
    )
    uploads: int = _row(
        256,
        "blobs that arrive at once; what of them is in memory is of `open_body_bytes`",
        "api/places.py",
        "503",
    )
    uploads_per_key: int = _row(128, "blobs that arrive at once from one key", "api/places.py", "429")
    model_changes: int = _row(64, "models that are made, pulled or pushed at once", "api/places.py", "503")
    model_changes_per_key: int = _row(
        32, "models that are made, pulled or pushed at once by one key", "api/places.py", "429"
    )
    stored_models: int = _row(
        10_000, "models of the store, those counted in that cannot be served", "catalogue/library.py", "403"
    )
    adapter_bytes: int = _row(
        1 << 30, "bytes of a LoRA adapter (`adapters` of `/api/create`)", "catalogue/adapters.py", "400"
    )
    adapter_rank: int = _row(
        64,
        "rank of a LoRA adapter: an engine has room for the largest in each slot",
        "catalogue/adapters.py",
        "400",
    )
    body_bytes: int = _row(
        8 << 20, "bytes of a body besides its pictures", "golang/jsonsize.py, api/ollama/bounds.py", "400"
    )
    text_chars: int = _row(
        1 << 20,
        "characters of all messages, of a prompt with system text and suffix, of one text to embed",
        "api/ollama/bounds.py",
        "400",
    )
    json_values: int = _row(
        1 << 20, "values of a JSON body, counted before any is built", "golang/json.py", "400"
    )
    json_containers: int = _row(
        131_072,
        "objects and lists of a JSON body, counted likewise",
        "golang/json.py",
        "400",
    )
    nesting: int = _row(
        200,
        "levels of `tools`, `format`, `options` and the arguments of calls; a body has 10,000, as in Go",
        "api/ollama/bounds.py",
        "400",
    )
    messages: int = _row(10_000, "messages of a chat", "api/ollama/bounds.py", "400")
    tool_calls: int = _row(20_000, "past tool calls of all messages together", "api/ollama/bounds.py", "400")
    tools: int = _row(1_024, "tools of a chat", "api/ollama/bounds.py", "400")
    tool_bytes: int = _row(1 << 20, "bytes of all tools together, as JSON", "api/ollama/bounds.py", "400")
    options: int = _row(256, "options of a request, items of lists too", "api/ollama/bounds.py", "400")
    context: int = _row(1_000_000, "token ids of `context`", "api/ollama/bounds.py", "400")
    stop: int = _row(64, "stop strings of a request", "api/ollama/bounds.py", "400")
    stop_chars: int = _row(16_384, "characters of all stop strings together", "api/ollama/bounds.py", "400")
    template_chars: int = _row(65_536, "characters of a template", "api/ollama/bounds.py", "400")
    images: int = _row(64, "pictures of a request", "api/ollama/bounds.py", "400")
    image_pixels: int = _row(
        15_000_000, "pixels of all pictures together, by their heads", "engine/vllm/input/messages.py", "400"
    )
    image_ratio: int = _row(
        200, "long side of a picture by its short side, by its head", "engine/vllm/input/messages.py", "400"
    )
    create_files: int = _row(
        1_024,
        "files of a model that is made (`/api/create`), and its licenses",
        "api/ollama/changes.py, catalogue/texts.py",
        "400",
    )
    model_text_bytes: int = _row(
        4 << 20,
        "bytes of a stored model's licenses, system text, template, messages and parameters together",
        "catalogue/texts.py",
        "400",
    )
    stored_text_bytes: int = _row(
        256 << 20,
        "bytes of memory that such texts of all stored models take, those of several models once, without "
        "licenses",
        "catalogue/texts.py",
        "400",
    )
    embed_inputs: int = _row(2_048, "inputs of an embed request", "api/ollama/bounds.py", "400")
    schema_bytes: int = _row(262_144, "bytes of a schema in `format`", "api/ollama/bounds.py", "400")
    choices: int = _row(128, "answers of one request: `n` times its prompts", "api/openai/bounds.py", "400")
    choice_chars: int = _row(
        4 << 20,
        "characters of texts and tools, and token ids, times `n`: each answer has its prompt made",
        "api/openai/bounds.py",
        "400",
    )
    logit_bias: int = _row(1_024, "tokens of `logit_bias`", "api/openai/sampling.py", "400")
    stop_tokens: int = _row(1_024, "ids of `stop_token_ids`", "api/openai/sampling.py", "400")
    regex_chars: int = _row(
        4_096, "characters of a regular expression to keep to", "api/openai/constraints.py", "400"
    )
    guided_chars: int = _row(65_536, "characters of all choices", "api/openai/constraints.py", "400")
    guided_choices: int = _row(1_024, "texts of `guided_choice`", "api/openai/constraints.py", "400")
    variable_bytes: int = _row(
        16_384, "bytes of `chat_template_kwargs`, as JSON", "api/openai/bounds.py", "400"
    )


DEFAULTS = InputLimits()
UNLIMITED = InputLimits(**dict.fromkeys(InputLimits.__slots__, 0))


def refuse_over(field_name: str, most: int, count: int, unit: str = "") -> None:
    """Refuse a request that has `count` of something of which it may have `most`, 0 being no limit.

    Raises:
        InvalidRequest: naming the field, the limit and what came.
    """
    if 0 < most < count:
        raise InvalidRequest(f"{field_name}: at most {most}{unit}, this request has {count}")
