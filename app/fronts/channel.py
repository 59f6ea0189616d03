"""Messages between two processes of one server, over a pair of sockets that one has given the other.

A message is a pickle: only processes of the server itself have such a socket.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 18


class Channel:
    """One end. `on_message` is called for each message, in their order, and `on_end` once, when the other end
    is gone or a message cannot be read."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._loop = asyncio.get_running_loop()
        self._received, self._unsent = bytearray(), bytearray()
        self.on_message: Callable[[Any], None] = lambda _: None
        self.on_end: Callable[[], None] = lambda: None
        self._is_due = self._is_full = self._closed = False

    def open(self) -> None:
        """Read from here on."""
        self._loop.add_reader(self._socket.fileno(), self._read)

    def send(self, message: Any, *, at_once: bool = False) -> None:
        """Send a message, with what else is sent in this turn of the event loop, or `at_once`.

        What was sent at once is there for the other end even if this process is killed. A message is dropped
        where the other end is gone.
        """
        if self._closed:
            return
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._unsent += LENGTH.pack(len(body)) + body
        if at_once:
            self._flush()
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Neither read nor write any more; `on_end` is not called."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def _flush(self) -> None:
        self._is_due = False
        if not self._is_full:
            self._write()

    def _write(self) -> None:
        """Write what the kernel takes; the rest when it takes more."""
        try:
            while self._unsent and not self._closed:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            if not self._is_full:
                self._is_full = True
                self._loop.add_writer(self._socket.fileno(), self._write)
            return
        except OSError:
            self._unsent.clear()  # The reader hears of the end.
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        try:
            read = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            read = b""
        if not read:
            self._end()
            return
        self._received += read
        at = 0
        while len(self._received) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received, at)
            begin, end = at + LENGTH.size, at + LENGTH.size + length
            if len(self._received) < end:
                break
            message = pickle.loads(self._received[begin:end])
            at = end
            self.on_message(message)
            if self._closed:
                return
        del self._received[:at]

    def _end(self) -> None:
        self.close()
        self.on_end()
