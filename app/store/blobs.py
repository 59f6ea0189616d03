"""Blobs by their digests, in Ollama's layout: `blobs/sha256-<hex>`, each whole and right or not there at all.

A blob is written beside its place, read again to be hashed, put on the disk and then renamed, so that nobody
ever sees half of one, whatever else writes the same. Locks only keep two processes from doing the work twice.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from app.core.errors import BlobMissing, DigestMismatch, StoreFailed, StoreFull
from app.store.digests import CHUNK_BYTES, file_name, hex_of, sha256_of
from app.store.folders import BLOBS, Presence, explained, folder, scratch
from app.store.holds import Hold
from app.store.partial import WROTE, Partial, enter, open_partial, written


class Blobs:
    """The blobs below a store's root folder, which need not be there before something is written.

    Every method may be called from any thread, and blocks while it works. Those that take a digest raise
    `InvalidDigest`; those that write raise `StoreReadOnly`, `StoreFull` or `StoreFailed`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.presence = Presence(root)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self.root / BLOBS / file_name(digest)

    def size(self, digest: str) -> int | None:
        """Bytes of the blob, None where there is none."""
        try:
            found = self.path(digest).stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def read(self, digest: str, most_bytes: int) -> bytes:
        """A small blob's content.

        Raises:
            BlobMissing: where there is none.
            StoreFailed: where it is larger than `most_bytes`, or cannot be read.
        """
        if (size := self.size(digest)) is None:
            raise BlobMissing(digest)
        if size > most_bytes:
            raise StoreFailed(f"blob {digest} has {size} bytes, of its kind at most {most_bytes} are read")
        with explained(), self.path(digest).open("rb") as stream:
            return stream.read(most_bytes)

    def begin(self, digest: str, size: int | None = None, *, shared: bool = True) -> Partial:
        """Write a blob by ranges; what a writer that was broken off has left of it is taken up.

        `shared` False writes a file of its own, which nobody takes up: for a body that comes from its
        beginning. Where the blob is there already, the partial is `whole` and its `commit` does nothing.

        Raises:
            StoreBusy: while another writer has the shared partial; `written` says how far that is.
            StoreFull: where what is missing of `size` does not fit.
        """
        digits = hex_of(digest)
        self.presence.check()
        with explained():
            partial = open_partial(self.root, digits, size, shared=shared)
            if size is None or partial.missing_bytes() <= shutil.disk_usage(self.root).free:
                return partial
        partial.abort(keep=True)
        raise StoreFull(f"{size} bytes do not fit")

    def written(self, digest: str) -> int:
        """Bytes that are there of a blob which is being written, by whatever process; 0 where none is."""
        return written(self.root, hex_of(digest))

    def put(self, content: bytes | BinaryIO | Iterable[bytes], hold: Hold | None = None) -> str:
        """Store a layer whose digest is not known before; the digest. `hold` keeps `prune` from it."""
        self.presence.check()
        digest = hashlib.sha256()

        def hashed() -> Iterable[bytes]:
            for chunk in _chunks(content):
                digest.update(chunk)
                yield chunk

        with explained(), scratch(self.root, hashed()) as name:
            found = f"sha256:{digest.hexdigest()}"
            if not self.adopt(found, hold):
                enter(self.root, name, digest.hexdigest())
        return found

    def adopt(self, digest: str, hold: Hold | None = None) -> bool:
        """Whether the blob is there. Its age then begins anew, which keeps `prune` from it for a while."""
        if hold is not None:
            hold.add(digest)
        if self.size(digest) is None:
            return False
        with suppress(OSError):  # where it belongs to somebody else
            os.utime(self.path(digest), follow_symlinks=False)
        return True

    def verify(self, digest: str) -> None:
        """Read the whole blob.

        Raises:
            BlobMissing: where there is none.
            DigestMismatch: where its content is another.
        """
        if self.size(digest) is None:
            raise BlobMissing(digest)
        with explained(), self.path(digest).open("rb", buffering=0) as stream:
            got = sha256_of(stream.fileno())
        if got != hex_of(digest):
            raise DigestMismatch(f"sha256:{hex_of(digest)}", f"sha256:{got}")

    def remove(self, digest: str) -> bool:
        """Remove a blob that is wrong, whoever names it. Whether it was there."""
        name = file_name(digest)
        with explained():
            try:
                with folder(self.root, BLOBS) as blobs:
                    os.unlink(name, dir_fd=blobs)
            except FileNotFoundError:
                return False
            with suppress(FileNotFoundError), folder(self.root, *WROTE) as wrote:
                os.unlink(name, dir_fd=wrote)
        return True


def _chunks(content: bytes | BinaryIO | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(content, bytes):
        yield content
    elif hasattr(content, "read"):
        stream = cast(BinaryIO, content)
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
    else:
        yield from content
