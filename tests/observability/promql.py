"""The expressions of the dashboard and of the rules, and what they need of /metrics."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
RULES = FOLDER / "rules.yaml"
RULES_TEST = FOLDER / "rules_test.yaml"
DASHBOARD = FOLDER / "dashboard.json"

TARGET_LABELS = frozenset({"namespace", "job", "instance"})
"""Labels that Prometheus gives to all that it scrapes of one target."""

GATEWAY = "envoy_"
"""What series of the gateway begin with; tests/gateway has a real one."""

_COMPARISON = re.compile(r"==|!=|>=|<=|>|<")
_VARIABLE = re.compile(r"\$(?!__)(\w+)")


@dataclass(frozen=True, slots=True)
class Need:
    """A series name, and the labels that it must have for the expression to mean what it says."""

    metric: str
    labels: frozenset[str]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def records() -> list[str]:
    return [rule["record"] for rule in rules() if "record" in rule]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_queries(window: str) -> Iterator[tuple[str, str]]:
    """Title and expression of every query, with every variable set to all and rates over `window`."""
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", window)
            yield panel["title"], _VARIABLE.sub(".*", expr)


def expressions() -> list[str]:
    """Everything that the dashboard and the rules evaluate."""
    return [expr for _, expr in panel_queries("1m")] + [rule["expr"] for rule in rules()]


def needs(expr: str) -> list[Need]:
    """What an expression reads. The labels it sums by count for every series under the sum."""
    return list(_needs(promql.parse(expr), frozenset()))


def _needs(node: Any, summed_by: frozenset[str]) -> Iterator[Need]:
    match node:
        case promql.VectorSelector():
            matched = {matcher.name for matcher in node.matchers.matchers}
            yield Need(node.name or "", summed_by | matched)
        case promql.AggregateExpr():
            by = node.modifier.labels if node.modifier else ()
            yield from _needs(node.expr, frozenset(by))
        case promql.MatrixSelector():
            yield from _needs(node.vector_selector, summed_by)
        case _:
            for child in _children(node):
                yield from _needs(child, summed_by)


def _children(node: Any) -> list[Any]:
    match node:
        case promql.BinaryExpr():
            return [node.lhs, node.rhs]
        case promql.Call():
            return list(node.args)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return [node.expr]
        case _:
            return []


def unsummed(expr: str) -> list[str]:
    """Series of servers that are returned, or matched with others, without an aggregation below.

    Where a server has several front ends such a series is there once for each of them.
    """
    return sorted(
        {name for name in _unsummed(promql.parse(expr), summed=False) if not name.startswith(GATEWAY)}
    )


def _unsummed(node: Any, *, summed: bool) -> Iterator[str]:
    match node:
        case promql.VectorSelector():
            if not summed and node.name not in records():
                yield node.name or ""
        case promql.MatrixSelector():
            yield from _unsummed(node.vector_selector, summed=summed)
        case promql.AggregateExpr():
            by = node.modifier.labels if node.modifier else ()
            yield from _unsummed(node.expr, summed="front_end" not in by)
        case promql.BinaryExpr():  # matches by all labels that both sides have
            for child in (node.lhs, node.rhs):
                yield from _unsummed(child, summed=False)
        case promql.Call() if node.func.name == "absent":
            return
        case _:
            for child in _children(node):
                yield from _unsummed(child, summed=summed)


def exported(exposition: str) -> dict[str, frozenset[str]]:
    """The series of a /metrics page, each with every label that some sample of it has."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: frozenset(labels) for name, labels in found.items()}


def unmet(exprs: Iterable[str], series: Mapping[str, frozenset[str]]) -> list[str]:
    """What expressions read and /metrics does not have; empty where every name and label exists."""
    recorded = records()
    missing: set[str] = set()
    for need in (need for expr in exprs for need in needs(expr)):
        if need.metric in recorded:
            continue
        if need.metric not in series:
            missing.add(need.metric)
        else:
            absent = need.labels - series[need.metric] - TARGET_LABELS
            missing.update(f"{need.metric}{{{label}}}" for label in absent)
    return sorted(missing)


def measured(expr: str) -> list[str]:
    """The parts of an alert's expression that have values also while all is well.

    That is what it compares, each side of `and` and `or`, and what must not be absent.
    """
    return [part.prettify() for part in _measured(promql.parse(expr))]


def _measured(node: Any) -> Iterator[Any]:
    match node:
        case promql.ParenExpr():
            yield from _measured(node.expr)
        case promql.BinaryExpr() if str(node.op) in ("and", "or", "unless"):
            yield from _measured(node.lhs)
            yield from _measured(node.rhs)
        case promql.BinaryExpr() if _COMPARISON.fullmatch(str(node.op)):
            yield from _measured(node.lhs)
        case _:
            yield promql.transform(node, _present)


def _present(node: Any) -> Any:
    return node.args[0] if isinstance(node, promql.Call) and node.func.name == "absent" else None
