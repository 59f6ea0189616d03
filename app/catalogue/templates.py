"""What a chat template asks for, read without running it."""

import re
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

MOST_CHARS = 128 << 10
"""Of a chat template in a model's files: jinja2 reads about a megabyte a second. The longest have 50,000."""

EFFORT = "reasoning_effort"
THINKING = ("enable_thinking", "thinking", EFFORT)


class _Generation(Extension):
    """`{% generation %}`, with which templates mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Names(meta.TrackingCodeGenerator):
    """Finds names and works nothing out: of `{{ 9**(9**9) }}` jinja2 would, which never ends."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.optimizer = None

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier, frame: Any) -> None:
        for option in node.options:
            self.visit(option.value, frame)

    def _output_child_to_const(self, *_args: Any, **_kwargs: Any) -> str:
        raise nodes.Impossible


def variables(template: str) -> frozenset[str]:
    """The variables that a Jinja template takes from outside.

    A template that jinja2 cannot parse is searched for the few names that matter.
    """
    tree = parsed(template)
    if tree is None:
        return frozenset(name for name in ("tools", *THINKING) if re.search(rf"\b{name}\b", template))
    names = _Names(_environment())
    names.visit(tree)
    return frozenset(names.undeclared_identifiers)


def parsed(template: str) -> nodes.Template | None:
    """The template's syntax tree; None for one that jinja2 cannot parse."""
    try:
        return _environment().parse(template)
    except jinja2.TemplateSyntaxError:
        return None


def _environment() -> jinja2.Environment:
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation])


def thinking_variable(template: str) -> str | None:
    """The variable that switches thinking, where the template has one."""
    found = variables(template)
    return next((name for name in THINKING if name in found), None)


def go_field(template: str, field: str) -> bool:
    """Whether a Go template reads a field, as in `{{ if .Tools }}` or `{{ $.Suffix }}`."""
    return any(re.search(rf"(?<![\w\")])\$?\.{field}\b", action) for action in _actions(template))


def _actions(template: str) -> Iterator[str]:
    """What stands between double braces; found in time that grows with the template's length alone."""
    end = 0
    while (start := template.find("{{", end)) >= 0 and (end := template.find("}}", start + 2)) >= 0:
        end += 2
        yield template[start:end]
