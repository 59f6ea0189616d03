"""What a running piece of work needs until its manifest is written: blobs that `prune` must leave alone, and
room for what it brings.

A pull takes hours, and what it has fetched so far no manifest names. A hold is a file under a lock that lives
as long as its process: of one that was killed the hold is worth nothing. A line of it is the file name of a
blob, or a name and the bytes that are reserved for it.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from app.core.errors import StoreFailed
from app.core.model import ModelName
from app.store import room
from app.store.digests import file_name
from app.store.folders import OWN, changing, explained, folder, write_whole
from app.store.room import Beside

HOLDS = (OWN, "holds")
_NAME_CHARS = len(file_name("sha256:" + "0" * 64))
_MOST_BYTES = 64 << 20


class Hold:
    """One piece of work's digests, from `with Hold(root) as hold` to its end."""

    def __init__(
        self, root: Path, beside: Beside | None = None, check_there: Callable[[], None] = lambda: None
    ) -> None:
        self._root = root
        self._beside: Beside = beside or {}
        self._check_there = check_there
        self._mutex = threading.Lock()
        self._ended = False
        self._name = uuid4().hex
        self._descriptor: int | None = None

    def add(self, *digests: str) -> None:
        """Keep the blobs, be they there or still to come: what is there afterwards stays.

        Raises:
            InvalidDigest, StoreReadOnly, StoreFull, StoreFailed, StoreBusy.
        """
        lines = [file_name(digest) for digest in digests]
        self._check_there()
        # Under the lock of changes: `prune` has either read the lines or removed the blobs before.
        with explained(), changing(self._root):
            self._append(lines)

    def reserve(self, sizes: Mapping[str, int], limit_bytes: int) -> None:
        """Keep room until the hold ends, in bytes by the names of files: of blobs (`digests.file_name`), of
        partials (`Partial.name`) or beside the store. A second time for a name is for the larger size. With a
        limit of 0 there is always room.

        Raises:
            Forbidden: where it does not fit under `limit_bytes`; what was reserved before stays.
            StoreReadOnly, StoreFull, StoreFailed, StoreBusy.
        """
        if not limit_bytes and not any(room.is_beside(name, self._beside) for name in sizes):
            return
        self._check_there()
        with explained(), changing(self._root):
            if limit_bytes:
                names, promised = _all(self._root)
                room.check(self._root, self._beside, promised, names, sizes, limit_bytes)
                self._append(f"{name} {size}" for name, size in sizes.items())
            room.count(self._root, sizes, self._beside)

    def release(self) -> None:
        with self._mutex:
            self._ended = True
            if self._descriptor is None:
                return
            with suppress(OSError, StoreFailed), folder(self._root, *HOLDS) as holds:
                os.unlink(self._name, dir_fd=holds)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _append(self, lines: Iterable[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._mutex:
            if self._ended:
                # A client has left, and a thread is still at its work: nobody would end a hold begun now.
                raise StoreFailed("nobody waits for this any more")
            if self._descriptor is None:
                self._descriptor = self._open()
            write_whole(self._descriptor, data)
            os.fsync(self._descriptor)  # for another host of a shared volume

    def _open(self) -> int:
        with folder(self._root, *HOLDS, create=True) as holds:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
            descriptor = os.open(self._name, flags, 0o644, dir_fd=holds)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


def manifest_size(name: ModelName, data: bytes) -> dict[str, int]:
    """What a manifest takes, for `Hold.reserve`."""
    return {f"manifest of {name.canonical}": len(data)}


def held(root: Path) -> set[str]:
    """The file names of all blobs that are held; the caller has the lock of changes.

    What dead processes have left is removed.
    """
    return _all(root)[0]


def _all(root: Path) -> tuple[set[str], dict[str, int]]:
    """The blobs that are held, and what is reserved."""
    names: set[str] = set()
    sizes: dict[str, int] = {}
    with suppress(FileNotFoundError), folder(root, *HOLDS) as holds:
        for file in os.listdir(holds):
            for line in _lines(holds, file):
                name, _, size = line.rpartition(" ")
                if not name and len(line) == _NAME_CHARS:
                    names.add(line)
                elif size.isdecimal():
                    sizes[name] = max(int(size), sizes.get(name, 0))
    return names, sizes


def _lines(holds: int, name: str) -> list[str]:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=holds)
    except FileNotFoundError:
        return []
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, _MOST_BYTES, 0).decode("utf-8", "replace")
            return text.split("\n")[:-1]
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=holds)
        return []
    finally:
        os.close(descriptor)
