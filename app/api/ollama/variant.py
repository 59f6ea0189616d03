"""In what this server's answers may differ from Ollama's, for clients written for another API like it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Variant:
    """`streams` tells whether a request streams that does not say (row B4); `repeats_text` whether the last
    line of a stream has the whole text once more (row B7); `calls_reason` whether a reply that calls tools
    ends with `tool_calls` instead of `stop`. The defaults are Ollama's.
    """

    streams: bool = True
    repeats_text: bool = False
    calls_reason: bool = False


async def _variant(request: Request) -> Variant:
    return request.app.state.ollama


CurrentVariant = Annotated[Variant, Depends(_variant)]
