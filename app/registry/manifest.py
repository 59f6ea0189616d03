"""A manifest as a registry sends it: read strictly, since what it says decides what is written to disk."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from app.core.errors import RegistryFailed

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_BYTES = 4 << 20
"""The most that a manifest may have; one of a model in tensors has a layer for each."""
LAYERS = 8_192
BLOB_BYTES = 4 << 40
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE_CHARS = 256


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob of a model: `digest` is `sha256:` and 64 lower-case hex digits, `size` its bytes; `origin` names
    the model it was taken from, or is ""."""

    media_type: str
    digest: str
    size: int
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`raw` is the document byte for byte, and `digest` its SHA-256."""

    raw: bytes
    layers: tuple[Layer, ...]
    config: Layer

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.raw).hexdigest()}"

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Each blob once, the layers in their order and then the config (docs/reference 12.1)."""
        return tuple({layer.digest: layer for layer in (*self.layers, self.config)}.values())

    @property
    def size(self) -> int:
        """Bytes of all its blobs together."""
        return sum(layer.size for layer in self.blobs)


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def read_manifest(raw: bytes) -> Manifest:
    """Raises: RegistryFailed: for what is no manifest of a model, or has more than a model may have."""
    if len(raw) > MANIFEST_BYTES:
        raise RegistryFailed(f"the manifest has more than {MANIFEST_BYTES} bytes")
    try:
        read: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RegistryFailed("the manifest is not JSON") from error
    if not isinstance(read, dict):
        raise RegistryFailed("the manifest is not an object")
    document = cast(dict[str, Any], read)
    layers = document.get("layers")
    if not isinstance(layers, list):
        kind = str(document.get("mediaType", ""))[:_MEDIA_TYPE_CHARS]
        raise RegistryFailed(f"the manifest has no list of layers{kind and f': it is {kind!a}'}")
    listed = cast(list[Any], layers)
    if len(listed) > LAYERS:
        raise RegistryFailed(f"the manifest has {len(listed)} layers, of at most {LAYERS}")
    manifest = Manifest(raw, tuple(map(_layer, listed)), _layer(document.get("config")))
    sizes: dict[str, int] = {}
    for layer in (*manifest.layers, manifest.config):
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise RegistryFailed(f"the manifest gives {layer.digest} two sizes")
    return manifest


def _layer(value: object) -> Layer:
    if not isinstance(value, Mapping):
        raise RegistryFailed("the manifest has a layer that is no object")
    layer = cast(Mapping[str, Any], value)
    kind, digest, size = layer.get("mediaType"), layer.get("digest"), layer.get("size")
    origin = layer.get("from", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise RegistryFailed(f"the manifest has a layer with the digest {ascii(digest)[:100]}")
    if not isinstance(kind, str) or len(kind) > _MEDIA_TYPE_CHARS or not isinstance(origin, str):
        raise RegistryFailed(f"the manifest has no media type for {digest}")
    # bool is an int.
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= BLOB_BYTES:
        raise RegistryFailed(f"the manifest gives {digest} the size {ascii(size)[:100]}")
    return Layer(kind, digest, size, origin)
