"""How vLLM sleeps: level 1, in which the host keeps the weights.

Level 2 throws them away, and an engine that is woken without reading them again answers with nonsense, in
silence; so it is never asked for.
"""

from collections.abc import Awaitable, Callable

from vllm.v1.engine.async_llm import AsyncLLM

from app.core.errors import EngineFailed


class Sleep:
    """The sleep of one engine. `ask_once` has it make a token."""

    def __init__(self, llm: AsyncLLM, ask_once: Callable[[], Awaitable[None]]) -> None:
        self._llm, self._ask_once = llm, ask_once
        self.asleep = False

    @property
    def can(self) -> bool:
        """Whether the engine was started so that it can. One over several nodes is not put to sleep."""
        config = self._llm.vllm_config
        return config.model_config.enable_sleep_mode and config.parallel_config.nnodes == 1

    async def sleep(self) -> None:
        """As `Engine.sleep`. vLLM drops what it has cached of prompts and pictures by itself."""
        self.asleep = True  # before it is: a probe from here on would be answered only when it is woken
        # What is under way ends first, as a probe that was sent a moment ago.
        await self._llm.sleep(level=1, mode="wait")

    async def wake(self) -> None:
        """As `Engine.wake`; it has made a token then."""
        if not await self._llm.wake_up():
            raise EngineFailed("not all of the engine's memory is back")
        await self._ask_once()
        self.asleep = False
