"""The ranks of an engine on a further node: vLLM's headless path, with the leader's arguments."""

import os
import signal
import socket
from argparse import Namespace
from contextlib import suppress
from dataclasses import fields, replace
from threading import Event, Lock, Thread

import vllm
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli import serve
from vllm.usage.usage_lib import UsageContext

from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.vllm.config import EngineDefaults, add_ollama_logits, engine_args
from app.engine.vllm.process.failures import raised

_CONNECT_S, _AGAIN_S = 5.0, 1.0
_KEEP_ALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class _NodeArgs(AsyncEngineArgs):
    """A rank samples with what the leader's configuration has, which is not sent to other nodes."""

    def create_engine_config(
        self, usage_context: UsageContext | None = None, headless: bool = False
    ) -> VllmConfig:
        try:
            config = super().create_engine_config(usage_context, headless)
        except ValueError as error:
            [name, *_] = self.served_model_name or [self.model]
            raise LoadFailed(f"failed to load model {name}: {raised(error)}") from error
        add_ollama_logits(config)
        return config


def run(model: Model, defaults: EngineDefaults, node_rank: int, *, adapter_rank: int = 0) -> str:
    """Run the ranks of node `node_rank` (1 to `model.nodes` - 1) until one of them or the leader ends: which.

    Raises:
        LoadFailed: for an argument that vLLM does not have, or with which it makes no configuration.
        SystemExit: on SIGTERM and SIGINT, whose handlers vLLM sets.
    """
    engine = {**model.spec.engine, "node_rank": node_rank}
    args = engine_args(replace(model, spec=replace(model.spec, engine=engine)), defaults, adapter_rank)
    given = {field.name: getattr(args, field.name) for field in fields(args)}
    given["reasoning_parser_plugin"] = given.get("reasoning_parser_plugin") or ""
    leader = _Leader(args.master_addr, args.master_port)
    leader.start()
    # vLLM makes its arguments from those of a command line, by the class of this name.
    before, vllm.AsyncEngineArgs = vllm.AsyncEngineArgs, _NodeArgs
    try:
        serve.run_headless(Namespace(**given, headless=True, api_server_count=0))
    except SystemExit:
        if not leader.has_ended:
            raise
        return "the leader has ended"
    finally:
        leader.stop()
        vllm.AsyncEngineArgs = before
    return "a rank of this node has ended"


class _Leader(Thread):
    """Ends this process by SIGTERM when the leader's first rank is gone.

    vLLM's ranks would wait for it for ever, and a leader that starts anew for ranks that are in an old group.
    That rank listens for the others on the port of the group for as long as it lives.
    """

    def __init__(self, address: str, port: int) -> None:
        super().__init__(name="leader", daemon=True)
        self._address = address, port
        self._stopped = Event()
        self._lock = Lock()
        self.has_ended = False

    def run(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError), self._connected() as connection:
                self._wait_end(connection)
            self._stopped.wait(_AGAIN_S)  # it is not there yet

    def stop(self) -> None:
        """From now on its end is nothing to this process."""
        with self._lock:
            self._stopped.set()

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=_CONNECT_S)
        connection.settimeout(None)
        # A node that loses its network says nothing.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    def _wait_end(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(1 << 12):
                continue
        with self._lock:
            if not self._stopped.is_set():
                self._stopped.set()
                self.has_ended = True
                os.kill(os.getpid(), signal.SIGTERM)
