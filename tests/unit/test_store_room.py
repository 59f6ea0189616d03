"""The quota of a store: what is there, what is being written and what is promised, in one sum."""

import os
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.core.errors import Forbidden, StoreFailed
from app.core.model import ModelName
from app.store import manifest as media
from app.store.digests import file_name
from app.store.folders import changing
from app.store.holds import Hold
from app.store.manifest import Layer, Manifest
from app.store.room import taken
from app.store.store import Store
from tests.unit.store_worker import digest_of

LIMIT = 20_000
ROOT = Path(__file__).parents[2]
DATA = bytes(15_000)
BLOB = file_name(digest_of(DATA))
OTHER = file_name(digest_of(b"other"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", {"beside": lambda: tmp_path / "beside"})


def total(store: Store) -> int:
    with changing(store.root):
        return sum(taken(store.root, {}, {}).values())


@contextmanager
def reserved(store: Store, **sizes: int) -> Generator[Hold]:
    with store.hold() as hold:
        hold.reserve(sizes, LIMIT)
        yield hold


def test_what_is_promised_to_one_is_not_promised_to_another(store: Store) -> None:
    with reserved(store, **{BLOB: 15_000}):
        with pytest.raises(Forbidden) as error, store.hold() as hold:
            hold.reserve({OTHER: 5_001}, LIMIT)
        assert str(error.value) == (
            "the models here have 15000 bytes and 5001 would come, of at most 20000; delete a model first"
        )
        with reserved(store, **{OTHER: 5_000}):
            pass
    with reserved(store, **{OTHER: LIMIT}):
        pass


def test_of_many_at_once_as_many_come_in_as_fit(store: Store) -> None:
    def tries(number: int) -> Hold | None:
        hold = store.hold()
        try:
            hold.reserve({file_name(digest_of(bytes([number]))): 6_000}, LIMIT)
        except Forbidden:
            hold.release()
            return None
        return hold

    with ThreadPoolExecutor(8) as pool:
        holds = list(filter(None, pool.map(tries, range(8))))
    assert len(holds) == 3
    for hold in holds:
        hold.release()


def test_a_promise_ends_with_its_process(store: Store) -> None:
    program = (
        "import sys, time; from pathlib import Path; from app.store.store import Store\n"
        f"hold = Store(Path(sys.argv[1])).hold(); hold.reserve({{{BLOB!r}: 15000}}, {LIMIT})\n"
        "print('there', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(store.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "there\n"
            with pytest.raises(Forbidden), store.hold() as hold:
                hold.reserve({OTHER: 5_001}, LIMIT)
        finally:
            process.kill()
        process.wait(60)
    with reserved(store, **{OTHER: LIMIT}):
        pass
    assert os.listdir(store.root / ".caravan" / "holds") == []


def test_one_blob_counts_once_however_many_bring_it(store: Store) -> None:
    with reserved(store, **{BLOB: 15_000}), reserved(store, **{BLOB: 15_000}) as hold:
        with store.blobs.begin(digest_of(DATA), len(DATA)) as partial:
            partial.write_at(0, DATA)
            with reserved(store, **{BLOB: 15_000}):
                partial.commit()
        hold.reserve({BLOB: 15_000}, LIMIT)
        with reserved(store, **{OTHER: 4_000}):
            assert total(store) == 15_000


def test_what_is_being_written_counts(store: Store) -> None:
    with store.blobs.begin(digest_of(DATA), len(DATA)) as partial:
        partial.write_at(0, DATA)
        with pytest.raises(Forbidden), store.hold() as hold:
            hold.reserve({OTHER: 5_001}, LIMIT)
    assert total(store) >= 15_000


def test_what_a_broken_off_pull_has_left_makes_room(store: Store) -> None:
    with store.blobs.begin(digest_of(DATA), len(DATA)) as partial:
        partial.write_at(0, DATA[:-1])
    with reserved(store, **{BLOB: 15_000}), pytest.raises(Forbidden), store.hold() as hold:
        hold.reserve({OTHER: 5_001}, LIMIT)  # the pull that takes it up has come back
    with store.hold() as hold:
        hold.add(digest_of(DATA))
        with pytest.raises(Forbidden):
            hold.reserve({OTHER: 5_001}, LIMIT)
    with reserved(store, **{OTHER: 5_001}):
        assert os.listdir(store.root / ".caravan" / "scratch") == []


def test_a_private_file_counts_by_its_promise_until_it_is_a_blob(store: Store) -> None:
    with store.hold() as hold, store.blobs.begin(digest_of(DATA), shared=False) as partial:
        hold.reserve({partial.name: 15_000}, LIMIT)
        with pytest.raises(Forbidden), store.hold() as other:
            other.reserve({OTHER: 5_001}, LIMIT)
        partial.write_at(0, DATA)
        partial.commit()
        with reserved(store, **{OTHER: 5_000}):
            pass


def test_who_goes_on_after_the_end_of_a_hold_holds_nothing(store: Store) -> None:
    with store.hold() as hold:
        hold.add(digest_of(DATA))
    with pytest.raises(StoreFailed, match="nobody waits"):
        hold.reserve({BLOB: 15_000}, LIMIT)
    with pytest.raises(StoreFailed, match="nobody waits"):
        store.blobs.put(DATA, hold)
    assert os.listdir(store.root / ".caravan" / "holds") == []
    assert store.blobs.size(digest_of(DATA)) is None


def test_manifests_count(store: Store) -> None:
    with store.hold() as hold:
        layer = Layer(media.LICENSE, store.blobs.put(b"text", hold), 4)
        stored = store.manifests.write(ModelName("m"), Manifest(None, (layer,)))
    assert total(store) == 4 + len(stored.manifest.encode())


def test_what_lies_beside_the_store_counts_where_it_was_made_for_it(store: Store, tmp_path: Path) -> None:
    for name in ("mine", "others"):
        (tmp_path / "beside" / name).mkdir(parents=True)
        (tmp_path / "beside" / name / "data").write_bytes(bytes(9_000))
    with reserved(store, **{"beside/mine": 9_000}), reserved(store, **{OTHER: 11_000}):
        pass
    with pytest.raises(Forbidden), store.hold() as hold:
        hold.reserve({OTHER: 11_001}, LIMIT)
    (tmp_path / "beside" / "mine" / "data").unlink()
    (tmp_path / "beside" / "mine").rmdir()
    with reserved(store, **{OTHER: LIMIT}):
        pass
    marks = store.root / ".caravan" / "beside" / "beside"
    assert os.listdir(marks) == ["mine"], "it may be about to be made"
    os.utime(marks / "mine", (1, 1))
    with reserved(store, **{OTHER: LIMIT}):
        assert os.listdir(marks) == []


def test_it_says_whether_to_delete_a_model_would_help(store: Store) -> None:
    with store.hold() as hold, pytest.raises(Forbidden) as empty:
        hold.reserve({OTHER: LIMIT + 1}, LIMIT)
    assert str(empty.value) == (
        f"{LIMIT + 1} bytes would come, and all models here may have at most {LIMIT} together"
    )
    store.blobs.put(DATA)
    with store.hold() as hold, pytest.raises(Forbidden) as full:
        hold.reserve({OTHER: LIMIT}, LIMIT)
    assert str(full.value) == (
        f"the models here have {len(DATA)} bytes and {LIMIT} would come, of at most {LIMIT}; "
        "delete a model first"
    )


def test_what_was_there_before_stays_usable_over_a_lower_limit(store: Store) -> None:
    store.blobs.put(DATA)
    with store.hold() as hold:
        hold.reserve({BLOB: 15_000}, 1_000)
        with pytest.raises(Forbidden):
            hold.reserve({OTHER: 1}, 1_000)


class TestAway:
    """A folder that is not there is not one that is empty."""

    def test_one_that_comes_to_be_during_a_look_is_there(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        presence = store.blobs.presence
        look = presence.look

        def overtaken() -> bool:
            found = look()
            store.root.mkdir(exist_ok=True)
            (store.root / "blobs").mkdir()
            assert look()
            return found

        monkeypatch.setattr(presence, "look", overtaken)
        presence.check()
        monkeypatch.undo()
        (store.root / "blobs").rmdir()
        with pytest.raises(StoreFailed, match="is not there any more"):
            presence.check()

    def test_nothing_is_pruned_while_manifests_are_away(self, store: Store) -> None:
        with store.hold() as hold:
            digest = store.blobs.put(b"weights", hold)
            store.manifests.write(ModelName("m"), Manifest(None, (Layer(media.MODEL, digest, 7),)))
        away = (store.root / "manifests").rename(store.root / "elsewhere")
        with pytest.raises(StoreFailed, match="the folder of manifests is not there"):
            store.prune(grace_s=-60)
        away.rename(store.root / "manifests")
        assert store.blobs.size(digest) == 7
        store.prune(grace_s=-60)
        assert store.blobs.size(digest) == 7

    def test_of_a_store_that_never_had_a_model_what_was_sent_goes(self, store: Store) -> None:
        digest = store.blobs.put(b"weights")
        assert store.prune(grace_s=-60).blobs == (file_name(digest),)

    def test_no_store_begins_where_one_was(self, store: Store) -> None:
        store.prune()
        with store.hold() as hold:
            layer = Layer(media.MODEL, store.blobs.put(b"weights", hold), 7)
            store.manifests.write(ModelName("m"), Manifest(None, (layer,)))
        away = store.root.rename(store.root.with_name("elsewhere"))
        store.root.mkdir()  # the point where its volume was mounted
        uses = [
            lambda: store.blobs.put(b"text"),
            lambda: store.blobs.begin(digest_of(b"text")),
            lambda: store.hold().add(layer.digest),
            lambda: store.manifests.copy(ModelName("m"), ModelName("n")),
            lambda: store.delete(ModelName("m")),
        ]
        for use in uses:
            with pytest.raises(StoreFailed, match="is not there any more"):
                use()
        assert list(store.root.iterdir()) == []
        store.root.rmdir()
        away.rename(store.root)
        store.manifests.copy(ModelName("m"), ModelName("n"))
