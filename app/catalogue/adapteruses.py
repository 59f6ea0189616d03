"""Which copies of adapters a process needs, told to all that share the cache: the last that does removes it.

As the holds of a store (`store/holds.py`): a file of digests under a lock that lives as long as its process.
An engine reads a copy again at any time, so one that anybody has listed stays.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from app.catalogue import adaptercopies
from app.catalogue.adaptercopies import FOLDER, USES, stays

_LOCK_TIMEOUT_S = 60.0
_MOST_BYTES = 64 << 20


class AdapterUses:
    """The copies below `cache` that this process needs, by digest. Any thread may use it; it blocks."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache.resolve() / FOLDER
        self._digests: set[str] = set()
        self._file: int | None = None

    def add(self, digest: str) -> None:
        """Before a copy is looked for: what is there afterwards stays.

        Raises:
            OSError: where the cache cannot be written to; `filelock.Timeout` is one.
        """
        with self._locked():
            self._digests.add(digest)
            self._tell()

    def only(self, digests: Collection[str]) -> None:
        """Nothing but these is needed here any more. What was, and nobody else needs, is removed, unless the
        cache cannot be written to."""
        if self._digests == set(digests):
            return
        with suppress(OSError), self._locked():
            left = self._digests - set(digests)
            self._digests = set(digests)
            self._tell()
            for digest in left - self._of_others():
                if not stays(self._folder.parent, digest):
                    self._remove(digest)

    def prune(self) -> None:
        """Remove the copies that nobody has used for a day, such as processes that were killed have left.

        Raises:
            OSError: where the cache cannot be changed.
        """
        adaptercopies.prune(self._folder.parent, self._digests)

    def _remove(self, digest: str) -> None:
        """In one step, so that nobody finds half of it."""
        gone = self._folder / f".{digest}.{uuid4().hex}.part"
        with suppress(FileNotFoundError):
            (self._folder / digest).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Generator[None]:
        (self._folder / USES).mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / USES / "lock", timeout=_LOCK_TIMEOUT_S, mode=0o666):
            yield

    def _tell(self) -> None:
        if self._file is None:
            path = self._folder / USES / uuid4().hex
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        data = "".join(f"{digest}\n" for digest in sorted(self._digests)).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)
        os.fsync(self._file)

    def _of_others(self) -> set[str]:
        """What living processes have listed, this one included; the file of a dead one is removed."""
        found: set[str] = set()
        for path in (self._folder / USES).iterdir():
            if path.name == "lock":
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                found.update(os.pread(descriptor, _MOST_BYTES, 0).decode("ascii", "replace").split())
            finally:
                os.close(descriptor)
        return found
