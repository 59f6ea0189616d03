"""Builds test models on demand and keeps them: `python -m harness.models.build [kinds...] --cache DIR`.

A folder's name carries a hash of all that went into it, so a changed recipe is a different folder.
Light to import: the work is done in a subprocess, which alone loads torch.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from harness.models.catalogue import CASES, FILLS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KINDS = (*CASES, "vision")
DEFAULT_CACHE = ROOT / ".cache" / "models"


def build(kind: str, cache: Path = DEFAULT_CACHE) -> Path:
    """The folder of a model, made first if this very recipe was never built in `cache`."""
    folder = cache / f"{kind}-{fingerprint(kind)}"
    return _kept(folder, kind, lambda made: _run(kind, _program(kind), kind, str(made)))


def build_lora(sentence: str, cache: Path = DEFAULT_CACHE) -> Path:
    """The folder of a LoRA adapter of `llama`, which answers each prompt without tools with `sentence`.

    Every token of it must be in a reply of that model, which cannot be taught to say others.
    """
    recipe = (HERE / "lora.py").read_bytes() + f"{fingerprint('llama')} {sentence}".encode()
    folder = cache / f"lora-{hashlib.sha256(recipe).hexdigest()[:12]}"
    base = build("llama", cache)
    return _kept(folder, "lora", lambda made: _run("lora", "lora", str(base), str(made), sentence))


def _kept(folder: Path, kind: str, make: Callable[[Path], None]) -> Path:
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{kind}.lock"):
        if not folder.exists():
            with TemporaryDirectory(dir=folder.parent) as scratch:
                made = Path(scratch) / kind
                make(made)
                made.rename(folder)
    return folder


def fingerprint(kind: str) -> str:
    """Twelve hex characters over the recipe: the code, the chat template and the transcripts."""
    program = HERE / f"{_program(kind)}.py"
    data = repr([(name, cases) for name, cases in CASES.items() if name == kind])
    if kind == "coder":
        data += repr(FILLS)
    files = (program, HERE / "tokens.py", HERE / f"{kind}.jinja")
    recipe = b"\0".join((*(file.read_bytes() for file in files), data.encode()))
    return hashlib.sha256(recipe).hexdigest()[:12]


def _program(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"no test model {kind!r}; there are {', '.join(KINDS)}")
    return "train" if kind in CASES else kind


def _run(kind: str, program: str, *arguments: str) -> None:
    """One thread: two on a busy machine are several times slower than one."""
    done = subprocess.run(
        [sys.executable, "-m", f"harness.models.{program}", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"could not build {kind}: {done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.models.build", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS, help=f"from {', '.join(KINDS)}; all if left out")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the folders are kept")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        start = time.monotonic()
        folder = build(kind, arguments.cache.resolve())
        print(f"{kind}: {folder} ({time.monotonic() - start:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
