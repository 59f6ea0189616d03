"""Processes that run templates and tokenizers of others, each killed when its time is over."""

import json
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from app.core.confinement import environment_of
from app.core.errors import EngineFailed, InvalidRequest
from app.core.pool import Pool
from app.core.processes import Died, Late, NotStarted, Processes, Program, Reply
from app.engine.confined.program import HEAD, READY

_START_S = 60
_FULL = "server busy, please try again.  maximum pending requests exceeded"
_HOME = "/nonexistent"
_LONG_BYTES = 1 << 16
"""Of a reply, from which on a thread is worth its way there and back."""

_LATE = signal.SIGPROF


@dataclass(frozen=True, slots=True)
class HelperLimits:
    """What a process may take for a job, and how much it may answer.

    Processor time is `time_s`, and a second more for each `bytes_a_second` that are sent to it; by the clock
    it may take `slowness` times as long, on a busy machine. The answer's text has `reply_bytes`, and
    `growth` times what was sent. Its tokens, each a number of 40 bytes here, are `reply_bytes` and
    `token_growth` times that: a tokenizer makes one of a byte of text, and few make more. Memory is
    `memory_bytes`, and `tokenizer_growth` times the tokenizer's file.
    """

    time_s: float = 2.0
    bytes_a_second: int = 256 << 10
    slowness: float = 5.0
    memory_bytes: int = 256 << 20
    tokenizer_growth: int = 16
    reply_bytes: int = 256 << 10
    growth: int = 8
    token_growth: int = 2


class Helpers:
    """At most `workers` processes, started when they are needed, and `waiting` jobs before them.

    `tokenizer` gives what `tokenizer.json` holds, for jobs that make tokens; None is for templates alone.
    A process that nothing came for in `idle_s` is ended. `what` names the model in errors. Jobs are written
    down in `pool`.
    """

    def __init__(
        self,
        what: str,
        pool: Pool,
        tokenizer: Callable[[], Awaitable[bytes]] | None = None,
        limits: HelperLimits | None = None,
        *,
        workers: int = 2,
        waiting: int = 64,
        idle_s: float = 300.0,
    ) -> None:
        self._what, self._pool, self._tokenizer = what, pool, tokenizer
        self._limits = limits or HelperLimits()
        self._processes = Processes(self._program, _FULL, workers=workers, waiting=waiting, idle_s=idle_s)

    @property
    def processes(self) -> int:
        """Processes that run."""
        return self._processes.count

    async def ask(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `program.py` answers to `job`.

        Raises:
            InvalidRequest: where the template or tokenizer refuses, or takes more than it may.
            Overloaded: when as many jobs wait as may.
            EngineFailed: where no process can be had.
        """
        with self._processes.place():
            # A conversation may have megabytes.
            data, time_s, most = await self._pool.run(self._written, job)
            # Each byte and each token takes at most eight characters of JSON.
            exchange = partial(self._exchange, data=data, most=8 * most)
            longest_s = self._limits.slowness * time_s
            try:
                reply = await self._processes.run(exchange, longest_s)
            except Late as error:
                raise InvalidRequest(f"it takes longer than {longest_s:.1f} s") from error
            except Died as error:
                raise InvalidRequest(_reason(error, time_s)) from error
            except NotStarted as error:
                raise EngineFailed(
                    f"the engine of {self._what} has ended"
                    if self._processes.is_closed
                    else f"the process for the template of {self._what} does not start"
                ) from error
        if "refusal" in reply:
            raise InvalidRequest(str(reply["refusal"]))
        return reply

    async def aclose(self) -> None:
        """End all processes, for good."""
        await self._processes.aclose()

    def _written(self, job: Mapping[str, Any]) -> tuple[bytes, float, int]:
        """The job as it is sent, the processor time for it, and the bytes and tokens that may come back."""
        limits = self._limits
        size = len(json.dumps(job))
        time_s = limits.time_s + size / limits.bytes_a_second
        most_bytes, most_tokens = (
            limits.reply_bytes + growth * size for growth in (limits.growth, limits.token_growth)
        )
        more = {"time_s": time_s, "most_bytes": most_bytes, "most_tokens": most_tokens}
        return json.dumps({**job, **more}).encode(), time_s, most_bytes + most_tokens

    async def _program(self) -> Program:
        file = await self._tokenizer() if self._tokenizer else b""
        memory_bytes = self._limits.memory_bytes + self._limits.tokenizer_growth * len(file)
        more = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        return Program(
            "app.engine.confined.program",
            (str(os.getpid()), str(memory_bytes), str(_START_S)),
            environment_of(os.environ, _HOME, 1) | more,  # noqa: TID251
            partial(_greet, file=file),
        )

    async def _exchange(self, process: Process, data: bytes, most: int) -> Reply:
        assert process.stdout is not None
        await _send(process, data)
        (size,) = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        if size > most:
            raise ValueError("a reply of this size is none of a helper")
        reply = await process.stdout.readexactly(size)
        return await self._pool.run(orjson.loads, reply) if size > _LONG_BYTES else orjson.loads(reply)


def _reason(death: Died, time_s: float) -> str:
    if death.status == -_LATE:
        return f"it takes longer than {time_s:.1f} s of processor time"
    return "it takes too much memory, or harms the process that runs it"


async def _greet(process: Process, file: bytes) -> None:
    await _send(process, file)
    assert process.stdout is not None
    if await process.stdout.readexactly(len(READY)) != READY:
        raise ValueError("no process of ours")


async def _send(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(HEAD.pack(len(data)) + data)
    await process.stdin.drain()
