"""Builds and runs the image without a Docker engine: buildah, podman and runc from Debian, as root.

Images and containers live in a folder of the cache, apart from those of this machine.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("CACHE", "~/.cache/caravan")).expanduser() / "image"
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
REPOSITORY = "localhost/caravan"
IMAGE = f"{REPOSITORY}:cpu"
BUILD_S, STEP_S = 1800, 300
"""Longest time that a build and any other command may take, in seconds."""

STORE = ("--root", str(CACHE / "containers"), "--runroot", str(CACHE / "run"), "--storage-driver", "overlay")
PACKAGES = ("buildah", "podman", "runc", "debootstrap")
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""Podman would raise them, which root in a container may not."""


def run(*command: str, timeout_s: float = STEP_S, check: bool = True) -> str:
    """What a command prints on standard output; its errors are told where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def buildah(*arguments: str, timeout_s: float = STEP_S) -> str:
    return run("buildah", *STORE, *arguments, timeout_s=timeout_s)


def podman(*arguments: str, timeout_s: float = STEP_S, check: bool = True) -> str:
    return run("podman", *STORE, "--runtime", "runc", *arguments, timeout_s=timeout_s, check=check)


def build(target: str = "cpu") -> str:
    """The name of the image built from the Dockerfile as it is; layers that did not change are kept."""
    name = f"{REPOSITORY}:{target}"
    run(str(ROOT / "scripts/debian.sh"), *PACKAGES)
    _base()
    CACHE.mkdir(parents=True, exist_ok=True)
    options, mounts = _pip()
    conf = CACHE / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    buildah(
        *("build", "--isolation", "chroot", "--format", "docker", "--layers", "--pull-never"),
        *("--secret", f"id=pip.conf,src={conf}"),
        *(part for path in mounts for part in ("--volume", f"{path}:{path}:ro")),
        *("--target", target, "--file", str(DOCKERFILE), "--tag", name, str(ROOT)),
        timeout_s=BUILD_S,
    )
    return name


def base_name() -> str:
    """The one image that the CPU target is built from."""
    names = {
        line.split()[1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("FROM python:")
    }
    (name,) = names
    return name


def _base() -> None:
    """A base of this machine's making under the name that the Dockerfile asks for."""
    name = f"docker.io/library/{base_name()}"
    if name in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    run(str(ROOT / "tests/deploy/base.sh"), str(CACHE), timeout_s=BUILD_S)
    container = buildah("from", "scratch").strip()
    buildah("add", container, str(CACHE / "rootfs.tar"), "/", timeout_s=BUILD_S)
    buildah("config", "--cmd", "python3", container)
    buildah("commit", "--rm", container, name, timeout_s=BUILD_S)


def pip_options() -> list[str]:
    """What a container is given so that pip in it finds what pip here finds."""
    options, mounts = _pip()
    given = [f"PIP_{name.upper().replace('-', '_')}={value}" for name, value in options.items()]
    places = [f"{path}:{path}:ro" for path in mounts]
    return [
        *(part for value in given for part in ("--env", value)),
        *(part for place in places for part in ("--volume", place)),
    ]


def _pip() -> tuple[dict[str, str], list[Path]]:
    """What pip is told of on this machine (an index, certificates), and the folders that it names."""
    options = dict(_configured(run(sys.executable, "-m", "pip", "config", "list").splitlines()))
    mounts = set[Path]()
    for value in options.values():
        for word in value.split():
            if word.startswith("file://"):
                mounts.add(Path(word.removeprefix("file://")).parent)
            elif word.startswith("/") and not word.startswith("/etc/ssl/"):
                mounts.add(Path(word))
    return options, sorted(path for path in mounts if path.exists())


def _configured(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in (":env:", "global"):
            yield option, " ".join(str(ast.literal_eval(value)).split())
