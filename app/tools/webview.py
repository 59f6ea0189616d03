"""Opens a page as a person would see it: in Chromium, its scripts run, and all that it loads checked."""

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import playwright.async_api as driver

from app.core.errors import AddressRefused, AppError, FetchFailed, Overloaded
from app.egress.access import PageAccess, PageLimits
from app.egress.client import media_type_of
from app.egress.dialer import Resolve
from app.egress.guard import Guard
from app.egress.proxy import REFUSED, EgressProxy
from app.egress.target import shown
from app.egress.upstream import Upstream
from app.tools.chromium import Chromium, Program, is_loopback, own_address
from app.tools.extract import Extracted
from app.tools.page import Page

_log = logging.getLogger(__name__)

REMOTE_PROXY_PORT = 11481
"""Where a browser of another machine finds the proxy: network policies name it."""
_CLOSE_S = 5.0
"""Longest time that a page may take to close before the browser counts as hung."""
_SETTLE_S = 1.5
"""How long a page that is loaded may go on loading."""
_READ_SHARE = 0.25
"""Of the time of a page, what is kept to read what has been shown by then."""
_REFUSALS = ("ERR_TUNNEL_CONNECTION_FAILED", "ERR_HTTP_RESPONSE_CODE_FAILURE")
"""What Chromium calls the proxy's answers that have no page."""
_READ_TRIES, _READ_AGAIN_S = 4, 0.3
_HTML_CHARS = 4 << 20
_SIZE: driver.ViewportSize = {"width": 1280, "height": 800}

# In a world of its own: the page's scripts cannot change what these names mean.
_READ = f"""(() => {{
  const html = document.documentElement ? document.documentElement.outerHTML : '';
  return {{
    html: html.slice(0, {_HTML_CHARS}), cut: html.length > {_HTML_CHARS}, url: location.href.slice(0, 8192)
  }};
}})()"""


class Extracts(Protocol):
    """Reads a body, out of the event loop (`app.tools.reader.Reader`)."""

    async def extract(self, body: bytes, media_type: str, charset: str, url: str) -> Extracted: ...


class Browser:
    """At most `pages` pages at once, each with cookies, storage, credentials and a budget of its own.

    The browser is `program`, started by the first of them, or the one at `url` (its DevTools address), which
    reaches the proxy here at REMOTE_PROXY_PORT. `reader` makes text of what a page shows, `on_refused` hears
    of each host that a page asked for and that was refused.
    """

    def __init__(
        self,
        guard: Guard,
        reader: Extracts,
        *,
        program: Program | None = None,
        url: str = "",
        pages: int = 4,
        limits: PageLimits = PageLimits(),  # noqa: B008 - it is frozen
        resolve: Resolve | None = None,
        upstream: Upstream | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._guard, self._reader = guard, reader
        self._most, self._limits = pages, limits
        self._chromium = Chromium(program, url)
        self._url = url
        self._make_proxy = partial(
            EgressProxy, guard, resolve=resolve, upstream=upstream, on_refused=on_refused
        )
        self._listening = asyncio.Lock()
        self._proxy: EgressProxy | None = None
        self._pages = set[asyncio.Task[Page]]()
        self._is_closed = False

    @property
    def chromium(self) -> Chromium:
        return self._chromium

    @property
    def open_pages(self) -> int:
        return len(self._pages)

    async def open(self, url: str, *, screenshot: bool, limit_s: float) -> Page:
        """The page at `url` as it looks once it is loaded, or after most of `limit_s` seconds.

        Leaving early closes it. `received_bytes` is what all that it loads took.

        Raises:
            AddressRefused: where `url`, or what it redirects to, may not be opened.
            FetchFailed: where there is no page, it takes too long, or there is no browser.
            Overloaded: where as many pages are open as may be.
        """
        target = self._guard.target(url)
        if self._is_closed:
            raise FetchFailed("the browser is closed")
        if len(self._pages) >= self._most:
            raise Overloaded("too many pages are open in the browser, please try again")
        # A page takes its place until it is closed, though nobody waits for it any more.
        task = asyncio.create_task(self._open(target.url, screenshot, limit_s))
        self._pages.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise FetchFailed("the browser is closed")
        return task.result()

    async def aclose(self) -> None:
        """Close every page, the browser and the proxy, for good; nothing is left running."""
        self._is_closed = True
        for task in self._pages:
            task.cancel()
        if self._pages:
            await asyncio.wait(set(self._pages))
        await self._chromium.aclose()
        if self._proxy is not None:
            await self._proxy.__aexit__()
            self._proxy = None

    def _forget(self, task: asyncio.Task[Page]) -> None:
        self._pages.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may be gone

    async def _open(self, url: str, screenshot: bool, limit_s: float) -> Page:
        try:
            proxy = await self._listen()
            async with proxy.page(self._limits) as access:
                return await self._show(url, screenshot, limit_s, proxy.url, access)
        except AppError:
            raise
        except TimeoutError as error:
            raise FetchFailed(f"{shown(url)} took longer than {limit_s:g} s to be shown") from error
        except OSError as error:
            _log.warning("no proxy for the browser: %s", error)
            raise FetchFailed("the browser could not be started") from error
        except driver.Error as error:
            _log.debug("page failed: %s", error)
            raise FetchFailed(f"{shown(url)} could not be shown") from error

    async def _listen(self) -> EgressProxy:
        async with self._listening:
            if self._proxy is None:
                host = await own_address(self._url) if self._url else "127.0.0.1"
                port = 0 if is_loopback(host) else REMOTE_PROXY_PORT
                proxy = self._make_proxy(host=host, port=port)
                self._proxy = await proxy.__aenter__()
            return self._proxy

    async def _show(self, url: str, screenshot: bool, limit_s: float, proxy: str, access: PageAccess) -> Page:
        async with asyncio.timeout(limit_s):
            browser = await self._chromium.get(proxy)
            async with self._context(browser, proxy, access) as context:
                tab = await context.new_page()
                # What a page opens beside itself is not looked at.
                context.on("page", lambda other: asyncio.ensure_future(_closed(other)))
                return await self._look(context, tab, url, screenshot, limit_s, access)

    @contextlib.asynccontextmanager
    async def _context(
        self, browser: driver.Browser, proxy: str, access: PageAccess
    ) -> AsyncGenerator[driver.BrowserContext]:
        """A profile that is gone with the block."""
        making = asyncio.ensure_future(
            browser.new_context(
                proxy={
                    "server": proxy,
                    "bypass": "<-loopback>",
                    "username": access.username,
                    "password": access.password,
                },
                accept_downloads=False,
                permissions=[],
                service_workers="block",
                viewport=_SIZE,
            )
        )
        try:
            # One that is still being made when nobody waits for it any more would stay.
            context = await asyncio.shield(making)
        except driver.Error:
            # Not a page's fault: the browser, or what speaks to it, is gone, and may not know.
            await self._chromium.kill()
            raise
        except BaseException:
            await self._close(making)
            raise
        try:
            yield context
        finally:
            await self._close(making)

    async def _close(self, making: "asyncio.Future[driver.BrowserContext]") -> None:
        """Close a page; a browser that does not is killed with all that it shows."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await (await making).close()
        except driver.Error:
            pass  # it is gone already
        except TimeoutError:
            _log.warning("the browser hangs and is started anew")
            await self._chromium.kill()
        except asyncio.CancelledError:
            await self._chromium.kill()
            raise

    async def _look(
        self,
        context: driver.BrowserContext,
        tab: driver.Page,
        url: str,
        screenshot: bool,
        limit_s: float,
        access: PageAccess,
    ) -> Page:
        status, headers = await _arrived(tab, url, access)
        await _loaded(tab, limit_s, access)
        session = await context.new_cdp_session(tab)
        seen = await _read(session)
        final = str(seen["url"])
        if not final.startswith(("http://", "https://")):
            if access.refused:
                raise AddressRefused(f"{shown(url)} leads to an address that may not be opened")
            raise FetchFailed(f"{shown(url)} leads to what is not shown")
        picture = await _picture(session) if screenshot else b""
        body = str(seen["html"]).encode(errors="replace")
        found = await self._reader.extract(body, "text/html", "utf-8", final)
        return Page(
            url=final,
            status=status,
            media_type=media_type_of(headers.get("content-type", ""))[0] or "text/html",
            title=found.title,
            text=found.text,
            links=found.links,
            is_truncated=found.is_truncated or seen["cut"] is True or access.is_exhausted,
            received_bytes=access.received_bytes,
            screenshot=picture,
        )


async def _arrived(tab: driver.Page, url: str, access: PageAccess) -> tuple[int, Mapping[str, str]]:
    """Status and headers of the page that redirects lead to.

    Raises:
        AddressRefused, FetchFailed
    """
    try:
        response = await tab.goto(url, wait_until="commit", timeout=0)
    except driver.Error as error:
        reason = re.search(r"net::(ERR_[A-Z_]+)", str(error))
        code = reason[1] if reason else ""
        if code in _REFUSALS and access.refused:
            raise AddressRefused(f"{shown(url)} leads to an address that may not be opened") from error
        if code.startswith("ERR_CERT_"):
            raise FetchFailed(f"{shown(url)}: the certificate is not valid for it") from error
        if "Download is starting" in str(error):
            raise FetchFailed(f"{shown(url)} is a file to be saved, not a page") from error
        raise FetchFailed(f"{shown(url)} could not be opened ({code or 'no answer'})") from error
    if response is None:
        raise FetchFailed(f"{shown(url)} could not be opened (no answer)")
    headers = await response.all_headers()
    match headers.get(REFUSED):
        case None:
            return response.status, headers
        case "address":
            raise AddressRefused(f"{shown(url)} leads to an address that may not be opened")
        case _:
            raise FetchFailed(f"{shown(url)} could not be opened (no answer)")


async def _loaded(tab: driver.Page, limit_s: float, access: PageAccess) -> None:
    """Until it is, or has had its share of the time, or gets no more of the network."""

    async def wait() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s * (1 - 2 * _READ_SHARE)):
                await tab.wait_for_load_state("load", timeout=0)
            async with asyncio.timeout(min(_SETTLE_S, limit_s * _READ_SHARE)):
                await tab.wait_for_load_state("networkidle", timeout=0)

    ends: list[asyncio.Task[Any]] = [
        asyncio.create_task(wait()),
        asyncio.create_task(access.exhausted.wait()),
    ]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _read(session: driver.CDPSession) -> Mapping[str, Any]:
    """What the page shows by now, read where its own scripts cannot lie about it.

    A page that goes on to another in the middle of this is read anew.
    """
    for tries_left in reversed(range(_READ_TRIES)):
        try:
            tree: dict[str, Any] = await session.send("Page.getFrameTree")
            frame = tree["frameTree"]["frame"]["id"]
            world: dict[str, Any] = await session.send("Page.createIsolatedWorld", {"frameId": frame})
            asked = {"expression": _READ, "contextId": world["executionContextId"], "returnByValue": True}
            answer: dict[str, Any] = await session.send("Runtime.evaluate", asked)
            return answer["result"]["value"]
        except (driver.Error, KeyError):
            if not tries_left:
                raise
            await asyncio.sleep(_READ_AGAIN_S)
    raise AssertionError("the last try returns or raises")


async def _picture(session: driver.CDPSession) -> bytes:
    """What fits the window, as a PNG. Not by Playwright, which waits for fonts that a page may never load."""
    answer: dict[str, Any] = await session.send("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(answer["data"])


async def _closed(page: driver.Page) -> None:
    with contextlib.suppress(driver.Error):
        await page.close()
