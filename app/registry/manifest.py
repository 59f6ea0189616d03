"""A manifest on its way: it decides what is fetched, so more is asked of it than of a stored one."""

import hashlib
from dataclasses import dataclass

from app.core.errors import BadManifest, RegistryFailed
from app.store.manifest import MOST_BYTES, Layer, Manifest, parse_manifest

MANIFEST_BYTES = MOST_BYTES
BLOB_BYTES = 4 << 40


@dataclass(frozen=True, slots=True)
class Document:
    """`raw` is the manifest byte for byte; that is how it is stored and sent."""

    raw: bytes
    manifest: Manifest

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.raw).hexdigest()}"

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Each blob once, the layers in their order and then the config (docs/reference 12.1)."""
        return tuple({layer.digest: layer for layer in self.manifest.blobs}.values())

    @property
    def size(self) -> int:
        """Bytes of all its blobs together."""
        return sum(layer.size for layer in self.blobs)


def read_document(raw: bytes) -> Document:
    """Raises: RegistryFailed: for what is no manifest of a model, or has more than a model may have."""
    try:
        manifest = parse_manifest(raw)
    except BadManifest as error:
        raise RegistryFailed(f"the manifest cannot be used: {error}") from error
    if not manifest.layers:
        # What a name with several builds is answered with (since 0.40) has none of its own.
        builds = "no compatible manifest found"
        raise RegistryFailed(builds if manifest.builds else "the manifest cannot be used: it has no layers")
    sizes: dict[str, int] = {}
    for layer in manifest.blobs:
        if layer.size > BLOB_BYTES:
            raise RegistryFailed(f"the manifest cannot be used: {layer.digest} has {layer.size} bytes")
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise RegistryFailed(f"the manifest cannot be used: {layer.digest} has two sizes")
    return Document(raw, manifest)
