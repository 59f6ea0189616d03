"""One answer while vLLM makes it, as the runtime reads it."""

from collections.abc import Callable

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from app.core.errors import AppError
from app.core.events import Delta
from app.engine.base import Decoder
from app.engine.vllm.stream.deltas import Deltas

VLLM_ERRORS = (VLLMValidationError, ValueError, EngineDeadError, EngineGenerateError)
"""What vLLM raises for a request: wrong ones, dead engines, failures."""


class VllmAnswer:
    """One answer of a `VllmEngine`: what vLLM's outputs of one request come to."""

    def __init__(
        self, deltas: Deltas, decoder: Decoder | None, failed: Callable[[Exception], AppError]
    ) -> None:
        self._deltas = deltas
        self._failed = failed
        self.decoder = decoder
        self.request_id = deltas.request_id
        self.ended = False

    async def next(self) -> Delta:
        try:
            delta = await self._deltas.next()
        except VLLM_ERRORS as error:
            raise self._failed(error) from error
        self.ended = delta.finish is not None
        return delta
