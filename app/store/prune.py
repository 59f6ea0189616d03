"""What nobody needs any more is removed: blobs without a manifest, and what broken-off writers have left.

Only what was written here goes, by its mark (`partial.WROTE`): a folder that Ollama wrote stays as it is.
Under the lock of changes a blob is named by a manifest already, or held (`holds`), or nobody can come to need
it before it is gone. Its age spares what Ollama is about to name, which knows no such lock.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import InvalidDigest
from app.store.digests import file_name
from app.store.folders import BLOBS, OWN, SCRATCH, changing, clock, explained, folder
from app.store.holds import held
from app.store.manifests import Manifests
from app.store.partial import GRACE_S, WROTE, unlink_unlocked

_TICK_S = 0.05
"""A file system's clock stands still for some milliseconds: so far apart are two times that differ."""

LEAVINGS_S = 86_400.0
"""How long a partial waits to be taken up, since it was last written to."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """File names of the blobs and partials that were removed, and the bytes that these had."""

    blobs: tuple[str, ...] = ()
    partials: tuple[str, ...] = ()
    size_bytes: int = 0


def prune(
    manifests: Manifests, *, grace_s: float = GRACE_S, leavings_s: float = LEAVINGS_S, foreign: bool = False
) -> Pruned:
    """Remove blobs without a manifest that are `grace_s` old, and partials that are `leavings_s` old.

    `foreign` removes blobs that Ollama wrote as well. Ages are by the file system's clock, which is not this
    host's on a shared volume.

    Raises:
        StoreReadOnly, StoreBusy, StoreFailed: as where a manifest cannot be read; nothing is removed then.
    """
    root = manifests.root
    if not (root / (BLOBS if foreign else OWN)).is_dir():
        return Pruned()
    with explained(), changing(root):
        now = clock(root)
        spared = manifests.in_use() | held(root)
        names = _names(manifests, BLOBS) if foreign else _names(manifests, *WROTE)
        blobs = _remove_blobs(manifests, (name for name in names if name not in spared), now - grace_s)
        partials = _remove_leavings(manifests, now - leavings_s)
    removed = blobs | partials
    return Pruned(tuple(sorted(blobs)), tuple(sorted(partials)), sum(removed.values()))


def prune_unused(manifests: Manifests, digests: Iterable[str], since: datetime | None = None) -> Pruned:
    """Remove at once those of these blobs that were written here and no model uses, as after a deletion.

    `since` is when their manifest was written: what was sent or asked for again after that (`Blobs.adopt`)
    somebody is about to name, and `prune` looks after it.

    Raises:
        As `prune`.
    """
    root, before = manifests.root, since.timestamp() + _TICK_S if since else float("inf")
    wanted = {file_name(digest) for digest in digests}
    if not wanted or not (root / OWN).is_dir():
        return Pruned()
    with explained(), changing(root):
        ours = wanted.intersection(_names(manifests, *WROTE))
        if not ours:
            return Pruned()
        blobs = _remove_blobs(manifests, ours - manifests.in_use() - held(root), before)
    return Pruned(tuple(sorted(blobs)), (), sum(blobs.values()))


def _names(manifests: Manifests, *parts: str) -> list[str]:
    """The entries of a folder that are blobs' names; what Ollama is downloading has others."""
    try:
        with folder(manifests.root, *parts) as found:
            return [name for name in os.listdir(found) if _is_blob(name)]
    except FileNotFoundError:
        return []


def _is_blob(name: str) -> bool:
    try:
        return file_name(name) == name
    except InvalidDigest:
        return False


def _remove_blobs(manifests: Manifests, names: Iterable[str], before: float) -> dict[str, int]:
    """Remove blobs last touched before that time; their sizes."""
    removed: dict[str, int] = {}
    if not (names := list(names)):
        return removed
    with (
        folder(manifests.root, BLOBS, create=True) as blobs,
        folder(manifests.root, *WROTE, create=True) as wrote,
    ):
        for name in names:
            try:
                found = os.stat(name, dir_fd=blobs, follow_symlinks=False)
                if found.st_mtime >= before or not stat.S_ISREG(found.st_mode):
                    continue
                os.unlink(name, dir_fd=blobs)
                removed[name] = found.st_size
            except FileNotFoundError:
                # The mark of a blob that was removed before, or is about to be put there.
                with suppress(FileNotFoundError):
                    if os.stat(name, dir_fd=wrote, follow_symlinks=False).st_mtime >= before:
                        continue
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=wrote)
    return removed


def _remove_leavings(manifests: Manifests, before: float) -> dict[str, int]:
    removed: dict[str, int] = {}
    try:
        with folder(manifests.root, *SCRATCH) as scratch:
            for name in os.listdir(scratch):
                with suppress(FileNotFoundError, BlockingIOError):
                    found = os.stat(name, dir_fd=scratch, follow_symlinks=False)
                    if found.st_mtime < before and not stat.S_ISDIR(found.st_mode):
                        unlink_unlocked(scratch, name, found)
                        removed[name] = found.st_size
    except FileNotFoundError:
        pass
    return removed
