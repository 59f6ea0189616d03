"""What an effort by name comes to for a model (docs/reference 13.1 and 22.3)."""

from collections.abc import Mapping

from app.core.errors import InvalidRequest
from app.core.model import ThinkingLevels
from app.core.request import Think
from app.golang.quote import quoted

_UNKNOWN_LEVELS: Mapping[str, Think] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}
"""For a model whose levels are not known."""


def settled_effort(effort: str, levels: ThinkingLevels | None) -> Think:
    """The `think` that an effort stands for.

    A model with named levels takes any name; one that can only be switched is switched.

    Raises:
        InvalidRequest: for a name that nobody knows, where the model's levels are not known.
    """
    if levels is not None and effort:
        if any(isinstance(value, str) for value in levels.values):
            return effort
        known = _UNKNOWN_LEVELS.get(effort, effort)
        return bool(known) if effort in _UNKNOWN_LEVELS else effort
    if effort not in _UNKNOWN_LEVELS:
        raise InvalidRequest(
            f"invalid reasoning value: {quoted(effort)} (must be "
            '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")'
        )
    return _UNKNOWN_LEVELS[effort]
