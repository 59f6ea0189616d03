"""Ollama's Go templates (docs/reference 21): text out of messages, tools and the reasoning switch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from gotpl import SandboxPolicy, TemplateError, TemplateExecutionError
from gotpl.compile.compiler import compile_template
from gotpl.compile.instructions import Program
from gotpl.runtime.sync_vm import render_program

from app.core.errors import InvalidRequest
from app.core.request import Json, Message, Think
from app.prompt.assembly import mark_images
from app.prompt.gofunctions import Meter, functions
from app.prompt.gosyntax import identifiers, parse, printing, until_response
from app.prompt.govalues import message_value, tool_values

_SANDBOX = SandboxPolicy.strict()


class _Compiled(NamedTuple):
    whole: Program
    opened: Program
    read: frozenset[str]


class GoTemplate:
    """One template, parsed. Rendering has no side effects and its cost is bounded."""

    def __init__(self, source: str) -> None:
        """Parse `source`.

        Raises:
            InvalidRequest: with Go's text (`template: :1: unclosed action`) for one that is no template.
        """
        self._compiled = _compile(source)

    def uses(self, name: str) -> bool:
        """Whether the template reads a field or variable of that name, in any case of letters."""
        return name.lower() in self._compiled.read

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] = (),
        think: Think = None,
        suffix: str = "",
        prompt: str = "",
        system: str = "",
    ) -> str:
        """The prompt. `system` comes before `messages` and `prompt`, as a user's, after them.

        With a `suffix` the template sees that and `prompt` alone. A last message of the assistant's is
        where the reply goes on, as far as the template leaves it open.

        Raises:
            InvalidRequest: for a template that fails or does too much.
        """
        switches = {
            "Think": bool(think),
            "ThinkLevel": think if isinstance(think, str) else "medium" if think else "",
            "IsThinkSet": think is not None,
        }
        if prompt and suffix:
            return self._run([(self._compiled.whole, {"Prompt": prompt, "Suffix": suffix, **switches})])
        asked = mark_images(
            [
                *([Message.of("system", system)] if system else ()),
                *messages,
                *([Message.of("user", prompt)] if prompt else ()),
            ]
        )
        if not self.uses("Messages"):
            return self._run(self._rounds(asked, switches))
        values = {
            "System": "\n\n".join(message.text for message in asked if message.role == "system"),
            "Messages": [message_value(message) for message in _merged(asked)],
            "Tools": tool_values(tools),
            **switches,
        }
        return self._run([(self._compiled.whole, values)])

    def _rounds(
        self, messages: Sequence[Message], switches: Mapping[str, Any]
    ) -> list[tuple[Program, dict[str, Any]]]:
        """What an older template, without `.Messages`, is run with: each round of a chat in turn.

        It knows three roles; what any other says (a tool, mostly) is read as the user's.
        """
        known = [each if each.role in _ROUND else replace(each, role="user") for each in messages]
        rounds: list[dict[str, str]] = [{}]
        for message in _merged(known):
            field, ends = _ROUND[message.role]
            if any(rounds[-1].get(name) for name in ends):
                rounds.append({})
            rounds[-1][field] = message.text
        *past, last = [{**each, **switches} for each in rounds]
        return [*((self._compiled.whole, values) for values in past), (self._compiled.opened, last)]

    def _run(self, runs: Sequence[tuple[Program, Mapping[str, Any]]]) -> str:
        meter = Meter()
        table = functions(meter)
        try:
            return "".join(
                render_program(
                    program,
                    dict(values),
                    functions=table,
                    missing_key="zero",
                    sandbox=_SANDBOX,
                    _budget_state=meter,
                )
                for program, values in runs
            )
        except TemplateExecutionError as error:
            where = f"{error.line or 1}:{error.column or 1}"
            raise InvalidRequest(f'template: :{where}: executing "": {error.message}') from error
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"template: :1: {error}") from error


def render(source: str, messages: Sequence[Message], **values: Any) -> str:
    """Compile `source` and render it with what `GoTemplate.render` takes.

    Both may be a client's: this is work for the pool, seconds of it, and never for the event loop.
    """
    return GoTemplate(source).render(messages, **values)


_ROUND: dict[str, tuple[str, tuple[str, ...]]] = {
    "system": ("System", ("Prompt", "Response")),
    "user": ("Prompt", ("Response",)),
    "assistant": ("Response", ()),
}
"""The field a role fills, and those that, once filled, make it the start of a new round."""


@lru_cache(maxsize=64)
def _compile(source: str) -> _Compiled:
    tree = parse(source)
    shown = printing(tree)
    return _Compiled(
        compile_template(shown, source=source),
        compile_template(until_response(shown), source=source),
        identifiers(tree),
    )


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message; what tools answered stays apart."""
    runs: list[list[Message]] = []
    for message in messages:
        if runs and message.role != "tool" and runs[-1][0].role == message.role:
            runs[-1].append(message)
        else:
            runs.append([message])
    return [_joined(run) for run in runs]


def _joined(run: list[Message]) -> Message:
    if len(run) == 1:
        return run[0]
    return replace(
        run[0],
        thinking="\n\n".join(each.thinking for each in run if each.thinking),
        parts=Message.of(
            run[0].role,
            "\n\n".join(each.text for each in run),
            [image for each in run for image in each.images],
        ).parts,
        tool_calls=tuple(call for each in run for call in each.tool_calls),
    )
