from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from pydantic import ValidationError

from app.access.keys import NOBODY, KeyRecord, SaltedHash, new_id, new_key, split_key
from app.catalogue.names import parse_name
from app.core.context import ANYBODY, Caller, Limits

KEY, HASH = new_key("team-a")


def record(**fields: Any) -> KeyRecord:
    return KeyRecord.model_validate({"id": "team-a", "hash": HASH, "scopes": ["inference"], **fields})


def test_a_new_key_fits_its_hash_and_no_other() -> None:
    parts = split_key(KEY)
    assert parts is not None
    key_id, secret = parts
    other_key, other_hash = new_key("team-a")
    assert key_id == "team-a"
    assert SaltedHash(HASH).fits(secret)
    assert not SaltedHash(other_hash).fits(secret)
    assert not NOBODY.fits(secret)
    assert other_key != KEY


def test_the_hash_is_salted_and_tells_nothing_of_the_key() -> None:
    hashes = {new_key("a")[1].split(":")[1] for _ in range(50)}
    assert len(hashes) == 50
    assert KEY.rpartition("_")[2] not in HASH


def test_a_changed_secret_does_not_fit() -> None:
    _, secret = split_key(KEY) or ("", "")
    for place in range(len(secret)):
        changed = secret[:place] + ("0" if secret[place] != "0" else "1") + secret[place + 1 :]
        assert not SaltedHash(HASH).fits(changed)


@pytest.mark.parametrize(
    "text",
    ["", "cvn", "cvn_a_b", KEY[:-1], KEY + "0", KEY.upper(), "sk" + KEY[3:], f" {KEY}", f"{KEY}\n"],
    ids=count(),
)
def test_what_is_no_key(text: str) -> None:
    assert split_key(text) is None


def test_a_made_up_id_is_an_id() -> None:
    assert record(id=new_id()).id != new_id()


def test_a_record_says_who_asks() -> None:
    made = record(
        models=["qwen3", "hf.co/org/m:Q8"],
        limits={"requests_per_minute": 60, "max_predict": 100},
        priority=-1,
        scopes=["models:read", "inference"],
    )
    assert made.caller() == Caller(
        key_id="team-a",
        scopes=frozenset({"inference", "models:read"}),
        models=frozenset({"qwen3:latest", "hf.co/org/m:q8"}),
        limits=Limits(requests_per_minute=60, max_predict=100),
        priority=-1,
    )


def test_what_is_kept_reads_back_as_the_same_record() -> None:
    made = record(name="Team A", models=["a*"], expires="2027-01-31", limits={"max_context": 1}, priority=3)
    assert KeyRecord.model_validate(made.fields()) == made
    assert set(record().fields()) == {"id", "hash", "scopes"}


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        (datetime(2027, 1, 31, 12), datetime(2027, 1, 31, 12, tzinfo=UTC)),
        (datetime(2027, 1, 31).date(), datetime(2027, 1, 31, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_date_or_a_time(written: object, moment: datetime) -> None:
    assert record(expires=written).expires == moment


BAD: list[dict[str, Any]] = [
    {"id": ""},
    {"id": "a_b"},
    {"id": "A"},
    {"id": "-a"},
    {"id": "a" * 33},
    {"id": "a\n"},
    {"hash": KEY},
    {"hash": HASH[:-1]},
    {"scopes": []},
    {"scopes": ["infer"]},
    {"scopes": "inference"},
    {"models": []},
    {"models": "qwen3"},
    {"models": ["a b"]},
    {"models": ["qwen3[34]"]},
    {"expires": "soon"},
    {"expires": 5},
    {"limits": {"requests": 1}},
    {"limits": {"requests_per_minute": 0}},
    {"limits": {"requests_per_minute": "9"}},
    {"limits": {"max_context": True}},
    {"priority": "high"},
    {"name": 1},
    {"colour": "red"},
]


@pytest.mark.parametrize("bad", BAD, ids=count())
def test_a_record_is_read_strictly(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        record(**bad)
    assert KEY not in str(caught.value)
    assert HASH.split(":")[2] not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("qwen3", "qwen3", True),
        ("qwen3", "qwen3:latest", True),
        ("qwen3", "library/qwen3", True),
        ("registry.ollama.ai/library/qwen3:latest", "qwen3", True),
        ("Qwen3:8B", "qwen3:8b", True),
        ("qwen3:8b", "QWEN3:8B", True),
        ("qwen3", "qwen3:8b", False),
        ("qwen3:8b", "qwen3", False),
        ("qwen3", "me/qwen3", False),
        ("qwen3:*", "qwen3:8b", True),
        ("qwen3:*", "qwen3-coder:8b", False),
        ("qwen3*", "qwen3-coder:8b", True),
        ("me/*", "me/qwen3", True),
        ("me/*", "you/qwen3", False),
        ("*", "hf.co/org/m:q8", True),
    ],
)
def test_a_key_may_use_what_its_models_name(pattern: str, name: str, may: bool) -> None:
    assert record(models=[pattern]).caller().may_use(parse_name(name)) is may


def test_a_key_without_models_may_use_all_of_them() -> None:
    assert record().caller().may_use(parse_name("whatever"))
    assert ANYBODY.may_use(parse_name("whatever"))


def test_admin_is_good_for_everything_and_nothing_else_is() -> None:
    admin, reader = record(scopes=["admin"]).caller(), record(scopes=["models:read"]).caller()
    assert all(admin.has(scope) for scope in ("inference", "models:read", "models:write", "metrics", "admin"))
    assert reader.has("models:read")
    assert not any(reader.has(scope) for scope in ("inference", "models:write", "metrics", "admin"))
