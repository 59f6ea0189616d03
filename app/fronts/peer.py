"""What one process may ask of another: to be told something, to answer, and to hold something for a while.

Both ends of a channel are the same. What an end holds for the other is given back when that lets go of it or
dies, by cancelling the task that holds it: a lease, a place, a key's request at once.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from app.core.errors import AppError, Draining, EngineFailed
from app.fronts.channel import Channel

Told: TypeAlias = Callable[..., None]
Asked: TypeAlias = Callable[..., Awaitable[Any]]
Held: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]

_TELL, _ASK, _HOLD, _LEAVE, _DONE, _FAILED = range(6)
_log = logging.getLogger(__name__)


class PeerGone(Draining):
    """The other process has ended."""


class Peer:
    """One end. `tells`, `asks` and `holds` are what the other may want here, by name.

    A holder gets a number as its first argument, by which the other may name what it holds.
    """

    def __init__(
        self,
        end: socket.socket,
        *,
        tells: Mapping[str, Told] | None = None,
        asks: Mapping[str, Asked] | None = None,
        holds: Mapping[str, Held] | None = None,
    ) -> None:
        self._channel = Channel(end)
        self._channel.on_message = self._take
        self._channel.on_end = self.close
        self._tells, self._asks, self._holds = tells or {}, asks or {}, holds or {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._left: dict[int, asyncio.Event] = {}
        self.ended = asyncio.Event()
        """Set once the other process has ended, or `close` was called."""

    def open(self) -> None:
        self._channel.open()

    def tell(self, name: str, *arguments: Any, at_once: bool = False) -> None:
        """Waits for nothing; lost where the other has ended. See `Channel.send`."""
        self._channel.send((_TELL, 0, name, arguments), at_once=at_once)

    async def ask(self, name: str, *arguments: Any) -> Any:
        """
        Raises:
            PeerGone: the other has ended.
            AppError: whatever it came to there.
        """
        return await self._answer(_ASK, next(self._numbers), name, arguments)

    @asynccontextmanager
    async def hold(self, name: str, *arguments: Any) -> AsyncGenerator[tuple[int, Any], None]:
        """Have the other hold something as long as this is entered; its number, and what it said of it.

        Raises: as `ask`.
        """
        number = next(self._numbers)
        try:
            yield number, await self._answer(_HOLD, number, name, arguments)
        finally:
            self._channel.send((_LEAVE, number, "", ()))

    def close(self) -> None:
        """End what is waited for and what is held; nothing more is read."""
        self._channel.close()
        self.ended.set()
        for task in self._tasks.values():
            task.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(PeerGone())

    async def _answer(self, kind: int, number: int, name: str, arguments: tuple[Any, ...]) -> Any:
        if self.ended.is_set():
            raise PeerGone
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._channel.send((kind, number, name, arguments))
            return await answer
        finally:
            del self._waiting[number]

    def _take(self, message: tuple[int, int, str, Any]) -> None:
        kind, number, name, arguments = message
        if kind == _TELL:
            self._tells[name](*arguments)
        elif kind == _ASK:
            self._start(number, self._answered(number, name, arguments))
        elif kind == _HOLD:
            self._start(number, self._held(number, name, arguments))
        elif kind == _LEAVE:
            self._leave(number)
        elif (answer := self._waiting.get(number)) is not None and not answer.done():
            if kind == _DONE:
                answer.set_result(arguments)
            else:
                answer.set_exception(_unpacked(*arguments))

    def _start(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[number] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    def _leave(self, number: int) -> None:
        """Let go of what the other held, or of the wish for it."""
        if (left := self._left.get(number)) is not None:
            left.set()
        elif (task := self._tasks.get(number)) is not None:
            task.cancel()

    async def _answered(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._channel.send((_DONE, number, "", await self._asks[name](*arguments)))
        except Exception as error:
            self._channel.send((_FAILED, number, "", _packed(error)))

    async def _held(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            async with self._holds[name](number, *arguments) as value:
                left = self._left[number] = asyncio.Event()
                try:
                    self._channel.send((_DONE, number, "", value))
                    await left.wait()
                finally:
                    del self._left[number]
        except Exception as error:
            self._channel.send((_FAILED, number, "", _packed(error)))


def _packed(error: Exception) -> tuple[type[Exception], tuple[Any, ...], dict[str, Any]]:
    """An error as it can be sent: what it was made of may not be what it is made with."""
    if not isinstance(error, AppError):
        _log.error("what another process asked for failed", exc_info=error)
        error = EngineFailed(str(error) or type(error).__name__)
    return type(error), error.args, dict(vars(error))


def _unpacked(kind: type[Exception], arguments: tuple[Any, ...], fields: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(fields)
    return error
