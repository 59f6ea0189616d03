"""One blob by ranges side by side: what is missing is asked for as long as that brings something."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import httpx

from app.core.errors import FetchFailed, RegistryFailed
from app.registry.site import Refused, is_encoded, raw_pieces, reason_of

Open: TypeAlias = Callable[[Mapping[str, str]], AbstractAsyncContextManager[httpx.Response]]
"""Asks for the blob with the headers given."""

T = TypeVar("T")

WRITE_BYTES = 1 << 20
_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 after which it may go better."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a blob is fetched.

    `parts` ranges are under way at once, of total/16 bytes each but `least_bytes` and at most `most_bytes`.
    A range that brought nothing is tried `tries` times, after `backoff_s`, twice that and so on. Less than
    `progress_bytes` within `patience_s` ends it all, unless it waited for a connection all that time. A
    download of another process is waited for while `share_bytes` come of it within `share_s`.
    """

    parts: int = 8
    least_bytes: int = 16 << 20
    most_bytes: int = 256 << 20
    tries: int = 6
    backoff_s: float = 1.0
    patience_s: float = 300.0
    progress_bytes: int = 64 << 10
    share_s: float = 30.0
    share_bytes: int = 1 << 20

    def part_bytes(self, size: int) -> int:
        return min(max(size // 16, self.least_bytes), self.most_bytes)


class Sink(Protocol):
    """Where a blob's ranges go; `Partial` says what each method does."""

    def missing(self) -> list[tuple[int, int]]: ...

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...

    def commit(self) -> None: ...

    def abort(self, keep: bool) -> None: ...


class _Again(RegistryFailed):
    """An answer that a further try may better."""


class _NoRanges(Exception):
    """The server sends the whole blob whatever range is asked for."""


@dataclass(slots=True)
class _Part:
    begin: int
    end: int


class Download:
    """Fills `sink`, of `size` bytes, from `open`. All work on the disk is done by one thread, in order."""

    def __init__(self, open: Open, sink: Sink, size: int, tuning: Tuning) -> None:
        self._open, self._sink, self._size, self._tuning = open, sink, size, tuning
        self._disk = ThreadPoolExecutor(1, "blob")
        self._parts: deque[_Part] = deque()
        self._whole = False
        self._answers = 0
        self._receiving = 0
        self.completed = 0

    async def run(self) -> None:
        """Fetch and commit. What came is kept for the next time if this fails or is left.

        Raises:
            RegistryFailed: where the blob cannot be had.
            DigestMismatch: where it is not what its digest says; then nothing is kept.
            StoreFailed: where the store does not take it.
            AddressRefused, Forbidden: where a redirect leads to what may not be opened.
        """
        committed = False
        try:
            await self._fetch_all()
            await self._on_disk(self._sink.commit)
            committed = True
        finally:
            if not committed:
                # After the writes that are queued; nobody waits for a disk that hangs.
                self._disk.submit(self._sink.abort, keep=True)
            self._disk.shutdown(wait=False)

    async def _fetch_all(self) -> None:
        while True:
            gaps = await self._on_disk(self._sink.missing)
            self.completed = self._size - sum(end - begin for begin, end in gaps)
            if not gaps:
                return
            if self._whole:
                self._parts = deque([_Part(gaps[0][0], self._size)])
            else:
                self._parts = deque(_cut(gaps, self._tuning.part_bytes(self._size)))
            workers = min(self._tuning.parts, len(self._parts))
            try:
                await together([*(self._work() for _ in range(workers))], self._watch())
            except _NoRanges:
                self._whole = True

    async def _work(self) -> None:
        while self._parts:
            await self._fetch(self._parts.popleft())

    async def _watch(self) -> None:
        """Ends a blob that makes no progress; a server that trickles holds nobody forever."""
        while True:
            before, answers = self.completed, self._answers
            await asyncio.sleep(self._tuning.patience_s)
            came = self.completed - before
            # A request that has no answer waits for its turn, or ends of itself.
            heard = self._receiving or self._answers > answers
            if heard and came < self._tuning.progress_bytes:
                raise RegistryFailed(
                    f"max retries exceeded: {came} bytes came in {self._tuning.patience_s:g} s"
                )

    async def _fetch(self, part: _Part) -> None:
        """Raises: RegistryFailed: when the last try has failed."""
        failures = 0
        while part.begin < part.end:
            before = part.begin
            try:
                await self._receive(part)
                if part.begin >= part.end:
                    return
                cause: Exception = _Again("the connection ended before the blob did")
            except (httpx.TransportError, FetchFailed, _Again) as error:
                cause = error
            except Refused as error:
                if error.status < 500 and error.status not in _PASSING:
                    raise
                cause = error
            failures = 1 if part.begin > before else failures + 1
            if failures >= self._tuning.tries:
                raise RegistryFailed(f"max retries exceeded: {reason_of(cause)}") from cause
            await asyncio.sleep(self._tuning.backoff_s * 2 ** (failures - 1))

    async def _receive(self, part: _Part) -> None:
        """One answer, as much of it as comes; `part.begin` moves on with what was handed to the disk."""
        headers = {} if self._whole else {"Range": f"bytes={part.begin}-{part.end - 1}"}
        async with self._open(headers) as answer:
            skip = self._offset(answer, part)
            buffer = bytearray()
            self._answers += 1
            self._receiving += 1
            try:
                async with aclosing(raw_pieces(answer)) as pieces:
                    async for piece in pieces:
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        buffer += memoryview(piece)[skip:] if skip else piece
                        skip = 0
                        if len(buffer) >= WRITE_BYTES or part.begin + len(buffer) >= part.end:
                            # A new one: the thread still reads what it was given.
                            full, buffer = buffer, bytearray()
                            await asyncio.wrap_future(self._hand_over(part, full))
                        if part.begin >= part.end:
                            return
            finally:
                self._receiving -= 1
                # A cut connection, or nobody waits any more: what came is not fetched again.
                if buffer:
                    self._hand_over(part, buffer)

    def _offset(self, answer: httpx.Response, part: _Part) -> int:
        """How many bytes of the answer lie before the part."""
        if is_encoded(answer):
            raise RegistryFailed("the registry's answer is encoded, which was not asked for")
        if answer.status_code == 206 and not self._whole:
            told = answer.headers.get("content-range", "").strip()
            if told not in (f"bytes {part.begin}-{part.end - 1}/{total}" for total in (self._size, "*")):
                raise _Again(f"bytes {part.begin}-{part.end - 1} were asked for and {ascii(told)[:80]} came")
            return 0
        if answer.status_code != 200:
            raise _Again(f"unexpected status code {answer.status_code}")
        length = answer.headers.get("content-length", str(self._size))
        if length != str(self._size):
            raise _Again(f"the blob has {self._size} bytes and the registry sends {length[:20]}")
        if not self._whole and (part.begin, part.end) != (0, self._size):
            raise _NoRanges
        return part.begin

    def _hand_over(self, part: _Part, buffer: bytearray) -> "Future[None]":
        data = memoryview(buffer)[: part.end - part.begin]
        write = self._disk.submit(self._sink.write_at, part.begin, data)
        part.begin += len(data)
        self.completed += len(data)
        return write

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """What `work` returns, after the writes that were handed over before."""
        return await asyncio.wrap_future(self._disk.submit(work))


async def together(work: Sequence[Coroutine[Any, Any, None]], watch: Coroutine[Any, Any, None]) -> None:
    """Runs all of `work` until it is done or the first of it, or `watch`, fails; nothing is left running."""
    tasks = [asyncio.ensure_future(each) for each in work]
    watcher = asyncio.ensure_future(watch)
    everything = asyncio.gather(*tasks)
    try:
        done, _ = await asyncio.wait({everything, watcher}, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for task in (*tasks, watcher):
            task.cancel()
        await asyncio.gather(*tasks, watcher, return_exceptions=True)
        await asyncio.wait({everything})
        if not everything.cancelled():
            everything.exception()  # else asyncio logs it as one that nobody has seen


def _cut(gaps: Iterable[tuple[int, int]], part_bytes: int) -> list[_Part]:
    return [
        _Part(at, min(at + part_bytes, end)) for begin, end in gaps for at in range(begin, end, part_bytes)
    ]
