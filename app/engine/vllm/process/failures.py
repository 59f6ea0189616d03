"""Why an engine did not load or died, in words for the client and for the log."""

import asyncio
import logging
import re

from pydantic import ValidationError

from app.engine.vllm.process.stderr import ChildOutput, cause

_IN_CHILD = ". See root cause above"
_KILLED = re.compile(r"'\w+': -(\d+)")
_CODE = re.compile(r"(setting|argument|option) `trust_remote_code=True`")
"""How vLLM and transformers ask for leave to run what a repository brings along."""

NEEDS_CODE = (
    "it needs code of its repository, which this server runs only where its operator allows it for the "
    "model, with engine: {trust_remote_code: true}"
)
_log = logging.getLogger(__name__)


def first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def raised(error: BaseException) -> str:
    """What vLLM raised in this process, in a line."""
    if _CODE.search(str(error)):
        return NEEDS_CODE
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ").splitlines()[0]
    return first_line(error)


async def load_reason(error: BaseException, output: ChildOutput) -> str:
    """What vLLM raised; what went wrong in a process of the engine is in what that process wrote."""
    line = raised(error)
    if _IN_CHILD not in line:
        return line
    await log_last_lines(output)
    if killed := _KILLED.search(line):
        # What the others wrote then is that it was gone.
        return f"its process was killed by signal {killed[1]}, as happens when memory runs out"
    return cause(output.lines) or "one of its processes ended without a word, as happens when memory runs out"


async def log_last_lines(output: ChildOutput) -> None:
    """Repeat what the engine wrote last, where the log is kept apart from the terminal."""
    await asyncio.to_thread(output.wait_end)
    if output.lines:
        _log.error("the last lines of the engine's own output:\n%s", output.last)
