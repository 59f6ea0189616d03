"""GGUF files: turned once into a folder that vLLM can serve on any device.

The weights are dequantised by transformers in a process of its own (`python -m app.catalogue.gguf`), so
that the server never carries what that takes. What the file says of itself is kept beside the weights.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, Any, TypeAlias
from uuid import uuid4

import orjson
from filelock import FileLock

from app.catalogue.digest import FileHashes
from app.catalogue.headers import BadHeader, read_gguf
from app.core.errors import LoadFailed

Progress: TypeAlias = Callable[[str, float], None]
"""Hears the phase of the work and how much of it is done, from 0 to 1."""

FOLDER = "gguf"
"""Below the cache: a folder for each converted file, by its digest."""

SIDECAR = "gguf.json"
"""What the GGUF file said: its hash, size, file type, metadata and tensors."""

DROPPED = ("general.name", "tokenizer.chat_template")
"""Metadata that `/api/show` leaves out."""

_log = logging.getLogger(__name__)
SPLIT = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")


def convert(gguf: Path, cache: Path, progress: Progress, *, digest: str = "") -> Path:
    """The folder made from a GGUF file, which is converted unless the cache has it already.

    `digest`, 64 hex digits, is that of the file where it is known.
    """
    gguf = gguf.resolve()
    _check(gguf)
    digest = digest or _hash(gguf, cache, progress)
    target = place(cache.resolve(), digest)
    if is_whole(target):
        return target
    with _lock(target):
        if not is_whole(target):
            for left_over in target.parent.glob(f".{digest}.*.part"):
                shutil.rmtree(left_over, ignore_errors=True)
            if target.is_dir():
                _log.warning("the conversion of %s is incomplete and is made again", gguf.name)
            _make(gguf, digest, target, progress)
    return target


def place(cache: Path, digest: str) -> Path:
    """Where the folder made from a GGUF file of that digest is, or will be."""
    return cache / FOLDER / digest


def is_whole(folder: Path) -> bool:
    """Whether all files are there in the size in which they were written: a loss of power cuts them short."""
    try:
        sidecar = orjson.loads((folder / SIDECAR).read_bytes())
        # A folder of an older version does not say: its files are taken as they are.
        sizes: dict[str, int] = sidecar.get("files", {})
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _check(gguf: Path) -> None:
    try:
        with gguf.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise LoadFailed(f"cannot read {gguf}: {error.strerror}") from error
    if magic != b"GGUF":
        raise LoadFailed(f"{gguf} is not a GGUF file")
    if SPLIT.search(gguf.name):
        raise LoadFailed(f"{gguf.name} is one of several parts; merge them into one file first")
    try:
        read_gguf(gguf)  # what converts it maps the file and believes what it says
    except BadHeader as error:
        raise LoadFailed(f"{gguf.name} is not a sound GGUF file: {error}") from error


def _hash(gguf: Path, cache: Path, progress: Progress) -> str:
    hashes = FileHashes(cache / "hashes.json")
    size, done = gguf.stat().st_size, 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress("hashing", done / size)

    digest = hashes.of(gguf, step)
    hashes.save()
    return digest


@contextmanager
def _lock(target: Path) -> Generator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise LoadFailed(f"cannot write to the cache {target.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _make(gguf: Path, digest: str, target: Path, progress: Progress) -> None:
    part = target.with_name(f".{digest}.{uuid4().hex}.part")
    part.mkdir()
    try:
        _run(gguf, part, progress)
        sidecar = part / SIDECAR
        sizes = {file.name: file.stat().st_size for file in part.iterdir() if file != sidecar}
        source = {"sha256": digest, "size_bytes": gguf.stat().st_size, "files": sizes}
        sidecar.write_bytes(orjson.dumps(source | orjson.loads(sidecar.read_bytes())))
        for file in part.iterdir():
            file.chmod(0o644)
            _sync(file)
        _sync(part)
        # Only what is there and not whole is in the way; a server that has it open keeps its files.
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        _sync(target.parent)
    except OSError as error:
        raise LoadFailed(f"cannot convert {gguf.name}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have what was written to a file or folder on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(gguf: Path, part: Path, progress: Progress) -> None:
    """Convert in another process and pass on what it reports."""
    command = [sys.executable, "-m", __spec__.name, str(gguf), str(part)]
    with tempfile.TemporaryFile() as errors:
        root = Path(__file__).parents[2]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=root)
        try:
            reason = _follow(child, progress)
        finally:
            child.kill()
            status = child.wait()
        if status == 0:
            return
        raise LoadFailed(f"cannot convert {gguf.name}: {reason or _last_words(status, errors)}")


def _follow(child: "subprocess.Popen[bytes]", progress: Progress) -> str:
    """Read reports until the child is done; the reason of a failure, if it gave one."""
    assert child.stdout is not None
    reason = ""
    with child.stdout:
        for line in child.stdout:
            if not line.startswith(b'{"'):
                continue  # some library wrote past sys.stdout
            report = orjson.loads(line)
            if "error" in report:
                reason = report["error"]
            else:
                progress(report["phase"], report["fraction"])
    child.wait()
    return reason


def _last_words(status: int, errors: IO[bytes]) -> str:
    if status < 0:
        return f"the conversion was killed by signal {-status}; is there enough memory?"
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"the conversion ended with status {status}"


def main(source: Path, target: Path) -> int:
    """The child's work: write a folder for `source` into `target`, reporting on standard output."""
    reports = sys.stdout

    def report(**fields: str | float) -> None:
        reports.write(json.dumps(fields) + "\n")
        reports.flush()

    try:
        with redirect_stdout(sys.stderr):
            _dequantise(source, target, lambda phase, fraction: report(phase=phase, fraction=fraction))
    except ImportError as error:
        report(error=f"{error}; install caravan-server with its 'cpu' or 'gpu' extra")
        return 1
    except Exception as error:  # the edge of a process: the reason is all that leaves it
        report(error=" ".join(str(error).split()) or type(error).__name__)
        return 1
    return 0


def _dequantise(source: Path, target: Path, progress: Progress) -> None:
    progress("starting", 0.0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress("reading metadata", 0.1)
    sidecar = _describe(source)
    progress("reading the tokenizer", 0.2)
    place: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **place)
    progress("dequantising", 0.3)
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent), dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **place
    )
    progress("writing", 0.8)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    (target / SIDECAR).write_bytes(orjson.dumps(sidecar))
    progress("writing", 1.0)


def _describe(source: Path) -> dict[str, Any]:
    """The metadata and tensors of a GGUF file."""
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(str(source))
    info: dict[str, Any] = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    names = {member.value: member.name for member in LlamaFileType}
    file_type = names.get(info.get("general.file_type", -1), "unknown")
    return {
        "architecture": info["general.architecture"],
        "file_type": file_type.removeprefix("MOSTLY_").removeprefix("ALL_"),
        "parameter_count": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "info": {name: value for name, value in info.items() if name not in DROPPED},
        "tensors": [
            (tensor.name, tensor.tensor_type.name, [int(size) for size in tensor.shape])
            for tensor in reader.tensors
        ],
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
