"""The built-in tools of a server as its operator has configured them."""

from collections.abc import Awaitable, Callable, Sequence

from app.egress.client import EgressClient
from app.egress.guard import Guard
from app.egress.upstream import read_upstream
from app.tools.base import Budget
from app.tools.functions import functions
from app.tools.net import WebFetch
from app.tools.reader import Reader
from app.tools.search import WebSearch
from app.tools.toolbox import Toolbox


def open_toolbox(
    switches: Sequence[str],
    *,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    proxy: str = "",
    search_url: str = "",
    obeys_robots: bool = True,
    budget: Budget | None = None,
    any_url: bool = False,
) -> Toolbox:
    """The tools that `switches` turn on; nothing is started before it is used.

    `allow` and `deny` are entries of the address guard, `proxy` is the egress proxy. Closing the toolbox
    ends what was started.

    Raises:
        ValueError: naming what cannot be read.
    """
    closers: list[Callable[[], Awaitable[None]]] = []
    opener = finder = None
    if "net" in switches:
        upstream = read_upstream(proxy)
        guard = Guard(allow, deny, proxied=upstream is not None)
        opener = WebFetch(EgressClient(guard, upstream=upstream), Reader(), obeys_robots=obeys_robots)
        closers.append(opener.aclose)
        if search_url:
            finder = WebSearch(search_url)
            closers.append(finder.aclose)
    return Toolbox(functions(opener, finder, None), budget=budget, any_url=any_url, closers=closers)
