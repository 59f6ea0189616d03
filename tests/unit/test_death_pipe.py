"""Nothing is left of an engine whose server is killed, whatever its processes are started by."""

import multiprocessing
import os
import signal
import socket
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil
import pytest

from app.engine.vllm.process.stderr import CapturingContext, ChildOutput

GONE_S = 20.0


def _serve(method: str, told: Connection) -> None:
    """A server of one engine."""
    listener = socket.create_server(("127.0.0.1", 0))
    output = ChildOutput()
    context = CapturingContext(multiprocessing.get_context(method), output)
    with output.of_what_starts():
        core = context.Process(target=_schedule, name="core", kwargs={"told": told})
        core.start()
    told.send(listener.getsockname()[1])
    core.join()


def _schedule(told: Connection) -> None:
    """A core: it has a worker, and neither looks at what has started it."""
    worker = multiprocessing.get_context("spawn").Process(target=signal.pause)
    worker.start()
    assert worker.pid is not None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    told.send((os.getpid(), worker.pid, os.getpgid(worker.pid), signal.SIGINT in blocked))
    worker.join()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_an_engine_ends_with_a_server_that_is_killed(method: str) -> None:
    """A core that was spawned, as where there is a GPU, went on, and held the memory and the port."""
    spawn = multiprocessing.get_context("spawn")
    told, tell = spawn.Pipe(duplex=False)
    server = spawn.Process(target=_serve, args=(method, tell))
    server.start()
    tell.close()
    first, second = told.recv(), told.recv()  # the core and its server may speak in either order
    (core, worker, group, blocked), port = sorted((first, second), key=lambda each: isinstance(each, int))
    assert (group, blocked) == (core, True), "what a terminal sends to the server's group is not for them"
    family = psutil.Process(server.pid).children(recursive=True)
    assert {core, worker} <= {process.pid for process in family}
    try:
        server.kill()
        server.join()
        assert psutil.wait_procs(family, GONE_S)[1] == []
        socket.create_server(("127.0.0.1", port)).close()
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
