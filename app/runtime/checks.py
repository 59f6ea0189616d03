"""What a model can be asked for: pure checks in the order clients observe (ollama-api 6.2 and 7.2)."""

from app.core.errors import InvalidRequest
from app.core.model import Model
from app.core.quote import quoted
from app.core.request import ChatPrompt, CompletionPrompt, Generation


def is_empty(asked: Generation) -> bool:
    """Whether the request carries nothing to answer: it only loads or unloads."""
    if isinstance(asked.prompt, ChatPrompt):
        return not asked.prompt.messages
    return not asked.prompt.prompt


def is_unload(asked: Generation) -> bool:
    return is_empty(asked) and asked.keep_alive_s == 0


def check(model: Model, asked: Generation) -> None:
    """Refuse what `model` cannot do.

    Raises:
        InvalidRequest: with Ollama's text for the first check that fails.
    """
    if isinstance(asked.prompt, CompletionPrompt):
        _check_raw(asked.prompt)
    if asked.think and not model.can("thinking"):
        raise InvalidRequest(f"{quoted(asked.model)} does not support thinking")
    if not model.can("completion"):
        verb = "chat" if isinstance(asked.prompt, ChatPrompt) else "generate"
        raise InvalidRequest(f"{quoted(asked.model)} does not support {verb}")
    if isinstance(asked.prompt, ChatPrompt):
        if asked.prompt.tools and not model.can("tools"):
            raise InvalidRequest(f"{model.name.canonical} does not support tools")
    elif asked.prompt.suffix and not model.can("insert"):
        raise InvalidRequest(f"{model.name.canonical} does not support insert")


def _check_raw(prompt: CompletionPrompt) -> None:
    if prompt.raw and (prompt.template or prompt.system or prompt.context):
        raise InvalidRequest("raw mode does not support template, system, or context")
