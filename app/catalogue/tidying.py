"""What is removed of the cache: what was made of blobs that are gone, and what was broken off.

A conversion takes more room than its file, and a quota on the store does not count it.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson
from filelock import FileLock, Timeout

from app.catalogue import gguf
from app.store.manifest import FILE, Layer
from app.store.store import Store

LINKS = "stored"
"""Below the cache: folders of links to blobs."""

BROKEN_OFF_S = 86_400.0
"""Without a change for so long, what is half made is nobody's work any more."""

_MARK = ".of-a-store"


def mark(store: Store, cache: Path, digits: str) -> None:
    """Have the conversion of a blob go when the blob has gone from each store that marked it.

    That of a configured file stays: whoever makes or finds one calls `keep`.
    """
    with suppress(OSError):  # where the cache takes nothing the conversion fails, with its reason
        file = _mark(store, cache, digits)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def keep(cache: Path, digits: str) -> None:
    """Have a conversion stay, whatever becomes of blobs."""
    with suppress(OSError):
        for file in _marks(cache, digits):
            file.unlink(missing_ok=True)


def links(store: Store, cache: Path, files: Iterable[Layer]) -> Path:
    """The folder of links to these blobs, be it there or not."""
    names = sorted((layer.name, layer.digest) for layer in files)
    return cache / LINKS / hashlib.sha256(orjson.dumps([str(store.root), names])).hexdigest()


def tidy(store: Store, cache: Path) -> None:
    """Remove conversions that are marked and whose blob is gone, links to such, and what was broken off; and
    links that no model of the store has, such as those of models that were refused, once they are old.
    """
    for file in _entries(cache / gguf.FOLDER):
        if file.name.endswith(_MARK):
            digits = file.name[1:].partition(".")[0]
            gone = file == _mark(store, cache, digits) and store.blobs.size(f"sha256:{digits}") is None
            if gone and (_marks(cache, digits) != [file] or _remove(gguf.place(cache, digits))):
                file.unlink(missing_ok=True)
        elif file.name.endswith(".part") and _is_old(file):
            _remove(file)
    blobs, listing = (store.root / "blobs").absolute(), store.manifests.list()
    used = {links(store, cache, model.manifest.all(FILE)) for model in listing.models}
    for folder in _entries(cache / LINKS):
        targets = [Path(os.readlink(link)) for link in folder.rglob("*") if link.is_symlink()]
        ours = [target for target in targets if target.parent == blobs]
        is_unused = bool(ours) and folder not in used and not listing.bad
        may_go = is_unused or folder.name.endswith(".part")
        if not all(target.exists() for target in ours) or (may_go and _is_old(folder)):
            shutil.rmtree(folder, ignore_errors=True)


def _mark(store: Store, cache: Path, digits: str) -> Path:
    """Several servers may share a cache, each with a store of its own."""
    whose = hashlib.sha256(str(store.root.absolute()).encode()).hexdigest()[:16]
    return gguf.place(cache, digits).with_name(f".{digits}.{whose}{_MARK}")


def _marks(cache: Path, digits: str) -> list[Path]:
    return [each for each in _entries(cache / gguf.FOLDER) if each.match(f".{digits}.*{_MARK}")]


def _remove(folder: Path) -> bool:
    """Under the lock of its conversion: one that is under way is left alone. Whether it has gone."""
    digits = folder.name.removeprefix(".").partition(".")[0]
    with suppress(Timeout, OSError), FileLock(folder.with_name(f".{digits}.lock"), timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    return False


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from [folder / name for name in os.listdir(folder)]


def _is_old(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_mtime < time.time() - BROKEN_OFF_S
    return False
