"""What a model can be asked for: pure checks in the order clients observe (ollama-api 6.2 and 7.2)."""

from app.catalogue.library import read_reference
from app.core.call import Caller
from app.core.errors import Forbidden, InvalidRequest
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


def check_allowed(caller: Caller, name: str, *, details: bool = False) -> None:
    """Refuse a model that the caller's key does not name, whether or not it is served.

    Raises:
        Forbidden: for such a model.
        AppError: for what is no model's name, as `Library.find` does.
    """
    if caller.models is not None and not caller.may_use(read_reference(name, details=details)):
        raise Forbidden(f"this API key does not allow the model {quoted(name)}")


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
