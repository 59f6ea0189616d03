"""What engines took when they were loaded, kept from one start of the server to the next."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_MOST = 1000
_log = logging.getLogger(__name__)


class Measured:
    """Bytes by kind of device and engine key, in one small file.

    Several servers may write it: the last one wins, and what is lost is measured again.
    """

    def __init__(self, file: Path, kind: str) -> None:
        self._file, self._kind = file, kind
        self._known = _read(file)

    def get(self, key: str) -> int | None:
        return self._known.get(f"{self._kind}/{key}")

    def put(self, key: str, count: int) -> None:
        """Keep it, and write the file: after a load of seconds its few kilobytes do not count."""
        self._known.pop(f"{self._kind}/{key}", None)
        self._known[f"{self._kind}/{key}"] = count
        for oldest in list(self._known)[:-_MOST]:
            del self._known[oldest]
        part = self._file.with_name(f".{self._file.name}.{uuid4().hex}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._known))
            part.rename(self._file)
        except OSError as error:
            _log.debug("%s is not written: %s", self._file, error.strerror)
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, int]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        if isinstance(found, dict):
            return {str(key): value for key, value in found.items() if type(value) is int and value >= 0}
    return {}
