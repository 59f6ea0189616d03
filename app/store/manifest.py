"""One manifest: which blobs a model is made of and what each of them is (docs/reference 12.3).

What Ollama knows has its media types. What only Caravan knows are layers too, of types that Ollama keeps,
copies and pushes without reading them: a model that holds GGUF runs there all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.core.errors import BadManifest, InvalidDigest
from app.golang.dumps import dumps
from app.store.digests import hex_of

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"

_OLLAMA = "application/vnd.ollama.image."
MODEL = _OLLAMA + "model"
PROJECTOR = _OLLAMA + "projector"
ADAPTER = _OLLAMA + "adapter"
DRAFT = _OLLAMA + "draft"
TENSOR = _OLLAMA + "tensor"
NAMED_JSON = _OLLAMA + "json"
TEMPLATE = _OLLAMA + "template"
PROMPT = _OLLAMA + "prompt"
"""What `TEMPLATE` was called before."""

SYSTEM = _OLLAMA + "system"
PARAMS = _OLLAMA + "params"
MESSAGES = _OLLAMA + "messages"
LICENSE = _OLLAMA + "license"

_CARAVAN = "application/vnd.caravan.image."
FILE = _CARAVAN + "file"
"""A file of a model's folder, such as `config.json` or `model.safetensors`, by its `name`."""

ADAPTER_FILE = _CARAVAN + "adapter-file"
"""A file of a PEFT adapter's folder, by its `name`."""

CHAT_TEMPLATE = _CARAVAN + "chat-template"
"""A Jinja template, which stands before the one in the model's own files."""

SERVING = _CARAVAN + "serving"
"""JSON of how the model is served, `config.Serving`."""

TEXTS = frozenset({TEMPLATE, PROMPT, SYSTEM, PARAMS, MESSAGES, LICENSE, CHAT_TEMPLATE, SERVING})
"""Layers that are read whole."""

MOST_BYTES = 8 << 20
MOST_LAYERS = 16_384
MOST_TEXTS = 4_096
MOST_TEXT_BYTES = 64 << 20
"""Of all texts together, however often a blob is named: one that is fetched once counts each time."""
_INT64_MAX = 2**63 - 1
_MOST_NAME_CHARS = 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob with its meaning: `digest` is `sha256:<hex>`, `size` in bytes.

    `origin` is the model that it was taken from, `from` in the file; `name` that of a file or tensor.
    """

    media_type: str
    digest: str
    size: int
    origin: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """One of the builds of a model that has several (since Ollama 0.40), a manifest of its own by digest."""

    runner: str
    format: str
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's layers in their order; `config` is None where it has none, as old models do."""

    config: Layer | None
    layers: tuple[Layer, ...]
    builds: tuple[Build, ...] = ()

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """The layers and then the configuration, the order in which they are pulled and pushed."""
        return (*self.layers, self.config) if self.config else self.layers

    @property
    def size_bytes(self) -> int:
        return sum(layer.size for layer in self.blobs)

    def all(self, *media_types: str) -> tuple[Layer, ...]:
        """The layers of these types, in their order."""
        return tuple(layer for layer in self.layers if layer.media_type in media_types)

    def last(self, *media_types: str) -> Layer | None:
        """The layer of these types that counts where only one does: as with Ollama, the last."""
        found = self.all(*media_types)
        return found[-1] if found else None

    def encode(self) -> bytes:
        """The file, byte for byte as Ollama writes it; `builds` are not among what it writes."""
        config = self.config or Layer("", "", 0)
        document = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE,
            "config": _fields(config),
            "layers": [_fields(layer) for layer in self.layers],
        }
        return dumps(document) + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest from a file or a registry; what it has besides is left alone.

    Raises:
        BadManifest: for what is none, in one sentence that quotes nothing of it.
    """
    if len(data) > MOST_BYTES:
        raise BadManifest(f"it has more than {MOST_BYTES} bytes")
    try:
        document = orjson.loads(data)
    except ValueError:
        raise BadManifest("it is not JSON") from None
    if not isinstance(document, dict):
        raise BadManifest("it is not a JSON object")
    layers = _list(document, "layers")
    if len(layers) > MOST_LAYERS:
        raise BadManifest(f"it has more than {MOST_LAYERS} layers")
    config = document.get("config")
    read = tuple(_layer(layer) for layer in layers)
    _check_texts([layer.size for layer in read if layer.media_type in TEXTS])
    return Manifest(
        config=_layer(config) if isinstance(config, dict) and config.get("digest") else None,
        layers=read,
        builds=tuple(_build(build) for build in _list(document, "manifests")[:MOST_LAYERS]),
    )


def _check_texts(sizes: Sequence[int]) -> None:
    if len(sizes) > MOST_TEXTS:
        raise BadManifest(f"it has more than {MOST_TEXTS} texts")
    if sum(sizes) > MOST_TEXT_BYTES:
        raise BadManifest(f"its texts have more than {MOST_TEXT_BYTES} bytes")


def is_local(path: str) -> bool:
    """Whether a file's name is a plain relative path, which stays in the folder that it is written to."""
    parts = path.split("/")
    return (
        len(path) <= _MOST_NAME_CHARS
        and path.isprintable()
        and "\\" not in path
        and all(part and not part.startswith(".") and len(part.encode()) <= 255 for part in parts)
    )


def _fields(layer: Layer) -> dict[str, Any]:
    fields: dict[str, Any] = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    if layer.origin:
        fields["from"] = layer.origin
    if layer.name:
        fields["name"] = layer.name
    return fields


def _layer(found: Any) -> Layer:
    if not isinstance(found, dict):
        raise BadManifest("a layer is not an object")
    size = found.get("size", 0)
    if type(size) is not int or not 0 <= size <= _INT64_MAX:
        raise BadManifest("a layer's size is not a number of bytes")
    layer = Layer(_text(found, "mediaType"), _digest(found), size, _text(found, "from"), _text(found, "name"))
    if layer.media_type in (FILE, ADAPTER_FILE) and not is_local(layer.name):
        raise BadManifest("a file's name is not a relative path")
    return layer


def _build(found: Any) -> Build:
    if not isinstance(found, dict):
        raise BadManifest("a build is not an object")
    return Build(_text(found, "runner"), _text(found, "format"), _digest(found))


def _digest(found: Mapping[str, Any]) -> str:
    try:
        return f"sha256:{hex_of(_text(found, 'digest'))}"
    except InvalidDigest:
        raise BadManifest("a layer's digest is not sha256: and 64 hex digits") from None


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadManifest(f"{key} is not a text")
    return value


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadManifest(f"{key} is not a list")
    return value
