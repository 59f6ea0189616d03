"""The layers of a model that is being made (docs/reference 11.1)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.errors import InvalidRequest
from app.store.config import MOST_BYTES
from app.store.digests import file_name
from app.store.holds import Hold
from app.store.manifest import Layer, Manifest
from app.store.store import Store


@dataclass(slots=True)
class Draft:
    """The layers of a model that is being made; `new` hears the digests of those that were not there."""

    store: Store
    hold: Hold
    quota_bytes: int
    new: list[str]
    layers: list[Layer] = field(default_factory=list[Layer])
    statuses: list[str] = field(default_factory=list[str])

    @property
    def manifest(self) -> Manifest:
        return Manifest(None, tuple(self.layers))

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Raises: Forbidden: over the quota."""
        self.hold.reserve(sizes, self.quota_bytes)

    def put(self, media_type: str, data: bytes) -> Layer:
        """Store a layer of text.

        Raises:
            InvalidRequest: for one that is too long.
            Forbidden: over the quota.
        """
        if len(data) > MOST_BYTES:
            raise InvalidRequest(f"a layer of text has {len(data)} bytes, of at most {MOST_BYTES}")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        is_new = self.store.blobs.size(digest) is None
        self.reserve({file_name(digest): len(data)})
        layer = Layer(media_type, self.store.blobs.put(data, self.hold), len(data))
        if is_new:
            self.new.append(layer.digest)
        self.statuses.append(status_of(layer, is_new=is_new))
        return layer


def status_of(layer: Layer, *, is_new: bool) -> str:
    return f"{'creating new' if is_new else 'using existing'} layer {layer.digest}"
