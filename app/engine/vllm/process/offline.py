"""Engines that may ask the hub for nothing: those of models that configuration does not own.

What their files name may be any repository, and vLLM's requests for it pass neither the address guard nor
what the operator allows to be pulled. The server itself must go on pulling meanwhile.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

is_on: ContextVar[bool] = ContextVar("is_on", default=False)
"""Whether what this context starts and requests is offline; it goes along into threads."""


@contextmanager
def offline(*, on: bool) -> Generator[None]:
    """While this context loads a model: requests to the hub fail as they do by `HF_HUB_OFFLINE`."""
    _watch()
    token = is_on.set(on)
    try:
        yield
    finally:
        is_on.reset(token)


def in_context(target: Callable[..., None]) -> Callable[..., None]:
    """The work of a process of the engine that this context starts."""
    return partial(_run, target) if is_on.get() else target


def _run(target: Callable[..., None], **arguments: Any) -> None:
    # Processes that are spawned from this one read the variable; what is imported already has read it.
    os.environ["HF_HUB_OFFLINE"] = "1"  # noqa: TID251
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    target(**arguments)


def _watch() -> None:
    """Have huggingface_hub look at `is_on` before each request; its own setting is one for the process."""
    from huggingface_hub import constants

    plain = constants.is_offline_mode
    if getattr(plain, "looks_at", None) is is_on:
        return

    def is_offline_mode() -> bool:
        return is_on.get() or plain()

    is_offline_mode.looks_at = is_on  # type: ignore[attr-defined]
    constants.is_offline_mode = is_offline_mode
