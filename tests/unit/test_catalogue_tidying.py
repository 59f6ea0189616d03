"""What goes of the cache when its blobs have gone, and what stays."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from app.catalogue import gguf
from app.catalogue.stored import StoredModels
from app.catalogue.tidying import keep, mark
from app.core.model import ModelName
from app.store import manifest as media
from app.store.manifest import Layer, Manifest
from app.store.store import Store


class Place:
    def __init__(self, root: Path) -> None:
        self.cache = root / "cache"
        self.store = Store(root / "models")
        self.stored = StoredModels(self.store, self.cache)

    def converted(self, data: bytes, *, marked: bool = True) -> Path:
        """The folder of a conversion of a blob, which a model names."""
        digest = self.store.blobs.put(data)
        layer = Layer(media.MODEL, digest, len(data))
        self.store.manifests.write(ModelName(data.decode()), Manifest(None, (layer,)))
        folder = gguf.place(self.cache, digest[7:])
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        if marked:
            mark(self.store, self.cache, digest[7:])
        return folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_conversion_goes_with_its_blob(place: Place) -> None:
    kept, gone = place.converted(b"kept"), place.converted(b"gone")
    configured = place.converted(b"configured", marked=False)
    place.stored.prune()
    assert gone.is_dir()
    for name in ("gone", "configured"):
        place.store.delete(ModelName(name))
    with FileLock(gone.with_name(f".{gone.name}.lock")):
        place.stored.prune()
        assert gone.is_dir(), "somebody is at it"
    place.stored.prune()
    assert (kept.is_dir(), gone.is_dir(), configured.is_dir()) == (True, False, True)
    assert [name for name in os.listdir(gone.parent) if gone.name in name] in ([], [f".{gone.name}.lock"])


def test_a_conversion_stays_that_another_store_or_the_configuration_uses(
    place: Place, tmp_path: Path
) -> None:
    """Servers may share a cache, each with a store of its own."""
    shared, configured = place.converted(b"shared"), place.converted(b"configured")
    other = Store(tmp_path / "others")
    mark(other, place.cache, shared.name)
    keep(place.cache, configured.name)
    for name in ("shared", "configured"):
        place.store.delete(ModelName(name))
    place.stored.prune()
    assert shared.is_dir()
    StoredModels(other, place.cache).prune()
    assert (shared.is_dir(), configured.is_dir()) == (False, True)


def test_what_was_broken_off_goes_when_it_is_old(place: Place) -> None:
    parts = [place.cache / each for each in ("gguf/.ab.1.part", "gguf/.cd.2.part", "stored/.ef.3.part")]
    for part in parts:
        part.mkdir(parents=True)
        (part / "file").write_bytes(b"x")
    for old in parts[1:]:
        os.utime(old, (1, 1))
    place.stored.prune()
    assert [part.is_dir() for part in parts] == [True, False, False]


def test_links_to_blobs_that_are_gone_go(place: Place, tmp_path: Path) -> None:
    blob = place.store.blobs.path(place.store.blobs.put(b"x")).absolute()
    for name, target in (
        ("mine", blob),
        ("lost", blob.with_name("gone")),
        ("another's", tmp_path / "no/blob"),
    ):
        folder = place.cache / "stored" / name
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "config.json").symlink_to(target)
    place.stored.prune()
    assert sorted(os.listdir(place.cache / "stored")) == ["another's", "mine"]
