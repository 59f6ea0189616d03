"""What a store takes up and what is promised to work under way: one sum, for whatever number of processes.

Who brings something reserves room for it first (`holds.Hold.reserve`), under the lock of changes and by the
name of the file that it will be: what is there under that name, or comes to be, counts once. Files that are
being written count as well, and so does what was made elsewhere for models of the store, by its mark. A
promise ends with its process; what that has written by then is counted as it lies there.
"""

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from app.core.errors import Forbidden, StoreFailed
from app.store.folders import BLOBS, MANIFESTS, OWN, SCRATCH, clock, folder
from app.store.partial import GRACE_S, unlink_unlocked

Beside: TypeAlias = Mapping[str, Callable[[], Path]]
"""Folders elsewhere by their labels. An entry of one is named `label/entry` in a reservation."""

BESIDE = (OWN, "beside")
"""Below it a folder for each label, with an empty file for each entry that was made for this store."""

_SHARED = re.compile(r"[0-9a-f]{64}")
_PRIVATE = re.compile(r"[0-9a-f]{32}")


def check(
    root: Path,
    beside: Beside,
    promised: Mapping[str, int],
    spared: Collection[str],
    wanted: Mapping[str, int],
    limit_bytes: int,
) -> None:
    """Whether `wanted`, sizes by names, fits besides all that is there and `promised`; the caller has the
    lock of changes. Where it does not, what broken-off writers have left goes, but for what is `spared`.

    Raises:
        Forbidden: where it does not fit all the same.
    """
    before_bytes, after_bytes = _sums(root, beside, promised, wanted)
    if after_bytes > max(limit_bytes, before_bytes):
        _remove_leavings(root, after_bytes - limit_bytes, {*spared, *promised, *wanted})
        before_bytes, after_bytes = _sums(root, beside, promised, wanted)
    if after_bytes > max(limit_bytes, before_bytes):
        raise Forbidden(_told(before_bytes, after_bytes - before_bytes, limit_bytes))


def _told(before_bytes: int, coming_bytes: int, limit_bytes: int) -> str:
    if coming_bytes > limit_bytes:  # of which there is no room in an empty store either
        return f"{coming_bytes} bytes would come, and all models here may have at most {limit_bytes} together"
    return (
        f"the models here have {before_bytes} bytes and {coming_bytes} would come, "
        f"of at most {limit_bytes}; delete a model first"
    )


def is_beside(name: str, beside: Beside) -> bool:
    return name.partition("/")[0] in beside


def count(root: Path, names: Collection[str], beside: Beside) -> None:
    """Have those of these names that lie beside the store counted from now on."""
    for name in names:
        if is_beside(name, beside):
            label, _, entry = name.partition("/")
            with folder(root, *BESIDE, label, create=True) as marks:
                os.close(os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644, dir_fd=marks))
                os.utime(entry, dir_fd=marks, follow_symlinks=False)


def taken(root: Path, beside: Beside, promised: Mapping[str, int]) -> dict[str, int]:
    """Bytes by names of all that is there or promised; the caller has the lock of changes."""
    # Before the blobs: a file on its way from one folder to the other may count twice, never not at all.
    scratch = dict(_files(root, *SCRATCH))
    sizes = {f"sha256-{name}" if _SHARED.fullmatch(name) else name: size for name, size in scratch.items()}
    for name, size in _files(root, BLOBS):
        sizes[name] = max(size, sizes.get(name, 0))
    sizes[MANIFESTS] = _size_of(root / MANIFESTS)
    for label, place in beside.items():
        sizes |= _beside(root, label, place, promised)
    for name, size in promised.items():
        # Of a private file the promise is over once that is in its place among the blobs.
        if not _PRIVATE.fullmatch(name) or name in scratch:
            sizes[name] = max(size, sizes.get(name, 0))
    return sizes


def _sums(
    root: Path, beside: Beside, promised: Mapping[str, int], wanted: Mapping[str, int]
) -> tuple[int, int]:
    sizes = taken(root, beside, promised)
    more = sum(max(0, size - sizes.get(name, 0)) for name, size in wanted.items())
    return sum(sizes.values()), sum(sizes.values()) + more


def _files(root: Path, *parts: str) -> Iterator[tuple[str, int]]:
    with suppress(FileNotFoundError), folder(root, *parts) as held:
        for name in os.listdir(held):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=held, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield name, found.st_size


def _beside(root: Path, label: str, place: Callable[[], Path], promised: Mapping[str, int]) -> dict[str, int]:
    """The sizes of what is marked; an old mark of what is not there is removed."""
    sizes: dict[str, int] = {}
    with suppress(FileNotFoundError), folder(root, *BESIDE, label) as marks:
        for entry in os.listdir(marks):
            name, path = f"{label}/{entry}", place() / entry
            if path.is_dir():
                sizes[name] = _size_of(path)
            elif name not in promised and os.stat(entry, dir_fd=marks).st_mtime < clock(root) - GRACE_S:
                os.unlink(entry, dir_fd=marks)
    return sizes


def _size_of(path: Path) -> int:
    total = 0
    for where, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(where, name), follow_symlinks=False).st_size
    return total


def _remove_leavings(root: Path, wanted_bytes: int, spared: Collection[str]) -> None:
    """Remove partials that no writer has, the oldest first, until so much is free.

    A private file may be written without a lock (`folders.scratch`): only one that is old is nobody's.
    """
    found: list[tuple[float, str, os.stat_result]] = []
    with suppress(FileNotFoundError), folder(root, *SCRATCH) as scratch:
        for name in os.listdir(scratch):
            with suppress(FileNotFoundError):
                each = os.stat(name, dir_fd=scratch, follow_symlinks=False)
                is_old = bool(_PRIVATE.fullmatch(name)) and each.st_mtime < clock(root) - GRACE_S
                if is_old or (_SHARED.fullmatch(name) and f"sha256-{name}" not in spared):
                    found.append((each.st_mtime, name, each))
        for _, name, each in sorted(found, key=lambda one: one[0]):
            if wanted_bytes <= 0:
                break
            with suppress(FileNotFoundError, BlockingIOError, StoreFailed):
                unlink_unlocked(scratch, name, each, also=f"{name}.json")
                wanted_bytes -= each.st_size
