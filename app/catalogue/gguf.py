"""GGUF files: turned once into a folder that vLLM can serve on any device.

The weights are dequantised in a process of its own (`conversion.py`). What the file says of itself is kept
beside them.
"""

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import orjson
from filelock import FileLock, Timeout

from app.catalogue import conversion
from app.catalogue.conversion import Progress
from app.catalogue.dequantise import SIDECAR
from app.catalogue.digest import FileHashes
from app.catalogue.headers import BadHeader, GgufHeader, read_gguf
from app.core.errors import Draining, LoadFailed

FOLDER = "gguf"
"""Below the cache: a folder for each converted file, by its digest."""

_log = logging.getLogger(__name__)
SPLIT = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")


def convert(
    gguf: Path, cache: Path, progress: Progress, *, digest: str = "", stop: threading.Event | None = None
) -> Path:
    """The folder made from a GGUF file, which is converted unless the cache has it already.

    `digest`, 64 hex digits, is that of the file where it is known. Who asks for what is being converted, in
    this process or another, waits for that.

    Raises:
        LoadFailed: where it cannot be converted; nothing is left of it.
        Draining: when `stop` is set.
    """
    gguf = gguf.resolve()
    stop = stop or threading.Event()
    header = _check(gguf)
    digest = digest or _hash(gguf, cache, progress)
    target = place(cache.resolve(), digest)
    if is_whole(target):
        return target
    with _lock(target, stop):
        if not is_whole(target):
            for left_over in target.parent.glob(f".{digest}.*.part"):
                shutil.rmtree(left_over, ignore_errors=True)
            if target.is_dir():
                _log.warning("the conversion of %s is incomplete and is made again", gguf.name)
            allowed = conversion.allowance(gguf.stat().st_size, header)
            _make(gguf, digest, target, lambda part: conversion.run(gguf, part, progress, allowed, stop))
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


def _check(gguf: Path) -> GgufHeader:
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
        return read_gguf(gguf)  # what converts it maps the file and believes what it says
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
def _lock(target: Path, stop: threading.Event) -> Generator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire(cancel_check=stop.is_set)
    except Timeout as error:
        raise Draining from error
    except OSError as error:
        raise LoadFailed(f"cannot write to the cache {target.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _make(gguf: Path, digest: str, target: Path, run: Callable[[Path], None]) -> None:
    part = target.with_name(f".{digest}.{uuid4().hex}.part")
    part.mkdir()
    try:
        run(part)
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
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its folder cannot be read"
        raise LoadFailed(f"cannot convert {gguf.name}: {reason}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have what was written to a file or folder on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
