"""What the small JSON layers of a model say: its configuration, and how Caravan serves it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from app.core.errors import BadManifest
from app.golang.dumps import dumps

MOST_BYTES = 1 << 20
"""Of a configuration, and of every layer that is text or JSON."""

_ALWAYS = ("model_format", "model_family", "model_families", "model_type", "file_type", "architecture", "os")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The configuration of a model (docs/reference 12.3), with the keys of the file.

    `model_type` is what is shown as the size (`8.0B`), `file_type` as the quantization (`Q4_K_M`). `diff_ids`
    stand below `rootfs`, as older versions of Ollama wrote them. `extra` is what the file has besides.
    """

    model_format: str = ""
    model_family: str = ""
    model_families: tuple[str, ...] = ()
    model_type: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    base_name: str = ""
    draft: Mapping[str, Any] = field(default_factory=dict[str, Any])
    architecture: str = "amd64"
    os: str = "linux"
    diff_ids: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def encode(self) -> bytes:
        """The layer, byte for byte as Ollama writes it where there is nothing in `extra` and `diff_ids`."""
        document: dict[str, Any] = {}
        for key in _KINDS:
            value = getattr(self, key)
            if value or key in _ALWAYS:
                # Go writes a list that was never made as null.
                document[key] = (list(value) or None) if isinstance(value, tuple) else value
        if self.diff_ids:
            document["rootfs"] = {"type": "layers", "diff_ids": list(self.diff_ids)}
        return (
            dumps(document | {key: value for key, value in self.extra.items() if key not in document}) + b"\n"
        )


_KINDS: Mapping[str, type] = {
    item.name: type(item.default) if isinstance(item.default, str | int | tuple) else dict
    for item in fields(ImageConfig)
    if item.name not in ("diff_ids", "extra")
}


def parse_config(data: bytes) -> ImageConfig:
    """Read the configuration of a model.

    Raises:
        BadManifest: where it is none, or a key has another type.
    """
    document = _object(data, "the configuration")
    known: dict[str, Any] = {}
    for key, kind in _KINDS.items():
        value = document.pop(key, None)
        if value is not None:
            known[key] = _read(key, kind, value)
    rootfs = document.get("rootfs")
    if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
        del document["rootfs"]
        known["diff_ids"] = _read("diff_ids", tuple, rootfs["diff_ids"])
    return ImageConfig(**known, extra=document)


@dataclass(frozen=True, slots=True)
class Serving:
    """How Caravan serves a model, the layer `manifest.SERVING`.

    `repository` and `revision` name weights on the hub, where they are not in the store; `base` names a
    configured model, on whose engine this one runs. `engine` are vLLM's arguments. A parser that is None is
    chosen from the model's own files, one that is empty is none.
    """

    repository: str = ""
    revision: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    base: str = ""

    def encode(self) -> bytes:
        kept = {item.name: getattr(self, item.name) for item in fields(self)}
        return dumps({key: value for key, value in kept.items() if value or value == ""}) + b"\n"


def parse_serving(data: bytes) -> Serving:
    """Read the layer. A later version's keys are refused: the model would be served otherwise than meant.

    Raises:
        BadManifest: where it is none, or a key is unknown or has another type.
    """
    document = _object(data, "the serving layer")
    known = {
        key: _read(key, dict if key == "engine" else str, value)
        for key, value in document.items()
        if value is not None
    }
    if unknown := sorted(known.keys() - {item.name for item in fields(Serving)}):
        raise BadManifest(f"the serving layer has keys that this version does not know: {unknown[0]!r}")
    return Serving(**known)


def _object(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise BadManifest(f"{what} has more than {MOST_BYTES} bytes")
    try:
        document = orjson.loads(data)
    except ValueError:
        raise BadManifest(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise BadManifest(f"{what} is not a JSON object")
    return document


def _read(key: str, kind: type, value: Any) -> Any:
    if kind is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise BadManifest(f"{key!r} is not {_NAMES[kind]}")


_NAMES: Mapping[type, str] = {str: "a text", int: "a number", tuple: "a list of texts", dict: "an object"}
