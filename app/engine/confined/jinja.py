"""A chat template run as transformers runs it: sandbox, extensions, filters, white space.."""

import json
from copy import deepcopy
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.engine.confined.contents import takes_parts

_OPEN = "CARAVAN_GOES_ON_HERE "
"""Ends the message that is to go on, so that its end is found. A template that trims takes the space."""


class Refused(Exception):
    """A template that cannot be used with these messages, in words for whoever sent them."""


class _Generation(Extension):
    """`{% generation %}`, with which templates mark the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    known: dict[str, Any] = {"raise_exception": _raise, "strftime_now": _now}
    made.globals.update(known)
    return made


@lru_cache(16)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def takes_parts_of(source: str) -> bool:
    """Whether contents are to be lists of parts; a template that does not parse says so when it is run."""
    try:
        return takes_parts(_environment().parse(source))
    except jinja2.TemplateSyntaxError:
        return False


def render(source: str, variables: dict[str, Any], *, continues: bool) -> str:
    """
    Raises:
        Refused: where the message that is to go on is not in the prompt as it was sent.
        Exception: whatever the template leads to.
    """
    if not continues:
        return _compiled(source).render(**variables)
    messages = deepcopy(variables["messages"])
    text = _opened(messages[-1])
    if "content" not in source:
        raise Refused("it shows no content that could go on")
    whole = _compiled(source).render(**{**variables, "messages": messages})
    at = whole.rfind(_OPEN.strip())
    if at < 0 or text.strip() not in whole:
        raise Refused("it does not show the last message as it is, which is to go on")
    kept = whole[:at]
    return kept if whole.startswith(_OPEN, at) else kept.rstrip()


def _opened(message: dict[str, Any]) -> str:
    """The last text of a message, which from now on ends with `_OPEN`."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _OPEN
        return content
    for part in reversed(content if isinstance(content, list) else ()):
        if "text" in part:
            text = str(part["text"])
            part["text"] = text + _OPEN
            return text
    raise Refused("the last message has no text that could go on")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)
