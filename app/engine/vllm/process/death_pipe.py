"""The processes of an engine end with the server, however it ends, on any platform.

A server that is killed (by the kernel, for memory) can stop nothing any more, and an engine that outlives it
keeps the memory of its device. The death signal that Linux has (PR_SET_PDEATHSIG) does not do by itself: it
follows the thread that has started a child and not the process, and it is for direct children only.
"""

import os
import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.util import register_after_fork
from threading import Thread


class DeathPipe:
    """One for each engine: the server alone holds the end that is written to, and never writes.

    The kernel closes that end with the server, which whoever holds the other, `reader`, sees at once.
    """

    def __init__(self) -> None:
        self.reader, self._writer = Pipe(duplex=False)
        # No program that is executed inherits it; a process that is forked from this one would.
        register_after_fork(self, DeathPipe._forget)

    def _forget(self) -> None:
        self._writer.close()


def end_with(reader: Connection) -> None:
    """Kill this process, and all that it starts from here on, once the other end of `reader` is closed.

    A group of its own makes them one target. Ctrl+C in a terminal reaches the server's group and not this
    one, and the signal is blocked for whoever sends it to each process: an engine would stop before the
    streams it works on have ended, and only the server decides when.
    """
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    # It holds no lock while it waits, so that a worker may be forked beside it.
    Thread(target=_kill_group_at_end, args=(reader,), name="death pipe", daemon=True).start()


def _kill_group_at_end(reader: Connection) -> None:
    try:
        os.read(reader.fileno(), 1)
    finally:
        os.killpg(0, signal.SIGKILL)
