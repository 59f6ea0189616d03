"""The LoRA adapter of a model of the store: from layers of its manifest to what its engine takes."""

from collections.abc import Sequence
from pathlib import Path

from app.catalogue.adaptercopies import CONFIG, WEIGHTS
from app.catalogue.adapters import AdapterFiles, check_engine_takes, take_adapter
from app.catalogue.digest import manifest_digest
from app.core.errors import BadManifest
from app.core.limits import InputLimits
from app.core.model import Adapter, Model
from app.store.blobs import Blobs
from app.store.digests import hex_of
from app.store.manifest import Layer


def adapter_of(
    layers: Sequence[Layer],
    model: Model,
    blobs: Blobs,
    base: Path | None,
    cache_dir: Path,
    limits: InputLimits,
) -> Adapter:
    """The adapter that `layers` are, checked against the folder `base` where its weights are there yet.

    Raises:
        BadManifest, LoadFailed: with the reason, for one that cannot be served.
    """
    if model.nodes > 1:  # All nodes need the same room and files, and only the leader has the store.
        raise BadManifest("an adapter on a model that spans nodes can only be configured")
    if model.adapter is not None:
        raise BadManifest("its base has an adapter, and a model has at most one")
    if not model.can("completion"):
        raise BadManifest("an adapter is served on a model that generates text alone")
    found = {layer.name: layer for layer in layers}
    if not {CONFIG, WEIGHTS} <= found.keys():
        raise BadManifest(f"an adapter has the files {CONFIG} and {WEIGHTS}")
    used = [(name, found[name]) for name in (CONFIG, WEIGHTS)]
    digest = manifest_digest((name, hex_of(layer.digest), layer.size) for name, layer in used)
    config, weights = (blobs.path(layer.digest) for _, layer in used)
    adapter = take_adapter(AdapterFiles(config, weights, digest), base, cache_dir, limits=limits)
    check_engine_takes(adapter, model.spec.engine)
    return adapter
