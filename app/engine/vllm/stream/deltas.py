"""One request's way out of the engine: a slot that holds what its reader has not taken yet."""

import asyncio
from collections.abc import Callable, Mapping

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from app.core.events import Delta
from app.engine.vllm.stream.pace import Pace


class Deltas(RequestOutputCollector):
    """vLLM's collector with deltas in the place of its outputs.

    A reader that falls behind finds one delta that holds all that it missed. Where the `pace` is more than a
    token at once it is woken when they are there, and for the first output and the last at once. `convert`
    reads what vLLM made in full. `trace` are the headers that its span is to be joined to; the tokens
    `hidden` have no text.
    """

    def __init__(
        self,
        request_id: str,
        convert: Callable[[RequestOutput], Delta],
        trace: Mapping[str, str] | None = None,
        *,
        hidden: frozenset[int] = frozenset(),
        pace: Pace | None = None,
    ) -> None:
        super().__init__(RequestOutputKind.DELTA, request_id)
        self._convert = convert
        self.trace = trace
        self.hidden = hidden
        self._pace = pace or Pace(1)
        self._delta: Delta | None = None
        self._ready = False
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
        self._delta = joined = delta if held is None else held.joined(delta)
        # Those of the prompt are told with the first output.
        if joined.finish or joined.prompt_tokens or len(joined.token_ids) >= self._pace.interval:
            self._wake()

    def push(self, text: str, token_ids: list[int]) -> None:
        """Add a delta that is text and nothing else; `token_ids` is this object's from then on."""
        held = self._delta
        if held is None:
            self._delta = held = Delta(text, token_ids)
        else:
            held.text += text
            held.token_ids += token_ids
        if len(held.token_ids) >= self._pace.interval:
            self._wake()

    def release(self) -> None:
        """Let the reader have what is held."""
        if self._delta is not None:
            self._wake()

    async def next(self) -> Delta:
        """The next delta, after which there may be more.

        Raises:
            Exception: what ended the request instead.
        """
        while not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        delta, self._delta = self._delta, None
        if delta is None:
            self._ready = False
            assert self._error is not None
            try:
                raise self._error
            finally:
                self._error = None  # the traceback would lead back here
        self._ready = self._error is not None
        return delta

    def _wake(self) -> None:
        self._ready = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
