"""How much a model is to reason, by OpenAI's names for it (docs/reference 13.1)."""

from app.core.errors import InvalidRequest
from app.core.model import ThinkingLevels
from app.core.request import Think
from app.golang.quote import quoted

_BY_NAME: dict[str, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
_KNOWN = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'


def read_effort(name: str | None, levels: ThinkingLevels | None) -> Think:
    """What the model is to be told; None leaves it to the model. `levels` are None where they are not known.

    A model with names of its own takes any, and one that it does not have is its default; to one with a
    switch alone every effort is on.

    Raises:
        InvalidRequest: for an unknown name, of a model whose levels are not known.
    """
    if not name:
        return None
    if name == "none":
        return False
    if levels is None:
        if name not in _BY_NAME:
            raise InvalidRequest(f"invalid reasoning value: {quoted(name)} (must be {_KNOWN})")
        return _BY_NAME[name]
    if any(isinstance(value, str) for value in levels.values):
        return name
    return True if name in _BY_NAME else name
