"""One blob to a registry, in parts one after another (docs/reference 12.3).

Ollama's registry answers a part with 307 and takes it at another server by PUT; others take it where it was
sent. What a registry has of an upload when a part fails is asked of it, and the rest is sent.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import MappingProxyType

import httpx

from app.catalogue.names import parse_name
from app.core.errors import FetchFailed, InvalidRequest, RegistryFailed
from app.registry.client import Registry
from app.registry.site import Refused, check_digest, reason_of
from app.store.manifest import Layer

READ_BYTES = 1 << 20
LEAST_BYTES, MOST_BYTES = 100_000_000, 1_000_000_000
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_OCTETS = "application/octet-stream"
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class Upload:
    """Sends the blob at `path` to `registry`. `completed` is how many bytes it took so far."""

    registry: Registry
    layer: Layer
    path: Path
    tries: int = 6
    backoff_s: float = 1.0
    completed: int = 0
    _location: httpx.URL = field(default_factory=httpx.URL, init=False)
    _hashes: list[bytes] = field(default_factory=list[bytes], init=False)

    async def run(self) -> None:
        """Raises: RegistryFailed: where the registry does not take it."""
        if await self._start():
            self.completed = self.layer.size
            return
        failures = furthest = 0
        part_bytes = min(max(self.layer.size // 16, LEAST_BYTES), MOST_BYTES)
        while self.completed < self.layer.size:
            begin = self.completed
            try:
                await self._part(begin, min(begin + part_bytes, self.layer.size))
                # What is taken, forgotten and taken again is no progress.
                if self.completed > furthest:
                    failures, furthest = 0, self.completed
            except (httpx.TransportError, FetchFailed, Refused) as error:
                if isinstance(error, Refused) and error.status in (401, 403):
                    raise
                failures += 1
                if failures >= self.tries:
                    raise RegistryFailed(f"max retries exceeded: {reason_of(error)}") from error
                await asyncio.sleep(self.backoff_s * 2 ** (failures - 1))
                await self._take_up(begin)
        await self._finish()

    async def _start(self) -> bool:
        """Whether the registry took the blob from the model it came from, and nothing is to be sent."""
        url = httpx.URL(f"{self.registry.url}/blobs/uploads/")
        if origin := _repository(self.layer.origin):
            url = url.copy_merge_params({"mount": self.layer.digest, "from": origin})
        async with self._asked("POST", url) as answer:
            if answer.status_code == 201:
                check_digest(answer, self.layer.digest)
                return True
            self._location = self._next(url, answer)
        return False

    async def _part(self, begin: int, end: int) -> None:
        md5 = hashlib.md5(usedforsecurity=False)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(end - begin),
            "Content-Range": f"{begin}-{end - 1}",
            "X-Redirect-Uploads": "1",
        }
        url = self._location
        async with self._asked(
            *("PATCH", url, headers, lambda: self._read(begin, end, md5.update)), elsewhere=True
        ) as answer:
            elsewhere = answer.headers.get("location", "") if answer.status_code == 307 else ""
            self._location = self._next(url, answer)
        if elsewhere:
            del headers["Content-Range"], headers["X-Redirect-Uploads"]
            md5 = hashlib.md5(usedforsecurity=False)
            to = self.registry.site.hop(url, elsewhere)
            async with self._asked("PUT", to, headers, lambda: self._read(begin, end, md5.update)):
                pass
        self.completed = end
        self._hashes.append(md5.digest())

    async def _read(self, begin: int, end: int, feed: Callable[[bytes], None]) -> AsyncIterator[bytes]:
        """The part's bytes; `completed` follows them and is set right when the part ends or fails."""
        with self._opened() as stream:
            at = begin
            while at < end:
                piece = await asyncio.to_thread(_piece, stream.fileno(), at, min(READ_BYTES, end - at), feed)
                if not piece:
                    raise RegistryFailed(f"the blob {self.layer.digest} is shorter than the manifest says")
                yield piece
                at += len(piece)
                self.completed = at

    def _opened(self) -> FileIO:
        try:
            return self.path.open("rb", buffering=0)
        except OSError as error:  # its model has been deleted meanwhile, or replaced
            raise RegistryFailed(f"the blob {self.layer.digest} cannot be read: {error.strerror}") from error

    async def _take_up(self, begin: int) -> None:
        """Finds out how far the registry has come; where it does not say, the part is sent again."""
        self.completed = begin
        try:
            async with self.registry.site.open("GET", self._location, follow=False) as answer:
                found = _RANGE.fullmatch(answer.headers.get("range", ""))
                if answer.status_code != 204 or found is None:
                    return
                self._location = self._next(self._location, answer)
                # "0-0" is what registries say of nothing.
                last = int(found[1])
                self.completed = min(last + 1, self.layer.size) if last else 0
        except Refused:
            # The upload is gone, or does not go on from there.
            self.completed = 0
            self._hashes.clear()
            await self._start()
        except (httpx.TransportError, FetchFailed):
            return

    async def _finish(self) -> None:
        etag = f"{hashlib.md5(b''.join(self._hashes), usedforsecurity=False).hexdigest()}-{len(self._hashes)}"
        url = self._location.copy_merge_params({"digest": self.layer.digest, "etag": etag})
        headers = {"Content-Type": _OCTETS, "Content-Length": "0"}
        async with self._asked("PUT", url, headers) as answer:
            check_digest(answer, self.layer.digest)

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str] = _NOTHING,
        content: Callable[[], AsyncIterator[bytes]] | None = None,
        *,
        elsewhere: bool = False,
    ) -> AsyncGenerator[httpx.Response]:
        """As `Site.open`; whoever redirects has taken nothing, though a part may be sent `elsewhere`.

        Raises:
            RegistryFailed: for a redirect that has no meaning here.
        """
        async with self.registry.site.open(
            method, url, headers=headers, content=content, follow=False
        ) as answer:
            may = elsewhere and answer.status_code == 307 and answer.headers.get("location")
            if answer.is_redirect and not may:
                raise RegistryFailed(f"{url.host} answers {method} of a blob with {answer.status_code}")
            yield answer

    def _next(self, url: httpx.URL, answer: httpx.Response) -> httpx.URL:
        told = answer.headers.get("docker-upload-location") or answer.headers.get("location")
        if not told:
            raise RegistryFailed("the registry does not say where the blob is to be sent")
        return self.registry.site.hop(url, told)


def _piece(descriptor: int, at: int, count: int, feed: Callable[[bytes], None]) -> bytes:
    piece = os.pread(descriptor, count, at)
    feed(piece)
    return piece


def _repository(origin: str) -> str:
    """`namespace/model` of the name of a model that is at the same kind of registry, "" for none."""
    if not origin:
        return ""
    try:
        name = parse_name(origin)
    except InvalidRequest:
        return ""
    return f"{name.namespace}/{name.model}"
