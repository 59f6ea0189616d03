"""The Debian programs that tests need, unpacked into a cache: `python -m scripts.tools [programs...]`.

Nothing is installed and no service is started, so any user may run it. A program on PATH is used as it is.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

PACKAGES: Mapping[str, str] = {
    "chromium": "chromium",
    "docker-registry": "docker-registry",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "redis-cli": "redis-server",
}
"""The Debian package that brings each program."""
CACHE = Path(os.environ.get("CACHE", "~/.cache/caravan")).expanduser() / "tools"
FETCH_S = 300
"""Longest time one call of apt may take."""


class NoApt(Exception):
    """This machine has no apt, and the program is not on PATH either."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that can be run: its path, and what its environment needs besides the usual."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def env(self) -> dict[str, str]:
        """The whole environment, as `subprocess` takes it."""
        return os.environ | dict(self.environment)


def tool(name: str, cache: Path = CACHE) -> Tool:
    """The program `name`, fetched first if neither PATH nor `cache` has it; `NoApt` where that cannot be."""
    if found := shutil.which(name):
        return Tool(Path(found))
    root = fetch(PACKAGES[name], cache)
    libraries = sorted({str(file.parent) for file in root.glob("usr/lib/**/*.so*")})
    known = os.environ.get("LD_LIBRARY_PATH")
    path = os.pathsep.join([*libraries, *([known] if known else [])])
    return Tool(_program(root, name), {"LD_LIBRARY_PATH": path} if libraries else {})


def _program(root: Path, name: str) -> Path:
    # Debian's /usr/bin/chromium is a script that looks for the browser below the machine's own /usr/lib.
    for folder in (f"usr/lib/{name}", "usr/bin", "usr/sbin"):
        if (path := root / folder / name).exists():
            return path
    raise FileNotFoundError(f"package {PACKAGES[name]} has no program {name} in {root}")


def fetch(package: str, cache: Path = CACHE) -> Path:
    """The folder that holds a package and the libraries it lacks here, as their files would lie below /."""
    cache = cache.absolute()  # apt takes a relative path for one below its own folder, and fetches nothing
    root = cache / package
    if root.exists():
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NoApt(f"the Debian package {package} is needed and this machine has no apt; install it by hand")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if not root.exists():
            print(f"fetching {package} into {cache}", file=sys.stderr)
            with TemporaryDirectory(dir=cache) as scratch:
                unpacked = Path(scratch) / "root"
                for archive in _download(package, Path(scratch), cache / "lists"):
                    _run("dpkg-deb", "--extract", str(archive), str(unpacked))
                unpacked.rename(root)
    return root


def _download(package: str, scratch: Path, lists: Path) -> Iterator[Path]:
    """The package and what it depends on that this machine lacks; not what fits any machine (fonts, scripts).

    The machine's package lists may be missing or out of date; then fresh ones of our own are read.
    """
    archives = scratch / "archives"
    (archives / "partial").mkdir(parents=True)
    asked = ("install", "--download-only", "--yes", "--reinstall", "--no-install-recommends", package)
    options = {"Dir::Cache::archives": str(archives)}
    try:
        _apt(options, *asked)
    except subprocess.CalledProcessError:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        options["Dir::State::lists"] = str(lists)
        _apt(options, "update")
        _apt(options, *asked)
    return (file for file in sorted(archives.glob("*.deb")) if not file.name.endswith("_all.deb"))


def _apt(options: Mapping[str, str], *arguments: str) -> None:
    """Neither locks nor users of the machine's own apt: nothing of its state is written."""
    given = {"Debug::NoLocking": "1", "APT::Sandbox::User": "root", "Acquire::Retries": "3"} | dict(options)
    settings = [part for name, value in given.items() for part in ("-o", f"{name}={value}")]
    _run("apt-get", *settings, *arguments)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_S)
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stdout}\n{error.stderr}".strip())
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts.tools", description=__doc__)
    parser.add_argument("programs", nargs="*", default=list(PACKAGES), help="what to fetch; all by default")
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args(arguments)
    try:
        for name in asked.programs:
            print(f"{name}: {tool(name, asked.cache).path}")
    except NoApt as error:
        print(f"{error}; tests that need it are skipped", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
