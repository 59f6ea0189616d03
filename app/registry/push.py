"""`/api/push` to a registry: its steps and what is told of them (docs/reference 12.2)."""

import asyncio
from collections.abc import AsyncGenerator

import httpx

from app.core.errors import FetchFailed, RegistryFailed
from app.registry.client import Registry
from app.registry.manifest import Layer, read_manifest
from app.registry.progress import INTERVAL_S, SUCCESS, Progress, pushing
from app.registry.site import told
from app.registry.storage import Manifests
from app.registry.upload import Upload
from app.store.blobs import Blobs


async def push(
    registry: Registry, blobs: Blobs, manifests: Manifests, *, backoff_s: float = 1.0
) -> AsyncGenerator[Progress]:
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
    raw = await asyncio.to_thread(manifests.read, name)
    if raw is None:
        yield Progress("couldn't retrieve manifest")
        path = f"manifests/{name.host}/{name.namespace}/{name.model}/{name.tag}"
        raise RegistryFailed(f"open {path}: no such file or directory")
    manifest = read_manifest(raw)
    try:
        for layer in manifest.blobs:
            if await registry.has(layer.digest):
                yield pushing(layer.digest, layer.size, layer.size)
                continue
            if await asyncio.to_thread(blobs.size, layer.digest) != layer.size:
                raise RegistryFailed(f"the blob {layer.digest} is not here as the manifest says")
            upload = Upload(registry, layer, blobs.path(layer.digest), backoff_s=backoff_s)
            async for line in _sent(upload, layer):
                yield line
        yield Progress("pushing manifest")
        await registry.put_manifest(manifest)
    except (httpx.TransportError, FetchFailed) as error:
        raise RegistryFailed(told("PUT", registry.manifest_url, error)) from error
    yield SUCCESS


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
