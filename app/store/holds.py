"""What a running piece of work needs until its manifest is written: blobs that `prune` must leave alone.

A pull takes hours, and what it has fetched so far no manifest names. A hold is a file with digests, under a
lock that lives as long as its process: of one that was killed the hold is worth nothing.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from app.core.errors import StoreFailed
from app.store.digests import file_name
from app.store.folders import OWN, changing, explained, folder, write_whole

HOLDS = (OWN, "holds")
_LINE_BYTES = len(file_name("sha256:" + "0" * 64)) + 1
_MOST_BYTES = 64 << 20


class Hold:
    """One piece of work's digests, from `with Hold(root) as hold` to its end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = uuid4().hex
        self._descriptor: int | None = None

    def add(self, digest: str) -> None:
        """Keep the blob, be it there or still to come: one that is there afterwards stays.

        Raises:
            InvalidDigest, StoreReadOnly, StoreFull, StoreFailed, StoreBusy.
        """
        line = f"{file_name(digest)}\n".encode()
        # Under the lock of changes: `prune` has either read the line or removed the blob before.
        with explained(), changing(self._root):
            if self._descriptor is None:
                self._descriptor = self._open()
            write_whole(self._descriptor, line)
            os.fsync(self._descriptor)  # for a `prune` on another host of a shared volume

    def release(self) -> None:
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

    def _open(self) -> int:
        with folder(self._root, *HOLDS, create=True) as holds:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
            descriptor = os.open(self._name, flags, 0o644, dir_fd=holds)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


def held(root: Path) -> set[str]:
    """The file names of all blobs that are held; the caller has the lock of changes.

    What dead processes have left is removed.
    """
    found: set[str] = set()
    try:
        with folder(root, *HOLDS) as holds:
            for name in os.listdir(holds):
                found |= _read(holds, name)
    except FileNotFoundError:
        pass
    return found


def _read(holds: int, name: str) -> set[str]:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=holds)
    except FileNotFoundError:
        return set()
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lines = os.pread(descriptor, _MOST_BYTES, 0).decode("ascii", "replace").splitlines()
            return {line for line in lines if len(line) + 1 == _LINE_BYTES}
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=holds)
        return set()
    finally:
        os.close(descriptor)
