"""Key files: reading them strictly, noticing that they changed, and changing them.

A path names one YAML or JSON file, or a folder such as a mounted Secret, every file of which is read.
"""

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from app.access.keys import KeyRecord

Signature: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of change of each file: it differs when the files do."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where it is there: a file may hold thousands of keys."""

_READS = 3
_LOCK_TIMEOUT_S = 10.0
_HEAD = "# Written by `caravan keys`. It holds hashes and public keys, never a secret.\n"


class BadKeys(Exception):
    """Keys that cannot be used; the text is one line that names the file and the key, and quotes neither
    a secret nor a hash."""


class _Loader(_Base):
    """YAML in which no mapping names a thing twice: of two lists of keys one would be lost in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue
            if (name.tag, name.value) in seen:
                problem = "a name stands twice in one mapping"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=name.start_mark)
            seen.add((name.tag, name.value))
        return super().construct_mapping(node, deep=deep)


def signature(path: Path) -> Signature:
    """Raises `OSError` where the path cannot be looked at."""
    return tuple((file.name, *_changed(file.stat())) for file in _files(path))


def read_keys(path: Path) -> tuple[tuple[KeyRecord, ...], Signature]:
    """Every key, and the signature of the files that they were read from.

    Raises:
        BadKeys: for files that cannot be read, or say something that is not allowed.
    """
    try:
        for _ in range(_READS):
            before = signature(path)
            texts = [(file, file.read_text("utf-8")) for file in _files(path)]
            if before == signature(path):  # else they were replaced while they were read
                break
        else:
            raise BadKeys(f"{path}: it changes faster than it can be read")
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror}") from error
    except UnicodeError as error:
        raise BadKeys(f"{path}: it is not UTF-8") from error
    records = [record for file, text in texts for record in parse_keys(text, file)]
    for key_id, count in Counter(record.id for record in records).items():
        if count > 1:
            raise BadKeys(f"{path}: {count} keys have the id {key_id!r}")
    holders: dict[str, str] = {}
    for record in records:
        if record.public_key and (other := holders.setdefault(record.public_key, record.id)) != record.id:
            raise BadKeys(f"{path}: the keys {other!r} and {record.id!r} have the same public key")
    return tuple(records), before


def parse_keys(text: str, file: Path) -> list[KeyRecord]:
    """The keys in the text of `file`: a mapping of `keys` to a list. An empty file has none."""
    try:
        found: Any = yaml.load(text, _Loader)  # JSON is YAML
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadKeys(f"{file}: line {line}: {error.problem or error.context}") from None
    except Exception as error:
        # An edge: besides its own errors the parser lets through whatever a tag's reader stumbles over.
        raise BadKeys(f"{file}: it is neither YAML nor JSON") from error
    if found is None:
        return []
    if not isinstance(found, dict) or set(found) != {"keys"} or not isinstance(found["keys"], list | None):
        raise BadKeys(f"{file}: it must hold `keys` and below it a list, and nothing else")
    return [_record(item, index, file) for index, item in enumerate(found["keys"] or [], 1)]


@contextmanager
def changing(path: Path) -> Generator[Callable[[list[KeyRecord]], None]]:
    """Holds the file's lock; what is yielded writes the keys anew.

    The file is replaced in one step and can be read by its owner alone.

    Raises:
        BadKeys: where the file cannot be written, or somebody else holds the lock for long.
    """
    if path.is_dir():
        raise BadKeys(f"{path}: it is a folder; change the files in it or the Secret they come from")
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600):
            yield lambda records: _replace(target, _text(records, as_json=target.suffix == ".json"))
    except Timeout as error:
        raise BadKeys(f"{path}: another process is changing it") from error
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror}") from error


def _files(path: Path) -> list[Path]:
    """Names that begin with a dot are not read: a Secret's volume keeps its own files under such names."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())


def _changed(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _record(item: object, index: int, file: Path) -> KeyRecord:
    named = item.get("id") if isinstance(item, dict) else None
    # A key pasted in place of its id must not reach a log.
    which = f"key {named!r}" if isinstance(named, str) and len(named) <= 32 else f"key number {index}"
    try:
        return KeyRecord.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise BadKeys(f"{file}: {which}: {f'{where}: ' if where else ''}{what}") from None
    except Exception as error:
        # An edge as well: a record may hold any object that YAML knows.
        raise BadKeys(f"{file}: {which}: it cannot be read ({type(error).__name__})") from error


def _text(records: list[KeyRecord], *, as_json: bool) -> str:
    document = {"keys": [record.fields() for record in records]}
    if as_json:
        return json.dumps(document, indent=2) + "\n"
    return _HEAD + yaml.safe_dump(document, sort_keys=False)


def _replace(target: Path, text: str) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileNotFoundError, PermissionError):
                # The server may run as another user than whoever changes its keys.
                owner = target.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        os.chmod(scratch, stat.S_IRUSR | stat.S_IWUSR)
        os.replace(scratch, target)
    except BaseException:
        os.unlink(scratch)
        raise
