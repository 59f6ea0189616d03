"""Which levels of thinking a model has, by what its chat template tells apart."""

from collections.abc import Iterator

from jinja2 import nodes

from app.catalogue.templates import EFFORT, parsed, thinking_variable
from app.core.model import ThinkingLevels

INTENSITY = ("minimal", "low", "medium", "high", "xhigh", "max")
OFF = "none"
"""The level by which templates mean no thinking at all."""

GPT_OSS_PARSER = "openai_gptoss"
GPT_OSS = ThinkingLevels(("low", "medium", "high"), "medium")
"""Its template prints the level without a look at it."""


def thinking_levels(template: str, reasoning_parser: str | None) -> ThinkingLevels | None:
    """None where the model cannot think, and where its template takes a level and tells none apart."""
    if not template or reasoning_parser is None:
        return None
    if reasoning_parser == GPT_OSS_PARSER:
        return GPT_OSS
    variable = thinking_variable(template)
    if variable is None:
        return ThinkingLevels((True,), True)
    effort = _Effort(parsed(template))
    names = effort.names
    if not names:
        return None if variable == EFFORT else ThinkingLevels((False, True), True)
    off = (False,) if variable != EFFORT or OFF in names else ()
    levels = tuple(_in_order(names))
    default = False if effort.default == OFF else effort.default
    if default not in (*off, *levels):
        default = "medium" if "medium" in levels else (*off, *levels)[-1]
    return ThinkingLevels((*off, *levels), default)


def _in_order(names: list[str]) -> list[str]:
    """From little to much; what nobody has a rank for stays in the template's order."""
    known = [name for name in INTENSITY if name in names]
    return known + [name for name in dict.fromkeys(names) if name not in (*INTENSITY, OFF)]


class _Effort:
    """What a template does with the effort, under whatever name it keeps it."""

    def __init__(self, tree: nodes.Template | None) -> None:
        self._about = {EFFORT}
        self.names: list[str] = []
        self.default = ""
        if tree is not None:
            self.default = next(self._defaults(tree), "")
            self.names = list(self._compared(tree))

    def _defaults(self, tree: nodes.Template) -> Iterator[str]:
        """The texts that it stands for where it is not given."""
        for choice in tree.find_all(nodes.CondExpr):
            if self._reads(choice.test) and choice.expr2 is not None:
                yield from _texts(choice.expr2)
        for filtered in tree.find_all(nodes.Filter):
            if filtered.name in ("default", "d") and filtered.node and self._reads(filtered.node):
                yield from _texts(*filtered.args[:1])
        for assign in tree.find_all(nodes.Assign):
            if isinstance(assign.target, nodes.Name) and assign.target.name == EFFORT:
                yield from _texts(assign.node)

    def _compared(self, tree: nodes.Template) -> Iterator[str]:
        for assign in tree.find_all(nodes.Assign):
            if isinstance(assign.target, nodes.Name) and self._reads(assign.node):
                self._about.add(assign.target.name)
        for compare in tree.find_all(nodes.Compare):
            sides = (compare.expr, *(operand.expr for operand in compare.ops))
            if any(map(self._reads, sides)):
                yield from _texts(*sides)

    def _reads(self, node: nodes.Node) -> bool:
        found = [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)
        return any(name.name in self._about for name in found)


def _texts(*expressions: nodes.Node) -> Iterator[str]:
    """The constants that are texts: such an expression, or an item of a list."""
    for node in expressions:
        if isinstance(node, nodes.Const) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, nodes.List | nodes.Tuple):
            yield from _texts(*node.items)
