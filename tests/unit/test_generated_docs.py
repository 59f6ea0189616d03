import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import AliasChoices

from app.api import errors, ops
from app.api.anthropic import routes as anthropic
from app.api.ollama import manage, models, routes, web
from app.api.ollama.changes import CopyBody, CreateBody, DeleteBody, TransferBody
from app.api.ollama.schema import ChatBody, EmbedBody, EmbeddingBody, GenerateBody, ShowBody
from app.api.ollama.unserved import ROUTES as UNSERVED
from app.api.openai import models as openai_models
from app.api.openai import routes as openai_routes
from app.api.openai.responses import routes as responses
from app.catalogue.library import Library
from app.catalogue.parameters import OPTIONS
from app.core.limits import InputLimits
from app.core.model import Model
from app.core.request import Message
from app.engine.base import Engine
from app.main import build_app
from app.settings.models import ModelConfig
from app.settings.server import Settings, read_settings
from scripts import generate
from scripts.chart_values import VALUES
from scripts.chart_values import rows as value_rows
from scripts.generate import (
    CHART_README,
    COMPATIBILITY,
    DIFFERENCES,
    END,
    FAMILIES,
    LIMITS,
    OPERATIONS,
    README,
    ROOT,
    RULES,
    fill,
    proofs,
)

DOCUMENT = (ROOT / COMPATIBILITY).read_text("utf-8")
CLIENTS = (ROOT / "docs/clients.md").read_text("utf-8")
BODIES = {
    "`POST /api/generate`": GenerateBody,
    "`POST /api/chat`": ChatBody,
    "`POST /api/embed`": EmbedBody,
    "`POST /api/embeddings`": EmbeddingBody,
    "`POST /api/show`": ShowBody,
    "`POST /api/create`": CreateBody,
    "`POST /api/copy`": CopyBody,
    "`DELETE /api/delete`": DeleteBody,
    "`POST /api/pull`": TransferBody,
    "`POST /api/push`": TransferBody,
}


def section(heading: str) -> str:
    return DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents in which nothing was generated yet."""
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    parts = "\n".join(f"<!-- generated:{name} -->\n{END}\n" for name in ("departures", "options", "points"))
    (tmp_path / COMPATIBILITY).write_text(f"# Compatibility\n\n{parts}after\n")
    (tmp_path / README).write_text("# Caravan\n")
    (tmp_path / OPERATIONS).write_text(f"# Operations\n\n<!-- generated:metrics -->\n{END}\n")
    (tmp_path / LIMITS).write_text(f"# Limits\n\n<!-- generated:limits -->\n{END}\n")
    (tmp_path / DIFFERENCES).write_text(f"# Differences\n\n<!-- generated:differences -->\n{END}\n")
    (tmp_path / FAMILIES).write_text(f"# Families\n\n<!-- generated:families -->\n{END}\n")
    (tmp_path / CHART_README).parent.mkdir(parents=True)
    (tmp_path / CHART_README).write_text(f"# Chart\n\n<!-- generated:values -->\n{END}\n")
    for file in (VALUES, RULES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text("utf-8"))
    return tmp_path


@pytest.mark.parametrize("heading", BODIES)
def test_every_field_a_client_may_send_is_explained(heading: str) -> None:
    sent = {field.name for field in fields(BODIES[heading])}
    if "debug_render_only" in sent:
        sent = sent - {"debug_render_only"} | {"_debug_render_only"}
    if "base" in sent:  # what is `from` on the wire is a word of Python
        sent = sent - {"base"} | {"from"}
    if "messages" in sent:
        names = {field.name for field in fields(Message)} - {"parts"} | {"content", "images"}
        sent |= {f"messages[].{name}" for name in names}
    assert {row[0].strip("`") for row in rows(section(heading))} == sent
    assert {row[1] for row in rows(section(heading))} <= {"done", "partly", "refused", "no-op", "extra"}


def routed() -> Iterator[tuple[str, str]]:
    for method, path, state in rows(section("Routes")):
        for each in method.split(", "):
            yield each.strip("`") + " " + path.strip("`"), state


@pytest.mark.parametrize(("route", "state"), list(routed()))
async def test_the_routes_are_those_that_are_listed(route: str, state: str) -> None:
    async def start(_: Model) -> Engine:
        raise AssertionError("nothing can be loaded")

    app = build_app(read_settings(), Library([]), start)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        method, path = route.split()
        answer = await client.request(method, path)
    assert answer.text != "404 page not found"
    assert (answer.status_code == 403) == (state in ("not yet", "refused", "off by default"))


def test_every_route_that_is_served_is_listed() -> None:
    listed = {route for route, state in routed() if state not in ("not yet", "refused")}
    served = [
        f"{method} {route.path.replace('{model}', 'm')}"
        for each in (manage, models, ops, routes, web, anthropic, openai_models, openai_routes, responses)
        for route in each.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    ]
    assert listed == {*served}


def test_every_status_of_an_error_is_listed() -> None:
    line = section("Headers and errors").split("\n- Statuses are ")[1].split(". ")[0]
    listed = {int(number) for number in re.findall(r"\d{3}", line)}
    assert listed >= {int(status) for status in errors.STATUS.values()}


@pytest.mark.parametrize("file", [README, OPERATIONS, COMPATIBILITY])
def test_no_document_says_that_routes_which_are_open_ask_for_a_key(file: Path) -> None:
    """The open paths are a setting whose default clients rely on."""
    text = " ".join((ROOT / file).read_text("utf-8").split())
    told = re.findall(r"every route but [^.:|]*asks for a(?:n API)? key", text)
    assert all(f"`{path}`" in each for each in told for path in Settings().open_paths)
    assert told


def test_every_route_that_is_refused_is_listed() -> None:
    listed = {route.rpartition(" ")[2] for route, state in routed() if state in ("not yet", "refused")}
    for each in UNSERVED:
        assert any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each.path), path) for path in listed), each


def test_every_test_that_is_named_exists() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    known = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    named |= set(re.findall(r"`(test_\w+)`", (ROOT / "docs/anthropic.md").read_text("utf-8")))
    named |= set(re.findall(r"`(test_\w+)`", CLIENTS))
    assert named - known == set()
    assert len(named) > 50


def test_every_setting_that_clients_are_told_of_exists() -> None:
    told = set(re.findall(r"\bCARAVAN_(\w+)", CLIENTS))
    assert told
    assert {name.lower() for name in told} <= set(Settings.model_fields)


def test_what_is_told_of_a_client_is_proven_or_read_somewhere() -> None:
    items = [" ".join(item.split()) for item in re.findall(r"^- .+(?:\n  .+)*", CLIENTS, re.MULTILINE)]
    assert len(items) > 50
    sources = re.compile(r"`test_\w+`|[Rr]ead in\*|was not run here|\]\(\w+\.md\)", re.ASCII)
    assert [item for item in items if not sources.search(item)] == []


def test_every_environment_of_a_client_is_installed_by_make() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for variable, found in {
        "CLIENTS": [file.stem for file in (ROOT / "requirements/clients").glob("*.lock")],
        "NPM_CLIENTS": [
            file.parent.name for file in (ROOT / "tests/clients/npm").glob("*/package-lock.json")
        ],
    }.items():
        (listed,) = re.findall(rf"^{variable} := (.+)", makefile, re.MULTILINE)
        assert set(listed.split()) == set(found)


def test_every_variable_shared_with_ollama_is_listed() -> None:
    listed = {row[0] for row in rows(section("Environment variables")) if row[1].startswith("honoured")}
    aliases = (field.validation_alias for field in Settings.model_fields.values())
    seconds = {str(alias.choices[1]) for alias in aliases if isinstance(alias, AliasChoices)}
    assert listed == {f"`{name}`" for name in seconds if name.startswith("OLLAMA_")}


def test_documents_are_written_once_and_then_current(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 1
    assert "+| variable | default | meaning |" in capsys.readouterr().out
    assert (root / README).read_text() == "# Caravan\n"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert (root / COMPATIBILITY).read_text().endswith(f"{END}\nafter\n")


def test_a_readme_without_the_parts_gets_a_section_at_its_end(root: Path) -> None:
    generate.main([])
    readme = (root / README).read_text()
    assert readme.startswith("# Caravan\n\n## Settings\n")
    assert readme.count("generated:settings") == 1
    for name in Settings.model_fields:
        assert f"`CARAVAN_{name.upper()}`" in readme
    for name in ModelConfig.model_fields:
        assert f"| `{name}` |" in readme
    assert "| `CARAVAN_HOST`, `OLLAMA_HOST` | `127.0.0.1:11434` |" in readme
    assert "| `CARAVAN_KEEP_ALIVE`, `OLLAMA_KEEP_ALIVE` | `5m` |" in readme
    assert "| `CARAVAN_CACHE_DIR` | `~/.cache/caravan` |" in readme


def test_options_say_what_becomes_of_them(root: Path) -> None:
    generate.main([])
    text = (root / COMPATIBILITY).read_text()
    assert "| `temperature` | float32 | `0.8` | honoured |" in text
    for name, option in OPTIONS.items():
        assert re.search(rf"\| `{name}` \| {option.type} \| .*{re.escape(option.no_op)} \|", text)


def test_a_part_that_is_missing_or_doubled_is_an_error() -> None:
    part = f"<!-- generated:a -->\nold\n{END}\n"
    assert fill(f"x\n{part}y\n", {"a": lambda: "new"}) == f"x\n<!-- generated:a -->\nnew\n{END}\ny\n"
    for text in ("", part + part):
        with pytest.raises(ValueError, match="must occur once, but do not: a"):
            fill(text, {"a": lambda: "new"})
    with pytest.raises(ValueError, match="nobody writes: b"):
        fill(part + part.replace(":a", ":b"), {"a": lambda: "new"})


def test_marks_are_found_wherever_they_stand(tmp_path: Path) -> None:
    for folder, source in {
        "unit": """
            import pytest
            pytestmark = [pytest.mark.engine, pytest.mark.point(1)]
            @pytest.mark.point(2, 3)
            async def test_a(): pass
            @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.point(4))])
            def test_b(x): pass
            def helper(): pass
            """,
        "e2e": """
            import pytest
            @pytest.mark.point(5)
            class TestC:
                pytestmark = pytest.mark.point(6)
                def test_c(self): pass
                def test_b(self): pass
            @pytest.mark.point(1)
            def test_d(): pass
            """,
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_it.py").write_text(dedent(source))
    assert proofs(tmp_path) == {
        1: ["test_d", "test_a", "test_b"],
        2: ["test_a"],
        3: ["test_a"],
        4: ["test_b"],
        5: ["test_c", "test_b"],
        6: ["test_c", "test_b"],
    }


def test_every_value_of_the_chart_is_explained() -> None:
    text = "a:\n  # -- First.\n  # More.\n  b: 1\n# -- Second.\nc: {d: x}\n"
    assert value_rows(text) == [("`a.b`", "`1`", "First. More."), ("`c`", '`{"d": "x"}`', "Second.")]
    with pytest.raises(ValueError, match=r"does not explain a\.b"):
        value_rows("a:\n  b: 1\n")


@pytest.mark.parametrize("row", fields(InputLimits), ids=lambda row: row.name)
def test_a_limit_is_kept_in_a_file_that_exists(row: Field[int]) -> None:
    for name in row.metadata["where"].split(", "):
        assert (ROOT / "app" / name).is_file(), name
