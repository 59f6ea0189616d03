"""The digest of a model: SHA-256 over what its files hold, each read only once as long as it stays, and over
what its configuration adds to them.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

CHUNK_BYTES = 4 << 20

log = logging.getLogger(__name__)


class FileHashes:
    """SHA-256 of files, remembered in a JSON file by path, size and time of change.

    When that file cannot be read or written, everything still works and is only hashed again.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known = self._load()
        self._new: dict[str, list[int | str]] = {}

    def of(self, path: Path, progress: Callable[[int], None] = lambda _done: None) -> str:
        """The hash in hex. `progress` hears how many bytes were read since it last did."""
        real = path.resolve()
        status = real.stat()
        entry = self._known.get(str(real))
        if entry and entry[:2] == [status.st_size, status.st_mtime_ns]:
            progress(status.st_size)
            return str(entry[2])
        digest = _sha256(real, progress)
        fresh: list[int | str] = [status.st_size, status.st_mtime_ns, digest]
        self._known[str(real)] = self._new[str(real)] = fresh
        return digest

    def save(self) -> None:
        """Write what was learnt, next to what another process may have written meanwhile."""
        if not self._new:
            return
        temporary = self._store.with_name(f".{self._store.name}.{uuid4().hex}")
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(orjson.dumps(self._load() | self._new))
            os.replace(temporary, self._store)
        except OSError as error:
            log.warning("hashes are not remembered: %s", error)
        self._new.clear()

    def _load(self) -> dict[str, list[int | str]]:
        try:
            known = orjson.loads(self._store.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == 3}


def folder_digest(
    folder: Path, files: Iterable[Path], hashes: FileHashes, progress: Callable[[int], None]
) -> str:
    """The digest of a folder: of the names, hashes and sizes of its files."""
    return manifest_digest(
        (path.relative_to(folder).as_posix(), hashes.of(path, progress), path.stat().st_size)
        for path in files
    )


def manifest_digest(entries: Iterable[tuple[str, str, int]]) -> str:
    """SHA-256 over (name, SHA-256, size) of files, whatever their order."""
    return hashlib.sha256(orjson.dumps(sorted(entries))).hexdigest()


def own_digest(base: str, own: Mapping[str, Any]) -> str:
    """The digest of a model that is another, of digest `base`, with something of its own: as of a manifest.

    The same from one start and one server to the next; that of `base` where there is nothing of its own.
    """
    layers = {name: layer for name, layer in own.items() if layer}
    if not layers:
        return base
    # orjson takes no integer over 64 bits, and YAML knows more kinds of value than JSON.
    text = json.dumps([base, layers], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
            progress(size)
    return digest.hexdigest()
