"""A request for each row of the table of limits, that has as much of what the row counts as one likes."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from app.core.limits import DEFAULTS, InputLimits
from harness.requests.pictures import picture

Build = Callable[[int], bytes]
_V1 = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Case:
    """`build(n)` is a body with exactly `n` of what `row` counts, for `path` and a model of that kind.

    `engine` says that only a real engine looks at it.
    """

    row: str
    path: str
    build: Build
    engine: bool = False


def _body(**fields: Any) -> bytes:
    """Few tokens are asked for: the model's own work is not what counts."""
    whole = {"model": "m", "stream": False, "options": {"num_predict": 4}, **fields}
    return json.dumps(whole, separators=(",", ":")).encode()


def _chat(**fields: Any) -> bytes:
    return _body(**{"messages": [{"role": "user", "content": "Hi"}], **fields})


def _v1(**fields: Any) -> bytes:
    """The answer is cut, so that a scripted engine need not keep to what is wanted of it."""
    return _chat(**{"options": None, "max_tokens": 2, **fields})


def _answers(count: int) -> bytes:
    """A text that is no longer than one may be, times some answers."""
    most = DEFAULTS.text_chars
    times = next(each for each in range(2, 128) if count % each == 0 and count // each <= most)
    return _v1(n=times, messages=[{"role": "user", "content": "x" * (count // times - len("user"))}])


def _spread(body: bytes, item: bytes, count: int) -> bytes:
    """`body` with `count` times `item` in a list in place of `0`: too many to have them as values here."""
    before, after = body.split(b":0", 1)
    return before + b":[" + b",".join([item] * count) + b"]" + after


def _padded(body: bytes, size_bytes: int) -> bytes:
    return body.replace(
        b"~", b"x " * ((size_bytes - len(body) + 1) // 2) + b"x" * ((size_bytes - len(body) + 1) % 2)
    )


def _tool(description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "description": description}}


def _tool_bytes(size_bytes: int) -> bytes:
    tools = [_tool("")]
    rest = size_bytes - len(json.dumps(tools, separators=(",", ":")))
    return _chat(tools=[_tool("d" * rest)])


def _schema(size_bytes: int) -> bytes:
    schema = {"type": "object", "description": ""}
    rest = size_bytes - len(json.dumps(schema, separators=(",", ":")))
    return _chat(format=schema | {"description": "d" * rest})


def _nested(levels: int) -> bytes:
    return _chat(options=0).replace(b"0", b'{"a":' * levels + b"1" + b"}" * levels)


def _stops(stops: Iterable[str]) -> bytes:
    return _chat(options={"num_predict": 4, "stop": [*stops]})


def _embedded(size_bytes: int) -> bytes:
    """Sixteen texts, since each has a limit of its own."""
    body = _body(input=["~"] * 16)
    each, rest = divmod(size_bytes - len(body) + 16, 16)
    for at in range(16):
        body = body.replace(b"~", b"x" * (each + (at < rest)), 1)
    return body


def _pixels(count: int) -> bytes:
    width = 4096
    image = base64.b64encode(picture(width, -(-count // width))).decode()
    return _chat(messages=[{"role": "user", "content": "What?", "images": [image]}])


def _long(ratio: int) -> bytes:
    image = base64.b64encode(picture(1, ratio)).decode()
    return _chat(messages=[{"role": "user", "content": "What?", "images": [image]}])


_SMALLEST = b'"' + base64.b64encode(picture(1, 1)) + b'"'
CALL = b'{"function":{"name":"f","arguments":{"a":1}}}'
CASES = (
    Case("small_body_bytes", "/api/show", lambda n: _padded(_body(system="~"), n)),
    Case("body_bytes", "/api/embed", _embedded),
    Case("text_chars", "/api/chat", lambda n: _chat(messages=[{"content": ("x " * n)[:n]}])),
    Case("json_values", "/api/chat", lambda n: _spread(_chat(x=0), b"1", n - 10)),
    Case("json_containers", "/api/chat", lambda n: _spread(_chat(x=0), b"{}", n - 5)),
    Case("nesting", "/api/chat", _nested),
    Case("messages", "/api/chat", lambda n: _spread(_body(messages=0), b"{}", n)),
    Case(
        "tool_calls",
        "/api/chat",
        lambda n: _spread(_body(messages=[{"role": "assistant", "tool_calls": 0}]), CALL, n),
    ),
    Case("tools", "/api/chat", lambda n: _spread(_chat(tools=0), b"{}", n)),
    Case("tool_bytes", "/api/chat", _tool_bytes),
    Case("options", "/api/show", lambda n: _body(options={f"o{at}": at for at in range(n)})),
    Case("context", "/api/generate", lambda n: _spread(_body(prompt="Hi", context=0), b"1", n)),
    Case("stop", "/api/chat", lambda n: _stops(f"s{at}" for at in range(n))),
    Case("stop_chars", "/api/chat", lambda n: _stops(["s" * n])),
    Case(
        "template_chars",
        "/api/generate",
        lambda n: _body(prompt="Hi", template=("{{.Prompt}}" * n)[: n // 11 * 11].ljust(n)),
    ),
    Case(
        "images",
        "/api/chat",
        lambda n: _spread(
            _body(messages=[{"role": "user", "content": "[img]" * n, "images": 0}]), _SMALLEST, n
        ),
    ),
    Case("image_pixels", "/api/chat", _pixels, engine=True),
    Case("image_ratio", "/api/chat", _long, engine=True),
    Case("embed_inputs", "/api/embed", lambda n: _spread(_body(input=0), b'"a"', n)),
    Case("schema_bytes", "/api/chat", _schema),
    Case("choices", _V1, lambda n: _v1(n=n)),
    Case("choice_chars", _V1, _answers),
    Case("logit_bias", _V1, lambda n: _v1(logit_bias={str(at): 1 for at in range(n)})),
    Case("stop_tokens", _V1, lambda n: _spread(_v1(stop_token_ids=0), b"1", n)),
    Case("regex_chars", _V1, lambda n: _v1(guided_regex="a" * n)),
    Case("guided_chars", _V1, lambda n: _v1(guided_choice=["a" * n])),
    Case("guided_choices", _V1, lambda n: _v1(guided_choice=[f"a{at}" for at in range(n)])),
    Case("variable_bytes", _V1, lambda n: _v1(chat_template_kwargs={"a": "x" * (n - 8)})),
)

ELSEWHERE: Mapping[str, str] = {
    "head_bytes": "tests/api/test_connection.py",
    "open_body_bytes": "tests/api/test_body.py",
    "decoded_body_bytes": "tests/api/test_body.py",
    "blob_bytes": "tests/api/test_manage.py",
    "uploads": "tests/api/test_manage_quota.py",
    "uploads_per_key": "tests/api/test_manage_quota.py",
    "model_changes": "tests/api/test_manage_quota.py",
    "model_changes_per_key": "tests/api/test_manage_quota.py",
    "stored_models": "tests/api/test_manage_quota.py",
    "create_files": "tests/api/test_manage_attacks.py",
    "model_text_bytes": "tests/api/test_manage_attacks.py",
    "stored_text_bytes": "tests/unit/test_catalogue_texts.py",
    "adapter_bytes": "tests/unit/test_catalogue_adapters.py",
    "adapter_rank": "tests/unit/test_catalogue_adapters.py",
}
"""Rows that are no part of a body, and where they are tested."""


def rows() -> set[str]:
    return {row.name for row in fields(InputLimits)}
