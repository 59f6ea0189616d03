"""The functions that models are offered: they fetch, search and open pages, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from app.core.request import Json
from app.tools.base import (
    Finder,
    Opener,
    Outcome,
    Session,
    Switch,
    Tool,
    ToolRefused,
    Viewer,
    function,
    text_argument,
)

_URL: Mapping[str, Any] = {"type": "string", "description": "The address, beginning with http:// or https://"}
_MOST_RESULTS = 10
_USUAL_RESULTS = 5


class FetchFunction:
    """`web_fetch`: the readable text of a page, as it is sent."""

    name: ClassVar[str] = "web_fetch"
    switch: ClassVar[Switch] = "net"
    opens_url: ClassVar[bool] = True
    definition: ClassVar[Mapping[str, Json]] = function(
        "web_fetch",
        "Fetch a page, document or file from the web and read its text. Only addresses that the user named, "
        "that a search found or that a fetched page links to can be opened.",
        url=_URL,
    )

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def target(self, arguments: Mapping[str, Json]) -> str:
        return text_argument(arguments, "url")

    async def run(self, arguments: Mapping[str, Json], session: Session) -> Outcome:
        page = await self._opener.open(session.known(self.target(arguments)))
        session.add_links((page.url, *page.links))
        return Outcome((page,))


class ViewFunction:
    """`web_view`: a page as a person would see it, its scripts run."""

    name: ClassVar[str] = "web_view"
    switch: ClassVar[Switch] = "webview"
    opens_url: ClassVar[bool] = True
    definition: ClassVar[Mapping[str, Json]] = function(
        "web_view",
        "Open a page in a web browser, run its scripts and read what it shows. Slower than a fetch: for "
        "pages that are made by scripts. Only addresses that the user named, that a search found or that a "
        "page links to can be opened.",
        url=_URL,
    )

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer

    def target(self, arguments: Mapping[str, Json]) -> str:
        return text_argument(arguments, "url")

    async def run(self, arguments: Mapping[str, Json], session: Session) -> Outcome:
        url = session.known(self.target(arguments))
        page = await self._viewer.open(url, screenshot=session.vision, limit_s=session.seconds)
        session.add_links((page.url, *page.links))
        return Outcome((page,))


class SearchFunction:
    """`web_search`: what a search engine finds."""

    name: ClassVar[str] = "web_search"
    switch: ClassVar[Switch] = "net"
    opens_url: ClassVar[bool] = False
    definition: ClassVar[Mapping[str, Json]] = function(
        "web_search",
        "Search the web. Gives titles, addresses and excerpts, the best first.",
        query={"type": "string", "description": "What to search for"},
        max_results={"type": "integer", "description": f"Results wanted, at most {_MOST_RESULTS}"},
    )

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def target(self, arguments: Mapping[str, Json]) -> str:
        return text_argument(arguments, "query")

    async def run(self, arguments: Mapping[str, Json], session: Session) -> Outcome:
        wanted = arguments.get("max_results") or _USUAL_RESULTS
        if not isinstance(wanted, int) or wanted < 1:
            raise ToolRefused("the argument 'max_results' must be a positive integer")
        results = await self._finder.search(self.target(arguments), min(wanted, _MOST_RESULTS))
        session.add_links(result.url for result in results)
        return Outcome(
            query=self.target(arguments), results=tuple(results), text="" if results else "nothing was found"
        )


def functions(opener: Opener | None, finder: Finder | None, viewer: Viewer | None) -> Sequence[Tool]:
    """Those that what is configured can do."""
    found: list[Tool] = []
    if opener is not None:
        found.append(FetchFunction(opener))
    if finder is not None:
        found.append(SearchFunction(finder))
    if viewer is not None:
        found.append(ViewFunction(viewer))
    return found
