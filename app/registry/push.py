"""`/api/push` to a registry: its steps and what is told of them (docs/reference 12.2)."""

import asyncio
from collections.abc import AsyncGenerator

import httpx

from app.core.errors import BadManifest, FetchFailed, RegistryFailed
from app.core.model import ModelName
from app.registry.client import Registry
from app.registry.manifest import Document, read_document
from app.registry.progress import INTERVAL_S, SUCCESS, Progress, pushing
from app.registry.site import reason_of
from app.registry.upload import Upload
from app.store.blobs import Blobs
from app.store.config import MOST_BYTES, parse_serving
from app.store.folders import MANIFESTS
from app.store.manifest import SERVING, Layer
from app.store.manifests import Manifests
from app.store.store import Store


async def push(registry: Registry, store: Store, *, backoff_s: float = 1.0) -> AsyncGenerator[Progress]:
    """Bring the model of `registry.name` there. A push that was broken off goes on with the blobs that the
    registry lacks. Leaving it early ends what is being sent.

    Raises:
        Forbidden: where the policy does not let it go.
        RegistryFailed: where the registry does not take it, or there is none of that name here.
        AddressRefused: for an address that may not be opened.
    """
    name = registry.name
    registry.policy.check_push(name, insecure=registry.insecure)
    yield Progress("retrieving manifest")
    manifest = await asyncio.to_thread(_stored, store.manifests, name)
    if manifest is None:
        yield Progress("couldn't retrieve manifest")
        path = f"manifests/{name.host}/{name.namespace}/{name.model}/{name.tag}"
        raise RegistryFailed(f"open {path}: no such file or directory")
    if base := await asyncio.to_thread(_configured_base, manifest, store.blobs):
        raise RegistryFailed(f"{name} runs on {base} of the configuration, without which nobody can pull it")
    try:
        for layer in manifest.blobs:
            if await registry.has(layer.digest):
                yield pushing(layer.digest, layer.size, layer.size)
                continue
            if await asyncio.to_thread(store.blobs.size, layer.digest) != layer.size:
                raise RegistryFailed(f"the blob {layer.digest} is not here as the manifest says")
            upload = Upload(registry, layer, store.blobs.path(layer.digest), backoff_s=backoff_s)
            async for line in _sent(upload, layer):
                yield line
        yield Progress("pushing manifest")
        await registry.put_manifest(manifest)
    except (httpx.TransportError, FetchFailed) as error:
        raise RegistryFailed(f"push to {registry.url}: {reason_of(error)}") from error
    yield SUCCESS


def _stored(manifests: Manifests, name: ModelName) -> Document | None:
    """The manifest of a model here, byte for byte."""
    found = manifests.find(name)
    if found is None:
        return None
    place = found.name
    path = manifests.root / MANIFESTS / place.host / place.namespace / place.model / place.tag
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RegistryFailed(f"the manifest of {name} cannot be read: {error.strerror}") from error
    document = read_document(raw)
    if document.digest != f"sha256:{found.digest}":
        raise RegistryFailed(f"the model {name} has just changed, please try again")
    return document


def _configured_base(manifest: Document, blobs: Blobs) -> str:
    """The configured model that a model runs on, if it does: a pull refuses such a manifest."""
    for layer in manifest.manifest.all(SERVING):
        try:
            if base := parse_serving(blobs.read(layer.digest, MOST_BYTES)).base:
                return base
        except (BadManifest, OSError) as error:
            raise RegistryFailed(f"the model cannot be read: {error}") from error
    return ""


async def _sent(upload: Upload, layer: Layer) -> AsyncGenerator[Progress]:
    """Tells of an upload while it runs, and once when it is done."""
    task = asyncio.ensure_future(upload.run())
    try:
        while not (await asyncio.wait({task}, timeout=INTERVAL_S))[0]:
            yield pushing(layer.digest, layer.size, upload.completed)
        task.result()
        yield pushing(layer.digest, layer.size, layer.size)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
