"""Vectors cut to the dimensions that were asked for."""

import math

from app.core.pool import Pool

_LONG = 10_000
"""Values from which on a thread is worth its way there and back."""


async def shortened(vectors: list[list[float]], dimensions: int, pool: Pool) -> list[list[float]]:
    """The first `dimensions` values of each at unit length; the vectors themselves where that is 0.

    Raises:
        Overloaded: when too much waits for the pool.
    """
    if not dimensions:
        return vectors
    if sum(map(len, vectors)) > _LONG:
        return await pool.run(_shorten_all, vectors, dimensions)
    return _shorten_all(vectors, dimensions)


def _shorten_all(vectors: list[list[float]], dimensions: int) -> list[list[float]]:
    return [_shorten(vector, dimensions) for vector in vectors]


def _shorten(vector: list[float], dimensions: int) -> list[float]:
    """The vector itself where that is no shortening."""
    if not 0 < dimensions < len(vector):
        return vector
    kept = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in kept))
    return [value / norm for value in kept] if norm else kept
