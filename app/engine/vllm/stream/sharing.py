"""One engine core for several processes: its addresses for each, and the client of one that did not start it.

A core connects to the sockets of its clients, each of which has a number: an output goes to the number that
its request came with. Client 0 is the process that starts the core and ends it. The others come and go: the
core's sockets connect again to whoever binds an address next, and what it had for a client that has died
waits for the next of that number, which knows none of it and drops it.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import zmq
import zmq.asyncio
from vllm.config import VllmConfig
from vllm.utils.network_utils import get_open_zmq_ipc_path, make_zmq_socket
from vllm.v1.engine import EngineCoreOutputs, core_client
from vllm.v1.engine.core_client import AsyncMPClient, BackgroundResources, EngineCoreClient
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

_CONNECT_S = 30.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one client listens: for what it sends to the core, and for what the core sends."""

    inputs: str
    outputs: str


def endpoints(count: int) -> list[Endpoint]:
    """New addresses for `count` clients, on which nobody listens yet."""
    return [Endpoint(get_open_zmq_ipc_path(), get_open_zmq_ipc_path()) for _ in range(count)]


@contextmanager
def open_to(others: Sequence[Endpoint]) -> Generator[None]:
    """Engines that are started in this block have these clients too, numbered from 1 on."""
    clients: Any = core_client
    launch = clients.launch_core_engines

    @contextmanager
    def launch_for_all(config: Any, executor: Any, log_stats: Any, addresses: Any) -> Generator[Any]:
        addresses.inputs += [each.inputs for each in others]
        addresses.outputs += [each.outputs for each in others]
        with launch(config, executor, log_stats, addresses) as launched:
            yield launched

    clients.launch_core_engines = launch_for_all
    try:
        yield
    finally:
        clients.launch_core_engines = launch


class AttachedClient(AsyncMPClient):
    """A client of a core that another process has started, whose configuration is known as it came to be.

    vLLM's own waits for the message that a core sends once, when it has loaded: a client that comes later
    never gets it. What it says is in the configuration already.
    """

    def __init__(self, config: VllmConfig, endpoint: Endpoint, index: int, count: int) -> None:
        self.vllm_config = config
        self._renderer = None
        context = zmq.Context(io_threads=2)
        self.ctx = zmq.asyncio.Context(context)
        self.resources = BackgroundResources(ctx=context)
        self._finalizer = finalize(self, self.resources)
        self.engines_running = False
        self.stats_update_address = None
        self.input_socket = self.resources.input_socket = make_zmq_socket(
            self.ctx, endpoint.inputs, zmq.ROUTER, bind=True
        )
        # What cannot be sent is told, and not dropped.
        self.input_socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.resources.output_socket = make_zmq_socket(self.ctx, endpoint.outputs, zmq.PULL)
        self.encoder, self.decoder = MsgpackEncoder(), MsgpackDecoder(EngineCoreOutputs)
        self.engine_ranks_managed = [0]
        self.core_engine = (0).to_bytes(2, "little")
        self.core_engines = [self.core_engine]
        self.utility_results = {}
        self.client_count, self.client_index = count, index
        self.outputs_queue = asyncio.Queue()
        self._engine_status = {}

    async def connected(self) -> None:
        """Return once the core has connected; it tries again ten times a second.

        Raises:
            TimeoutError: it has not.
        """
        async with asyncio.timeout(_CONNECT_S):
            while True:
                try:
                    await self.abort_requests_async(["nobody's"])
                except zmq.ZMQError as error:
                    if error.errno != zmq.EHOSTUNREACH:
                        raise
                    await asyncio.sleep(_LOOK_S)
                else:
                    return


@contextmanager
def attached_to(endpoint: Endpoint, index: int, count: int) -> Generator[None]:
    """Engines that are made in this block start no core: they are clients of one that is there."""
    make = EngineCoreClient.make_async_mp_client

    def attach(vllm_config: VllmConfig, **_: Any) -> AsyncMPClient:
        return AttachedClient(vllm_config, endpoint, index, count)

    EngineCoreClient.make_async_mp_client = staticmethod(attach)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = make  # type: ignore[method-assign]
