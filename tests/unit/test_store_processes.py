"""A store under several processes, under processes that are killed, and where there is no room."""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import StoreFailed, StoreFull, StoreReadOnly
from app.core.model import ModelName
from app.store import manifest as media
from app.store.blobs import Blobs
from app.store.manifest import Layer, Manifest
from app.store.prune import prune
from app.store.store import Store
from tests.unit.store_worker import create, digest_of, pulled

KILLS = int(os.environ.get("CARAVAN_STORE_KILLS", "20"))
OPERATIONS = int(os.environ.get("CARAVAN_STORE_OPERATIONS", "30"))
BLOB_MB = int(os.environ.get("CARAVAN_STORE_BLOB_MB", "256"))
ROOT = Path(__file__).parents[2]


def begun(kind: str, root: Path, seed: int, argument: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.unit.store_worker", kind, str(root), str(seed), str(argument)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> Any:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def assert_sound(store: Store) -> None:
    """Every blob is what it is called, and every model can be read and has its blobs."""
    if (store.root / "blobs").is_dir():
        for name in os.listdir(store.root / "blobs"):
            store.blobs.verify(name)
    listing = store.manifests.list()
    assert listing.bad == ()
    for stored in listing.models:
        for layer in stored.manifest.blobs:
            assert store.blobs.size(layer.digest) == layer.size


def assert_clean(store: Store) -> None:
    """Nothing is left of what no model needs."""
    for found in (store.root / ".caravan").rglob("*"):
        if found.is_file() and found.parent.name == "scratch":
            os.utime(found, (1, 1))
    prune(store.manifests, grace_s=-60, leavings_s=60)
    blobs = set(os.listdir(store.root / "blobs"))
    assert blobs == store.manifests.in_use()
    assert set(os.listdir(store.root / ".caravan" / "wrote")) == blobs
    for left in ("scratch", "holds"):
        place = store.root / ".caravan" / left
        assert not place.is_dir() or os.listdir(place) == []


def test_eight_processes_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    processes = [begun("mixed", store.root, seed, OPERATIONS) for seed in range(8)]
    kept: dict[str, list[str]] = {}
    for process in processes:
        kept |= ended(process)
    assert_sound(store)
    found = {stored.name.model: stored for stored in store.manifests.list().models}
    assert sorted(name for name in found if name.startswith("own-")) == sorted(kept)
    for name, texts in kept.items():
        layers = found[name].manifest.layers
        assert [store.blobs.read(layer.digest, 100).decode() for layer in layers] == texts
    assert_clean(store)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    store, chance = Store(tmp_path / "models"), random.Random(15)
    for kill in range(KILLS):
        process = begun("endless", store.root, kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.random() * 0.4)
        process.kill()
        process.communicate()
        assert_sound(store)
        for which in range(3):
            data = pulled(which)
            with store.blobs.begin(digest_of(data), len(data)) as partial:
                for start, end in partial.done:  # what it says that it has, it has
                    path = store.root / ".caravan" / "scratch" / digest_of(data)[7:]
                    assert path.read_bytes()[start:end] == data[start:end]
    data = pulled(0)
    with store.blobs.begin(digest_of(data), len(data)) as partial:
        for start, end in partial.missing():
            partial.write_at(start, data[start:end])
        partial.commit()
    assert_sound(store)
    assert_clean(store)


def test_a_large_blob_takes_little_memory(tmp_path: Path) -> None:
    assert ended(begun("large", tmp_path / "models", 0, BLOB_MB))["more_mb"] < 32


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    create(store, "before", ["text"])
    answers = ended(begun("full", store.root, 0, 256 << 10))
    assert sorted(answers) == ["put", "write", "write_at"]
    assert {text.partition(" (")[0] for text in answers.values()} == {
        "the model store of this server is full"
    }
    assert [stored.name.model for stored in store.manifests.list().models] == ["before"]
    assert_sound(store)
    assert_clean(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_and_one_that_turns_read_only(small_disk: Path) -> None:
    store = Store(small_disk / "models")
    create(store, "before", ["text"])
    with pytest.raises(StoreFull):
        store.blobs.put(bytes(2 << 20))
    with pytest.raises(StoreFull):
        store.blobs.begin(digest_of(bytes(2 << 20)), 2 << 20)
    with pytest.raises(StoreFull), store.blobs.begin(digest_of(bytes(2 << 20)), shared=False) as partial:
        partial.write_at(0, bytes(2 << 20))
    create(store, "after", ["text"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    uses: list[Callable[[], Any]] = [
        lambda: store.blobs.put(b"x"),
        lambda: store.blobs.begin("sha256:" + "0" * 64),
        lambda: store.hold().add("sha256:" + "0" * 64),
        lambda: store.manifests.write(ModelName("m"), Manifest(None, ())),
        lambda: store.manifests.copy(ModelName("before"), ModelName("m")),
        lambda: store.delete(ModelName("before")),
        store.prune,
    ]
    for use in uses:
        with pytest.raises(StoreReadOnly, match="is read-only"):
            use()
    assert [stored.name.model for stored in store.manifests.list().models] == ["after", "before"]
    assert_sound(store)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreReadOnly)),
        *((errno.EACCES, StoreReadOnly), (errno.EIO, StoreFailed)),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_a_call_that_fails_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[StoreFailed]
) -> None:
    store = Store(tmp_path / "models")

    def failing(*_arguments: Any, **_named: Any) -> None:
        raise OSError(number, os.strerror(number), "/secret/path")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(kind) as failure:
            create(store, "m", ["text"])
    assert "/secret/path" not in str(failure.value)
    for kept in ("blobs", "manifests", ".caravan/scratch"):
        assert [path for path in (store.root / kept).rglob("*") if path.is_file()] == []
    create(store, "m", ["text"])
    assert_sound(store)
    assert_clean(store)


HOUR_S = 3600.0


def aged(blobs: Blobs, digest: str, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(blobs.path(digest), (then, then))


def test_only_what_was_written_here_is_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    ours, foreign = store.blobs.put(b"ours"), digest_of(b"foreign")
    store.blobs.path(foreign).write_bytes(b"foreign")
    (store.root / "blobs" / f"{foreign.replace(':', '-')}-partial-0").write_bytes(b"Ollama's")
    for digest in (ours, foreign):
        aged(store.blobs, digest, 2 * HOUR_S)
    assert store.prune(grace_s=3 * HOUR_S).blobs == ()
    pruned = store.prune()
    assert (pruned.blobs, pruned.size_bytes) == ((ours.replace(":", "-"),), 4)
    assert store.prune(foreign=True).blobs == (foreign.replace(":", "-"),)
    assert os.listdir(store.root / "blobs") == [f"{foreign.replace(':', '-')}-partial-0"]


def test_what_is_named_held_or_young_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    create(store, "m", ["named"])
    young, broken = store.blobs.put(b"young"), store.blobs.put(b"named by a manifest that cannot be read")
    (store.root / "manifests/registry.ollama.ai/library/m/broken").write_text(
        f'{{"layers":[{{"digest":"{broken}'
    )
    with store.hold() as hold:
        held = store.blobs.put(b"held", hold)
        for digest in (held, broken, digest_of(b"named")):
            aged(store.blobs, digest, 2 * HOUR_S)
        assert store.prune().blobs == ()
    assert store.prune().blobs == (held.replace(":", "-"),)
    assert store.blobs.size(young) == 5
    aged(store.blobs, young, 2 * HOUR_S)
    assert store.blobs.adopt(young)  # somebody is about to use it
    assert store.prune().blobs == ()


def test_a_deletion_takes_nothing_that_ollama_wrote(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    digest = digest_of(b"foreign")
    (store.root / "blobs").mkdir(parents=True)
    store.blobs.path(digest).write_bytes(b"foreign")
    store.manifests.write(ModelName("m"), Manifest(None, (Layer(media.MODEL, digest, 7),)))
    assert store.delete(ModelName("m"))
    assert store.blobs.size(digest) == 7


def test_what_is_sent_again_outlives_a_deletion(tmp_path: Path) -> None:
    """Whoever sent it is about to make a model of it."""
    store = Store(tmp_path / "models")
    for name in ("m", "n"):
        create(store, name, [f"text of {name}"])
        then = time.time() - 10
        os.utime(store.root / f"manifests/registry.ollama.ai/library/{name}/latest", (then, then))
        aged(store.blobs, digest_of(f"text of {name}".encode()), 10)
    again = digest_of(b"text of m")
    assert store.blobs.adopt(again)
    for name in ("m", "n"):
        assert store.delete(ModelName(name))
    assert os.listdir(store.root / "blobs") == [again.replace(":", "-")]
    assert store.prune().blobs == ()
    assert store.prune(grace_s=-60).blobs == (again.replace(":", "-"),)


def test_an_old_partial_goes_unless_somebody_writes_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    left, live = digest_of(b"left"), digest_of(b"live")
    with store.blobs.begin(left, 4) as partial:
        partial.write_at(0, b"le")
    partial = store.blobs.begin(live, 4)
    scratch = store.root / ".caravan" / "scratch"
    assert store.prune().partials == ()
    for name in os.listdir(scratch):
        os.utime(scratch / name, (1, 1))
    assert store.prune().partials == (left[7:], f"{left[7:]}.json")
    partial.write_at(0, b"live")
    partial.commit()
    assert store.blobs.size(live) == 4


def test_a_folder_without_anything_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifests/registry.ollama.ai/library/m").mkdir(parents=True)
    (tmp_path / "manifests/registry.ollama.ai/library/m/latest").write_text('{"layers":[]}')
    store = Store(tmp_path)
    assert [stored.name.model for stored in store.manifests.list().models] == ["m"]
    assert store.prune().blobs == ()
    assert os.listdir(tmp_path) == ["manifests"]
