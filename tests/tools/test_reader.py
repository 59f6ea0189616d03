"""Bodies are read in processes that end: with their time, their memory, whoever asked and the server."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.core.errors import FetchFailed, Overloaded
from app.tools.extract import Extracted, ReadLimits
from app.tools.reader import Reader
from app.tools.reader_process import HEAD

URL = "https://site.example/"
# libxml2 compares each attribute with all others.
SLOW = b"<p " + b" ".join(b"a%d=1" % number for number in range(200_000)) + b">text"


@asynccontextmanager
async def reading(limits: ReadLimits | None = None, **more: float) -> AsyncGenerator[Reader]:
    reader = Reader(limits or ReadLimits(), **more)  # pyright: ignore[reportArgumentType]
    try:
        yield reader
    finally:
        await reader.aclose()
    assert reader.processes == 0


async def page(reader: Reader, body: bytes = b"<title>T</title><p>text <a href=/a>a</a>") -> Extracted:
    return await reader.extract(body, "text/html", "", URL)


def told_of(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


async def test_a_process_reads_one_body_after_the_other() -> None:
    ballast = b"x" * (450 << 20)  # a server has much memory, which is none of the process's
    async with reading() as reader:
        assert reader.processes == 0
        for _ in range(3):
            found = await page(reader)
            assert (found.title, found.links) == ("T", ("https://site.example/a",))
        assert reader.processes == 1
        with pytest.raises(FetchFailed, match="image/png, which cannot be read as text"):
            await reader.extract(b"x", "image/png", "", URL)
        assert reader.processes == 1
    del ballast


async def test_what_takes_too_long_is_killed_and_the_next_body_is_read() -> None:
    async with reading(ReadLimits(time_s=6), workers=1) as reader:
        with pytest.raises(FetchFailed, match="longer than 6 s"):
            await page(reader, SLOW)
        assert reader.processes == 0
        assert (await page(reader)).title == "T"


async def test_what_takes_too_much_memory_is_refused() -> None:
    async with reading(ReadLimits(memory_bytes=250 << 20)) as reader:
        with pytest.raises(FetchFailed, match=r"memory|gave up"):
            await reader.extract(b"\xfe\xff" + b"a\n" * 60_000_000, "text/plain", "", URL)
        assert (await page(reader)).title == "T"


async def test_whoever_leaves_takes_the_process_along() -> None:
    async with reading(workers=1) as reader:
        await page(reader)
        asked = asyncio.ensure_future(page(reader, SLOW))
        await asyncio.sleep(0.3)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert reader.processes == 0
        assert (await page(reader)).title == "T"


async def test_a_process_that_dies_is_told_and_replaced() -> None:
    async with reading(workers=1) as reader:
        await page(reader)
        asked = asyncio.ensure_future(page(reader, SLOW))
        await asyncio.sleep(0.3)
        (process,) = reader._processes._all  # pyright: ignore[reportPrivateUsage]
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(FetchFailed, match="gave up"):
            await asked
        assert (await page(reader)).title == "T"


async def test_more_than_may_wait_is_overload() -> None:
    async with reading(ReadLimits(time_s=5), workers=1, waiting=1) as reader:
        asked = [asyncio.ensure_future(page(reader, SLOW)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await page(reader)
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert (await page(reader)).title == "T"


async def test_the_process_knows_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_SECRET", "x")
    async with reading() as reader:
        await page(reader)
        (process,) = reader._processes._all  # pyright: ignore[reportPrivateUsage]
        names = {each.split("=")[0] for each in told_of(process.pid, "environ").split("\0")}
        limits = told_of(process.pid, "limits")
    assert names <= {"", "PYTHONPATH", "LC_ALL"}
    assert "Max file size             0 " in limits
    assert f"Max address space         {1 << 30} " in limits


@pytest.mark.parametrize(
    ("robots", "expected"),
    [
        (b"User-agent: *\nDisallow: /", False),
        (b"User-agent: *\nDisallow: /private", True),
        (b"User-agent: other\nDisallow: /", True),
        (b"User-agent: caravan\nDisallow: /\nAllow: /dir/", True),
        (b"User-agent: Caravan\nDisallow: /\n\nUser-agent: *\nAllow: /", False),
        (b"\xff\xfe\0nonsense", True),
        (b"User-agent: *\nDisallow: /" + b"*a" * 100_000 + b"\n", True),
        (b"User-agent: *\nDisallow: /" + b"x" * 500_000, True),
    ],
)
async def test_robots(robots: bytes, expected: bool) -> None:
    async with reading() as reader:
        assert await reader.allows(robots, "Caravan", "https://site.example/dir/a") is expected


def test_the_process_ends_with_the_server() -> None:
    command = [sys.executable, "-m", "app.tools.reader_process", "{}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\n"
    process.stdin.write(HEAD.pack(10, 10) + b"{")
    process.stdin.close()
    assert process.wait(30) is not None
    process.stdout.close()


async def test_no_process_outlives_the_processor_time_of_its_job() -> None:
    """As when the server was killed: nobody is left to kill it."""
    async with reading(ReadLimits(time_s=6)) as reader:
        await page(reader)
        (process,) = reader._processes._all  # pyright: ignore[reportPrivateUsage]
        assert process.stdin is not None
        job = b'{"do": "extract", "media_type": "text/html", "charset": "", "url": "https://site.example/"}'
        process.stdin.write(HEAD.pack(len(job), len(SLOW)) + job + SLOW)
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGXCPU
