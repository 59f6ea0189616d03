"""The threads that work on a store, by how long that may take: what is short does not wait for the rest."""

from dataclasses import dataclass, field

from app.core.pool import Pool

_WAITING = 1024
"""Jobs that may wait in each pool; what begins them is bounded before."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Apart from asyncio's own, in which what waits for others (names, registries, a lock) has its place.

    `changes` has what takes moments: a look-up, a copy, a deletion, a manifest. `blobs` moves and hashes what
    arrives, of any size. `making` reads the files that a model is to be made of, and `reading` those of the
    models that are there.
    """

    changes: Pool = field(default_factory=lambda: Pool("store-changes", workers=4, waiting=_WAITING))
    blobs: Pool = field(default_factory=lambda: Pool("store-blobs", workers=8, waiting=_WAITING))
    making: Pool = field(default_factory=lambda: Pool("store-making", workers=2, waiting=_WAITING))
    reading: Pool = field(default_factory=lambda: Pool("store-reading", workers=2, waiting=_WAITING))
