"""Pages in a real Chromium: what they show is read, and whatever they try reaches what is allowed alone."""

import asyncio
import base64
import hashlib
import io
import signal
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from app.core.errors import AddressRefused, FetchFailed, Overloaded
from app.egress.access import PageLimits
from app.egress.guard import Guard
from app.tools import chromium
from app.tools.chromium import Program, in_numbers, is_loopback, own_address
from app.tools.page import Page
from app.tools.reader import Reader
from app.tools.webview import MEMORY_BYTES, Browser
from tests.egress.names import Names
from tests.egress.site import Answer, Site, certificate, page, redirect, serves_with, site
from tests.programs import program

HOST = "site.example"
NAMES = {HOST: "127.0.0.1", "inner.example": "10.0.0.1"}
LIMIT_S = 15.0
pytestmark = pytest.mark.asyncio(loop_scope="module")
full = pytest.mark.browser
"""What is left out of the usual run, for its time."""


def html(body: str, head: str = "") -> bytes:
    return page(f"<!doctype html><html><head>{head}</head><body>{body}</body></html>".encode())


async def _socket(writer: asyncio.StreamWriter) -> None:
    """A WebSocket server that says one thing; what it was asked for is in the last head of the site."""
    key = SITE_OF[writer.get_extra_info("sockname")[1]].heads[-1].partition("Sec-WebSocket-Key: ")[2]
    digest = hashlib.sha1(
        key.partition("\r\n")[0].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    ).digest()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n".encode())
    writer.write(b"\x81\x0bby a socket")
    await writer.drain()
    await asyncio.sleep(1)


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<main><p>The beginning of it.</p>")
    while True:
        writer.write(b"<p>" + b"more and more " * 1_000 + b"</p>")
        await writer.drain()


async def _trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<main><p>What came first.</p>")
    while True:
        writer.write(b"<br>")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


SITE_OF: dict[int, Site] = {}
READERS: list[Reader] = []
"""The one of this module: it takes seconds to start."""
PAGES: dict[str, Answer] = {
    "/": html(
        '<main><h1>Head</h1><p id="p">static</p><a href="/next#x">next</a></main>'
        "<script>fetch('/api').then(answer => answer.text()).then("
        "text => { document.getElementById('p').textContent = text + ' ' + 6 * 7; })</script>",
        "<title>A title</title>",
    ),
    "/api": page(b"from the interface", "text/plain"),
    "/socket.html": html(
        "<main><p id='p'>nothing</p></main><script>const s = new WebSocket(`ws://${location.host}/socket`);"
        "s.onmessage = m => { document.getElementById('p').textContent = m.data; }</script>"
    ),
    "/socket": _socket,
    "/missing": page(b"<main><p>There is no such page.</p></main>", status=404),
    "/moved": redirect("/"),
    "/inside": redirect("http://127.0.0.1/"),
    "/inside-tls": redirect("https://127.0.0.1/"),
    "/metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/script-inside": html("<script>location = 'http://inner.example/'</script>"),
    "/script-on": html("<script>location = '/'</script>"),
    "/cookie": html(
        "<main><p id='p'></p></main><script>const had = document.cookie + localStorage.getItem('a');"
        "document.getElementById('p').textContent = 'had: ' + had;"
        "document.cookie = 'a=secret'; localStorage.setItem('a', 'kept')</script>"
    ),
    "/dialog": html(
        "<main><p id='p'>asked</p></main><script>alert(1); confirm(2);"
        "document.getElementById('p').textContent = 'answered'; onbeforeunload = () => 'stay'</script>"
    ),
    "/liar": html(
        "<main><p>What the page really shows.</p></main><script>"
        "Object.defineProperty(Element.prototype, 'outerHTML', {get: () => '<p>a lie</p>'.repeat(1e6)});"
        "String.prototype.slice = () => 'a lie'; JSON.stringify = () => 'a lie'</script>"
    ),
    "/file": page(b"x" * 100, "application/octet-stream"),
    "/popups": html(
        "<main><p>Many windows.</p></main><script>for (let i = 0; i < 50; i++) open('/')</script>"
    ),
    "/endless": _endless,
    "/trickle": _trickle,
    "/silent": _silent,
    "/memory": html(
        "<main><p>Large.</p></main><script>const kept = []; setInterval(() => { if (kept.length < 30)"
        "kept.push(new Uint8Array(50 << 20).fill(7)); fetch('/silent'); }, 10)</script>"
    ),
    "/busy": html("<main><p>Busy.</p></main><script>for (;;);</script>"),
    "/busy-later": html("<main><p>Busy.</p></main><script>setTimeout(() => { for (;;); }, 50)</script>"),
}


@asynccontextmanager
async def browser_of(
    running: Site,
    *,
    pages: int = 4,
    limits: PageLimits = PageLimits(),  # noqa: B008 - it is frozen
    names: Names | None = None,
    refused: list[str] | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> AsyncGenerator[Browser]:
    """A browser of its own that may open the site; when it is closed none of its processes is left."""
    found = program("chromium")
    browser = Browser(
        Guard([f"{HOST}:{running.port}"]),
        READERS[0],
        program=Program(str(found.path), found.environment),
        pages=pages,
        limits=limits,
        resolve=names or Names(NAMES),
        on_refused=(list[str]() if refused is None else refused).append,
        memory_bytes=memory_bytes,
    )
    started = list[psutil.Process]()
    try:
        yield browser
        started = browser.chromium.processes()
    finally:
        await browser.aclose()
    assert not any(map(_runs, started))
    assert browser.open_pages == 0


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncGenerator[Site]:
    READERS[:] = [Reader()]
    async with site(PAGES) as found:
        SITE_OF[found.port] = found
        yield found
    await READERS[0].aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(running: Site) -> AsyncGenerator[Browser]:
    async with browser_of(running, pages=2) as found:
        yield found


async def shown_by(browser: Browser, running: Site, path: str, limit_s: float = LIMIT_S) -> Page:
    return await browser.open(f"http://{HOST}:{running.port}{path}", screenshot=False, limit_s=limit_s)


async def test_a_page_is_read_as_its_scripts_have_made_it(browser: Browser, running: Site) -> None:
    url = f"http://{HOST}:{running.port}"
    found = await browser.open(f"{url}/", screenshot=True, limit_s=LIMIT_S)
    assert "from the interface 42" in found.text
    assert "static" not in found.text
    assert (found.url, found.status, found.media_type, found.title) == (
        f"{url}/",
        200,
        "text/html",
        "A title",
    )
    assert found.links == (f"{url}/next",)
    assert not found.is_truncated
    assert found.received_bytes > len(PAGES["/"]) if isinstance(PAGES["/"], bytes) else False
    with Image.open(io.BytesIO(found.screenshot)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1280, 800))


@full
async def test_without_a_wish_there_is_no_screenshot(browser: Browser, running: Site) -> None:
    assert (await shown_by(browser, running, "/")).screenshot == b""


@pytest.mark.parametrize(
    ("path", "text", "status"),
    [
        pytest.param("/missing", "no such page", 404, marks=full),
        ("/moved", "from the interface 42", 200),
        pytest.param("/script-on", "from the interface 42", 200, marks=full),
        ("/socket.html", "by a socket", 200),
        pytest.param("/dialog", "answered", 200, marks=full),
        pytest.param("/liar", "really shows", 200, marks=full),
        pytest.param("/popups", "Many windows", 200, marks=full),
    ],
)
async def test_what_is_shown_is_read(
    browser: Browser, running: Site, path: str, text: str, status: int
) -> None:
    found = await shown_by(browser, running, path)
    assert text in found.text
    assert "a lie" not in found.text
    assert found.status == status


async def test_pages_have_nothing_in_common(browser: Browser, running: Site) -> None:
    for _ in range(2):
        assert "secret" not in (found := await shown_by(browser, running, "/cookie")).text
        assert "had: null" in found.text


@pytest.mark.parametrize(
    "path", ["/inside", "/inside-tls", pytest.param("/metadata", marks=full), "/script-inside"]
)
async def test_what_leads_to_a_refused_address_is_refused(browser: Browser, running: Site, path: str) -> None:
    with pytest.raises(AddressRefused):
        await shown_by(browser, running, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "http://inner.example/",
        "chrome://version",
        "http://0x7f.1/",
    ],
)
async def test_a_refused_address_is_not_opened(browser: Browser, url: str) -> None:
    with pytest.raises(AddressRefused):
        await browser.open(url, screenshot=False, limit_s=LIMIT_S)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://site.example:{port}/file", "a file to be saved"),
        ("http://nosuch.example/", "could not be opened"),
        ("https://nosuch.example/", "could not be opened"),
    ],
)
async def test_what_is_no_page_is_told(browser: Browser, running: Site, url: str, reason: str) -> None:
    with pytest.raises(FetchFailed, match=reason):
        await browser.open(url.format(port=running.port), screenshot=False, limit_s=LIMIT_S)


@full
async def test_a_certificate_that_does_not_fit_is_told(tmp_path: Path) -> None:
    tls = serves_with(certificate(tmp_path, "other.example"))
    async with site(PAGES, tls) as running, browser_of(running) as browser:
        with pytest.raises(FetchFailed, match="certificate"):
            await browser.open(f"https://{HOST}:{running.port}/", screenshot=False, limit_s=LIMIT_S)


class TestBudget:
    @full
    async def test_of_a_page_that_goes_on_what_came_is_read(self, browser: Browser, running: Site) -> None:
        found = await shown_by(browser, running, "/trickle", 8)
        assert "What came first" in found.text

    @full
    async def test_of_a_page_that_is_too_large_the_beginning_is_read(self, running: Site) -> None:
        async with browser_of(running, limits=PageLimits(wire_bytes=300_000)) as browser:
            found = await shown_by(browser, running, "/endless")
        assert "The beginning of it" in found.text
        assert found.is_truncated
        assert found.received_bytes < 500_000

    @full
    async def test_a_page_that_takes_too_much_memory_ends_with_its_browser(self, running: Site) -> None:
        async with browser_of(running, memory_bytes=1 << 30) as browser:
            with pytest.raises(FetchFailed):
                await shown_by(browser, running, "/memory")
            assert browser.open_pages == 0
            assert "42" in (await shown_by(browser, running, "/")).text
            assert browser.chromium.starts == 2

    @pytest.mark.parametrize(
        "path", ["/silent", *(pytest.param(path, marks=full) for path in ("/busy", "/busy-later"))]
    )
    async def test_a_page_that_never_comes_to_rest_ends_with_its_time(
        self, browser: Browser, running: Site, path: str
    ) -> None:
        starts = browser.chromium.starts
        with pytest.raises(FetchFailed, match="longer than 2 s"):
            await shown_by(browser, running, path, 2)
        assert browser.open_pages == 0
        assert "42" in (await shown_by(browser, running, "/")).text
        assert browser.chromium.starts == starts

    async def test_more_pages_than_may_be_are_refused(self, browser: Browser, running: Site) -> None:
        slow = [asyncio.create_task(shown_by(browser, running, "/silent", 10)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await shown_by(browser, running, "/")
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        async with asyncio.timeout(5):
            while browser.open_pages:  # noqa: ASYNC110 - the places are given back when the pages are closed
                await asyncio.sleep(0.01)
        assert "42" in (await shown_by(browser, running, "/")).text

    @full
    async def test_leaving_closes_the_page(self) -> None:
        async with site(PAGES) as running, browser_of(running) as browser:
            opening = asyncio.create_task(shown_by(browser, running, "/trickle"))
            await running.asked.wait()
            opening.cancel()
            assert await asyncio.wait_for(running.all_closed.wait(), 5)


@full
class TestRestart:
    async def test_a_browser_that_dies_is_told_and_started_anew(self, running: Site) -> None:
        async with browser_of(running) as browser:
            await shown_by(browser, running, "/missing")
            running.asked.clear()
            opening = asyncio.create_task(shown_by(browser, running, "/silent"))
            await running.asked.wait()
            browser.chromium.processes()[0].kill()
            with pytest.raises(FetchFailed):
                await opening
            assert "42" in (await shown_by(browser, running, "/")).text
            assert browser.chromium.starts == 2

    async def test_what_speaks_to_the_browser_may_die_too(self, running: Site) -> None:
        async with browser_of(running) as browser:
            before = {each.pid for each in psutil.Process().children()}
            await shown_by(browser, running, "/missing")
            ours = [each for each in psutil.Process().children() if each.pid not in before]
            processes = [*ours, *browser.chromium.processes()]
            for each in ours:
                each.kill()
            with pytest.raises(FetchFailed):
                await shown_by(browser, running, "/")
            assert "42" in (await shown_by(browser, running, "/")).text
            assert not any(map(_runs, processes))

    async def test_a_browser_that_hangs_is_killed_and_started_anew(
        self, running: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.tools.webview._CLOSE_S", 0.5)
        async with browser_of(running) as browser:
            await shown_by(browser, running, "/missing")
            hung = browser.chromium.processes()
            hung[0].send_signal(signal.SIGSTOP)
            with pytest.raises(FetchFailed, match="longer than 1 s"):
                await shown_by(browser, running, "/", 1)
            assert "42" in (await shown_by(browser, running, "/")).text
            assert not any(map(_runs, hung))

    async def test_without_a_browser_it_is_told(self, running: Site) -> None:
        for found in (None, Program("/nowhere/chromium")):
            browser = Browser(Guard(), READERS[0], program=found)
            with pytest.raises(FetchFailed, match="could not be started"):
                await browser.open("http://8.8.8.8/", screenshot=False, limit_s=LIMIT_S)
            await browser.aclose()

    async def test_a_browser_that_nobody_waits_for_any_more_is_closed_too(self, running: Site) -> None:
        before = {each.pid for each in psutil.Process().children(recursive=True)}
        async with browser_of(running) as browser:
            with pytest.raises(FetchFailed, match=r"longer than 0\.05 s"):
                await shown_by(browser, running, "/", 0.05)
            await browser.aclose()
            with pytest.raises(FetchFailed, match="the browser is closed"):
                await shown_by(browser, running, "/")
        left = [each for each in psutil.Process().children(recursive=True) if each.pid not in before]
        assert not any(map(_runs, left))

    async def test_closing_ends_what_is_open(self, running: Site) -> None:
        async with browser_of(running) as browser:
            running.asked.clear()
            opening = asyncio.create_task(shown_by(browser, running, "/silent"))
            await running.asked.wait()
            processes = browser.chromium.processes()
            assert processes
            await browser.aclose()
            with pytest.raises(FetchFailed, match="closed"):
                await opening
            assert not any(map(_runs, processes))


@full
async def test_a_browser_that_runs_elsewhere_is_used_and_stays(
    running: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other_address(_: str) -> str:
        return _outer_address()

    monkeypatch.setattr("app.tools.webview.own_address", other_address)
    found = program("chromium")
    started = await asyncio.create_subprocess_exec(
        *(
            found.path,
            "--headless",
            "--no-sandbox",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path}",
        ),
        *chromium.FLAGS,
        env=found.env,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert started.stderr is not None
        line = b""
        async with asyncio.timeout(30):
            while not line.startswith(b"DevTools listening on "):
                line = await started.stderr.readline()
        port = line.decode().split(":")[2].partition("/")[0]
        for _ in range(2):
            guard = Guard([f"{HOST}:{running.port}"])
            browser = Browser(guard, READERS[0], url=f"http://localhost:{port}", resolve=Names(NAMES))
            assert "42" in (await shown_by(browser, running, "/")).text
            with pytest.raises(AddressRefused):
                await shown_by(browser, running, "/inside")
            await browser.aclose()
        assert started.returncode is None
    finally:
        started.kill()
        await started.wait()


def _outer_address() -> str:
    """This machine's address but loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


async def test_a_browser_reaches_us_by_the_address_that_we_reach_it_from() -> None:
    assert await own_address("http://127.0.0.1:9222") == "127.0.0.1"
    assert is_loopback(await own_address("ws://localhost/devtools"))
    assert not is_loopback("10.0.0.1")
    assert await in_numbers("http://localhost:9222") == "http://localhost:9222"
    assert await in_numbers("http://10.0.0.1:9222/x") == "http://10.0.0.1:9222/x"


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received += 1


async def test_a_hostile_page_reaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way that a page has to make a browser connect, to a site on loopback that counts connections.

    Without the flags for WebRTC about 80 datagrams come through here, without the proxy most requests.
    """

    ended = asyncio.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 15)
        writer.write(page(b"", "image/png"))

    async def end(writer: asyncio.StreamWriter) -> None:
        ended.set()
        writer.write(page(b"", "image/png"))

    heard = _Datagrams()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: heard, local_addr=("127.0.0.1", 0)
    )
    udp = transport.get_extra_info("sockname")[1]
    pages: dict[str, Answer] = {"/hold": hold, "/end": end, "/worker.js": page(b"", "text/javascript")}
    refused = list[str]()
    async with site(pages) as running, site({}) as victim:
        where = f"127.0.0.1:{victim.port}"
        words = {
            "METADATA": "169.254.169.254",
            "VICTIM": where,
            "PORT": str(victim.port),
            "DATAGRAMS": str(udp),
        }
        pages["/"] = page(_filled(Path(__file__).with_name("hostile.html").read_text(), words).encode())
        pages["/redirect"] = redirect(f"http://{where}/redirected")
        # Some of what pages can do is only for pages that came safely.
        trusted = f"--unsafely-treat-insecure-origin-as-secure=http://{HOST}:{running.port}"
        monkeypatch.setattr(chromium, "FLAGS", (*chromium.FLAGS, trusted))
        names = Names(NAMES)
        async with browser_of(running, refused=refused, names=names) as browser:
            found = await shown_by(browser, running, "/", 20)
    transport.close()
    assert "THE END" in found.text
    assert "GOT" not in found.text
    assert (victim.connections, victim.heads, heard.received) == (0, [], 0)
    assert not any("/worker.js" in head for head in running.heads)
    # All of it was tried.
    hosts = {host.rpartition(":")[0] if host.count(":") == 1 else host for host in refused}
    assert {"127.0.0.1", "localhost", "localhost.", "0.0.0.0", "169.254.169.254", "10.0.0.1", HOST} <= hosts
    assert {f"[::1]:{victim.port}", "metadata.google.internal", "inner.example"} <= {*hosts, *refused}
    assert len(refused) > 80
    # And nothing else was: a browser has much to tell its maker.
    assert {*names.asked} <= {HOST, "inner.example"}


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
