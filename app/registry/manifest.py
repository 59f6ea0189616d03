"""A manifest on its way: it decides what is fetched, so more is asked of it than of a stored one."""

import hashlib
from dataclasses import dataclass

from app.core.errors import BadManifest, RegistryFailed
from app.store.manifest import MOST_BYTES, Layer, Manifest, parse_manifest

MANIFEST_BYTES = MOST_BYTES
BLOB_BYTES = 4 << 40


@dataclass(frozen=True, slots=True)
class Document:
    """`raw` is the manifest byte for byte; that is how it is stored and sent.

    `blobs` has each blob once, the layers in their order and then the config (docs/reference 12.1); `size` is
    what all of them have together, in bytes.
    """

    raw: bytes
    manifest: Manifest
    digest: str
    blobs: tuple[Layer, ...]
    size: int


def read_document(raw: bytes) -> Document:
    """Takes a tenth of a second for as many layers as there may be: work for a thread.

    Raises:
        RegistryFailed: for what is no manifest of a model, or has more than a model may have.
    """
    try:
        manifest = parse_manifest(raw)
    except BadManifest as error:
        raise RegistryFailed(f"the manifest cannot be used: {error}") from error
    if not manifest.layers:
        # What a name with several builds is answered with (since 0.40) has none of its own.
        builds = "no compatible manifest found"
        raise RegistryFailed(builds if manifest.builds else "the manifest cannot be used: it has no layers")
    found: dict[str, Layer] = {}
    for layer in manifest.blobs:
        if layer.size > BLOB_BYTES:
            raise RegistryFailed(f"the manifest cannot be used: {layer.digest} has {layer.size} bytes")
        if found.setdefault(layer.digest, layer).size != layer.size:
            raise RegistryFailed(f"the manifest cannot be used: {layer.digest} has two sizes")
    digest, blobs = f"sha256:{hashlib.sha256(raw).hexdigest()}", tuple(found.values())
    return Document(raw, manifest, digest, blobs, sum(layer.size for layer in blobs))
