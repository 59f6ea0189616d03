"""Which blobs a key with a list of models may name by digest (docs/security.md)."""

import hashlib
import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from app.core.context import ANYBODY, Caller
from app.store.digests import hex_of
from app.store.folders import OWN, explained, folder
from app.store.store import Store

SENT = (OWN, "sent")
"""An empty file for each key and blob that the key has sent."""

KEPT_S = 86_400.0
"""How long that counts. By then the blob is a model's, or was pruned."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What `caller` may name of the blobs of `store`. Each method blocks, and raises `StoreFailed`.

    A caller without a list may name all of them. Others name those of models that they may use, and those
    whose content they have sent: that is written down in the store, for all servers that share it.
    """

    store: Store
    caller: Caller = ANYBODY

    def lacking(self, digests: Collection[str]) -> set[str]:
        """Those that the caller may not name, as `sha256:<hex>`, whether or not they are here.

        Raises:
            InvalidDigest.
        """
        if self.caller.models is None:
            return set()
        wanted = {f"sha256:{hex_of(digest)}" for digest in digests}
        lacking = {digest for digest in wanted if not self._has_sent(digest)}
        if lacking:
            for stored in self.store.manifests.list().models:
                if self.caller.may_use(stored.name):
                    lacking -= {layer.digest for layer in stored.manifest.blobs}
        return lacking

    def sent(self, digest: str) -> None:
        """The caller has sent the whole content of the blob."""
        if self.caller.models is None:
            return
        name = self._mark(f"sha256:{hex_of(digest)}")
        with explained(), folder(self.store.root, *SENT, create=True) as marks:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644, dir_fd=marks))
            os.utime(name, dir_fd=marks, follow_symlinks=False)
            if name.startswith("00"):  # now and then: it looks at all of them
                _sweep(marks, time.time() - KEPT_S)

    def _has_sent(self, digest: str) -> bool:
        with explained(), suppress(FileNotFoundError), folder(self.store.root, *SENT) as marks:
            found = os.stat(self._mark(digest), dir_fd=marks, follow_symlinks=False)
            return time.time() - found.st_mtime < KEPT_S
        return False

    def _mark(self, digest: str) -> str:
        return hashlib.sha256(f"{self.caller.key_id}\n{digest}".encode()).hexdigest()


def _sweep(marks: int, before_s: float) -> None:
    """Remove the marks that are older."""
    for name in os.listdir(marks):
        with suppress(FileNotFoundError):
            if os.stat(name, dir_fd=marks, follow_symlinks=False).st_mtime < before_s:
                os.unlink(name, dir_fd=marks)
