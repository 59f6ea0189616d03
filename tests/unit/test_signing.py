"""Public keys as ssh writes them, and signatures of requests; the fixed ones were made by other programs."""

import base64
import struct
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.files import BadKeys, read_keys
from app.access.keys import new_key
from app.access.ring import (
    BAD_BASIC,
    EXPIRED_KEY,
    NO_KEY,
    WRONG_KEY,
    KeyRing,
)
from app.access.signing import (
    NO_TIME,
    STALE_SIGNATURE,
    TOO_LONG,
    WRONG_SIGNATURE,
    Verifier,
    is_signed,
)
from app.access.ssh import fingerprint, read_public_key, write_public_key
from app.core.errors import Unauthorized
from tests.signing import Signer

AT = 1795916305
SHOW = f"POST,/api/show?ts={AT}"

BY_SSH_KEYGEN = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHR7g+ILyO/Mu6PK+FQ7FOrTgAUPMn28mhScOKoINpn5 team@notebook"
)
"""Made by `ssh-keygen -t ed25519`, and its fingerprint by `ssh-keygen -l`."""
FINGERPRINT = "SHA256:dSaUSeKXLNJPVY6n+aRQ+kUKvju4g2L+VO5aLiE4SUQ"
BY_HAND = {
    SHOW: "TgtUrftqN7xeqarlZYV5492EdI3EY/W04uWKdjX0Ntsh7WmamwfnI9fNpAMCYuEgyjira7D5sKtYr8EZi9SZCQ==",
    f"HEAD,/?ts={AT}": (
        "DapTCwBPkxK2ZCW7hy99oQeNYobr82ajxsdnv/gsqHGd53Dt7wg3HQnGERqKZbTVxV6626pOKiMMsArKO2vXDQ=="
    ),
}
"""Signatures of that key, worked out in integers by section 5.1 of RFC 8032 and checked with Node.js."""

SEED = bytes(range(32))
OF_SEED = (
    "AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    "YrQpId3AZ2VSjpxo7U/YCK0cGh9IdomAFosO3I5O5xloyi5eSy1nM3RpVHdqherFoLrk3rCOnp72OT8ZF7WMCw==",
)
"""Key and signature of `SHOW` for a secret that anybody can put in, worked out likewise."""

SIGNER = Signer(SEED)
STRANGER = Signer(bytes(32))
SECRET, SECRET_HASH = new_key("secret")


def wire(kind: bytes, key: bytes, *, size: int | None = None, after: bytes = b"") -> str:
    length = len(key) if size is None else size
    text = struct.pack(">I", len(kind)) + kind + struct.pack(">I", length) + key + after
    return base64.b64encode(text).decode()


def keys(tmp_path: Path, *records: dict[str, Any]) -> Path:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [{"scopes": ["inference"], **record} for record in records]}))
    return file


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    signers = [{"id": "ssh", "public_key": BY_SSH_KEYGEN}, {"id": "seed", "public_key": SIGNER.public_key}]
    return KeyRing(keys(tmp_path, *signers, {"id": "secret", "hash": SECRET_HASH}), now=lambda: AT)


def refusal(ring: KeyRing, authorization: str, target: str = SHOW) -> str:
    with pytest.raises(Unauthorized) as caught:
        ring.identify(authorization, target)
    return str(caught.value)


# Fixed vectors


def test_a_key_of_ssh_keygen_is_read_and_named_as_it_does() -> None:
    key = read_public_key(BY_SSH_KEYGEN)
    assert write_public_key(key) == BY_SSH_KEYGEN.removesuffix(" team@notebook")
    assert fingerprint(key) == FINGERPRINT


def test_signatures_that_another_program_made_fit() -> None:
    verifier = Verifier(read_public_key(BY_SSH_KEYGEN))
    for target, signature in BY_HAND.items():
        assert verifier.fits(target, base64.b64decode(signature))
        assert not verifier.fits(target + "0", base64.b64decode(signature))


def test_what_signs_in_these_tests_signs_as_that_program() -> None:
    assert SIGNER.header(SHOW) == ":".join(OF_SEED)


@pytest.mark.row("A1")
def test_a_request_of_ollama_s_command_line_is_let_in(ring: KeyRing) -> None:
    encoded = BY_SSH_KEYGEN.split()[1]
    for target, signature in BY_HAND.items():
        assert ring.identify(f"{encoded}:{signature}", target).key_id == "ssh"
    for _ in range(3):  # again and again: the program sends equal requests within a second
        assert ring.identify(":".join(OF_SEED), SHOW).key_id == "seed"


# What is refused


@pytest.mark.parametrize(
    "target",
    [
        f"GET,/api/show?ts={AT}",
        f"POST,/api/tags?ts={AT}",
        f"POST,/prefix/api/show?ts={AT}",
        f"POST,/api/show?ts={AT + 1}",
        f"POST,/api/show?ts={AT}&more=1",
        f"POST,/api/show?more=1&ts={AT}",
        f"POST,/api/show/?ts={AT}",
        f"post,/api/show?ts={AT}",
    ],
)
def test_a_signature_is_of_one_method_path_and_query(ring: KeyRing, target: str) -> None:
    assert refusal(ring, SIGNER.header(SHOW), target) == WRONG_SIGNATURE
    assert ring.identify(SIGNER.header(target), target).key_id == "seed"


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_changed_signature_does_not_fit(ring: KeyRing, place: int) -> None:
    signature = bytearray(base64.b64decode(OF_SEED[1]))
    signature[place] ^= 1
    assert refusal(ring, f"{OF_SEED[0]}:{base64.b64encode(signature).decode()}") == WRONG_SIGNATURE


def test_nobody_learns_which_public_keys_are_known(ring: KeyRing) -> None:
    for header in (STRANGER.header(SHOW), f"{OF_SEED[0]}:{STRANGER.header(SHOW).split(':')[1]}"):
        assert refusal(ring, header) == WRONG_SIGNATURE


@pytest.mark.parametrize("unknown", [True, False])
def test_a_signature_is_checked_once_whoever_it_is_of(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch, unknown: bool
) -> None:
    checked: list[str] = []
    fits = Verifier.fits

    def counted(verifier: Verifier, target: str, signature: bytes) -> bool:
        checked.append(target)
        return fits(verifier, target, signature)

    monkeypatch.setattr(Verifier, "fits", counted)
    refusal(ring, STRANGER.header(SHOW) if unknown else SIGNER.header("x"))
    assert checked == [SHOW]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (f":{OF_SEED[1]}", "the public key is not of the type ssh-ed25519"),
        (f"%%%:{OF_SEED[1]}", "the public key is not base64"),
        (f"ключ:{OF_SEED[1]}", "the public key is not base64"),
        (f"{OF_SEED[0][:-1]}:{OF_SEED[1]}", "the public key is not base64"),
        (f"{wire(b'ssh-rsa', bytes(257))}:{OF_SEED[1]}", "the public key is not of the type ssh-ed25519"),
        (f"{wire(b'ssh-ed25519', b'x' * 31)}:{OF_SEED[1]}", "the public key does not have the 32 bytes"),
        (f"{wire(b'ssh-ed25519', b'x' * 33)}:{OF_SEED[1]}", "the public key does not have the 32 bytes"),
        (
            f"{wire(b'ssh-ed25519', b'x' * 32, size=2**32 - 1)}:{OF_SEED[1]}",
            "the public key does not have the 32 bytes",
        ),
        (
            f"{wire(b'ssh-ed25519', b'x' * 32, after=b'y')}:{OF_SEED[1]}",
            "the public key does not have the 32 bytes",
        ),
        (f"{OF_SEED[0]}:", "the signature does not have 64 bytes"),
        (f"{OF_SEED[0]}:{OF_SEED[1][:-4]}", "the signature does not have 64 bytes"),
        (f"{OF_SEED[0]}:{OF_SEED[1]}AAAA", "the signature is not base64"),
        (f"{OF_SEED[0]}:{OF_SEED[1]}:", "the signature is not base64"),
        (f"{OF_SEED[0]}:{OF_SEED[1].replace('/', '_')}", "the signature is not base64"),
    ],
    ids=count(),
)
def test_a_header_that_cannot_be_read_says_why(ring: KeyRing, header: str, text: str) -> None:
    assert refusal(ring, header).startswith(f"unauthorized: {text}")


def test_a_key_that_anybody_can_sign_with_lets_nobody_in(ring: KeyRing) -> None:
    """The neutral point and an S of 0: it fits any text."""
    neutral, forged = b"\1" + bytes(31), b"\1" + bytes(63)
    assert Verifier(neutral).fits(SHOW, forged)
    header = f"{wire(b'ssh-ed25519', neutral)}:{base64.b64encode(forged).decode()}"
    assert refusal(ring, header) == "unauthorized: the public key is one that anybody can sign with"


@pytest.mark.parametrize(
    ("apart", "good"), [(0, True), (300, True), (-300, True), (301, False), (-301, False), (-AT, False)]
)
def test_a_signature_is_good_for_five_minutes_before_and_after(ring: KeyRing, apart: int, good: bool) -> None:
    target = f"POST,/api/show?ts={AT + apart}"
    if good:
        assert ring.identify(SIGNER.header(target), target).key_id == "seed"
    else:
        assert refusal(ring, SIGNER.header(target), target) == STALE_SIGNATURE


@pytest.mark.parametrize(
    "query", ["", "ts=", "ts=x", f"ts=-{AT}", f"ts={AT}.0", f"sts={AT}", f"ts={AT}&ts={AT}", "ts=" + "1" * 13]
)
def test_a_signed_request_says_when_it_was_made(ring: KeyRing, query: str) -> None:
    target = f"POST,/api/show?{query}"
    assert refusal(ring, SIGNER.header(target), target) == NO_TIME


def test_what_is_long_is_refused_before_it_is_checked(ring: KeyRing) -> None:
    target = f"{SHOW}&more={'x' * 4096}"
    assert refusal(ring, SIGNER.header(target), target) == TOO_LONG
    assert refusal(ring, f"{'A' * 4096}:A") == TOO_LONG


def test_a_key_that_signs_is_good_until_it_expires(tmp_path: Path) -> None:
    record = {"id": "seed", "public_key": SIGNER.public_key, "expires": "2020-01-01"}
    ring = KeyRing(keys(tmp_path, record), now=lambda: AT)
    assert refusal(ring, SIGNER.header(SHOW)) == EXPIRED_KEY
    assert refusal(ring, STRANGER.header(SHOW)) == WRONG_SIGNATURE


def test_a_key_that_signs_has_no_secret(ring: KeyRing) -> None:
    for secret in ("0" * 64, SECRET.rpartition("_")[2]):
        assert refusal(ring, f"Bearer cvn_seed_{secret}") == WRONG_KEY


def test_what_is_signed_is_told_from_other_headers() -> None:
    assert is_signed("a:b")
    assert is_signed(":")
    assert not any(map(is_signed, ("", "Bearer a:b", "Basic YTpi", SECRET)))


# Basic


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.row("A1")
@pytest.mark.parametrize("user", ["", "secret", "anybody", "Jörg"])
def test_a_key_may_be_the_password_of_any_user(ring: KeyRing, user: str) -> None:
    assert ring.identify(basic(f"{user}:{SECRET}")).key_id == "secret"
    assert ring.identify(basic(f"{user}:{SECRET}").replace("Basic", "bASIC ")).key_id == "secret"


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Basic", NO_KEY),
        ("Basic  ", NO_KEY),
        (f"Basic {SECRET}", BAD_BASIC),
        ("Basic //8=", BAD_BASIC),
        (basic(SECRET), BAD_BASIC),
        (basic(f"{SECRET}:"), WRONG_KEY),
        (basic(f"user:{SECRET}0"), WRONG_KEY),
        (basic(f"user: {SECRET}"), WRONG_KEY),
        (basic(f"user:more:{SECRET}"), WRONG_KEY),
    ],
    ids=count(),
)
def test_other_basic_credentials_are_refused(ring: KeyRing, header: str, text: str) -> None:
    assert refusal(ring, header) == text


# In a file

WEAK = (
    "00" * 32,
    "00" * 31 + "80",
    "01" + "00" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
"""The multiples of a point of order 8, worked out, and two of them written otherwise."""


@pytest.mark.parametrize(
    ("public_key", "text"),
    [
        ("", "must be one line that reads `ssh-ed25519 AAAA...`"),
        ("ssh-ed25519", "must be one line that reads `ssh-ed25519 AAAA...`"),
        (OF_SEED[0], "must be one line that reads `ssh-ed25519 AAAA...`"),
        (f"ssh-ed25519 {OF_SEED[0]}\nssh-ed25519 {OF_SEED[0]}", "must be one line that reads"),
        (f"no-pty ssh-ed25519 {OF_SEED[0]}", "is not of the type ssh-ed25519"),
        (f"ssh-rsa {wire(b'ssh-rsa', bytes(257))}", "is not of the type ssh-ed25519"),
        (f"ssh-ed25519 {wire(b'ssh-rsa', bytes(257))}", "is not of the type ssh-ed25519"),
        (f"ssh-ed25519 {OF_SEED[0][:-2]}", "is not base64"),
        (f"ssh-ed25519 {wire(b'ssh-ed25519', b'x' * 31)}", "does not have the 32 bytes of an Ed25519 key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n", "is a private key"),
        *(
            (f"ssh-ed25519 {wire(b'ssh-ed25519', bytes.fromhex(each))}", "is one that anybody can sign with")
            for each in WEAK
        ),
    ],
    ids=count(),
)
def test_a_public_key_is_read_strictly(tmp_path: Path, public_key: str, text: str) -> None:
    with pytest.raises(BadKeys) as caught:
        read_keys(keys(tmp_path, {"id": "a", "public_key": public_key}))
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'keys.yaml'}: key 'a': public_key: {text}")
    assert "b3BlbnNzaC1rZXk" not in told


@pytest.mark.parametrize("more", [{}, {"hash": SECRET_HASH, "public_key": BY_SSH_KEYGEN}])
def test_a_key_has_a_hash_or_a_public_key(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(BadKeys, match="key 'a': must have a `hash` or a `public_key`, and not both"):
        read_keys(keys(tmp_path, {"id": "a", **more}))


def test_a_public_key_is_one_key_s(tmp_path: Path) -> None:
    twice = [{"id": name, "public_key": f"{BY_SSH_KEYGEN} {name}"} for name in "ab"]
    with pytest.raises(BadKeys, match="the keys 'a' and 'b' have the same public key"):
        read_keys(keys(tmp_path, *twice))


async def test_a_public_key_may_be_revoked_and_added(tmp_path: Path, ring: KeyRing) -> None:
    keys(tmp_path, {"id": "stranger", "public_key": STRANGER.public_key})
    await ring.refresh()
    assert refusal(ring, SIGNER.header(SHOW)) == WRONG_SIGNATURE
    assert ring.identify(STRANGER.header(SHOW), SHOW).key_id == "stranger"
