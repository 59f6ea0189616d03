"""The folders of a store: ways into them that follow no link, the lock of changes, and failures in words.

Every path below the root is walked one folder at a time from an open descriptor, so that a link which stands
in a folder's place, or is put there meanwhile, ends in a refusal and not in a write or a deletion elsewhere.
The root itself may be reached by links: that is the operator's own choice.
"""

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from app.core.errors import StoreBusy, StoreFailed, StoreFull, StoreReadOnly

OWN = ".caravan"
"""Below it lies all that Ollama has no name for: from its own folders it deletes what it does not know."""

BLOBS = "blobs"
MANIFESTS = "manifests"
SCRATCH = (OWN, "scratch")
"""Files being written, on the file system of the others so that a rename puts them there."""

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LINKS = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EMLINK})
_LOCK_TIMEOUT_S = 60.0
_LOCK_POLL_S = 0.01


@contextmanager
def explained() -> Generator[None]:
    """Failures of the file system in words, without the server's paths.

    Raises:
        StoreReadOnly: where nothing can be written.
        StoreFull: where there is no room, or no quota.
        StoreFailed: for any other `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in _READ_ONLY:
            raise StoreReadOnly(reason) from error
        if error.errno in _FULL:
            raise StoreFull(reason) from error
        raise StoreFailed(f"the model store of this server failed: {reason}") from error


@contextmanager
def folder(root: Path, *parts: str, create: bool = False) -> Generator[int]:
    """A descriptor of the folder `parts` below `root`.

    Raises:
        FileNotFoundError: where it is not there and is not to be made.
        StoreFailed: where one of the parts is a link or a file.
    """
    if create:
        root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            inner = _step(descriptor, part, create=create)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _step(descriptor: int, part: str, *, create: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(part, flags, dir_fd=descriptor)
    except FileNotFoundError:
        if not create:
            raise
    except OSError as error:
        if error.errno in _LINKS:
            raise StoreFailed(
                f"{part!r} in the model store is a link or a file where a folder belongs: it is not followed"
            ) from error
        raise
    with suppress(FileExistsError):
        os.mkdir(part, 0o755, dir_fd=descriptor)
    return _step(descriptor, part, create=False)


@contextmanager
def changing(root: Path) -> Generator[None]:
    """The one lock of what may not happen at once: manifests written and deleted, blobs pruned.

    It is `filelock.FileLock`, that is `flock`, which the kernel drops when its holder dies. Over NFS it is
    a lock of the server, between hosts too, unless the volume is mounted `nolock` or with `local_lock`;
    CephFS has it as well. Of filelock's others, a `SoftFileLock` is left behind by a holder that dies on
    another host, and a `ReadWriteLock` is a SQLite file, which is not for NFS.

    Raises:
        StoreBusy: where another process has it for a minute.
    """
    with folder(root, OWN, create=True):
        pass
    lock = FileLock(root / OWN / "lock", timeout=_LOCK_TIMEOUT_S, poll_interval=_LOCK_POLL_S, mode=0o666)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreBusy("another process is changing the model store, please try again") from error
    try:
        yield
    finally:
        lock.release()


class Presence:
    """Whether a store that was seen is still there: a volume that went away leaves an empty folder, in which
    nobody must begin a store of his own in silence."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = False

    def look(self) -> bool:
        there = any((self._root / part).is_dir() for part in (OWN, BLOBS, MANIFESTS))
        if there:
            self._seen = True
        return there

    def check(self) -> None:
        """Raises: StoreFailed: where it is not."""
        was_seen = self._seen  # before the look: another thread may make the store meanwhile, and see it
        if not self.look() and was_seen:
            raise StoreFailed(
                "the model store of this server is not there any more, maybe as its volume is not mounted: "
                "nothing is written until it is back, or the server was started anew"
            )


def clock(root: Path) -> float:
    """The time by the file system's clock, for whoever has the lock of changes."""
    lock = root / OWN / "lock"
    os.utime(lock)
    return lock.stat().st_mtime


@contextmanager
def scratch(root: Path, chunks: Iterable[bytes]) -> Generator[str]:
    """A new file in `SCRATCH` that holds `chunks` and is on the disk; its name.

    It is gone afterwards, unless it was moved to its place.
    """
    name = uuid4().hex
    with folder(root, *SCRATCH, create=True) as held:
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=held)
            try:
                for chunk in chunks:
                    write_whole(descriptor, chunk)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=held)


def write_whole(descriptor: int, data: bytes | bytearray | memoryview, offset: int | None = None) -> None:
    """Write all of `data`, at `offset` or where the file stands: one call may write less than it is given."""
    view = memoryview(data).cast("B")
    while view:
        count = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset = None if offset is None else offset + count


def place(root: Path, name: str, target: int, target_name: str) -> None:
    """Move a file of `SCRATCH` into the folder `target`, in one step and to stay."""
    with folder(root, *SCRATCH) as source:
        os.rename(name, target_name, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
