"""The built-in tools of a server as its operator has configured them."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from app.egress.client import EgressClient
from app.egress.guard import Guard
from app.egress.upstream import read_upstream
from app.tools.base import Budget
from app.tools.chromium import find_program
from app.tools.functions import functions
from app.tools.images import ImageFetch
from app.tools.net import WebFetch
from app.tools.reader import Reader
from app.tools.search import WebSearch
from app.tools.toolbox import Toolbox
from app.tools.webview import Browser

logger = logging.getLogger(__name__)


def open_toolbox(
    switches: Sequence[str],
    *,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    proxy: str = "",
    search_url: str = "",
    browser_url: str = "",
    browser_pages: int = 4,
    obeys_robots: bool = True,
    budget: Budget | None = None,
    any_url: bool = False,
    on_refused: Callable[[str], None] = lambda _: None,
) -> Toolbox:
    """The tools that `switches` turn on; nothing is started before it is used.

    `allow` and `deny` are entries of the address guard, `proxy` is the egress proxy. `on_refused`
    hears of each host that a page in the browser asked for and that is not opened. Closing the toolbox ends
    what was started.

    Raises:
        ValueError: naming what cannot be read.
    """
    closers: list[Callable[[], Awaitable[None]]] = []
    opener = finder = viewer = None
    upstream = read_upstream(proxy)
    guard = Guard(allow, deny, proxied=upstream is not None)
    if "net" in switches:
        opener = WebFetch(EgressClient(guard, upstream=upstream), Reader(), obeys_robots=obeys_robots)
        closers.append(opener.aclose)
        if search_url:
            finder = WebSearch(search_url)
            closers.append(finder.aclose)
    images = ImageFetch(EgressClient(guard, upstream=upstream)) if "images" in switches else None
    if "webview" in switches:
        reader, program = Reader(), None if browser_url else find_program()
        if program is None and not browser_url:
            logger.warning("webview is on, but there is no chromium on PATH and no CARAVAN_BROWSER_URL")
        viewer = Browser(
            guard,
            reader,
            program=program,
            url=browser_url,
            pages=browser_pages,
            upstream=upstream,
            on_refused=on_refused,
        )
        closers += [viewer.aclose, reader.aclose]
    return Toolbox(
        functions(opener, finder, viewer), budget=budget, any_url=any_url, images=images, closers=closers
    )
