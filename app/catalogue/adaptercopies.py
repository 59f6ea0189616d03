"""Copies of adapters, below the cache and by digest, from which engines read them.

vLLM reads an adapter again whenever it has dropped it for others, and one that has gone by then would end
the engine. So what it reads is nobody's to change: neither the store's, where a model may be deleted, nor
an operator's.
"""

import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import orjson

from app.catalogue.headers import BadHeader

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FOLDER = "adapters"
"""Below the cache: a folder for each adapter, by its digest."""

USES = ".uses"
"""In that folder: files of what processes need (`adapteruses.py`)."""

_STAYS = ".stays"

UNUSED_S = 86400.0
"""A copy goes when no server has said for so long that it uses it: several may share a cache."""

_MOST_VALUE = 1000.0
_MOST_PRODUCT = 10_000.0
"""Some hundred times what training comes to, and too little for an overflow in the widest layers."""

_CHUNK_BYTES = 4 << 20


def place(digest: str, cache: Path) -> Path:
    """Where the copy is, or will be."""
    return cache.resolve() / FOLDER / digest


def checked(digest: str, weights: Path, config: bytes, cache: Path, *, factor: float) -> Path:
    """As `keep`, without keeping it.

    Raises:
        BadHeader, OSError: as `keep`.
    """
    target = place(digest, cache)
    if not _is_whole(target, weights):
        _check_values(weights, factor)
    return target


def stay(digest: str, cache: Path) -> None:
    """Have a copy stay for as long as somebody uses it, whatever becomes of models: of a configured one."""
    with suppress(OSError):
        mark = _mark(cache.resolve() / FOLDER, digest)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def stays(cache: Path, digest: str) -> bool:
    return _mark(cache.resolve() / FOLDER, digest).exists()


def keep(digest: str, weights: Path, config: bytes, cache: Path, *, factor: float) -> Path:
    """The folder with a copy of the weights, whose header was checked, and with that configuration.

    `factor` is what the products of the two halves are multiplied by, and added up, at most.

    Raises:
        BadHeader: for values that are not served.
        OSError: where a file cannot be read or written.
    """
    target = place(digest, cache)
    if _is_whole(target, weights):
        with suppress(OSError):  # A cache that was filled before may be read-only.
            os.utime(target)
        return target
    _check_values(weights, factor)
    part = target.with_name(f".{digest}.{uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        shutil.copyfile(weights, part / WEIGHTS)
        (part / CONFIG).write_bytes(config)
        for name in (WEIGHTS, CONFIG):
            _sync(part / name)
        if target.is_dir():  # a copy that a loss of power cut short
            target.rename(part / "old")
        part.rename(target)
        shutil.rmtree(target / "old", ignore_errors=True)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not _is_whole(target, weights):  # else another process was first
            raise
    return target


def prune(cache: Path, used: Collection[str], now: float | None = None) -> None:
    """Say of the copies with these digests that they are used, and remove those that nobody uses.

    Raises:
        OSError: where the cache cannot be changed.
    """
    folder = cache.resolve() / FOLDER
    now = time.time() if now is None else now
    for copy in folder.iterdir() if folder.is_dir() else ():
        if copy.name in used:
            os.utime(copy, (now, now))
        elif copy.is_dir() and copy.name != USES and now - copy.stat().st_mtime > UNUSED_S:
            shutil.rmtree(copy, ignore_errors=True)
            _mark(folder, copy.name).unlink(missing_ok=True)


def _mark(folder: Path, digest: str) -> Path:
    return folder / f".{digest}{_STAYS}"


def _check_values(file: Path, factor: float) -> None:
    """Numbers of a size that no training comes to end as none, and these spread to the answers of others:
    what a step of attention masks out it still multiplies.
    """
    most = {"A": 0.0, "B": 0.0}
    with file.open("rb") as stream:
        header = orjson.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        # Without gaps, as was checked.
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            part = name.removesuffix(".weight")[-1]
            start, end = entry["data_offsets"]
            for at in range(start, end, _CHUNK_BYTES):
                largest = _largest(stream.read(min(_CHUNK_BYTES, end - at)), entry["dtype"])
                if not largest <= _MOST_VALUE:  # not so for what is no number
                    raise BadHeader(f"it has values over {_MOST_VALUE:.0f}, or that are no numbers")
                most[part] = max(most[part], largest)
    if most["A"] * most["B"] * factor > _MOST_PRODUCT:
        raise BadHeader(f"what it adds to a weight may come to more than {_MOST_PRODUCT:.0f}")


def _largest(data: bytes, kind: str) -> float:
    if kind == "BF16":
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, "<f4" if kind == "F32" else "<f2")
    return float(np.abs(values).max())


def _is_whole(folder: Path, weights: Path) -> bool:
    try:
        same = (folder / WEIGHTS).stat().st_size == weights.stat().st_size
        return same and (folder / CONFIG).stat().st_size > 0
    except OSError:
        return False


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
