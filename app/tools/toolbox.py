"""The built-in tools of one server: which a request may have, and a call of one within its budget."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from app.core.brief import brief
from app.core.context import Caller, ToolReport
from app.core.errors import AddressRefused, AppError, FetchFailed, Forbidden, InvalidRequest
from app.core.request import Json
from app.tools.base import SWITCHES, Budget, Outcome, Session, Tool
from app.tools.images import ImageFetch
from app.tools.visits import URL_CHARS, Visits
from app.tools.words import host_of

logger = logging.getLogger(__name__)

_OFF = "this server has not turned on the built-in tool {!r} (CARAVAN_TOOLS={}); leave it out"
_OFF_SEARCH = "this server has no search engine for the built-in tool {!r} (CARAVAN_SEARCH_URL); leave it out"
_NO_TOOL = "there is no built-in tool {!r}; there are 'net' and 'webview'"
_NAMES = {"web_fetch": "net", "web_search": "net", "web_view": "webview"}
"""Each function, and the switch that turns it on."""


class Toolbox:
    """`any_url` lets models open what nobody has named; `closers` end what the tools have started."""

    def __init__(
        self,
        tools: Sequence[Tool] = (),
        *,
        budget: Budget | None = None,
        any_url: bool = False,
        images: ImageFetch | None = None,
        closers: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self._closers = closers
        self.images = images
        self._tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self.budget = budget or Budget()
        self._any_url = any_url

    def offered(self, wanted: frozenset[str], caller: Caller) -> Sequence[Tool]:
        """The tools that are `wanted`, by their names or by the switches that turn them on.

        Raises:
            InvalidRequest: for a switch that is none, or that is off on this server.
            Forbidden: where the caller's key is not for tools.
        """
        for one in sorted(wanted):
            if one not in SWITCHES and one not in _NAMES:
                raise InvalidRequest(_NO_TOOL.format(one))
            if not any(one in (tool.switch, tool.name) for tool in self._tools.values()):
                is_on = any(tool.switch == _NAMES.get(one) for tool in self._tools.values())
                raise InvalidRequest((_OFF_SEARCH if is_on else _OFF).format(one, _NAMES.get(one, one)))
        if not caller.has("tools"):
            raise Forbidden("this API key does not have the scope 'tools'")
        return [tool for tool in self._tools.values() if {tool.switch, tool.name} & wanted]

    async def aclose(self) -> None:
        for close in self._closers:
            await close()

    def named(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def session(
        self,
        texts: Iterable[str],
        *,
        any_url: bool = False,
        most_calls: int | None = None,
        vision: bool = False,
    ) -> Session:
        """A request's own budget; its user wrote `texts`, and `most_calls` is what the key allows."""
        visits = Visits(is_any=self._any_url or any_url)
        for text in texts:
            visits.add_said(text)
        return Session.of(self.budget, visits, most_calls=most_calls, vision=vision)

    async def call(
        self, tool: Tool, arguments: Mapping[str, Json], session: Session
    ) -> tuple[Outcome, ToolReport]:
        """Run one call. What goes wrong is told in `Outcome.text`, in one line, and never raised."""
        outcome, report, error = await self.run(tool, arguments, session)
        if error is not None:
            outcome = Outcome(text=f"{tool.name} failed: {brief(str(error))}")
        return outcome, report

    async def run(
        self, tool: Tool, arguments: Mapping[str, Json], session: Session
    ) -> tuple[Outcome, ToolReport, AppError | None]:
        """Run one call: what it came to, what is reported of it, and what went wrong."""
        started_ns, begun_ns = time.time_ns(), time.monotonic_ns()
        target, outcome, error = "", Outcome(), None
        try:
            target = tool.target(arguments)[:URL_CHARS]
            session.spend_call()
            async with asyncio.timeout(session.seconds):
                outcome = await tool.run(arguments, session)
        except TimeoutError:
            error = FetchFailed("it took too long and was ended")
        except AppError as failed:
            error = failed
        except Exception:
            logger.exception("The built-in tool %s failed unexpectedly", tool.name)
            error = FetchFailed("of a fault of this server")
        lasted_ns = time.monotonic_ns() - begun_ns
        received = sum(page.received_bytes for page in outcome.pages)
        session.seconds -= lasted_ns / 1e9
        session.received_bytes -= received
        report = ToolReport(
            tool.name,
            host=_host(outcome, target),
            target=target,
            status=outcome.pages[0].status if outcome.pages else 0,
            received_bytes=received,
            started_ns=started_ns,
            duration_ns=lasted_ns,
            failure=type(error).__name__ if error else "",
            refused=isinstance(error, AddressRefused),
        )
        return outcome, report, error


def _host(outcome: Outcome, target: str) -> str:
    """Where a page came from in the end, or should have come from; empty for a query."""
    return host_of(outcome.pages[0].url if outcome.pages else target)
