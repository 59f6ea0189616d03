"""What pulling and pushing need of the store's manifests."""

from typing import Protocol

from app.core.model import ModelName


class Manifests(Protocol):
    """Manifests by name; every method may be called from any thread."""

    def read(self, name: ModelName) -> bytes | None:
        """The document, byte for byte; None where there is no such model."""
        ...

    def write(self, name: ModelName, raw: bytes) -> bool:
        """Give `name` this manifest, in one step. Whether the one it had before had blobs that are now unused
        by all, and were removed.
        """
        ...
