"""How many users there are at each moment of a run."""

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

Shape: TypeAlias = Callable[[float, int, int], int]
"""The users at a share (0 to 1) of the run, of so many at most, in so many steps."""


def step(share: float, most: int, steps: int) -> int:
    """Stairs: as long on each of `steps` equal steps, the last of which is `most`."""
    return math.ceil(most * (math.floor(share * steps) + 1) / steps)


def ramp(share: float, most: int, _: int) -> int:
    """More and more, up to `most` at the end."""
    return max(1, math.ceil(most * share))


def spike(share: float, most: int, steps: int) -> int:
    """`most` for the middle fifth of the run; before and after it what one of the `steps` has."""
    return most if 0.4 <= share < 0.6 else math.ceil(most / steps)


def soak(_share: float, most: int, _steps: int) -> int:
    """`most` all the time."""
    return most


SHAPES: Mapping[str, Shape] = {"step": step, "ramp": ramp, "spike": spike, "soak": soak}
