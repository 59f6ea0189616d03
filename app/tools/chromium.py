"""The browser behind `webview`: found, started when it is needed, and ended so that nothing of it stays."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import playwright.async_api as driver
import psutil

from app.core.errors import FetchFailed

_log = logging.getLogger(__name__)

START_S = 30.0
"""Longest time that a browser may take to start, or to be connected to."""
_STOP_S = 5.0

_FEATURES = (
    # What Playwright itself turns off, since the last of several such flags counts.
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "MediaRouter",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "OptimizationHints",
    "NetworkTimeServiceQuerying",
    "AimEnabled",
    "PreconnectToSearch",
    # Forms and texts of a page are not told to Google.
    "AutofillServerCommunication",
    "InterestFeedContentSuggestions",
    "Translate",
)
FLAGS = (
    # Loopback too goes through the proxy.
    "--proxy-bypass-list=<-loopback>",
    "--dns-prefetch-disable",
    "--no-pings",
    # What would go out by UDP, past any proxy.
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--enforce-webrtc-ip-permission-check",
    "--disable-blink-features=WebTransport,WebTransportCustomCertificates,PrefetchPrivacyChanges,DirectSockets",
    f"--disable-features={','.join(_FEATURES)}",
    # What is not for a page that nobody sits before.
    "--deny-permission-prompts",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-speech-api",
    "--disable-remote-playback-api",
    "--mute-audio",
    "--no-service-autorun",
    "--js-flags=--max-old-space-size=512",
)
"""What Chromium is started with; one behind CARAVAN_BROWSER_URL must be, too."""
_NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""Nothing is looked up beside the proxy. Addresses in numbers are names to it; a proxy of ours is exempt."""
_NOT_WANTED = ["--disable-popup-blocking"]


@dataclass(frozen=True, slots=True)
class Program:
    """How Chromium is started: its path, and what its environment needs besides the server's."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def find_program() -> Program | None:
    """Debian's Chromium, where it is installed."""
    path = shutil.which("chromium")
    return Program(path) if path else None


class Chromium:
    """One browser: a process of ours, or the one at `url` (its DevTools address).

    It is started by the first `get`, and again by the next one after it has died or was killed.
    """

    def __init__(self, program: Program | None, url: str = "") -> None:
        self._program, self._url = program, url
        self._mark = f"--caravan-browser={uuid.uuid4()}"
        self._starting: asyncio.Task[None] | None = None
        self._playwright: driver.Playwright | None = None
        self._browser: driver.Browser | None = None
        self._main: psutil.Process | None = None
        self._sandbox = os.geteuid() != 0
        self.starts = 0

    async def get(self, proxy: str) -> driver.Browser:
        """The running browser, all of whose own traffic goes to `proxy`, which it has no credential for.

        Raises:
            FetchFailed: where there is none and none can be started.
        """
        if self._browser is None or not self._browser.is_connected():
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._restart(proxy))
                self._starting.add_done_callback(_heard)
            # Whoever waits may leave in the middle, and half a browser would stay.
            await asyncio.shield(self._starting)
        if self._browser is None:
            raise FetchFailed("the browser was closed")
        return self._browser

    async def _restart(self, proxy: str) -> None:
        await self._end()
        try:
            async with asyncio.timeout(START_S):
                self._browser = await self._start(proxy)
        except (driver.Error, OSError, TimeoutError) as error:
            await self._end()
            _log.warning("no browser: %s", error)
            raise FetchFailed("the browser could not be started") from error
        self.starts += 1

    async def kill(self) -> None:
        """End the browser at once, with all its pages; the next `get` starts another."""
        browser, self._browser = self._browser, None
        processes, self._main = self.processes(), None
        # A browser that hangs does not end when it is asked to.
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(driver.Error, TimeoutError):
            async with asyncio.timeout(_STOP_S):
                if browser is not None:
                    await browser.close()
                while any(map(_runs, processes)):  # noqa: ASYNC110 - they are another process's children
                    await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        """End it, with all its processes; one that is starting is waited for."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await self._end()

    async def _end(self) -> None:
        await self.kill()
        playwright, self._playwright = self._playwright, None
        if playwright is not None:
            with contextlib.suppress(driver.Error, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await playwright.stop()

    async def _start(self, proxy: str) -> driver.Browser:
        self._playwright = await driver.async_playwright().start()
        if self._url:
            return await self._playwright.chromium.connect_over_cdp(
                await in_numbers(self._url), timeout=START_S * 1000
            )
        if self._program is None:
            raise FileNotFoundError("chromium is not installed")
        try:
            browser = await self._launch(self._playwright, self._program, proxy)
        except driver.Error as error:
            if not self._sandbox or "sandbox" not in str(error).lower():
                raise
            # Containers often forbid what the sandbox is made of; the container is the wall then.
            _log.warning("the browser runs without its own sandbox, which this system does not allow")
            self._sandbox = False
            browser = await self._launch(self._playwright, self._program, proxy)
        self._main = self._found()
        return browser

    async def _launch(self, playwright: driver.Playwright, program: Program, proxy: str) -> driver.Browser:
        return await playwright.chromium.launch(
            executable_path=program.path,
            args=[*FLAGS, _NO_NAMES, self._mark],
            ignore_default_args=_NOT_WANTED,
            # Not this process's environment, which holds secrets.
            env={
                "PATH": os.defpath,
                "HOME": tempfile.gettempdir(),
                "LC_ALL": "C.UTF-8",
                **program.environment,
            },
            proxy={"server": proxy, "bypass": "<-loopback>"},
            chromium_sandbox=self._sandbox,
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
            timeout=START_S * 1000,
        )

    def processes(self) -> list[psutil.Process]:
        """The processes of a browser of ours, its main one first."""
        main = self._main or self._found()
        if main is None:
            return []
        try:
            return [main, *main.children(recursive=True)]
        except psutil.Error:
            return [main]

    def _found(self) -> psutil.Process | None:
        """The main process: the first with our mark among those that Playwright has started."""
        if self._playwright is None or self._url:
            return None
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if self._mark in process.cmdline():
                    return process
        return None


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waited may be gone


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def in_numbers(url: str) -> str:
    """A DevTools address by number: Chromium answers no request for another name than localhost.

    Raises:
        OSError: where the name has no address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or parts.scheme in ("https", "wss"):
        return url
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return url
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    shown = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{shown}:{parts.port}" if parts.port else shown).geturl()


async def own_address(url: str) -> str:
    """The address of this machine that the browser at `url` can reach it by: the one it is reached from.

    Raises:
        OSError: where the browser has no address.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # of a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
