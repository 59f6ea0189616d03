import json
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from app.access.files import read_keys
from app.access.keys import KeyRecord
from app.access.ring import KeyRing
from app.access.ssh import fingerprint, read_public_key
from app.cli import _app  # pyright: ignore[reportPrivateUsage]  # the program as it is installed
from app.core.context import SCOPES
from tests.signing import Signer

SIGNER = Signer(bytes(range(32)))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.yaml"
    monkeypatch.setenv("CARAVAN_KEYS_FILE", str(path))
    return path


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(_app, ["keys", *arguments])


def record(file: Path) -> KeyRecord:
    [found] = read_keys(file)[0]
    return found


def test_help_names_every_scope() -> None:
    told = keys("create", "--help").stdout
    assert {scope for scope in SCOPES if scope not in told} == set()


def test_a_new_key_is_printed_alone_and_lets_its_holder_in(file: Path) -> None:
    made = keys("create", "--id", "team-a", "--name", "Team A")
    assert made.exit_code == 0
    assert len(made.stdout.split()) == 1
    caller = KeyRing(file).identify(f"Bearer {made.stdout.strip()}")
    assert (caller.key_id, caller.scopes, caller.models) == ("team-a", {"inference", "models:read"}, None)
    assert made.stdout.strip() not in file.read_text() + made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_all_that_a_key_may_be_given(file: Path) -> None:
    made = keys(
        *("create", "--scope", "inference", "--scope", "metrics", "--model", "qwen3", "--model", "llama*"),
        *("--expires", "2099-01-31", "--requests-per-minute", "60", "--tokens-per-minute", "1000"),
        *("--concurrent-requests", "2", "--max-context", "4096", "--max-predict", "256", "--priority", "-1"),
        *("--max-tool-calls", "5"),
    )
    assert made.exit_code == 0
    found = record(file)
    assert (found.scopes, found.models) == (["inference", "metrics"], ["qwen3:latest", "llama*"])
    assert found.expires == datetime(2099, 1, 31, tzinfo=UTC)
    assert list(found.limits.model_dump().values()) == [60, 1000, 2, 4096, 256, 5]
    assert found.priority == -1


@pytest.mark.parametrize(("text", "span"), [("90d", timedelta(90)), ("12h", timedelta(hours=12))])
def test_a_key_may_expire_some_time_from_now(file: Path, text: str, span: timedelta) -> None:
    before = datetime.now(UTC)
    keys("create", "--expires", text)
    expires = record(file).expires
    assert expires is not None
    assert before + span - timedelta(seconds=1) <= expires <= datetime.now(UTC) + span


def test_keys_are_listed_by_all_but_themselves(file: Path) -> None:
    made = keys("create", "--id", "a", "--name", "Team A", "--max-context", "10", "--priority", "5")
    keys("create", "--id", "b", "--scope", "admin", "--expires", "2099-01-01")
    file.write_text(file.read_text().replace("2099-01-01", "2020-01-01"))
    listed = keys("list")
    head, *rows = [line.split("  ") for line in listed.stdout.splitlines()]
    assert [cell.strip() for cell in head if cell] == [
        *("ID", "NAME", "SCOPES", "MODELS", "EXPIRES", "LIMITS", "PUBLIC KEY")
    ]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells == [
        ["a", "Team A", "inference,models:read", "all", "never", "max_context=10,priority=5", "-"],
        ["b", "-", "admin", "all", "2020-01-01 00:00 (over)", "-", "-"],
    ]
    hashed = [(found.hash or "").split(":")[2] for found in read_keys(file)[0]]
    assert not any(hidden in listed.output for hidden in (made.stdout.strip(), *hashed))


@pytest.mark.parametrize("given", ["text", "file"])
def test_a_public_key_lets_its_owner_in_and_nothing_is_secret(file: Path, tmp_path: Path, given: str) -> None:
    public = tmp_path / "id_ed25519.pub"
    public.write_text(f"{SIGNER.public_key}\n")
    made = keys(
        "create", "--id", "ann", "--public-key", SIGNER.public_key if given == "text" else str(public)
    )
    assert (made.exit_code, made.stdout) == (0, "")
    shown = fingerprint(read_public_key(SIGNER.public_key))
    assert made.stderr == f"key 'ann' is in {file}: it lets in who signs with {shown}\n"
    assert record(file).fields() == {
        "id": "ann",
        "public_key": SIGNER.public_key.rpartition(" ")[0],
        "scopes": ["inference", "models:read"],
        "created": record(file).fields()["created"],
    }
    target = f"POST,/api/show?ts={int(time.time())}"
    assert KeyRing(file).identify(SIGNER.header(target), target).key_id == "ann"
    assert keys("list").stdout.splitlines()[1].endswith(f"  {shown}")


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    for key_id in ("a", "b", "c"):
        keys("create", "--id", key_id)
    assert keys("revoke", "b").exit_code == 0
    assert [found.id for found in read_keys(file)[0]] == ["a", "c"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "--id", "A B"), "--id: "),
        (("create", "--scope", "root"), "--scope: "),
        (("create", "--model", "a b"), "--model: not the name of a model"),
        (
            ("create", "--expires", "soon"),
            "--expires: not a date such as 2027-01-31 or 2027-01-31T12:00:00Z, "
            "and no time from now such as 90d or 12h",
        ),
        (("create", "--expires", "2020-01-01"), "--expires: 2020-01-01 is over already"),
        (("create", "--expires", "0d"), "--expires: 0d is over already"),
        (("create", "--expires=-1h"), "--expires: -1h is over already"),
        (("create", "--expires", "9999999d"), "--expires: 9999999d is too far from now"),
        (("create", "--expires", "9" * 20 + "d"), "is too far from now"),
        (("create", "--max-context", "0"), "--max-context: "),
        (("create", "--id", "a"), "there is a key 'a' already"),
        (("create", "--public-key", SIGNER.public_key), "--public-key: it is that of the key 's' already"),
        (("create", "--public-key", "ssh-rsa AAAA"), "--public-key: is not of the type ssh-ed25519"),
        (("create", "--public-key=-----BEGIN OPENSSH PRIVATE KEY-----"), "--public-key: is a private key"),
        (("create", "--public-key", "/nowhere.pub"), "--public-key: /nowhere.pub: No such file"),
        (("create", "--public-key", "/usr"), "--public-key: /usr: Is a directory"),
        (("create", "--public-key", sys.executable), "it is no public key"),
        (("revoke", "b"), "there is no key 'b'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    file: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    keys("create", "--id", "a")
    keys("create", "--id", "s", "--public-key", SIGNER.public_key)
    before = file.read_text()
    told = keys(*arguments)
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith("caravan: ")
    assert complaint in told.stderr
    assert told.stderr.count("\n") == 1
    assert file.read_text() == before


def test_a_file_that_is_broken_is_not_written_over(file: Path) -> None:
    file.write_text("keys: [")
    assert keys("create").exit_code == 1
    assert file.read_text() == "keys: ["


@pytest.mark.parametrize("command", [("create",), ("list",), ("revoke", "a")])
def test_some_file_must_be_named(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARAVAN_KEYS_FILE", raising=False)
    monkeypatch.delenv("CARAVAN_CONFIG", raising=False)
    told = keys(*command)
    assert told.exit_code == 1
    assert "--file" in told.stderr


def test_an_option_names_another_file_which_may_be_json(file: Path) -> None:
    other = file.with_suffix(".json")
    assert keys("create", "--id", "a", "--file", str(other)).exit_code == 0
    assert json.loads(other.read_text())["keys"][0]["id"] == "a"
    assert not file.exists()


def test_the_configuration_file_may_name_it(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARAVAN_KEYS_FILE")
    config = tmp_path / "caravan.yaml"
    config.write_text(yaml.safe_dump({"keys_file": str(file)}))
    monkeypatch.setenv("CARAVAN_CONFIG", str(config))
    assert keys("create", "--id", "a").exit_code == 0
    assert record(file).id == "a"


def test_keys_made_at_once_are_all_kept(file: Path) -> None:
    made = [
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", "keys", "create", "--id", f"k{number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in made:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    assert {found.id for found in read_keys(file)[0]} == {"k0", "k1", "k2", "k3"}
