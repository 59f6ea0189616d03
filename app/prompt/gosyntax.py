"""The parsed form of a Go template: what it reads, and the changes Ollama makes to it before it runs."""

import re
from collections.abc import Iterator
from dataclasses import replace

from gotpl import TemplateSyntaxError
from gotpl.parse.nodes import (
    ActionNode,
    BlockNode,
    CommandNode,
    FieldNode,
    IdentifierNode,
    IfNode,
    ListNode,
    ParenthesizedNode,
    ParsedTemplate,
    PipeNode,
    RangeNode,
    TemplateCallNode,
    TemplateNode,
    TermNode,
    VariableNode,
    WithNode,
)
from gotpl.parse.parser import ParserLimits, parse_template

from app.core.errors import InvalidRequest
from app.prompt.gofunctions import NAMES, SHOW

MAX_CHARS = 65_536
_LIMITS = ParserLimits(max_tokens=MAX_CHARS, max_nesting=50)
_BRANCHES = (IfNode, WithNode, RangeNode)
_RESPONSE = ActionNode(
    PipeNode((), False, (CommandNode((FieldNode(("Response",), 0, 0),), 0, 0),), 0, 0), 0, 0
)
_SHOW = CommandNode((IdentifierNode(SHOW, 0, 0),), 0, 0)


def parse(source: str) -> ParsedTemplate:
    """The tree of `source`, with `.Response` at its end where it reads neither that nor `.Messages`.

    Raises:
        InvalidRequest: with Go's text for what is wrong.
    """
    if len(source) > MAX_CHARS:
        raise InvalidRequest(f"template: :1: longer than {MAX_CHARS} characters")
    try:
        tree = parse_template(source, functions=NAMES, limits=_LIMITS)
        read = identifiers(tree)
    except TemplateSyntaxError as error:
        raise InvalidRequest(f"template: :{error.line}: {_go_text(str(error))}") from error
    except ValueError as error:
        raise InvalidRequest(f"template: :1: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("template: :1: nested too deeply") from error
    if not read & {"messages", "response"}:
        return replace(tree, root=ListNode((*tree.root.nodes, _RESPONSE)))
    return tree


def identifiers(tree: ParsedTemplate) -> frozenset[str]:
    """Every field and variable the template names, in lower case."""
    bodies = [tree.root, *(definition.body for definition in tree.definitions)]
    return frozenset(name.lower() for body in bodies for name in _in_list(body))


def until_response(tree: ParsedTemplate) -> ParsedTemplate:
    """The template without what comes after its first `.Response`: the reply is left open."""
    return replace(tree, root=_until_response(tree.root)[0])


def printing(tree: ParsedTemplate) -> ParsedTemplate:
    """The template with every value that it prints passed through `SHOW` first."""
    return replace(
        tree,
        root=_printing(tree.root),
        definitions=tuple(replace(each, body=_printing(each.body)) for each in tree.definitions),
    )


def _go_text(text: str) -> str:
    message = text.split(": ", 1)[1]
    message = re.sub(r"^unexpected (else|end)$", r"unexpected {{\1}}", message)
    return re.sub(r"'([^']*)'", r'"\1"', message)


def _in_list(body: ListNode) -> Iterator[str]:
    for node in body.nodes:
        yield from _in_node(node)


def _in_node(node: TemplateNode) -> Iterator[str]:
    if isinstance(node, TemplateCallNode) and node.pipeline is None:
        raise InvalidRequest("undefined template specified")
    if isinstance(node, ActionNode | TemplateCallNode | BlockNode | IfNode | WithNode | RangeNode):
        yield from _in_pipe(node.pipeline)
    if isinstance(node, _BRANCHES):
        yield from _in_list(node.body)
        if node.else_body is not None:
            yield from _in_list(node.else_body)


def _in_pipe(pipe: PipeNode | None) -> Iterator[str]:
    for command in pipe.commands if pipe is not None else ():
        for term in command.arguments:
            yield from _in_term(term)


def _in_term(term: TermNode) -> Iterator[str]:
    if isinstance(term, FieldNode | VariableNode | ParenthesizedNode):
        yield from term.fields
    if isinstance(term, VariableNode):
        yield term.name
    if isinstance(term, ParenthesizedNode):
        yield from _in_pipe(term.pipeline)


def _until_response(body: ListNode) -> tuple[ListNode, bool]:
    kept: list[TemplateNode] = []
    for node in body.nodes:
        node, found = _cut(node)
        kept.append(node)
        if found:
            return ListNode(tuple(kept)), True
    return body, False


def _cut(node: TemplateNode) -> tuple[TemplateNode, bool]:
    if isinstance(node, ActionNode):
        return node, "Response" in _in_pipe(node.pipeline)
    if not isinstance(node, _BRANCHES):
        return node, False
    body, found = _until_response(node.body)
    if node.else_body is None:
        return replace(node, body=body), found
    other, found_in_other = _until_response(node.else_body)
    return replace(node, body=body, else_body=other), found or found_in_other


def _printing(body: ListNode) -> ListNode:
    return ListNode(tuple(_printing_node(node) for node in body.nodes))


def _printing_node(node: TemplateNode) -> TemplateNode:
    if isinstance(node, ActionNode) and not node.pipeline.declarations:
        return replace(node, pipeline=replace(node.pipeline, commands=(*node.pipeline.commands, _SHOW)))
    if isinstance(node, _BRANCHES):
        return replace(
            node,
            body=_printing(node.body),
            else_body=None if node.else_body is None else _printing(node.else_body),
        )
    return node
