import hashlib
import io
import os
import threading
from pathlib import Path

import pytest

from app.core.errors import BlobMissing, DigestMismatch, InvalidDigest, StoreBusy, StoreFailed, StoreFull
from app.store.blobs import Blobs
from app.store.holds import Hold, held
from app.store.partial import Partial


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


DATA = bytes(range(256)) * 4096
DIGEST = digest_of(DATA)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "models")


def leavings(blobs: Blobs) -> list[str]:
    return sorted(os.listdir(blobs.root / ".caravan" / "scratch"))


def test_a_blob_lies_where_ollama_looks_for_it(blobs: Blobs) -> None:
    digest = blobs.put(b"a template")
    assert blobs.path(digest) == blobs.root / "blobs" / digest.replace(":", "-")
    assert (blobs.path(digest).read_bytes(), blobs.size(digest)) == (b"a template", 10)
    assert blobs.size(digest.replace(":", "-")) == 10
    assert blobs.read(digest, 10) == b"a template"
    assert leavings(blobs) == []


@pytest.mark.parametrize("content", [DATA, io.BytesIO(DATA), [DATA[:7], DATA[7:]]])
def test_a_layer_comes_in_any_form(blobs: Blobs, content: bytes | io.BytesIO | list[bytes]) -> None:
    assert blobs.put(content) == DIGEST
    blobs.verify(DIGEST)


def test_ranges_in_any_order_become_a_blob(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST, len(DATA))
    for start in (3000, 0, 1000, 2000, 500):
        partial.write_at(start, DATA[start : start + 600])
    assert partial.done == [(0, 1600), (2000, 2600), (3000, 3600)]
    assert partial.missing() == [(1600, 2000), (2600, 3000), (3600, len(DATA))]
    for start, end in partial.missing():
        partial.write_at(start, memoryview(DATA)[start:end])
    assert blobs.size(DIGEST) is None
    partial.commit()
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert leavings(blobs) == []


def test_what_was_written_is_taken_up(blobs: Blobs) -> None:
    with blobs.begin(DIGEST, len(DATA)) as partial:
        partial.write_at(100, DATA[100:5000])
    assert blobs.written(DIGEST) == 4900
    again = blobs.begin(DIGEST, len(DATA))
    assert again.done == [(100, 5000)]
    for start, end in again.missing():
        again.write_at(start, DATA[start:end])
    again.commit()
    blobs.verify(DIGEST)


def test_what_was_not_saved_is_written_again(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST, len(DATA))
    partial.write_at(0, b"wrong" * 100)
    partial.save()
    (blobs.root / ".caravan" / "scratch" / f"{DIGEST[7:]}.json").write_bytes(b'{"size": 1, "done": [[0, ')
    partial._close()  # pyright: ignore[reportPrivateUsage] # as a killed process does
    again = blobs.begin(DIGEST, len(DATA))
    assert again.done == []
    again.write_at(0, DATA)
    again.commit()
    blobs.verify(DIGEST)


@pytest.mark.parametrize(
    "state",
    [
        *(
            b"",
            b"{",
            b"[]",
            b'{"size":null}',
            b'{"size":9,"done":[[0,9]]}',
            b'{"size":1048576,"done":[[9,0]]}',
        ),
        *(b'{"size":1048576,"done":[[0,1152921504606846976]]}', b'{"size":1048576,"done":[[-5,3]]}'),
        *(b'{"size":1048576,"done":[["0","4"]]}', b'{"size":1048576,"done":[[0,4],[2,6]]}'),
    ],
)
def test_a_state_that_makes_no_sense_counts_for_nothing(blobs: Blobs, state: bytes) -> None:
    blobs.begin(DIGEST, len(DATA)).abort(keep=True)
    (blobs.root / ".caravan" / "scratch" / f"{DIGEST[7:]}.json").write_bytes(state)
    assert blobs.begin(DIGEST, len(DATA)).done == []


def test_what_lies_behind_the_saved_ranges_is_cut_off(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST)
    partial.write_at(0, DATA[:1000])
    partial.save()
    partial.write_at(1000, bytes(2 * len(DATA)))
    partial._close()  # pyright: ignore[reportPrivateUsage] # as a killed process does
    again = blobs.begin(DIGEST)
    assert again.done == [(0, 1000)]
    again.write_at(1000, DATA[1000:])
    again.commit()
    blobs.verify(DIGEST)


def test_another_content_leaves_nothing(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST, len(DATA))
    partial.write_at(0, DATA[::-1])
    with pytest.raises(DigestMismatch) as refusal:
        partial.commit()
    assert str(refusal.value) == f'digest mismatch, expected "{DIGEST}", got "{digest_of(DATA[::-1])}"'
    assert blobs.size(DIGEST) is None
    assert leavings(blobs) == []


def test_a_blob_that_is_not_whole_has_no_place(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST, len(DATA))
    partial.write_at(0, DATA[:-1])
    with pytest.raises(ValueError, match="not whole"):
        partial.commit()
    with pytest.raises(ValueError, match="do not belong"):
        partial.write_at(len(DATA) - 1, b"ab")
    with pytest.raises(ValueError, match="do not belong"):
        partial.write_at(-1, b"a")
    partial.abort(keep=False)
    assert leavings(blobs) == []


def test_of_a_body_without_a_length_nothing_is_kept(blobs: Blobs) -> None:
    first, second = (blobs.begin(DIGEST, shared=False) for _ in range(2))
    for partial in (first, second):
        partial.write_at(0, DATA)
    first.commit()
    second.commit()
    blobs.verify(DIGEST)
    with blobs.begin(digest_of(b"other"), shared=False) as partial:
        partial.write_at(0, b"oth")
    assert leavings(blobs) == []


def test_one_writer_at_a_time_and_the_next_finds_it_done(blobs: Blobs) -> None:
    first = blobs.begin(DIGEST, len(DATA))
    with pytest.raises(StoreBusy):
        blobs.begin(DIGEST, len(DATA))
    first.write_at(0, DATA)
    first.commit()
    second = blobs.begin(DIGEST, len(DATA))
    assert second.whole
    assert second.missing() == []
    second.commit()
    second.abort(keep=False)
    blobs.verify(DIGEST)


def test_threads_share_the_ranges(blobs: Blobs) -> None:
    partial = blobs.begin(DIGEST, len(DATA))

    def work(part: int) -> None:
        for start in range(part * 1000, len(DATA), 8000):
            partial.write_at(start, DATA[start : start + 1000])

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert partial.missing() == []
    partial.commit()
    blobs.verify(DIGEST)


BAD = (
    *("", "sha256", "sha256:", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "g" * 64),
    *("sha256:" + "A" * 64, "SHA256:" + "a" * 64, "sha512:" + "a" * 64, "sha256_" + "a" * 64),
    *("sha256:" + "a" * 64 + "\n", " sha256:" + "a" * 64, "sha256:../" + "a" * 61, "sha256-" + "/" * 64),
    *("../../../etc/passwd", "/etc/passwd", "sha256:" + "a" * 63 + "\0", "sha256:" + "\u0661" * 64, "a" * 64),
    *("sha256:" + "a" * 64 + "/../../x", "sha256-" + "a" * 64 + "-partial", "sha256::" + "a" * 63),
)


@pytest.mark.parametrize("digest", BAD)
def test_what_is_no_digest_is_refused(blobs: Blobs, digest: str) -> None:
    uses = (blobs.path, blobs.size, blobs.begin, blobs.written, blobs.adopt, blobs.verify, blobs.remove)
    for use in (*uses, Hold(blobs.root).add):
        with pytest.raises(InvalidDigest, match=r"^invalid digest format$"):
            use(digest)
    assert not blobs.root.exists()


def test_a_blob_that_was_changed_is_found_out(blobs: Blobs) -> None:
    digest = blobs.put(b"right")
    blobs.path(digest).write_bytes(b"wrong")
    with pytest.raises(DigestMismatch):
        blobs.verify(digest)
    assert blobs.remove(digest)
    assert not blobs.remove(digest)
    with pytest.raises(BlobMissing, match=rf"^open blobs/sha256-{digest[7:]}: no such file or directory$"):
        blobs.verify(digest)


def test_a_large_layer_is_not_read_whole(blobs: Blobs) -> None:
    with pytest.raises(StoreFailed, match="has 1048576 bytes, of its kind at most 1000 are read"):
        blobs.read(blobs.put(DATA), 1000)


def test_what_does_not_fit_is_not_begun(blobs: Blobs) -> None:
    with pytest.raises(StoreFull, match="do not fit"):
        blobs.begin(DIGEST, 1 << 60)
    blobs.begin(DIGEST, len(DATA)).abort(keep=False)


def test_a_hold_lasts_as_long_as_its_work(blobs: Blobs) -> None:
    with Hold(blobs.root) as hold:
        digest = blobs.put(b"held", hold)
        hold.add(DIGEST)
        assert held(blobs.root) == {digest.replace(":", "-"), DIGEST.replace(":", "-")}
    assert held(blobs.root) == set()


def ranges(partial: Partial, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for start, end in spans:
        partial.write_at(start, bytes(end - start))
    return partial.done


@pytest.mark.parametrize(
    ("spans", "done"),
    [
        ([(0, 1), (1, 2)], [(0, 2)]),
        ([(5, 6), (0, 1), (2, 3)], [(0, 1), (2, 3), (5, 6)]),
        ([(0, 1), (2, 3), (4, 5), (0, 9)], [(0, 9)]),
        ([(3, 5), (4, 4), (0, 3)], [(0, 5)]),
        ([(0, 10), (2, 4)], [(0, 10)]),
        ([(0, 2), (6, 8), (2, 6)], [(0, 8)]),
    ],
)
def test_ranges_that_touch_are_one(
    blobs: Blobs, spans: list[tuple[int, int]], done: list[tuple[int, int]]
) -> None:
    assert ranges(blobs.begin(DIGEST), spans) == done
