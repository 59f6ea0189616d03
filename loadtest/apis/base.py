"""What a user asks and what comes back, in no API's own words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["chat", "generate", "embed", "schema", "tools"]
KINDS: tuple[Kind, ...] = ("chat", "generate", "embed", "schema", "tools")


class BadAnswer(Exception):
    """An answer that is an error, not whole or not what was asked for; its text is short and has no numbers
    that differ from one answer to the next, since locust counts failures by it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `text` is the prompt of a generate and the input of an embed; the others have
    `messages`."""

    kind: Kind
    model: str
    text: str = ""
    messages: Sequence[Json] = ()
    most_tokens: int = 0
    schema: Json | None = None
    tools: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `calls` are the names of called tools and their arguments; an embed has no output
    tokens."""

    text: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    cut_at_limit: bool = False
    vectors: int = 0


class Api(Protocol):
    """How a server is spoken to.

    `has_text` finds the first line of a stream that brings a token; `kinds` are those that the API has.
    """

    has_text: re.Pattern[bytes]
    kinds: frozenset[Kind]

    def request(self, ask: Ask) -> tuple[str, Json]:
        """The path and the body to POST."""
        ...

    def reply(self, ask: Ask, body: bytes) -> Reply:
        """Read a body that came with status 200; `BadAnswer` unless it is whole."""
        ...
