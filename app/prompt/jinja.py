"""Jinja chat templates that a client brings: told apart from Go templates, and held to compile."""

import re
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.core.errors import InvalidRequest
from app.prompt.gosyntax import MAX_CHARS
from app.prompt.gotemplate import GoTemplate

_TAG = re.compile(r"(?<!\{)\{[%#]")
"""What begins a statement or a comment of Jinja; `{{#` does not, and neither is in Go's language."""

_ACTION = "{{"
_OTHER_FILES = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


def is_jinja(source: str) -> bool:
    """Whether a template is Jinja, and not Go; of either kind it compiles.

    To Go, whatever is not between braces is text. So a template that has tags of Jinja is one of Jinja unless
    it has actions besides, and Go reads them all: those of Jinja name variables, which to Go are unknown
    functions.

    Nothing of the template is run, but compiling takes time: for a pool or a thread.

    Raises:
        InvalidRequest: `template: ...`, with Go's text, or Jinja's where it has Jinja's tags.
    """
    if not _TAG.search(source):
        GoTemplate(source)
        return False
    if _ACTION in source:
        try:
            GoTemplate(source)
        except InvalidRequest:
            pass
        else:
            return False
    _compile(source)
    return True


class _Generation(Extension):
    """`{% generation %}`, with which templates mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Unfolded(CodeGenerator):
    """Leaves constants as they stand: `{{ 9**(9**9) }}` would be worked out while it is compiled."""

    def _output_child_to_const(self, *_args: Any, **_kwargs: Any) -> str:
        raise nodes.Impossible


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Unfolded


def _compile(source: str) -> None:
    """Compile as transformers does, by which the engine renders: sandbox, extensions, white space.

    Raises:
        InvalidRequest: with the line, for what does not compile or reads other templates: there are none.
    """
    if len(source) > MAX_CHARS:
        raise InvalidRequest(f"template: :1: longer than {MAX_CHARS} characters")
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    try:
        tree = environment.parse(source)
        other = next(tree.find_all(_OTHER_FILES), None)
        if other is not None:
            raise InvalidRequest(f"template: :{other.lineno}: there are no other templates to read")
        scoped = next(tree.find_all(nodes.EvalContextModifier), None)
        if scoped is not None:  # its value would be worked out here, however long that takes
            raise InvalidRequest(f"template: :{scoped.lineno}: autoescape is not for prompts")
        environment.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidRequest(f"template: :{error.lineno}: {error.message}") from error
    except SyntaxError as error:  # of the Python that Jinja makes of it, whose lines are others
        raise InvalidRequest(f"template: :1: {error.msg}") from error
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise InvalidRequest("template: :1: nested too deeply, or a number is too long") from error
