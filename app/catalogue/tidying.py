"""What is removed of the cache: what was made of blobs that are gone, and what was broken off.

A conversion takes more room than its file, and a quota on the store does not count it.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from app.catalogue import gguf
from app.store.store import Store

LINKS = "stored"
"""Below the cache: folders of links to blobs."""

BROKEN_OFF_S = 86_400.0
"""Without a change for so long, what is half made is nobody's work any more."""

_MARK = ".of-a-store"


def mark(cache: Path, digits: str) -> None:
    """Have the conversion of a blob go when the blob has gone: that of a configured file stays."""
    with suppress(OSError):  # where the cache takes nothing the conversion fails, with its reason
        place = gguf.place(cache, digits)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_name(f".{digits}{_MARK}").touch()


def tidy(store: Store, cache: Path) -> None:
    """Remove conversions that are marked and whose blob is gone, links to such, and what was broken off."""
    for file in _entries(cache / gguf.FOLDER):
        if file.name.endswith(_MARK):
            digits = file.name[1 : -len(_MARK)]
            if store.blobs.size(f"sha256:{digits}") is None:
                _remove(gguf.place(cache, digits), file)
        elif file.name.endswith(".part") and _is_old(file):
            _remove(file)
    blobs = (store.root / "blobs").absolute()
    for folder in _entries(cache / LINKS):
        links = [Path(os.readlink(link)) for link in folder.rglob("*") if link.is_symlink()]
        lead_nowhere = any(target.parent == blobs and not target.exists() for target in links)
        if lead_nowhere or (folder.name.endswith(".part") and _is_old(folder)):
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, *marks: Path) -> None:
    """Under the lock of its conversion: one that is under way is left alone."""
    digits = folder.name.removeprefix(".").partition(".")[0]
    with suppress(Timeout, OSError), FileLock(folder.with_name(f".{digits}.lock"), timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
        for file in marks:
            file.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from [folder / name for name in os.listdir(folder)]


def _is_old(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_mtime < time.time() - BROKEN_OFF_S
    return False
