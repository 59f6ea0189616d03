"""A blob while it is being written, by ranges and in any order; what was written outlives a crash.

The data is a file in `SCRATCH`, and for a shared one the ranges that are there stand in another beside it.
The lock is `flock`, as in `folders.changing`, on the data itself: over NFSv4 nobody can write any more by
a file whose lock the server has given to another.
"""

import fcntl
import os
import stat
import threading
import time
from bisect import bisect_left, bisect_right
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import orjson

from app.core.errors import DigestMismatch, StoreBusy, StoreFailed
from app.store.digests import sha256_of
from app.store.folders import BLOBS, MANIFESTS, OWN, SCRATCH, explained, folder, place, write_whole

WROTE = (OWN, "wrote")
"""An empty file for each blob that was written here and not by Ollama: what `prune` may remove."""

GRACE_S = 3600.0
"""How long a blob may be without a manifest, and what nobody is known to write may stay: as with Ollama."""

_SAVE_BYTES = 64 << 20
_SAVE_S = 5.0
_MOST_STATE_BYTES = 1 << 20
_TRIES = 100


class Partial:
    """One blob's writing. `write_at` may be called by several threads at once, the rest by one.

    Leaving it as a context keeps what there is, unless it was committed. `size` may be None: not known.
    """

    def __init__(
        self, root: Path, digits: str, size: int | None, name: str, descriptor: int | None, *, shared: bool
    ) -> None:
        self.digest = f"sha256:{digits}"
        self.size = size
        self._root = root
        self._digits = digits
        self._name = name
        self._descriptor = descriptor
        self._shared = shared
        self._done: list[tuple[int, int]] = []
        self._unsaved_bytes = 0
        self._saved_at = time.monotonic()
        self._mutex = threading.Lock()
        self._saving = threading.Lock()

    @property
    def name(self) -> str:
        """That of its file in `SCRATCH`; empty where the blob was in its place from the beginning."""
        return self._name

    @property
    def whole(self) -> bool:
        """Whether the blob is in its place, so that nothing is to be written."""
        return self._descriptor is None

    @property
    def done(self) -> list[tuple[int, int]]:
        """What is written, as (start, end) in rising order; neither overlap nor touch."""
        with self._mutex:
            return list(self._done)

    def missing(self) -> list[tuple[int, int]]:
        """What is not, of a blob whose size is known; nothing of one that is `whole`."""
        if self.whole:
            return []
        assert self.size is not None, "what is missing of a blob can be told only by its size"
        edges = [0, *(edge for span in self.done for edge in span), self.size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    def missing_bytes(self) -> int:
        return sum(end - start for start, end in self.missing())

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` from `offset` on.

        Raises:
            ValueError: for what lies outside the blob's size, or comes after its end.
        """
        end = offset + len(data)
        if self._descriptor is None or offset < 0 or (self.size is not None and end > self.size):
            raise ValueError(f"{len(data)} bytes at {offset} do not belong to blob {self.digest}")
        with explained():
            write_whole(self._descriptor, data, offset)
            with self._mutex:
                _merge(self._done, offset, end)
                self._unsaved_bytes += end - offset
                late = time.monotonic() - self._saved_at > _SAVE_S
                due = self._shared and (late or self._unsaved_bytes >= _SAVE_BYTES)
            if due:
                self.save()

    def save(self) -> None:
        """Have what is written on the disk, and then say so in the file of ranges."""
        if self._descriptor is None or not self._shared or not self._saving.acquire(blocking=False):
            return  # or another thread is at it
        try:
            with self._mutex:
                done = list(self._done)
                self._unsaved_bytes, self._saved_at = 0, time.monotonic()
            with explained():
                os.fdatasync(self._descriptor)
                self._write_state(done)
        finally:
            self._saving.release()

    def commit(self) -> None:
        """Hash what was written and give it its place. Only where the store fails is the partial not over.

        Raises:
            DigestMismatch: where it is not what the digest says; nothing of it is kept.
            ValueError: where some of it is missing.
        """
        if self._descriptor is None:
            return
        if self.size is not None and self.missing():
            raise ValueError(f"blob {self.digest} is not whole")
        with explained():
            got = sha256_of(self._descriptor)
            if got != self._digits:
                self.abort(keep=False)
                raise DigestMismatch(self.digest, f"sha256:{got}")
            os.fsync(self._descriptor)
            enter(self._root, self._name, self._digits)
            self._unlink(_state_name(self._digits))
            self._close()

    def abort(self, keep: bool) -> None:
        """Stop writing; `keep` leaves what there is for the next to take up, if it is shared."""
        if self._descriptor is None:
            return
        try:
            if keep and self._shared:
                self.save()
            else:
                with explained():
                    self._unlink(_state_name(self._digits))
                    self._unlink(self._name)
        finally:
            self._close()

    def __enter__(self) -> "Partial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is None:
            return
        try:
            self.abort(keep=True)
        except StoreFailed:
            if error is None:
                raise

    def take_up(self) -> None:
        """Read which ranges an earlier writer has left; the file is cut behind them."""
        assert self._descriptor is not None
        size, done = _read_state(self._root, self._digits)
        length = os.fstat(self._descriptor).st_size
        if size != self.size or (done and done[-1][1] > length):
            done = []
        os.ftruncate(self._descriptor, done[-1][1] if done else 0)
        self._done = done

    def _write_state(self, done: list[tuple[int, int]]) -> None:
        name = _state_name(self._digits)
        with folder(self._root, *SCRATCH) as held:
            new = os.open(
                f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=held
            )
            try:
                write_whole(new, orjson.dumps({"size": self.size, "done": done}))
                os.fsync(new)
            finally:
                os.close(new)
            os.rename(f"{name}.new", name, src_dir_fd=held, dst_dir_fd=held)

    def _unlink(self, name: str) -> None:
        # Of a private one the file of ranges is not its own.
        if name != self._name and not self._shared:
            return
        with suppress(FileNotFoundError), folder(self._root, *SCRATCH) as held:
            os.unlink(name, dir_fd=held)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_partial(root: Path, digits: str, size: int | None, *, shared: bool) -> Partial:
    """Begin or take up the writing of a blob; one that is there is `whole` at once.

    Raises:
        StoreBusy: where another has the shared partial.
        OSError: as it comes.
    """
    if _is_there(root, digits):
        return Partial(root, digits, size, "", None, shared=shared)
    name = digits if shared else uuid4().hex
    with folder(root, *SCRATCH, create=True) as held:
        descriptor = _open_locked(held, name)
    partial = Partial(root, digits, size, name, descriptor, shared=shared)
    if _is_there(root, digits):  # whoever had the lock before has done it
        partial.abort(keep=False)
    elif shared:
        partial.take_up()
    return partial


def written(root: Path, digits: str) -> int:
    """Bytes that the file of ranges tells of; it is a few seconds late."""
    return sum(end - start for start, end in _read_state(root, digits)[1])


def enter(root: Path, scratch: str, digits: str) -> None:
    """Give a file of `SCRATCH`, which was hashed and is on the disk, its place among the blobs."""
    name = f"sha256-{digits}"
    if _is_there(root, digits):
        with folder(root, *SCRATCH) as held:
            os.unlink(scratch, dir_fd=held)
        return
    if not (root / OWN / "wrote").is_dir():
        # From now on its absence says that it is away, and not that there are no models.
        with folder(root, MANIFESTS, create=True):
            pass
    # The mark comes first: a blob without one would stay forever where this process ends in between.
    with folder(root, *WROTE, create=True) as wrote:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644, dir_fd=wrote))
    with folder(root, BLOBS, create=True) as blobs:
        place(root, scratch, blobs, name)


def _is_there(root: Path, digits: str) -> bool:
    try:
        return stat.S_ISREG((root / BLOBS / f"sha256-{digits}").stat().st_mode)
    except OSError:
        return False


def _open_locked(held: int, name: str) -> int:
    for _ in range(_TRIES):
        # Not to wait for a writer where somebody has put a pipe.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, 0o644, dir_fd=held)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(descriptor)
            named = os.stat(name, dir_fd=held, follow_symlinks=False)
            if (mine.st_ino, mine.st_dev) == (named.st_ino, named.st_dev) and stat.S_ISREG(mine.st_mode):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise StoreBusy("another process is writing this blob, please try again") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was moved or removed between the opening and the lock
    raise StoreBusy("this blob cannot be written at the moment, please try again")


def unlink_unlocked(scratch: int, name: str, found: os.stat_result, also: str = "") -> None:
    """Remove a file of the open folder `SCRATCH`, and first the one named `also`, which tells of it.

    Raises:
        BlockingIOError: where a writer has it, however long that has written nothing.
    """
    if not stat.S_ISREG(found.st_mode):
        os.unlink(name, dir_fd=scratch)
        return
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=scratch)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if also:
            with suppress(FileNotFoundError):
                os.unlink(also, dir_fd=scratch)
        os.unlink(name, dir_fd=scratch)
    finally:
        os.close(descriptor)


def _state_name(digits: str) -> str:
    return f"{digits}.json"


def _read_state(root: Path, digits: str) -> tuple[int | None, list[tuple[int, int]]]:
    """The size and the ranges; none where the file says nothing that makes sense."""
    try:
        with folder(root, *SCRATCH) as held:
            descriptor = os.open(
                _state_name(digits), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held
            )
            try:
                state = orjson.loads(os.read(descriptor, _MOST_STATE_BYTES))
            finally:
                os.close(descriptor)
        size, done = state["size"], [(start, end) for start, end in state["done"]]
        edges = [edge for span in done for edge in span]
        if not all(isinstance(edge, int) and edge >= 0 for edge in edges) or edges != sorted(set(edges)):
            return None, []
        return size, done
    except (OSError, StoreFailed, ValueError, TypeError, KeyError):
        return None, []


def _merge(done: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a range to a sorted list of ranges that do not touch."""
    if start >= end:
        return
    first = bisect_left(done, start, key=lambda span: span[1])
    last = bisect_right(done, end, key=lambda span: span[0])
    if first < last:
        start, end = min(start, done[first][0]), max(end, done[last - 1][1])
    done[first:last] = [(start, end)]
