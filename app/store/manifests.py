"""The manifests of a store, in Ollama's layout: `manifests/<host>/<namespace>/<model>/<tag>`.

A manifest is there whole or not at all, and never names a blob that is not there. Reads follow links, as
Ollama does; nothing is written or deleted through one.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from app.core.errors import BadManifest, BlobMissing, InvalidRequest, ModelNotFound, StoreFailed
from app.core.model import ModelName
from app.store.blobs import Blobs
from app.store.folders import MANIFESTS, changing, explained, folder, place, scratch
from app.store.manifest import MOST_BYTES, Manifest, parse_manifest
from app.store.partial import WROTE

MOST_ENTRIES = 200_000
"""Files and folders that one walk looks at."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_GRAMMAR = (r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", _PART, _PART)
_PARTS = tuple(re.compile(part) for part in _GRAMMAR)
_DIGESTS = re.compile(rb"sha256[:-]([0-9a-fA-F]{64})")
_MOST_SEARCHED_BYTES = 64 << 20
_PIECE_BYTES = 64 << 10
_TRIES = 5
_MOST_FILE_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Stored:
    """A model of the store under the name that it has there. `digest` is the model's id, 64 hex digits."""

    name: ModelName
    manifest: Manifest
    digest: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Bad:
    """A file that is no manifest; `path` is below the folder of manifests."""

    path: str
    reason: str


Bads: TypeAlias = list[Bad]


@dataclass(frozen=True, slots=True)
class Listing:
    """All models by name, what was skipped, and the store's signature as it was before."""

    models: tuple[Stored, ...]
    bad: tuple[Bad, ...]
    signature: str


@dataclass(frozen=True, slots=True)
class _File:
    parts: tuple[str, ...]
    path: str
    identity: tuple[int, int, int]


class _Malformed(BadManifest):
    """Its content is no manifest, which no other look at the same file will change."""


class Manifests:
    """The manifests below a store's root folder. Every method may be called from any thread, and blocks.

    A name that breaks the grammar (docs/reference 3.1) raises `InvalidRequest`; what writes raises
    `StoreReadOnly`, `StoreFull`, `StoreBusy` or `StoreFailed`.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.root = blobs.root
        self._known: dict[str, tuple[tuple[int, int, int], Stored | str]] = {}

    def find(self, name: ModelName) -> Stored | None:
        """The model of that name, in whatever case it is stored (docs/reference 3.3).

        Raises:
            BadManifest: where its file is none.
        """
        parts = _installed(self._path(), _parts(name))
        return None if parts is None else self._read(parts)

    def write(self, name: ModelName, manifest: Manifest | bytes) -> Stored:
        """Store a model under `name`, or under the name in another case that is there already.

        `bytes` are kept as they are, as of a manifest that was pulled: their hash is the model's id.

        Raises:
            BlobMissing: where a layer is not there.
            BadManifest: for bytes that are none, or a layer whose blob has another size.
        """
        _parts(name)
        data = manifest if isinstance(manifest, bytes) else manifest.encode()
        parsed = parse_manifest(data)
        self._blobs.presence.check()
        with explained(), changing(self.root):
            # Under the lock, so that nothing is pruned between the look and the manifest that needs it.
            for layer in parsed.blobs:
                self._check(layer.digest, layer.size)
            return self._write(name, data)

    def copy(self, source: ModelName, destination: ModelName) -> Stored:
        """Store a model under a second name; onto itself it does nothing (docs/reference 11.3).

        Raises:
            ModelNotFound: where there is no `source`.
            BadManifest: where that cannot be read.
        """
        _parts(destination)
        self._blobs.presence.check()
        with explained(), changing(self.root):
            found = _installed(self._path(), _parts(source))
            if found is None:
                raise ModelNotFound(str(source))
            if found == _installed(self._path(), _parts(destination)):
                return self._read(found)
            data, _modified = _content(self._path(*found))
            parse_manifest(data)
            return self._write(destination, data)

    def delete(self, name: ModelName) -> Stored | None:
        """Delete the manifest and the folders that are empty without it; None where there is none.

        What it was is returned for the sake of its blobs: nothing of one that could not be read.
        """
        self._blobs.presence.check()
        with explained(), changing(self.root):
            parts = _installed(self._path(), _parts(name))
            if parts is None:
                return None
            try:
                stored = self._read(parts)
            except BadManifest:
                stored = Stored(name, Manifest(None, ()), "", datetime.now(UTC))
            try:
                with folder(self.root, MANIFESTS, *parts[:-1]) as held:
                    os.unlink(parts[-1], dir_fd=held)
                    os.fsync(held)
            except FileNotFoundError:
                return None
            self._remove_empty(parts)
            return stored

    def list(self) -> Listing:
        """Every model that can be read; of a file that did not change since it is not read again.

        Copies of one manifest have its layers in memory once.
        """
        self._blobs.presence.look()
        models: dict[str, Stored] = {}
        known: dict[str, tuple[tuple[int, int, int], Stored | str]] = {}
        same = {each.digest: each.manifest for _, each in self._known.values() if isinstance(each, Stored)}
        files, bad = self._walk()
        for file in files:
            try:
                stored = self._stored(file, same)
                known[file.path] = (file.identity, stored)
                same[stored.digest] = stored.manifest
                other = models.setdefault(stored.name.canonical.lower(), stored)
                if other is not stored:
                    raise BadManifest(f"it differs from {other.name} in case only")
            except BadManifest as error:
                bad.append(Bad("/".join(file.parts), str(error)))
                if isinstance(error, _Malformed):
                    known[file.path] = (file.identity, str(error))
        self._known = known
        return Listing(tuple(models.values()), tuple(bad), _signature(files))

    def signature(self) -> str:
        """Differs when any process has added, changed or deleted a manifest; costs one `stat` for each.

        On NFS it is as late as the attributes that a host keeps: mount with `actimeo=1` for a second.
        """
        return _signature(self._walk()[0])

    def in_use(self) -> set[str]:
        """The file names of all blobs that any file here names, be it a manifest that can be read or not.

        Raises:
            StoreFailed: where that cannot be told for certain.
        """
        files, unread = self._walk()
        if unread:
            raise StoreFailed(f"which blobs are in use cannot be told: {unread[0].path}: {unread[0].reason}")
        found: set[str] = set()
        for file in files:
            with explained(), suppress(FileNotFoundError):
                text = _content(Path(file.path), most_bytes=_MOST_SEARCHED_BYTES)[0]
                found |= {f"sha256-{digits.decode().lower()}" for digits in _DIGESTS.findall(text)}
        # Last: it may be taken away while it is read.
        if not self._path().is_dir() and self._wrote():
            raise StoreFailed(
                "which blobs are in use cannot be told: the folder of manifests is not there, and blobs were "
                "written here"
            )
        return found

    def _wrote(self) -> bool:
        with suppress(FileNotFoundError), folder(self.root, *WROTE) as wrote:
            return bool(os.listdir(wrote))
        return False

    def _path(self, *parts: str) -> Path:
        return self.root.joinpath(MANIFESTS, *parts)

    def _stored(self, file: _File, same: Mapping[str, Manifest]) -> Stored:
        known = self._known.get(file.path)
        if known and known[0] == file.identity:
            if isinstance(known[1], str):
                raise _Malformed(known[1])
            return known[1]
        if not all(pattern.fullmatch(part) for pattern, part in zip(_PARTS, file.parts, strict=True)):
            raise BadManifest("its path is no model's name")
        return self._read(file.parts, same)

    def _read(self, parts: tuple[str, ...], same: Mapping[str, Manifest] = MappingProxyType({})) -> Stored:
        """The model at that path; `same` are manifests that have been read, by their digests."""
        try:
            data, modified = _content(self._path(*parts))
        except OSError as error:
            raise BadManifest(f"it cannot be read: {error.strerror}") from None
        host, namespace, model, tag = parts
        name = ModelName(model, tag, namespace, host)
        digest = hashlib.sha256(data).hexdigest()
        try:
            manifest = same.get(digest) or parse_manifest(data)
        except BadManifest as error:
            raise _Malformed(str(error)) from None
        return Stored(name, manifest, digest, modified)

    def _check(self, digest: str, size: int) -> None:
        there = self._blobs.size(digest)
        if there is None:
            raise BlobMissing(digest)
        if there != size:
            raise BadManifest(f"layer {digest} is said to have {size} bytes and has {there}")

    def _write(self, name: ModelName, data: bytes) -> Stored:
        wanted = _parts(name)
        parts = _installed(self._path(), wanted) or _cased(self._path(), wanted)
        with scratch(self.root, [data]) as written:
            for attempt in range(_TRIES):
                # Ollama, which knows nothing of the lock, may remove a folder while it is still empty.
                try:
                    with folder(self.root, MANIFESTS, *parts[:-1], create=True) as held:
                        place(self.root, written, held, parts[-1])
                    break
                except FileNotFoundError:
                    if attempt == _TRIES - 1:
                        raise
        return self._read(parts)

    def _remove_empty(self, parts: tuple[str, ...]) -> None:
        for depth in range(len(parts) - 1, 0, -1):
            try:
                with folder(self.root, MANIFESTS, *parts[: depth - 1]) as held:
                    os.rmdir(parts[depth - 1], dir_fd=held)
            except OSError:
                return  # it is not empty

    def _walk(self) -> tuple[Sequence[_File], Bads]:
        """The files four levels down, sorted, and which folders could not be looked at."""
        files: list[_File] = []
        unread: Bads = []
        left = MOST_ENTRIES
        pending: list[tuple[str, ...]] = [()]
        while pending:
            parts = pending.pop()
            try:
                with os.scandir(self._path(*parts)) as entries:
                    found = list(islice(entries, left))
            except FileNotFoundError:
                continue
            except OSError as error:
                unread.append(Bad("/".join(parts), error.strerror or "it cannot be read"))
                continue
            left -= len(found)
            if not left:
                unread.append(Bad("/".join(parts), f"there are over {MOST_ENTRIES} files: not all are read"))
                break
            for entry in found:
                below = (*parts, entry.name)
                if len(below) < len(_PARTS):
                    if entry.is_dir():
                        pending.append(below)
                elif (identity := _identity(entry)) is not None:
                    files.append(_File(below, entry.path, identity))
        return sorted(files, key=lambda file: file.parts), unread


def _identity(entry: "os.DirEntry[str]") -> tuple[int, int, int] | None:
    try:
        found = entry.stat()
    except OSError:
        return 0, 0, 0  # a link to nowhere is told of like any bad file
    return None if stat.S_ISDIR(found.st_mode) else (found.st_ino, found.st_size, found.st_mtime_ns)


def _signature(files: Sequence[_File]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(repr((file.parts, file.identity)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(path: Path, most_bytes: int = MOST_BYTES) -> tuple[bytes, datetime]:
    # Not to wait for a writer where somebody has put a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BadManifest("it is not a file")
        data = bytearray()
        # In pieces: a read sets aside at once all that it is asked for, which is far more than there is.
        while len(data) <= most_bytes and (piece := os.read(descriptor, _PIECE_BYTES)):
            data += piece
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise BadManifest(f"it has more than {most_bytes} bytes")
    return bytes(data), datetime.fromtimestamp(found.st_mtime, UTC)


def _parts(name: ModelName) -> tuple[str, ...]:
    parts = (name.host, name.namespace, name.model, name.tag)
    for pattern, part in zip(_PARTS, parts, strict=True):
        if not pattern.fullmatch(part) or len(part) > _MOST_FILE_NAME_BYTES:
            raise InvalidRequest("invalid model name")
    return parts


def _installed(path: Path, parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The path below `path` that is there and is `parts` but for the case; as it stands before all others."""
    if not parts:
        return ()
    for name in _same(path, parts[0]):
        if (rest := _installed(path / name, parts[1:])) is not None:
            return name, *rest
    return None


def _cased(path: Path, parts: tuple[str, ...]) -> tuple[str, ...]:
    """`parts`, of which none is there as a whole, with each folder in the case in which it is there."""
    found: tuple[str, ...] = ()
    for part in parts:
        name = next(iter(_same(path.joinpath(*found), part)), part)
        found = (*found, name)
    return found


def _same(path: Path, part: str) -> list[str]:
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return [part] * (part in names) + [
        name for name in names if name != part and name.lower() == part.lower()
    ]
