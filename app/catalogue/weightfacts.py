"""Facts of the weights of stored models: read once for all models that have them."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from app.catalogue import foreign, gguf
from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts
from app.catalogue.folder import open_folder
from app.catalogue.ggufheader import CHAT_TEMPLATE, facts_of
from app.catalogue.headers import BadHeader, GgufHeader, read_gguf
from app.catalogue.shared import Held, Shared
from app.core.errors import BadManifest
from app.core.model import ModelFacts, ModelSpec

_RECENT = 1
"""A header may take a hundred megabytes: what a create looks at several times is the last one."""


@dataclass(slots=True)
class _Weights:
    """What is known of weights, whatever template they are seen through; `facts` are the first that were
    read, of which all others take what the files say.
    """

    header: GgufHeader | None
    has_template: bool
    facts: ModelFacts | None = None


class WeightFacts:
    """Facts of GGUF files, whose folders are made below `cache_dir`, and of folders of files.

    Every method may be called from any thread, and blocks. `held` keeps what was read for the next model on
    the same weights.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._cache = cache_dir
        self._headers = Shared(_RECENT)
        self._weights = Shared(_RECENT)
        self._facts = Shared(_RECENT)
        self._checks = Shared(_RECENT)

    def header(self, blob: Path, held: Held) -> GgufHeader:
        """The header of a GGUF file whose name tells its content.

        Raises:
            BadHeader: where it does not fit the file, found out once too.
            OSError: where the file cannot be read.
        """
        found = self._headers.get(_identity(blob), lambda: _tried(blob), held)
        if isinstance(found, str):
            raise BadHeader(found)
        return found

    def of_gguf(
        self, blob: Path, digits: str, bare: ModelSpec, templates: Mapping[str, str], held: Held
    ) -> tuple[ModelFacts, ModelSpec]:
        """The facts, and the specification of what its engine is; that has `templates` where the file has
        none of its own.

        Raises:
            BadHeader, LoadFailed, OSError.
        """
        folder = gguf.place(self._cache, digits)
        is_whole = gguf.is_whole(folder)

        def read() -> _Weights:
            # Beside a folder the header tells one thing alone, and is not kept.
            header = self.header(blob, [] if is_whole else held)
            return _Weights(None if is_whole else header, bool(header.metadata.get(CHAT_TEMPLATE)))

        key = _identity(blob), is_whole
        weights = self._weights.get(key, read, held)
        bare = bare if weights.has_template else replace(bare, **templates)
        if (header := weights.header) is None:
            return self._read(folder, bare, key, weights, held), bare

        def make(known: ModelFacts | None) -> ModelFacts:
            return facts_of(header, bare, folder, known=known)

        return self._once((key, engine_key(folder, bare)), make, weights, held), bare

    def of_folder(
        self, path: Path, bare: ModelSpec, templates: Mapping[str, str], held: Held
    ) -> tuple[ModelFacts, ModelSpec]:
        """As `of_gguf`, of a folder whose name tells its content.

        Raises:
            LoadFailed, BadHeader, OSError.
        """
        key = path, path.stat().st_mtime_ns  # files may be added to a repository that was there in part
        weights = self._weights.get(key, lambda: _Weights(None, bool(open_folder(path).template)), held)
        bare = bare if weights.has_template else replace(bare, **templates)
        return self._read(path, bare, key, weights, held), bare

    def _read(self, path: Path, bare: ModelSpec, key: object, weights: _Weights, held: Held) -> ModelFacts:
        if refusal := self._checks.get(key, lambda: _refusal(path), held):
            raise BadManifest(refusal)

        def make(known: ModelFacts | None) -> ModelFacts:
            return read_facts(path, bare, _Unhashed(), known=known)

        return self._once((key, engine_key(path, bare)), make, weights, held)

    def _once(
        self, key: object, make: Callable[[ModelFacts | None], ModelFacts], weights: _Weights, held: Held
    ) -> ModelFacts:
        def made() -> ModelFacts:
            facts = make(weights.facts)
            weights.facts = weights.facts or facts
            return facts

        return self._facts.get(key, made, held)


def engine_key(path: Path, bare: ModelSpec) -> str:
    """What is the same for all models that can share an engine."""
    parts = (
        *(str(path), bare.engine, bare.template, bare.chat_template),
        *(bare.tool_parser, bare.reasoning_parser),
    )
    return hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _tried(blob: Path) -> GgufHeader | str:
    """The header, or why it is none."""
    try:
        return read_gguf(blob)
    except BadHeader as error:
        return str(error)


def _refusal(folder: Path) -> str:
    """Why the folder is not taken from others; empty where it is."""
    try:
        foreign.check(folder)
    except BadManifest as error:
        return str(error)
    return ""


def _identity(blob: Path) -> tuple[str, int, int, int]:
    """Another file of the same name is read anew: one that was damaged may have been replaced."""
    found = blob.stat()
    return blob.name, found.st_dev, found.st_ino, found.st_size


class _Unhashed(FileHashes):
    """Reads nothing: what identifies a stored model is its manifest, and weights are large."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def of(self, path: Path, progress: Callable[[int], None] = lambda _done: None) -> str:
        return ""
