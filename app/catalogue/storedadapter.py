"""The LoRA adapter of a model of the store: from layers of its manifest to what its engine takes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.catalogue.adaptercopies import CONFIG, FOLDER, WEIGHTS
from app.catalogue.adapters import AdapterFiles, check_engine_takes, take_adapter
from app.catalogue.adapteruses import AdapterUses
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
    uses: AdapterUses | None,
) -> Adapter:
    """The adapter that `layers` are, checked against the folder `base` where its weights are there yet.

    A copy is kept that is listed in `uses`; with None it is only checked.

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
    digest = _digest_of(found)
    config, weights = (blobs.path(found[name].digest) for name in (CONFIG, WEIGHTS))
    if uses is not None:
        with suppress(
            OSError
        ):  # A cache that was filled before may be read-only: nobody removes anything then.
            uses.add(digest)
    files = AdapterFiles(config, weights, digest)
    adapter = take_adapter(files, base, cache_dir, limits=limits, copied=uses is not None)
    check_engine_takes(adapter, model.spec.engine)
    return adapter


def copy_sizes(layers: Sequence[Layer]) -> dict[str, int]:
    """What the copy of an adapter will take beside the store, by its name in a reservation; nothing where
    `layers` are none."""
    found = {layer.name: layer for layer in layers}
    if not {CONFIG, WEIGHTS} <= found.keys():
        return {}
    return {f"{FOLDER}/{_digest_of(found)}": found[WEIGHTS].size}


def _digest_of(found: Mapping[str, Layer]) -> str:
    return manifest_digest((name, hex_of(found[name].digest), found[name].size) for name in (CONFIG, WEIGHTS))
