"""Whether the model is to reason, and how much (docs/reference 15.2)."""

from dataclasses import dataclass

from app.api.anthropic.schema import ThinkingConfig
from app.core.model import Model
from app.core.request import Think

_LEVELS = ("low", "medium", "high", "max")


@dataclass(frozen=True, slots=True)
class Thinking:
    """What was asked: the switch, where it is set, or else an effort; `shown` is whether to tell of it."""

    switch: bool | None = None
    effort: str = ""
    shown: bool = True

    def of(self, model: Model) -> Think:
        """What that comes to for `model`: nothing for one that cannot reason (point 234).

        Any name is passed on to a model whose levels are known; others have those that Ollama knows.
        """
        if not model.can("thinking"):
            return None
        if self.switch is not None or not self.effort:
            return self.switch
        if model.facts.thinking is not None:
            return self.effort
        level = self.effort.strip().lower().replace("xhigh", "high")
        return level if level in _LEVELS else None


def to_thinking(config: ThinkingConfig | None, effort: str) -> Thinking:
    """`adaptive`, like every type that is neither on nor off, leaves it to the effort, or the model."""
    asked = config or ThinkingConfig()
    switch = {"enabled": True, "disabled": False}.get(asked.type)
    return Thinking(switch, effort, asked.display != "omitted")
