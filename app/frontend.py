"""A front end: a process of a server that takes requests and has no engines, which its manager has.

The manager runs it as `python -m app.frontend NUMBER CHANNEL LIFE` (file descriptors), and what it is to do
comes over the channel.
"""

import asyncio
import gc
import logging
import os
import pickle
import socket
import sys
from functools import partial
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from app.api.relay import Relay
from app.core.pool import Pool
from app.core.tasks import supervise
from app.engine.base import Engine
from app.engine.vllm.process.death_pipe import end_with
from app.fronts.channel import LENGTH
from app.fronts.hub import EngineState
from app.fronts.peer import Peer
from app.fronts.remote import RemoteManager
from app.main import DEFAULT_CONTEXT, build_front
from app.prepare import engine_terms
from app.runtime.lifecycle import Lifecycle
from app.serve import GC_THRESHOLD, Begin, import_vllm, listen
from app.settings.server import Settings
from app.telemetry import logs
from app.telemetry.report import Telemetry
from app.telemetry.setup import start as start_telemetry

PATHS = frozenset(
    {
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)
"""What is answered here; all else is handed on to the manager."""
_ATTACHING = ("app.engine.vllm.shared", "app.engine.vllm.config")
_STATE_S = 1.0
_log = logging.getLogger("caravan")


class FrontEnd:
    """One front end, from its start to its end."""

    def __init__(self, index: int, begin: Begin, telemetry: Telemetry) -> None:
        self._index, self._settings = index, begin.settings
        self._otlp = begin.otlp
        self._telemetry = telemetry
        self._pool = Pool("prompts", waiting=max(begin.settings.max_queue, 64))
        self.lifecycle = Lifecycle(grace_s=begin.settings.grace_period, delay_s=begin.settings.drain_delay)
        context = begin.settings.context_length or DEFAULT_CONTEXT
        self.remote = RemoteManager(self._attach, context)
        self.remote.on_open = self._open
        self._told: dict[int, EngineState] = {}

    def run(self, end: socket.socket, begin: Begin) -> None:
        """Until the manager says so, or is gone."""
        self._end = end
        app = build_front(self._settings, self.remote, self._telemetry, self.lifecycle)
        listener = shared_listener(self._settings)
        listen(Relay(app, begin.manager, PATHS), self._settings, self.lifecycle, listener)

    def _open(self) -> None:
        """On the event loop, before the first request."""
        peer = self.remote.peer = Peer(
            self._end,
            asks=self.remote.asks | {"metrics": self._metrics},
            tells={"stop": self._stop},
        )
        peer.open()
        self._telling = [
            supervise("front ends", self._tell_states),
            supervise("front ends", partial(self._end_with, peer)),
        ]
        # A load takes as long anyway. No end waits for it, as it would for a thread of the loop's.
        Thread(target=import_vllm, args=_ATTACHING, name="import", daemon=True).start()

    async def _end_with(self, peer: Peer) -> None:
        await peer.ended.wait()
        self._stop(now=True)

    def _stop(self, now: bool) -> None:
        if not self.lifecycle.draining:
            self.lifecycle.stop()
        if now and not self.lifecycle.hurried:
            self.lifecycle.stop()

    async def _attach(self, number: int, attachment: bytes) -> Engine:
        shared, config = await asyncio.to_thread(import_vllm, *_ATTACHING)
        logs.adopt("vllm")
        defaults = config.EngineDefaults(
            **engine_terms(self._settings), traces=self._otlp.traces is not None, pool=self._pool
        )
        peer = self.remote.peer
        assert peer is not None
        note = partial(peer.tell, "began", number, at_once=True)
        return await shared.AttachedEngine.attach(attachment, self._index, defaults, note)

    async def _tell_states(self) -> None:
        """What the manager's watchdog and gauges need to know, while it changes."""
        while True:
            await asyncio.sleep(_STATE_S)
            for number, engine in list(self.remote.attached.items()):
                self._tell_state(number, engine)

    def _tell_state(self, number: int, engine: Any) -> None:
        ended = engine.ended()
        state = EngineState(engine.outputs, **engine.metrics(), told_at=engine.told_at)
        if ended or state != self._told.get(number):
            self._told[number] = state
            assert self.remote.peer is not None
            self.remote.peer.tell("state", number, state, ended)

    async def _metrics(self) -> tuple[list[Any], dict[str, float]]:
        """All that is counted here, and when each engine last told of itself."""
        self._telemetry.flush()
        engines: list[Any] = list(self.remote.attached.values())
        families = list(self._telemetry.registry.collect())
        for engine in engines:
            families += engine.registry.collect()
        return families, {engine.served_name: engine.told_at for engine in engines}


def shared_listener(settings: Settings) -> socket.socket:
    """A listener on the port that others of this server listen on too: the kernel shares out connections."""
    host = settings.host.host or "0.0.0.0"
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, settings.host.port))
    return listener


def _received(end: socket.socket) -> Begin:
    """The first message, which has a length before it."""
    with end.makefile("rb", buffering=0) as stream:
        return pickle.loads(_exactly(stream, *LENGTH.unpack(_exactly(stream, LENGTH.size))))


def _exactly(stream: Any, size: int) -> bytes:
    read = b""
    while len(read) < size:
        if not (more := stream.read(size - len(read))):
            raise EOFError
        read += more
    return read


def main(index: int, channel: int, life: int) -> None:
    """Serve until told to stop."""
    end_with(Connection(life, writable=False))
    end = socket.socket(fileno=channel)
    begin = _received(end)
    settings = begin.settings
    logs.start(settings.log_format, debug=settings.debug, front_end=index)
    logging.getLogger("vllm").setLevel(logging.INFO if settings.debug else logging.ERROR)
    telemetry = start_telemetry(begin.otlp, keeps_content=settings.capture_content, front_end=index)
    gc.set_threshold(*GC_THRESHOLD)
    try:
        FrontEnd(index, begin, telemetry).run(end, begin)
    except BaseException:
        _log.exception("front end %d has failed", index)
        os._exit(1)
    os._exit(0)  # All is ended and told; taking an interpreter with vLLM apart takes seconds.


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
