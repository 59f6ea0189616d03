"""`/api/pull` of a model in a registry: its steps and what is told of them (docs/reference 12.1)."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from datetime import datetime
from typing import TypeAlias

import httpx

from app.catalogue.serving import check_engine
from app.catalogue.storedadapter import copy_sizes
from app.core.brief import brief
from app.core.errors import (
    BadManifest,
    DigestMismatch,
    FetchFailed,
    Forbidden,
    RegistryFailed,
    StoreFailed,
)
from app.core.model import ModelName
from app.registry.client import Registry
from app.registry.downloads import Downloads
from app.registry.manifest import Document
from app.registry.policy import HUBS, Policy
from app.registry.progress import SUCCESS, Progress, pulling
from app.registry.site import told
from app.store.blobs import Blobs
from app.store.config import MOST_BYTES, ImageConfig, parse_serving
from app.store.digests import file_name
from app.store.holds import Hold, manifest_size
from app.store.manifest import ADAPTER_FILE, SERVING, TENSOR, Layer, Manifest
from app.store.manifests import Manifests, Stored
from app.store.prune import prune_unused
from app.store.store import Store
from app.store.unserved import unserved

_log = logging.getLogger(__name__)
NO_MLX = "this model requires MLX support, but the MLX runtime is not available"
"""Ollama's answer where it lacks the engine for weights in a blob for each tensor (docs/reference 12.1)."""

Lacking: TypeAlias = Callable[[Collection[str]], set[str]]
"""Of some digests those that the caller may not name, be they here or not. It blocks."""


Check: TypeAlias = Callable[[ModelName, Manifest], Awaitable[None]]
"""Whether the model can be served whose blobs are all here; raises `RegistryFailed` with the reason."""

MayUse: TypeAlias = Callable[[ModelName], bool]
"""Whether the caller may use the model of that name, be it here or not."""


def nothing(_: Collection[str]) -> set[str]:
    return set()


async def any_model(_name: ModelName, _manifest: Manifest) -> None:
    """Takes whatever a registry has."""


def every(_: ModelName) -> bool:
    return True


async def pull(
    registry: Registry,
    store: Store,
    downloads: Downloads,
    *,
    prune: bool = True,
    lacking: Lacking = nothing,
    may_use: MayUse = every,
    check: Check = any_model,
) -> AsyncGenerator[Progress]:
    """Bring the model of `registry.name` here. Leaving it early stops within a second what nobody else waits
    for, and keeps what has come. Nothing is listed before all of it is there. `prune` removes what only the
    model had that it replaces. The registry has to send what is `lacking`, also where it is here; and of a
    repository of the hub that it names the caller `may_use` the model. What `check` refuses is not listed;
    its blobs stay for a while, for another try.

    Raises:
        Forbidden: where the policy or the caller's list does not let it come.
        RegistryFailed: where the registry does not give it, with Ollama's text where it has one.
        AddressRefused: for an address that may not be opened.
        StoreFailed: where the store takes nothing.
    """
    policy, name = registry.policy, registry.name
    policy.check_pull(name, insecure=registry.insecure)
    yield Progress("pulling manifest")
    with _as_manifest(registry):
        manifest = await registry.manifest()
    _check_kind(manifest.manifest)
    policy.check_size(manifest.size)
    blobs = store.blobs
    unproven = await asyncio.to_thread(lacking, [layer.digest for layer in manifest.blobs])
    with store.hold() as hold:
        await asyncio.to_thread(_hold, hold, manifest, policy.quota_bytes)
        async with aclosing(_blobs(registry, manifest, downloads, unproven)) as lines:
            async for line in lines:
                yield line
        await asyncio.to_thread(_check_serving, manifest, blobs, policy, may_use)
        await check(name, manifest.manifest)
        yield Progress("writing manifest")
        await asyncio.to_thread(hold.reserve, manifest_size(name, manifest.raw), policy.quota_bytes)
        before = await asyncio.to_thread(_before, store.manifests, name)
        await asyncio.to_thread(store.manifests.write, name, manifest.raw)
    unused = await asyncio.to_thread(_unused, before, manifest) if prune and before else set[str]()
    if before and unused:
        yield Progress("removing unused layers")
        await asyncio.to_thread(_remove, store.manifests, unused, before.modified_at)
    yield SUCCESS


def _check_kind(manifest: Manifest) -> None:
    """Raises: RegistryFailed: for what is not served whatever its blobs hold, before any of them comes."""
    if reason := unserved(manifest, ImageConfig()):
        raise RegistryFailed(NO_MLX if manifest.all(TENSOR) else f"the model cannot be served here: {reason}")


async def _blobs(
    registry: Registry, manifest: Document, downloads: Downloads, unproven: Collection[str]
) -> AsyncGenerator[Progress]:
    """The lines of blobs, one after another, and of their check."""
    for layer in manifest.blobs:
        proven = layer.digest not in unproven
        async with aclosing(_blob(registry, layer, downloads, proven=proven)) as counts:
            async for count in counts:
                yield pulling(layer.digest, layer.size, count)
    # Each was hashed when it was complete.
    yield Progress("verifying sha256 digest")


async def _blob(
    registry: Registry, layer: Layer, downloads: Downloads, *, proven: bool
) -> AsyncGenerator[int]:
    """How many bytes of a blob are there, the last time all of them."""
    here = await asyncio.to_thread(downloads.blobs.size, layer.digest) if proven else None
    if here is not None and here != layer.size:
        raise RegistryFailed(f"the manifest gives {layer.digest} {layer.size} bytes, and it has {here}")
    if here is None:

        def get(headers: Mapping[str, str]) -> AbstractAsyncContextManager[httpx.Response]:
            return registry.site.open("GET", registry.blob_url(layer.digest), headers=headers)

        try:
            if proven:
                origin = str(registry.site.origin)
                fetched = downloads.fetch(layer.digest, layer.size, get, origin=origin)
            else:
                fetched = downloads.prove(layer.digest, layer.size, get)
            async with aclosing(fetched) as counts:
                async for count in counts:
                    yield count
        except DigestMismatch as error:
            raise RegistryFailed(
                f"digest mismatch, file must be downloaded again: want {error.wanted}, got {error.got}"
            ) from error
    yield layer.size


def _check_serving(manifest: Document, blobs: Blobs, policy: Policy, may_use: MayUse) -> None:
    """What a manifest of somebody else's may not say: it would run on, or reach, what is this server's alone.

    Raises:
        RegistryFailed, Forbidden: with the reason.
    """
    for layer in manifest.manifest.all(SERVING):
        try:
            serving = parse_serving(blobs.read(layer.digest, MOST_BYTES))
            check_engine(serving.engine)
        except BadManifest as error:
            raise RegistryFailed(f"the manifest cannot be used: {error}") from error
        if serving.base:
            raise RegistryFailed("the manifest cannot be used: its model runs on a configured one")
        if serving.repository:
            policy.check_hub(serving.repository)
            # It may be in the hub's cache for others, and nobody would have to send it.
            namespace, _, model = serving.repository.partition("/")
            if not any(may_use(ModelName(model, namespace=namespace, host=host)) for host in HUBS):
                raise Forbidden(
                    f"this API key does not allow the model {HUBS[0]}/{brief(serving.repository)}"
                )


def _hold(hold: Hold, manifest: Document, quota_bytes: int) -> None:
    """Keep the blobs of a model, and room for what it will take: these, and the copy of its adapter."""
    hold.add(*(layer.digest for layer in manifest.blobs))
    sizes = {file_name(layer.digest): layer.size for layer in manifest.blobs}
    hold.reserve(sizes | copy_sizes(manifest.manifest.all(ADAPTER_FILE)), quota_bytes)


def _unused(before: Stored, now: Document) -> set[str]:
    return {layer.digest for layer in before.manifest.blobs} - {layer.digest for layer in now.blobs}


def _before(manifests: Manifests, name: ModelName) -> Stored | None:
    """The model that has the name now."""
    try:
        return manifests.find(name)
    except BadManifest:
        return None


def _remove(manifests: Manifests, digests: set[str], since: datetime) -> None:
    """What fails here is done by the next pruning: the model that was pulled is there."""
    try:
        prune_unused(manifests, digests, since)
    except StoreFailed as error:
        _log.warning("what the replaced model had is not removed: %s", error)


@contextmanager
def _as_manifest(registry: Registry) -> Generator[None]:
    """Failures of the first request in Ollama's words."""
    try:
        yield
    except RegistryFailed as error:
        raise RegistryFailed(f"pull model manifest: {error}") from error
    except (httpx.TransportError, FetchFailed) as error:
        raise RegistryFailed(f"pull model manifest: {told('GET', registry.manifest_url, error)}") from error
