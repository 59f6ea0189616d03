"""Owns the order in which llguidance compiles the definitions of a grammar.

It compiles a rule when it first meets its name, inside the compilation of the rule that has the name: a chain
of names takes as much of a thread's stack as it is long, and the process dies where that ends. So rules are
named before they are used, from the last of the chain to the first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.constrain.budget import Budget
from app.constrain.types import refusal

MAX_CIRCLES = 100
"""Circles of definitions inside one another; each takes two rules' worth of the stack, which has 2,000's."""


@dataclass(frozen=True, slots=True)
class Definition:
    body: str
    rules: list[str]
    """The rules that the body is made of, each after those that it refers to."""

    uses: set[str]
    """The definitions that body and rules refer to."""


def compile_order(
    definitions: Mapping[str, Definition], budget: Budget
) -> tuple[list[str], dict[str, list[str]]]:
    """The definitions, each after those it uses; and for one that leads back to itself, those of its circle,
    which are to be compiled when it is begun: each then finds it begun, and goes no further.

    Raises:
        InvalidRequest: where circles are inside one another to more than `MAX_CIRCLES`.
    """
    inside: dict[str, list[str]] = {}
    ordered: list[str] = []
    left = [(set(definitions), ordered, 0)]
    while left:
        names, into, depth = left.pop()
        if depth > MAX_CIRCLES:
            raise refusal((), f"definitions refer to one another in more than {MAX_CIRCLES} circles")
        uses = {name: definitions[name].uses & names for name in names}
        for part in _components(uses, budget):
            if len(part) == 1:
                into.append(part[0])
                continue
            head = _most_used(part, uses)
            into.append(head)
            inside[head] = []
            left.append((set(part) - {head}, inside[head], depth + 1))
    return ordered, inside


def _most_used(part: Iterable[str], uses: Mapping[str, set[str]]) -> str:
    users = dict.fromkeys(sorted(part), 0)
    for name in users:
        for used in uses[name]:
            if used in users:
                users[used] += 1
    return max(users, key=lambda name: users[name])


def _components(uses: Mapping[str, set[str]], budget: Budget) -> list[list[str]]:
    """Tarjan's strongly connected components, each after those it uses."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_names: list[str] = []
    is_open: set[str] = set()
    for root in sorted(uses):
        if root in index:
            continue
        work = [(root, iter(sorted(uses[root])))]
        index[root] = lowest[root] = len(index)
        open_names.append(root)
        is_open.add(root)
        while work:
            name, following = work[-1]
            for used in following:
                budget.spend()
                if used not in index:
                    index[used] = lowest[used] = len(index)
                    open_names.append(used)
                    is_open.add(used)
                    work.append((used, iter(sorted(uses[used]))))
                    break
                if used in is_open:
                    lowest[name] = min(lowest[name], index[used])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    lowest[above] = min(lowest[above], lowest[name])
                if lowest[name] == index[name]:
                    part = [open_names.pop()]
                    while part[-1] != name:
                        part.append(open_names.pop())
                    is_open.difference_update(part)
                    found.append(part)
    return found
