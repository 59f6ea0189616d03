"""`docs/dependencies.md` has a line for each direct dependency, in the group of pyproject.toml."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TABLES = dict(
    re.findall(
        r"^## (.+?)\n(.+?)(?=^## |\Z)", (ROOT / "docs/dependencies.md").read_text("utf-8"), re.M | re.S
    )
)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", requirement, maxsplit=1)[0] for requirement in requirements}


def told(table: str) -> dict[str, str]:
    """What each package of a table is for."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", TABLES[table], re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a package comes twice"
    return dict(rows)


def test_each_dependency_has_a_line_and_each_line_a_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = {
        "Run time": names(PROJECT["dependencies"]),
        "Engine (`cpu` or `gpu`)": names(extras["cpu"] + extras["gpu"]),
        "Load tests (`loadtest`)": names(extras["loadtest"]),
        "Development (`dev`)": names(extras["dev"]),
    }
    assert {table: set(told(table)) for table in TABLES} == declared


def test_each_line_says_what_for() -> None:
    assert [name for table in TABLES for name, purpose in told(table).items() if not purpose.strip()] == []


def test_what_is_declared_is_locked() -> None:
    locks = "".join(
        (ROOT / "requirements" / f"{name}.lock").read_text() for name in ("cpu", "gpu", "dev", "loadtest")
    )
    locked = {
        line.partition("==")[0].lower().replace("_", "-") for line in locks.splitlines() if "==" in line
    }
    declared = {name for table in TABLES for name in told(table)}
    assert declared <= locked
