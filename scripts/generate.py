"""Writes what is generated: whole files, and in documents what is between `<!-- generated:NAME -->` and
`<!-- /generated -->`.

`python -m scripts.generate` writes; with `--check` it only prints what would change, and exits 1 if anything
would.
"""

import argparse
import ast
import difflib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from app.catalogue.parameters import OPTIONS
from app.core.limits import InputLimits
from app.core.request import Sampling
from app.settings.models import ModelConfig
from app.settings.server import Settings
from app.settings.values import Address
from app.telemetry.instruments import INSTRUMENTS, Instrument
from scripts import chart_values, citations
from scripts.checklist import DEPARTURES, POINTS, departures, in_scope, ranges
from scripts.dashboard import dashboard_json
from scripts.differences import ROWS
from scripts.families import page as families

ROOT = Path(__file__).resolve().parents[1]
README = Path("README.md")
COMPATIBILITY = Path("docs/compatibility.md")
DASHBOARD = Path("deploy/observability/dashboard.json")
OPERATIONS = Path("docs/operations.md")
LIMITS = Path("docs/limits.md")
DIFFERENCES = Path("docs/vllm-differences.md")
FAMILIES = Path("docs/model-families.md")
CHART_README = Path("deploy/helm/caravan/README.md")
CHART_FILES = Path("deploy/helm/caravan/files")
RULES = Path("deploy/observability/rules.yaml")
END = "<!-- /generated -->"
_CITED = re.compile(r"docs/reference (\d+(?:\.\d+)?)")
_PART = re.compile(rf"<!-- generated:(?P<name>[\w-]+) -->\n.*?{re.escape(END)}", re.DOTALL)
MOST_SHOWN = 4
"""Tests that a row names; the nearest to a client come first."""
NEAREST = ("e2e", "api", "contract", "unit")
_SECONDS = {"keep_alive", "load_timeout", "body_timeout"}

Document = Mapping[str, Callable[[], str]]
"""The generated parts of a file, by name."""


def settings_tables() -> str:
    return f"{_settings_table()}\n\nA model, as an item of `models`:\n\n{_models_table()}"


def _settings_table() -> str:
    rows = (
        (_variables(name, field), _code(_default(name, field)), field.description or "")
        for name, field in sorted(Settings.model_fields.items(), key=_is_inherited)
    )
    return _table(("variable", "default", "meaning"), rows)


def _is_inherited(item: tuple[str, object]) -> bool:
    """Sorts what the server itself is set by first, then what engines are."""
    return item[0] not in vars(Settings)["__annotations__"]


def _models_table() -> str:
    rows = (
        (
            f"`{name}`",
            "required" if field.is_required() else _code(_default(name, field)),
            field.description or "",
        )
        for name, field in ModelConfig.model_fields.items()
    )
    return _table(("key", "default", "meaning"), rows)


def options_table() -> str:
    defaults = {field.name: field.default for field in fields(Sampling)}
    rows = (
        (
            f"`{name}`",
            option.type,
            _code(_value(defaults.get(name))),
            f"no-op: {option.no_op}" if option.no_op else "honoured",
        )
        for name, option in OPTIONS.items()
    )
    return _table(("option", "type", "default", "here"), rows)


def limits_table() -> str:
    rows = (
        (f"`{row.name}`", f"{row.default:,}", *(row.metadata[key] for key in ("counts", "where", "answer")))
        for row in fields(InputLimits)
    )
    return _table(("row", "at most", "what is counted", "where", "answer"), rows)


def differences_table() -> str:
    return _table(
        ("what", "here, and why", "requests"),
        (
            (
                row.title,
                _CITED.sub(lambda found: linked(f"section {found[1]}"), row.why),
                ", ".join(f"`{each}`" for each in row.requests),
            )
            for row in ROWS
        ),
    )


def families_table() -> str:
    return _table(families.HEAD, families.rows())


def departures_table() -> str:
    return _table(("where", "what we do instead"), ((linked(where), why) for where, why in departures()))


def points_table() -> str:
    found = proofs(ROOT / "tests")
    rows: list[Sequence[str]] = []
    for point in in_scope():
        tests = found.get(point.number, [])
        status = "unproven" if not tests else "departs" if point.number in DEPARTURES else "as Ollama"
        number = linked(f"point {point.number}").removeprefix("point ")
        rows.append((number, point.section, point.title, status, _names(tests)))
    table = _table(("point", "section", "what", "status", "tests"), rows)
    later = [point.number for point in POINTS.values() if point.not_yet]
    return f"{table}\n\nNot yet: {linked(f'points {ranges(later)}')}." if later else table


def linked(citation: str) -> str:
    """`points 1-3, 5` or `sections 2, 11.1` with a link to the reference on each number."""
    targets = citations.Targets(citations.ROOT)

    def link(match: re.Match[str]) -> str:
        first = match["first"]
        if citation.startswith("point"):
            to, anchor = citations.CHECKLIST, citations.POINT + first
        else:
            to, anchor = targets.sections[first], first
        return f"[{match.group()}]({to.relative_to(COMPATIBILITY.parent)}#{anchor})"

    return re.sub(r"(?P<first>\d+(\.\d+)?)(-\d+)?", link, citation)


def _names(tests: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in tests[:MOST_SHOWN])
    return shown + (f" and {len(tests) - MOST_SHOWN} more" if len(tests) > MOST_SHOWN else "")


def metrics_table() -> str:
    rows = (
        (
            f"`{each.name}`",
            f"`{prometheus_name(each)}`",
            each.kind,
            ", ".join(f"`{attribute}`" for attribute in each.attributes),
            each.description,
        )
        for each in INSTRUMENTS
    )
    return _table(("OpenTelemetry", "Prometheus", "kind", "attributes", "what"), rows)


def prometheus_name(instrument: Instrument) -> str:
    """What the exporter makes of it; a histogram is three series, `_bucket`, `_sum` and `_count`."""
    unit = {"s": "_seconds", "By": "_bytes"}.get(instrument.unit, "")
    return instrument.name.replace(".", "_") + unit + ("_total" if instrument.kind == "counter" else "")


def values_table() -> str:
    rows = chart_values.rows((ROOT / chart_values.VALUES).read_text("utf-8"))
    return _table(("value", "default", "meaning"), rows)


def rules_yaml() -> str:
    return (ROOT / RULES).read_text("utf-8")


DOCUMENTS: Mapping[Path, Document] = {
    README: {"settings": settings_tables},
    COMPATIBILITY: {"departures": departures_table, "options": options_table, "points": points_table},
    OPERATIONS: {"metrics": metrics_table},
    LIMITS: {"limits": limits_table},
    DIFFERENCES: {"differences": differences_table},
    FAMILIES: {"families": families_table},
    CHART_README: {"values": values_table},
}
FILES: Mapping[Path, Callable[[], str]] = {
    DASHBOARD: dashboard_json,
    CHART_FILES / "dashboard.json": dashboard_json,
    CHART_FILES / "rules.yaml": rules_yaml,
}

SETTINGS_SECTION = """
## Settings

Precedence: command line, environment, the YAML file that `--config` or `CARAVAN_CONFIG` names (its keys are
the names below in lower case, without the prefix), default. Where a line names two variables, the first wins.

<!-- generated:settings -->
<!-- /generated -->
"""


def fill(text: str, parts: Document) -> str:
    """`text` with its generated parts written anew; a `ValueError` unless they are exactly `parts`."""

    def write(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- generated:{name} -->\n{parts[name]()}\n{END}"

    names = [found["name"] for found in _PART.finditer(text)]
    if missing := [name for name in parts if names.count(name) != 1]:
        raise ValueError(f"generated parts must occur once, but do not: {', '.join(missing)}")
    if strange := [name for name in names if name not in parts]:
        raise ValueError(f"generated parts that nobody writes: {', '.join(strange)}")
    return _PART.sub(write, text)


def generate(path: Path) -> tuple[str, str]:
    """What a file says now and what it should say."""
    file = ROOT / path
    old = file.read_text("utf-8") if file.is_file() else ""
    if path in FILES:
        return old, FILES[path]()
    with_parts = old + SETTINGS_SECTION if path == README and not _PART.search(old) else old
    return old, fill(with_parts, DOCUMENTS[path])


def proofs(tests: Path) -> dict[int, list[str]]:
    """The names of the tests that carry `pytest.mark.point(n)`, by point, read without running them."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for folder in NEAREST:
        for file in sorted((tests / folder).rglob("test_*.py")):
            for name, number in _marked(ast.parse(file.read_text("utf-8"), str(file)).body):
                if name not in found[number]:
                    found[number].append(name)
    return dict(found)


def _marked(body: Iterable[ast.stmt], inherited: frozenset[int] = frozenset()) -> Iterator[tuple[str, int]]:
    statements = list(body)
    for statement in statements:
        if isinstance(statement, ast.Assign) and any(_is_pytestmark(target) for target in statement.targets):
            inherited |= _numbers([statement.value])
    for statement in statements:
        match statement:
            case ast.ClassDef():
                yield from _marked(statement.body, inherited | _numbers(statement.decorator_list))
            case ast.FunctionDef() | ast.AsyncFunctionDef() if statement.name.startswith("test_"):
                for number in inherited | _numbers(statement.decorator_list):
                    yield statement.name, number
            case _:
                pass


def _is_pytestmark(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "pytestmark"


def _numbers(expressions: Iterable[ast.expr]) -> frozenset[int]:
    """Every number given to `pytest.mark.point` within these, also to a single set of parameters."""
    calls = (
        node for expression in expressions for node in ast.walk(expression) if isinstance(node, ast.Call)
    )
    marks = (call for call in calls if ast.unparse(call.func) == "pytest.mark.point")
    return frozenset(ast.literal_eval(argument) for mark in marks for argument in mark.args)


def _variables(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [f"CARAVAN_{name.upper()}"]
    return ", ".join(f"`{variable}`" for variable in names)


def _default(name: str, field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    return _duration(value) if name in _SECONDS else _value(value)


def _value(value: Any) -> str:
    match value:
        case None | "" | () | [] | {}:
            return ""
        case bool():
            return str(value).lower()
        case Address():
            return f"{value.host}:{value.port}"
        case InputLimits():
            return ""
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{rest or seconds:g}s" if rest or not minutes else f"{minutes:g}m"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_line(row) for row in (head, ["---"] * len(head), *rows))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something would change")
    asked = parser.parse_args(arguments)
    drift = False
    for path in (*DOCUMENTS, *FILES):
        old, new = generate(path)
        if old == new:
            continue
        drift = True
        if asked.check:
            diff = difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(path), "generated", lineterm=""
            )
            print("\n".join(diff))
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(new, "utf-8")
            print(f"wrote {path}")
    return 1 if drift and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
