import asyncio
import json
import logging
import os
import stat
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.files import BadKeys, changing, parse_keys, read_keys
from app.access.keys import KeyRecord, new_key
from app.access.ring import BAD_BASIC, EXPIRED_KEY, NO_KEY, WRONG_KEY, KeyRing, Reload
from app.core.errors import Unauthorized
from tests.unit.virtual_time import virtual

A, A_HASH = new_key("a")
B, B_HASH = new_key("b")
RECORD_A: Mapping[str, Any] = {"id": "a", "hash": A_HASH, "scopes": ["inference"]}
RECORD_B: Mapping[str, Any] = {"id": "b", "hash": B_HASH, "scopes": ["admin"]}


def text_of(*records: Mapping[str, Any]) -> str:
    return yaml.safe_dump({"keys": [dict(record) for record in records]})


def write(path: Path, *records: Mapping[str, Any]) -> Path:
    """Replace the file as an editor or the command line would."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text_of(*records))
    scratch.replace(path)
    return path


def secret_volume(folder: Path, version: str, files: Mapping[str, str]) -> None:
    """Write a version of a Secret as the kubelet does: a new folder, then one swap of the `..data` link."""
    held = folder / f"..{version}"
    held.mkdir(parents=True)
    for name, text in files.items():
        (held / name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(held.name)
    link.replace(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)


def may_enter(ring: KeyRing, key: str) -> bool:
    try:
        ring.identify(f"Bearer {key}")
    except Unauthorized:
        return False
    return True


# Reading


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [RECORD_A]}))
    assert parse_keys(text_of(RECORD_A), file) == list(read_keys(file)[0])


@pytest.mark.parametrize("text", ["", "# nothing\n", "keys:\n", "keys: []", '{"keys": []}'])
def test_a_file_may_hold_no_key(text: str) -> None:
    assert parse_keys(text, Path("keys.yaml")) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("keys: [", "line 2: "),
        ("keys: []\nkeys2: []", "it must hold `keys`"),
        ("[]", "it must hold `keys`"),
        ("keys: {}", "it must hold `keys`"),
        ("cvn", "it must hold `keys`"),
        ("keys: [5]", "key number 1: "),
        (text_of(RECORD_A, {**RECORD_B, "scopes": ["root"]}), "key 'b': scopes.0: "),
        (text_of({**RECORD_A, "models": ["a", "b c"]}), "key 'a': models.1: not the name of a model"),
        (text_of({**RECORD_A, "limits": {"max_contxt": 1}}), "key 'a': limits.max_contxt: "),
        (text_of({**RECORD_A, "id": A}), "key number 1: id: "),
        (text_of({**RECORD_A, "hash": A}), "key 'a': hash: must be sha256:SALT:DIGEST"),
        (text_of(RECORD_A, RECORD_B, RECORD_A), "2 keys have the id 'a'"),
        ("keys: []\nkeys: []", "line 2: a name stands twice"),
        ('{"keys": [], "keys": []}', "line 1: a name stands twice"),
        (text_of(RECORD_A) + "  id: b\n", "line 6: a name stands twice"),
        (
            text_of({**RECORD_A, "priority": 10**30}),
            "key 'a': priority: Input should be less than or equal to 1000",
        ),
        (
            text_of({**RECORD_A, "priority": -1001}),
            "key 'a': priority: Input should be greater than or equal",
        ),
        (
            text_of({**RECORD_A, "limits": {"tokens_per_minute": 10**30}}),
            "key 'a': limits.tokens_per_minute: Input should be less than or equal to 1000000000",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line_that_names_the_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(BadKeys) as caught:
        read_keys(file)
    told = str(caught.value)
    assert told.startswith(f"{file}: {complaint}")
    assert "\n" not in told
    assert not any(hidden in told for hidden in (A, A.rpartition("_")[2], A_HASH, B_HASH))


SCALARS = ["x", "''", "maybe", "0x", "1e999", "9" * 400, "2027-13-45", "-", "[1]", "{a: b}", "[[a, b, c]]"]
TAGS = [
    "bool",
    "int",
    "float",
    "timestamp",
    "binary",
    "omap",
    "pairs",
    "set",
    "null",
    "seq",
    "map",
    "python/x",
]
PLACES = [
    "keys: {}",
    "{}: []",
    "keys: [{}]",
    "keys: [{{id: a, hash: h, scopes: {}}}]",
    "keys: [{{id: a, expires: {}}}]",
]


@pytest.mark.parametrize("place", PLACES)
def test_whatever_the_parser_stumbles_over_is_told_in_one_line(place: str) -> None:
    """F13: PyYAML raises AttributeError, KeyError, IndexError and more for tags whose text does not fit."""
    texts = [place.format(f"!!{tag} {scalar}") for tag in TAGS for scalar in SCALARS]
    told: list[str] = []
    for text in [*texts, "keys: " + "[" * 5000, "keys: &a [*a]", "? [a]\n: b", "*a", "<<: 1", "\0"]:
        try:
            parse_keys(text, Path("keys.yaml"))
        except BadKeys as error:
            told.append(str(error))
    assert told
    assert not any("\n" in each for each in told)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="No such file"):
        KeyRing(tmp_path / "keys.yaml")


# Identifying


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(write(tmp_path / "keys.yaml", RECORD_A, RECORD_B))


@pytest.mark.row("A1", "B9")
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_a_key_stands_for_its_record(ring: KeyRing, scheme: str) -> None:
    assert ring.identify(scheme + A).key_id == "a"
    assert ring.identify(scheme + B).key_id == "b"


@pytest.mark.row("A1", "B9")
@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("", NO_KEY),
        ("Bearer", NO_KEY),
        ("Bearer  ", NO_KEY),
        (A, NO_KEY),
        (f"Basic {A}", BAD_BASIC),
        (f"Digest {A}", NO_KEY),
        ("Bearer x", WRONG_KEY),
        (f"Bearer {A}0", WRONG_KEY),
        (f"Bearer {A} {A}", WRONG_KEY),
        (f"Bearer {A[:-1]}{'0' if A[-1] != '0' else '1'}", WRONG_KEY),
        (f"Bearer {A.replace('_a_', '_b_')}", WRONG_KEY),
        (f"Bearer {A.replace('_a_', '_c_')}", WRONG_KEY),
        (f"Bearer {A_HASH}", WRONG_KEY),
    ],
    ids=count(),
)
def test_nothing_else_does(ring: KeyRing, header: str, complaint: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        ring.identify(header)
    assert str(caught.value) == complaint


@pytest.mark.row("A1")
def test_a_key_is_good_until_it_expires(tmp_path: Path) -> None:
    clock = [0.0]
    file = write(tmp_path / "keys.yaml", {**RECORD_A, "expires": "1970-01-01T00:01:00Z"})
    ring = KeyRing(file, now=lambda: clock[0])
    clock[0] = 59.9
    assert may_enter(ring, A)
    clock[0] = 60.0
    with pytest.raises(Unauthorized) as caught:
        ring.identify(f"Bearer {A}")
    assert str(caught.value) == EXPIRED_KEY


def test_only_the_owner_of_an_expired_key_learns_that_it_expired(tmp_path: Path) -> None:
    ring = KeyRing(write(tmp_path / "keys.yaml", {**RECORD_A, "expires": "1970-01-02"}))
    other, _ = new_key("a")
    with pytest.raises(Unauthorized) as caught:
        ring.identify(f"Bearer {other}")
    assert str(caught.value) == WRONG_KEY


# Keeping up with the files


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.yaml", RECORD_A)
    heard: list[Reload] = []
    ring = KeyRing(file, on_reload=heard.append)
    write(file, RECORD_B)
    await ring.refresh()
    assert (may_enter(ring, A), may_enter(ring, B), heard) == (False, True, ["ok"])
    file.write_text(text_of(RECORD_A, RECORD_B))
    await ring.refresh()
    assert (may_enter(ring, A), may_enter(ring, B), heard) == (True, True, ["ok", "ok"])


async def test_a_file_that_did_not_change_is_left_alone(tmp_path: Path) -> None:
    heard: list[Reload] = []
    await KeyRing(write(tmp_path / "keys.yaml", RECORD_A), on_reload=heard.append).refresh()
    assert heard == []


@pytest.mark.parametrize(
    "broken",
    [
        "keys: [",
        text_of({**RECORD_A, "scopes": []}),
        "\udcff",
        "keys: !!bool maybe",
        "keys: !!timestamp x",
        "keys: !!int ''",
    ],
)
async def test_a_broken_file_keeps_the_keys_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    file = write(tmp_path / "keys.yaml", RECORD_A)
    heard: list[Reload] = []
    ring = KeyRing(file, on_reload=heard.append)
    file.write_bytes(broken.encode(errors="surrogateescape"))
    for _ in range(3):
        await ring.refresh()
    assert (may_enter(ring, A), heard) == (True, ["error"])
    [complaint] = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert str(file) in complaint.getMessage()
    write(file, RECORD_B)
    await ring.refresh()
    assert (may_enter(ring, A), may_enter(ring, B)) == (False, True)


async def test_a_file_that_went_away_keeps_the_keys_until_it_is_back(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.yaml", RECORD_A)
    heard: list[Reload] = []
    ring = KeyRing(file, on_reload=heard.append)
    file.unlink()
    await ring.refresh()
    await ring.refresh()
    assert (may_enter(ring, A), heard) == (True, ["error"])
    write(file, RECORD_B)
    await ring.refresh()
    assert (may_enter(ring, A), may_enter(ring, B)) == (False, True)


async def test_a_key_can_be_revoked_while_every_other_thread_is_busy(tmp_path: Path) -> None:
    """R1"""
    file, go_on = write(tmp_path / "keys.yaml", RECORD_A), threading.Event()
    ring = KeyRing(file)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as threads:
        loop.set_default_executor(threads)
        busy = loop.run_in_executor(None, go_on.wait)
        write(file, RECORD_B)
        await ring.refresh()
        go_on.set()
        await busy
    assert not may_enter(ring, A)


@virtual
async def test_the_watch_goes_on_after_any_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """F13: the reloader died of what it did not expect, and no key could be revoked any more."""
    heard: list[Reload] = []
    ring = KeyRing(write(tmp_path / "keys.yaml", RECORD_A), on_reload=heard.append)
    looks = 0

    async def refresh() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            await asyncio.Event().wait()  # a mount that hangs
        raise LookupError("unexpected")

    monkeypatch.setattr(ring, "refresh", refresh)
    watching = asyncio.create_task(ring.watch())
    await asyncio.sleep(36)
    assert not watching.done()
    watching.cancel()
    assert looks > 3
    assert heard.count("error") >= 3


@pytest.mark.parametrize("named", ["keys.yaml", ""])
async def test_a_secret_is_read_again_when_its_link_is_swapped(tmp_path: Path, named: str) -> None:
    """Either the volume or a file in it may be named."""
    secret_volume(tmp_path, "1", {"keys.yaml": text_of(RECORD_A)})
    heard: list[Reload] = []
    ring = KeyRing(tmp_path / named, on_reload=heard.append)
    assert may_enter(ring, A)
    secret_volume(tmp_path, "2", {"keys.yaml": text_of(RECORD_B)})
    await ring.refresh()
    assert (may_enter(ring, A), may_enter(ring, B), heard) == (False, True, ["ok"])


async def test_a_folder_holds_the_keys_of_all_its_files(tmp_path: Path) -> None:
    secret_volume(tmp_path, "1", {"team-a": text_of(RECORD_A), "team-b": text_of(RECORD_B)})
    ring = KeyRing(tmp_path)
    assert may_enter(ring, A)
    assert may_enter(ring, B)
    (tmp_path / "team-a").unlink()
    await ring.refresh()
    assert not may_enter(ring, A)


# Changing


def test_a_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.yaml"
    with changing(file) as save:
        save([KeyRecord.model_validate(RECORD_A)])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [record.id for record in read_keys(file)[0]] == ["a"]
    assert [each.name for each in file.parent.iterdir() if not each.name.endswith(".lock")] == ["keys.yaml"]


def test_a_file_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    real = write(tmp_path / "real.json", RECORD_A)
    link = tmp_path / "keys.json"
    link.symlink_to(real.name)
    with changing(link) as save:
        save([KeyRecord.model_validate(RECORD_B)])
    assert link.is_symlink()
    assert json.loads(real.read_text())["keys"][0]["id"] == "b"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "keys.yaml", RECORD_A)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadKeys, match="No space left"), changing(file) as save:
        save([])
    assert [record.id for record in read_keys(file)[0]] == ["a"]
    assert [each.name for each in tmp_path.iterdir() if not each.name.endswith(".lock")] == ["keys.yaml"]


def test_a_folder_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="it is a folder"), changing(tmp_path):
        raise AssertionError("it must not come to this")
