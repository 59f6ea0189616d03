"""A model store: its blobs, its manifests, and what is done to both at once."""

import logging
from pathlib import Path

from app.core.errors import StoreFailed
from app.core.model import ModelName
from app.store.blobs import Blobs
from app.store.holds import Hold
from app.store.manifests import Manifests
from app.store.prune import GRACE_S, Pruned, prune, prune_unused

_log = logging.getLogger(__name__)


class Store:
    """The store below `root`, which is made when something is first written. It may be used from any thread.

    What makes a model goes so, from whatever number of processes at once:

        with store.hold() as hold:
            digest = store.blobs.put(text, hold)   # or hold.add(digest) before what is there, or is fetched
            store.manifests.write(name, manifest)
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)
        self.manifests = Manifests(self.blobs)

    def hold(self) -> Hold:
        return Hold(self.root)

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
