"""What must hold of a store whatever was done to it, looked at from outside of any server."""

import os
from pathlib import Path

from app.core.errors import AppError
from app.store.prune import prune
from app.store.store import Store

_OWN = ".caravan"


def unsound(store: Store) -> list[str]:
    """What is wrong: a blob that is not what it is called, a manifest that is half or lacks a blob."""
    wrong: list[str] = []
    blobs = store.root / "blobs"
    for name in sorted(os.listdir(blobs)) if blobs.is_dir() else ():
        try:
            store.blobs.verify(name)
        except AppError as error:
            wrong.append(f"{name}: {error}")
    listing = store.manifests.list()
    wrong += [f"{bad.path}: {bad.reason}" for bad in listing.bad]
    for stored in listing.models:
        for layer in stored.manifest.blobs:
            if store.blobs.size(layer.digest) != layer.size:
                wrong.append(f"{stored.name}: {layer.digest} is not there whole")
    return wrong


def leftovers(store: Store) -> list[str]:
    """What a prune leaves that no model needs, once all that broken-off writers have left is old."""
    own = store.root / _OWN
    for file in own.rglob("*"):
        if file.is_file() and file.parent.name == "scratch":
            os.utime(file, (1, 1))
    prune(store.manifests, grace_s=-60, leavings_s=60)
    used = store.manifests.in_use()
    left = [name for name in _names(store.root / "blobs") if name not in used]
    left += [f"wrote/{name}" for name in _names(own / "wrote") if name not in used]
    return left + [f"{each}/{name}" for each in ("scratch", "holds") for name in _names(own / each)]


def partials(store: Store) -> int:
    """Blobs of which a part is there, to be taken up."""
    return sum(name.endswith(".json") for name in _names(store.root / _OWN / "scratch"))


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
