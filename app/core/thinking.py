"""How a chat template is told to think."""

from typing import Any

from app.core.model import ThinkingLevels
from app.core.request import Think

EFFORT = "reasoning_effort"
"""The variable of templates that know levels; others have a switch."""


def thinking_kwargs(
    variable: str | None, think: Think, levels: ThinkingLevels | None = None
) -> dict[str, Any]:
    """What the chat template's own switch is set to, and its level where it has names for that.

    None leaves a thinking model at Ollama's default, on.
    """
    if variable is None:
        return {}
    if variable != EFFORT:
        named = levels is not None and think in levels.values and isinstance(think, str)
        return {variable: think is not False, **({EFFORT: think} if named else {})}
    if think is False:
        return {EFFORT: "none"}
    default = levels.default if levels is not None else True
    return {EFFORT: next((level for level in (think, default) if isinstance(level, str)), "medium")}
