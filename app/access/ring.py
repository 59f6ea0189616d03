"""The keys in force: whom a key stands for, and keeping up with the files that hold them."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from app.access.files import BadKeys, Signature, read_keys, signature
from app.access.keys import NOBODY, KeyRecord, SaltedHash, split_key
from app.access.signing import (
    NOBODY_SIGNS,
    WRONG_SIGNATURE,
    Verifier,
    check_time,
    is_signed,
    read_signed,
)
from app.access.ssh import read_public_key, unbase64
from app.core.context import Caller
from app.core.errors import Unauthorized
from app.core.pool import Pool

NO_KEY = "unauthorized: an API key is required"
WRONG_KEY = "unauthorized: the API key is not valid"
EXPIRED_KEY = "unauthorized: the API key has expired"
BAD_BASIC = "unauthorized: Basic credentials are the base64 of USER:KEY"

_INTERVAL_S = 1.0
"""A look costs a `stat` per file, and works on every mount, which the kernel's notices (inotify) do not."""

_LOOK_S = 30.0
"""A mount that does not answer for so long is complained of."""

Reload: TypeAlias = Literal["ok", "error"]

_log = logging.getLogger("caravan")


@dataclass(frozen=True, slots=True)
class _Key:
    caller: Caller
    expires_s: float | None
    salted: SaltedHash
    verifier: Verifier


@dataclass(frozen=True, slots=True)
class _Keys:
    by_id: Mapping[str, _Key]
    by_public_key: Mapping[bytes, _Key]


class KeyRing:
    """The keys of `path`, replaced as a whole when its files change.

    New files that cannot be used are logged, and the keys stay what they were; `on_reload` hears of both.

    Raises:
        BadKeys: where there are no usable files to begin with.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_reload: Callable[[Reload], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._on_reload = on_reload
        self._now = now
        # A thread of its own: whatever the others are busy with, a key can be revoked.
        self._reader = Pool("keys", workers=1)
        self._seen: Signature | None
        records, self._seen = read_keys(path)
        self._keys = _keys(records)

    def __len__(self) -> int:
        return len(self._keys.by_id)

    def identify(self, authorization: str, target: str = "") -> Caller:
        """Whom an `Authorization` header stands for: a key, with Bearer or as the password of Basic, or the
        signature of `target`, which is `METHOD,PATH?QUERY`.

        Raises:
            Unauthorized: saying whether a key is missing, wrong or out of date, or what a signature lacks.
        """
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        if is_signed(authorization):
            key = self._signer(authorization, target)
        elif scheme.lower() == "bearer" and text:
            key = self._holder(text)
        elif scheme.lower() == "basic" and text:
            key = self._holder(_password(text))
        else:
            raise Unauthorized(NO_KEY)
        if key.expires_s is not None and self._now() >= key.expires_s:
            raise Unauthorized(EXPIRED_KEY)
        return key.caller

    def _holder(self, text: str) -> _Key:
        key_id, secret = split_key(text) or ("", "")
        key = self._keys.by_id.get(key_id)
        if not (key.salted if key else NOBODY).fits(secret) or key is None:
            raise Unauthorized(WRONG_KEY)
        return key

    def _signer(self, authorization: str, target: str) -> _Key:
        signed = read_signed(authorization)
        check_time(target, self._now())
        key = self._keys.by_public_key.get(signed.key)
        if not (key.verifier if key else NOBODY_SIGNS).fits(target, signed.signature) or key is None:
            raise Unauthorized(WRONG_SIGNATURE)
        return key

    async def watch(self) -> None:
        """Look for changes until cancelled, whatever a look comes to."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self.refresh()
            except Exception as error:
                self._on_reload("error")
                _log.exception("keys not reloaded: %s", str(error) or type(error).__name__)

    async def refresh(self) -> None:
        """Read the files again if they have changed since the last look."""
        # A mount may hang, and must not take the event loop with it.
        await self._reader.run(self._refresh)

    def _refresh(self) -> None:
        seen = _look(self._path)
        if seen == self._seen:
            return
        # Files that cannot be used are complained of once, and read again when they change again.
        self._seen = seen
        try:
            records, self._seen = read_keys(self._path)
        except BadKeys as error:
            self._on_reload("error")
            _log.error("keys not reloaded, those read before stay in force: %s", error)
            return
        self._keys = _keys(records)
        self._on_reload("ok")
        _log.info("keys reloaded: %d in force", len(self))


def _look(path: Path) -> Signature | None:
    try:
        return signature(path)
    except OSError:
        return None


def _password(encoded: str) -> str:
    """What follows the user, who may be anybody: a key says itself whose it is."""
    try:
        _, colon, password = unbase64(encoded).decode().partition(":")
    except ValueError:
        raise Unauthorized(BAD_BASIC) from None
    if not colon:
        raise Unauthorized(BAD_BASIC)
    return password


def _keys(records: Iterable[KeyRecord]) -> _Keys:
    by_id: dict[str, _Key] = {}
    by_public_key: dict[bytes, _Key] = {}
    for record in records:
        public_key = read_public_key(record.public_key) if record.public_key else None
        by_id[record.id] = key = _Key(
            record.caller(),
            record.expires.timestamp() if record.expires else None,
            SaltedHash(record.hash) if record.hash else NOBODY,
            Verifier(public_key) if public_key else NOBODY_SIGNS,
        )
        if public_key:
            by_public_key[public_key] = key
    return _Keys(by_id, by_public_key)
