"""The model's transcripts, asked by OpenAI's and Anthropic's APIs; `chaos/apis.py` reads the answers."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from harness.models.catalogue import QWEN3, Case

Body: TypeAlias = dict[str, Any]
LONGEST = 4000
"""Tokens that an answer may have, where an API wants a limit."""


def asked(path: str, case: Case, *, think: bool, stream: bool) -> Body:
    """A transcript's request on that path."""
    system = "".join(each["content"] for each in case.messages if each["role"] == "system")
    turns = [each for each in case.messages if each["role"] != "system"]
    body: Body = {"model": "tool", "stream": stream, "temperature": 0}
    functions = [tool["function"] for tool in case.tools]
    match path:
        case "/v1/chat/completions":
            body |= {"messages": list(case.messages), "reasoning_effort": "high" if think else "none"}
            body |= {"tools": list(case.tools)} if functions else {}
            return body | ({"stream_options": {"include_usage": True}} if stream else {})
        case "/v1/responses":
            body |= {"input": turns, "reasoning": {"effort": "high" if think else "none"}, "store": False}
            body |= {"instructions": system} if system else {}
            tools = [{"type": "function", **function} for function in functions]
        case _:
            thinking = {"type": "enabled", "budget_tokens": 1024} if think else {"type": "disabled"}
            body |= {"messages": turns, "max_tokens": LONGEST, "thinking": thinking}
            body |= {"system": system} if system else {}
            tools = [
                {
                    "name": function["name"],
                    "description": function.get("description", ""),
                    "input_schema": function["parameters"],
                }
                for function in functions
            ]
    return body | ({"tools": tools} if tools else {})


PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")


def cases() -> Iterator[Case]:
    """The transcripts whose messages are the same in all APIs: texts alone, and the model's turn."""
    for case in QWEN3:
        texts_alone = all(set(each) == {"role", "content"} for each in case.messages)
        if texts_alone and not case.prefilled and all(each["role"] != "tool" for each in case.messages):
            yield case


def every() -> Iterable[tuple[str, Case, bool, bool]]:
    """Path, transcript, whether it thinks and whether it is streamed."""
    for path in PATHS:
        for case in cases():
            for think in (False, True):
                for stream in (True, False):
                    yield path, case, think, stream
