"""What a request says of tools besides naming them: that none may be called, one must be, or one at most."""

from dataclasses import replace

from app.constrain.calls import calls_schema
from app.core.errors import InvalidRequest
from app.core.request import ChatPrompt, Constraint, Generation
from app.decode.forced import ForcedCalls, OneCall
from app.engine.base import Decoder
from app.golang.quote import quoted


def must_call(asked: Generation) -> bool:
    return asked.tool_choice.mode == "required"


def with_tools_chosen(asked: Generation) -> Generation:
    """A model that may call no tool is told of none: it cannot call what it does not know.

    Raises:
        InvalidRequest: where it must call a tool that is not there.
    """
    prompt, choice = asked.prompt, asked.tool_choice
    tools = prompt.tools if isinstance(prompt, ChatPrompt) else ()
    if choice.mode == "none" and isinstance(prompt, ChatPrompt) and tools:
        return replace(asked, prompt=replace(prompt, tools=()))
    if must_call(asked) and not tools:
        raise InvalidRequest("tool_choice: there are no tools to choose from")
    names = (tool["function"]["name"] for tool in tools)
    if must_call(asked) and choice.name and choice.name not in names:
        raise InvalidRequest(f"tool_choice: there is no tool {quoted(choice.name)}")
    return asked


def calls_constraint(asked: Generation) -> Constraint | None:
    """What keeps an answer to calls; None where it may be anything else."""
    if not must_call(asked) or not isinstance(asked.prompt, ChatPrompt):
        return None
    functions = (tool["function"] for tool in asked.prompt.tools)
    tools = [
        (function["name"], asked.schemas.get(function["name"], function.get("parameters")))
        for function in functions
        if asked.tool_choice.name in ("", function["name"])
    ]
    one = bool(asked.tool_choice.name) or not asked.parallel_tool_calls
    return Constraint(calls_schema(tools, most=1 if one else None))


def of_calls(error: InvalidRequest) -> InvalidRequest:
    """Why calls cannot be enforced: the client wrote no `format`."""
    reason = str(error).removeprefix("invalid JSON schema in format: ")
    return InvalidRequest(f"tool_choice: the parameters of the tools cannot be enforced: {reason}")


def chat_read(asked: Generation) -> ChatPrompt:
    """The chat as the reader of the reply is to know it: calls that are enforced are no affair of its own."""
    prompt = asked.prompt if isinstance(asked.prompt, ChatPrompt) else ChatPrompt()
    return replace(prompt, tools=()) if must_call(asked) else prompt


def decoder_for(asked: Generation, inner: Decoder | None) -> Decoder | None:
    if must_call(asked):
        return ForcedCalls(inner)
    return OneCall(inner) if inner is not None and not asked.parallel_tool_calls else inner
