"""The table of what a client may choose the size of; `docs/limits.md` is made from it.

A row is a field of `InputLimits`: its default, what is counted, where that is enforced and what the client
is told. A row that is set to 0 is off, which is for tests: `chaos.fuzz` must then find the fault that the row
is there for.
"""

from dataclasses import dataclass, field
from typing import Any


def _row(default: int, counts: str, where: str, answer: str) -> Any:
    return field(default=default, metadata={"counts": counts, "where": where, "answer": answer})


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How much of each thing a request may bring. 0 is no limit."""

    head_bytes: int = _row(
        64 << 10, "bytes of a request's head, and of its trailers", "api/connection.py", "431"
    )
    open_body_bytes: int = _row(512 << 20, "bytes of all unfinished bodies together", "api/body.py", "503")
    small_body_bytes: int = _row(
        256 << 10, "bytes of a body that has no pictures or prompts (`/api/show`)", "api/services.py", "413"
    )
    json_values: int = _row(
        1_000_000, "values of a JSON body, counted before any is built", "api/ollama/gojson.py", "400"
    )
    messages: int = _row(10_000, "messages of a chat", "api/ollama/schema.py", "400")
    tools: int = _row(1_024, "tools of a chat", "api/ollama/schema.py", "400")
    options: int = _row(256, "options of a request", "api/ollama/schema.py", "400")
    context: int = _row(1_000_000, "token ids of `context`", "api/ollama/schema.py", "400")
    stop: int = _row(64, "stop strings of a request", "core/options.py", "400")
    stop_chars: int = _row(16_384, "characters of all stop strings together", "core/options.py", "400")
    template_chars: int = _row(65_536, "characters of a template", "runtime/compose.py", "400")
    images: int = _row(64, "pictures of a request", "api/ollama/codec.py", "400")
    image_pixels: int = _row(
        50_000_000, "pixels of all pictures together, by their heads", "engine/vllm/messages.py", "400"
    )
    embed_inputs: int = _row(2_048, "inputs of an embed request", "api/ollama/codec.py", "400")
    schema_bytes: int = _row(262_144, "bytes of a schema in `format`", "runtime/pipeline.py", "400")
    error_bytes: int = _row(1_024, "bytes of an error's text", "api/errors.py", "cut")


UNLIMITED = InputLimits(**dict.fromkeys(InputLimits.__slots__, 0))
