"""Whether a chat template goes through a message's content as a list of parts, or takes it as a text.

The same rules as vLLM's own detection, which imports torch and compiles the template in the server.
"""

from collections.abc import Iterator

from jinja2 import nodes

_CONTENT = "content"


def takes_parts(tree: nodes.Template) -> bool:
    """Takes time that grows with the template's square at most: within a process that is bounded."""
    messages = _assigned(tree, "messages")
    loops = list(tree.find_all(nodes.For))
    message = {
        loop.target.name
        for loop in loops
        if isinstance(loop.target, nodes.Name) and _name(_bare(loop.iter)) in messages
    }
    macros = list(tree.find_all(nodes.Macro))
    inner = {id(loop): macro for macro in macros for loop in macro.find_all(nodes.For)}
    given = _given(tree, macros, message)
    return any(
        _is_content(loop.iter, message)
        or (
            _name(loop.iter) in given[inner[id(loop)].name]
            if id(loop) in inner
            else _name(loop.iter) == _CONTENT
        )
        for loop in loops
    )


def _assigned(tree: nodes.Template, first: str) -> set[str]:
    """`first`, and the names that it is assigned to, whole or in part."""
    names, size = {first}, 0
    pairs = [
        (each.target.name, _name(_bare(each.node)))
        for each in tree.find_all(nodes.Assign)
        if isinstance(each.target, nodes.Name)
    ]
    while size != len(names):
        size = len(names)
        names |= {target for target, source in pairs if source in names}
    return names


def _given(tree: nodes.Template, macros: list[nodes.Macro], message: set[str]) -> dict[str, set[str]]:
    """By macro the parameters that a message's content is given as."""
    parameters = {macro.name: [str(each.name) for each in macro.args] for macro in macros}
    given: dict[str, set[str]] = {name: set() for name in parameters}
    for call in tree.find_all(nodes.Call):
        known = parameters.get(_name(call.node) or "")
        if known is None:
            continue
        found = given[str(_name(call.node))]
        found |= {name for name, each in zip(known, call.args, strict=False) if _is_content(each, message)}
        found |= {each.key for each in call.kwargs if each.key in known and _is_content(each.value, message)}
    return given


def _is_content(node: nodes.Node, message: set[str]) -> bool:
    match _bare(node):
        case nodes.Getattr(node=owner, attr=key) if key == _CONTENT:
            return _name(owner) in message
        case nodes.Getitem(node=owner, arg=nodes.Const(value=key)) if key == _CONTENT:
            return _name(owner) in message
        case _:
            return False


def _bare(node: nodes.Node) -> nodes.Node:
    """Without filters, tests and slices."""
    *_, last = _within(node)
    return last


def _within(node: nodes.Node) -> Iterator[nodes.Node]:
    while True:
        yield node
        inner = getattr(node, "node", None)
        is_part = isinstance(node, nodes.Filter | nodes.Test) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        )
        if not is_part or inner is None:
            return
        node = inner


def _name(node: nodes.Node) -> str | None:
    return node.name if isinstance(node, nodes.Name) and node.ctx == "load" else None
