"""A model store: its blobs, its manifests, and what is done to both at once."""

import logging
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from app.core.errors import StoreFailed
from app.core.model import ModelName
from app.store import room
from app.store.blobs import Blobs
from app.store.folders import changing, explained
from app.store.holds import Hold
from app.store.manifests import Manifests
from app.store.partial import GRACE_S
from app.store.prune import Pruned, prune, prune_unused
from app.store.room import Beside
from app.store.threads import Threads

_log = logging.getLogger(__name__)


class Store:
    """The store below `root`, which is made when something is first written. It may be used from any thread.
    `beside` are folders in which something is made for its models, which counts with what they take.

    What makes a model goes so, from whatever number of processes at once:

        with store.hold() as hold:
            digest = store.blobs.put(text, hold)   # or hold.add(digest) before what is there, or is fetched
            store.manifests.write(name, manifest)
    """

    def __init__(self, root: Path, beside: Beside | None = None) -> None:
        self.root = root
        self._beside = beside
        self.blobs = Blobs(root)
        self.manifests = Manifests(self.blobs)
        self.threads = Threads()

    def hold(self) -> Hold:
        return Hold(self.root, self._beside, self.blobs.presence.check)

    def count(self, names: Collection[str]) -> None:
        """Have what lies beside the store under these names counted, where it is there without a reservation.
        A store that cannot be written to is served all the same.
        """
        if names and self._beside:
            with suppress(StoreFailed), explained(), changing(self.root):
                room.count(self.root, names, self._beside)

    def delete(self, name: ModelName) -> bool:
        """Delete a model and the blobs that no other uses (docs/reference 11.4); whether it was there."""
        gone = self.manifests.delete(name)
        if gone is None:
            return False
        try:
            blobs = (layer.digest for layer in gone.manifest.blobs)
            prune_unused(self.manifests, blobs, gone.modified_at)
        except StoreFailed as error:
            _log.warning("the model %s is deleted, and its blobs are not: %s", name, error)
        return True

    def prune(self, *, grace_s: float = GRACE_S, foreign: bool = False) -> Pruned:
        """As `prune.prune`."""
        return prune(self.manifests, grace_s=grace_s, foreign=foreign)
