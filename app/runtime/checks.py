"""What a model can be asked for: pure checks in the order clients observe (docs/reference 6.2 and 7.2)."""

from dataclasses import replace

from app.catalogue.names import read_reference
from app.core.context import Caller, Limits
from app.core.errors import Forbidden, InvalidRequest
from app.core.model import Model
from app.core.request import ChatPrompt, CompletionPrompt, Generation, Overrides, Sampling, Think
from app.golang.quote import quoted


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
    if asked.think not in (None, False) and not model.can("thinking"):
        raise InvalidRequest(f"{quoted(asked.model)} does not support thinking")
    if not model.can("completion"):
        verb = "chat" if isinstance(asked.prompt, ChatPrompt) else "generate"
        raise InvalidRequest(f"{quoted(asked.model)} does not support {verb}")
    if isinstance(asked.prompt, ChatPrompt):
        if asked.prompt.tools and not model.can("tools"):
            raise InvalidRequest(f"{model.name.canonical} does not support tools")
    elif asked.prompt.suffix and not model.can("insert"):
        raise InvalidRequest(f"{model.name.canonical} does not support insert")


def settled_think(model: Model, think: Think) -> Think:
    """What `think` comes to where the model's levels are known: its default for none and for other names."""
    levels = model.facts.thinking
    if levels is None or isinstance(think, bool) or think in levels.values:
        return think
    return levels.default


def within_limits(sampling: Sampling, named: Overrides, limits: Limits, default_context: float) -> Sampling:
    """The sampling of a caller with these limits. What the client named itself in `named` is never changed.

    Raises:
        Forbidden: for a `num_ctx` or `num_predict` that was asked for and is over the limit.
    """
    context, predict = limits.max_context, limits.max_predict
    num_ctx, num_predict = sampling.num_ctx, sampling.num_predict
    if context is not None and (num_ctx or default_context) > context:
        if "num_ctx" in named:
            raise Forbidden(f"this API key allows a num_ctx of at most {context}, {num_ctx} was asked for")
        sampling = replace(sampling, num_ctx=context)
    if predict is not None and not 0 < num_predict <= predict:
        if "num_predict" in named:
            asked = num_predict if num_predict > 0 else f"no limit ({num_predict})"
            raise Forbidden(f"this API key allows a num_predict of at most {predict}, {asked} was asked for")
        sampling = replace(sampling, num_predict=predict)
    return sampling


def _check_raw(prompt: CompletionPrompt) -> None:
    if prompt.raw and (prompt.template or prompt.system or prompt.context):
        raise InvalidRequest("raw mode does not support template, system, or context")
