"""What a built-in tool is: something that the server itself does for a model that calls it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args

from app.core.errors import AppError
from app.core.request import Json
from app.tools.page import Page, SearchResult
from app.tools.visits import Visits

Switch: TypeAlias = Literal["net", "webview"]
"""What a request turns on (`datai.tools`), and an operator before it."""

SWITCHES: frozenset[Switch] = frozenset(get_args(Switch))


class ToolRefused(AppError):
    """A tool does not do what was asked of it; the model reads why."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What built-in tools may take for one request.

    `turns` of the model, the answer's included; `calls` of tools, `seconds` of their work together,
    `received_bytes` from the network, and `text_chars` of what is read, over all turns.
    """

    turns: int = 6
    calls: int = 10
    seconds: float = 60.0
    received_bytes: int = 32 << 20
    text_chars: int = 100_000


@dataclass(slots=True)
class Session:
    """What is left of one request's budget, and which addresses its model may open."""

    visits: Visits
    calls: int
    seconds: float
    received_bytes: int
    text_chars: int
    vision: bool = False

    @classmethod
    def of(
        cls, budget: Budget, visits: Visits, *, most_calls: int | None = None, vision: bool = False
    ) -> "Session":
        """`most_calls` is what the caller's key allows."""
        calls = budget.calls if most_calls is None else min(budget.calls, most_calls)
        return cls(visits, calls, budget.seconds, budget.received_bytes, budget.text_chars, vision)

    @property
    def is_spent(self) -> bool:
        return min(self.calls, self.seconds, self.received_bytes, self.text_chars) <= 0

    def spend_call(self) -> None:
        """Raises: ToolRefused: where there is none left."""
        if self.is_spent:
            raise ToolRefused("the tools of this request have used up what they may take; answer without")
        self.calls -= 1

    def known(self, url: str) -> str:
        """The address, as it is to be opened.

        Raises:
            ToolRefused: where nobody but the model has named it. A page could have it send the conversation
                away in an address.
        """
        known = self.visits.find(url)
        if not known:
            raise ToolRefused(
                "this address stands neither in the user's messages nor in what was found or opened before, "
                "so it is not opened"
            )
        return known

    def add_links(self, urls: Iterable[str]) -> None:
        """What was found may be opened from now on."""
        self.visits.add(urls)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: `pages`, or `results` of a `query`, of others; `text` of our own, one line."""

    pages: tuple[Page, ...] = ()
    query: str = ""
    results: tuple[SearchResult, ...] = ()
    text: str = ""


class Opener(Protocol):
    """Opens one page; cancelling it ends the work."""

    async def open(self, url: str) -> Page:
        """Raises `AppError` with one line that says what went wrong."""
        ...


class Finder(Protocol):
    """Searches the web."""

    async def search(self, query: str, count: int) -> Sequence[SearchResult]:
        """At most `count` results, the best first; raises `AppError`."""
        ...


class Viewer(Protocol):
    """Opens pages in a browser."""

    async def open(self, url: str, *, screenshot: bool, limit_s: float) -> Page: ...


class Tool(Protocol):
    """One function that a model may call."""

    name: ClassVar[str]
    switch: ClassVar[Switch]
    definition: ClassVar[Mapping[str, Json]]
    """As templates get it: `{"type": "function", "function": {...}}`."""
    opens_url: ClassVar[bool]
    """Whether it can be given an address that a user's message names."""

    def target(self, arguments: Mapping[str, Json]) -> str:
        """What a call is about, for people: an address or a query.

        Raises:
            ToolRefused: for arguments that are not the function's.
        """
        ...

    async def run(self, arguments: Mapping[str, Json], session: Session) -> Outcome: ...


class NoTool:
    """What is called where a model names a function that nobody offers it: it is told which there are."""

    name: ClassVar[str] = "unknown"
    switch: ClassVar[Switch] = "net"
    definition: ClassVar[Mapping[str, Json]] = {}
    opens_url: ClassVar[bool] = False

    def __init__(self, offered: Iterable[str]) -> None:
        self._offered = ", ".join(offered)

    def target(self, arguments: Mapping[str, Json]) -> str:
        return ""

    async def run(self, arguments: Mapping[str, Json], session: Session) -> Outcome:
        raise ToolRefused(f"there is no function of that name; there are: {self._offered}")


def function(name: str, description: str, **properties: Mapping[str, Any]) -> Mapping[str, Json]:
    """A definition whose first property is required."""
    parameters = {"type": "object", "required": [next(iter(properties))], "properties": dict(properties)}
    called = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": called}


def text_argument(arguments: Mapping[str, Json], name: str) -> str:
    """Raises: ToolRefused: for an argument that is missing or no text."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolRefused(f"the argument {name!r} must be a text")
    return value.strip()
