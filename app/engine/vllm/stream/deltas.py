"""One request's way out of the engine: a slot that holds what its reader has not taken yet."""

import asyncio
from collections.abc import Callable, Mapping

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from app.core.events import Delta


class Deltas(RequestOutputCollector):
    """vLLM's collector with deltas in the place of its outputs.

    A reader that falls behind finds one delta that holds all that it missed. `convert` reads what vLLM made
    in full: a request's first output and its last. `trace` are the headers that its span is to be joined to;
    the tokens `hidden` have no text.
    """

    def __init__(
        self,
        request_id: str,
        convert: Callable[[RequestOutput], Delta],
        trace: Mapping[str, str] | None = None,
        *,
        hidden: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(RequestOutputKind.DELTA, request_id)
        self._convert = convert
        self.trace = trace
        self.hidden = hidden
        self._delta: Delta | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, output: RequestOutput | PoolingRequestOutput | Exception) -> None:
        if isinstance(output, Exception):
            self._error = output
            self._wake()
            return
        try:
            self.add(self._convert(output))  # type: ignore[arg-type]  # a generating engine pools nothing
        except Exception as error:
            # Its traceback, and that of the cancellation in whose course a request is aborted, hold frames,
            # and these the engine: a circle with this.
            error.__context__ = None
            self._error = error.with_traceback(None)
            self._wake()

    def add(self, delta: Delta) -> None:
        held = self._delta
        self._delta = delta if held is None else held.joined(delta)
        self._wake()

    async def next(self) -> Delta:
        """The next delta, after which there may be more.

        Raises:
            Exception: what ended the request instead.
        """
        while (delta := self._delta) is None:
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # the traceback would lead back here
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._delta = None
        return delta

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
