"""The library: well-formed, its names names, its parsers vLLM's."""

import importlib.util
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.catalogue.hub import is_repo
from app.catalogue.names import parse_name
from app.catalogue.serving import check_engine
from app.core.errors import BadManifest
from app.core.model import ModelName
from app.registry.library import Entry, find, load, read
from scripts import library_check
from tests.registry.stand_in import COMMIT, stand_in

ROWS = sorted(load().items())
_REGISTRY = re.compile(r'^    "([a-z0-9_-]+)": \(', re.MULTILINE)


def source_of(file: str) -> str:
    """A file of vLLM, read: importing it takes half a minute."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / file).read_text()


def parsers_of(package: str) -> set[str]:
    """The names that a package of vLLM registers."""
    found = set(_REGISTRY.findall(source_of(f"{package}/__init__.py")))
    assert len(found) > 20
    return found


def test_engine_arguments_are_those_that_a_manifest_may_set() -> None:
    for _, entry in ROWS:
        check_engine(entry.engine)
    with pytest.raises(BadManifest):
        check_engine({"trust_remote_code": True})


def test_there_are_enough_names() -> None:
    assert len(ROWS) >= 80


@pytest.mark.parametrize(("name", "entry"), ROWS, ids=[name for name, _ in ROWS])
def test_each_entry(name: str, entry: Entry) -> None:
    assert str(parse_name(name)) == name == name.lower()
    assert is_repo(entry.repo)
    assert re.fullmatch(r"|[0-9a-f]{40}", entry.revision)
    assert urlsplit(entry.source).scheme == "https"
    # A pull must not run code that a repository brings.
    assert "trust_remote_code" not in entry.engine
    assert "gguf" not in entry.repo.lower()


def test_each_model_has_one_that_is_the_latest() -> None:
    models = {name.partition(":")[0] for name, _ in ROWS}
    assert sorted(models - {name.partition(":")[0] for name, _ in ROWS if name.endswith(":latest")}) == [
        "gemma4",
        "ministral-3",
    ]


def test_no_repository_is_there_twice() -> None:
    rows = {id(entry): entry.repo for _, entry in ROWS}
    assert [repo for repo, count in Counter(rows.values()).items() if count > 1] == []


def test_tool_parsers_are_vllms() -> None:
    assert {entry.tool_parser for _, entry in ROWS} - {""} <= parsers_of("tool_parsers")


def test_reasoning_parsers_are_vllms() -> None:
    assert {entry.reasoning_parser for _, entry in ROWS} - {""} <= parsers_of("reasoning")


def test_engine_arguments_are_vllms() -> None:
    fields = set(re.findall(r"^    (\w+): ", source_of("engine/arg_utils.py"), re.MULTILINE))
    assert {key for _, entry in ROWS for key in entry.engine} <= fields


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        (ModelName("llama3.1"), "meta-llama/Llama-3.1-8B-Instruct"),
        (ModelName("Llama3.1", "8B"), "meta-llama/Llama-3.1-8B-Instruct"),
        (ModelName("llama3.1", namespace="somebody"), None),
        (ModelName("llama3.1", host="localhost"), None),
        (ModelName("llama3.1", "8b-instruct-q4_K_M"), None),
    ],
)
def test_which_names_are_found(name: ModelName, repo: str | None) -> None:
    entry = find(name)
    assert (entry.repo if entry else None) == repo


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [{names: [a:b], repo: o/r, source: x, extra: 1}]", "unknown extra"),
        ("models: [{names: [a:b, a:b], repo: o/r, source: x}]", "a:b is there twice"),
    ],
)
def test_files_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(text)


def test_the_check_asks_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in({"o/good": {"model.safetensors": b""}, "o/pickle": {"model.bin": b""}}) as hub:
        page = f"{hub.endpoint}/o/good/resolve/main/model.safetensors"
        rows = [
            f"{{names: [a:1], repo: o/good, revision: {COMMIT}, source: '{page}'}}",
            f"{{names: [a:2], repo: o/pickle, source: '{page}'}}",
            f"{{names: [a:3], repo: o/none, source: '{hub.endpoint}/nosuch'}}",
        ]
        file = tmp_path / "library.yaml"
        file.write_text(f"models: [{', '.join(rows)}]")
        assert library_check.main(["--endpoint", hub.endpoint, "--file", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "o/pickle: it has no safetensors",
        "o/none: the hub answers 404 for revision main",
        f"o/none: its source {hub.endpoint}/nosuch answers 404",
        "3 repositories, 3 faults",
    ]
