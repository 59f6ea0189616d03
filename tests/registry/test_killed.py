"""A process that is killed in the middle of a pull, and the pull of the next."""

import asyncio
import random
import sys
from dataclasses import replace
from pathlib import Path

from app.core.model import ModelName
from app.registry.progress import SUCCESS
from tests.registry.faulty import Asked, Reply, faulty, ranged
from tests.registry.models import QUICK, digest_of, model_of, place, told

MIB = 1 << 20
DATA = random.Random(4).randbytes(MIB) * 96
MODEL = model_of(DATA, b"{}")
BLOB = digest_of(DATA)
BIG = replace(QUICK, least_bytes=24 * MIB, most_bytes=24 * MIB)
SAVED_BYTES = 64 * MIB
"""So much may be written before the store puts on the disk what it has."""


async def pull_for_ever(root: Path, host: str) -> None:
    async with place(root, host, BIG, stall_s=60) as here:
        async for line in here.pull(ModelName("m", host=host)):
            if line.completed >= 80 * MIB:
                print("far", flush=True)


async def test_what_a_killed_process_had_is_not_fetched_again(tmp_path: Path) -> None:
    def stalls(asked: Asked) -> Reply | None:
        return replace(ranged(asked, DATA), stall=21 * MIB) if asked.path.endswith(BLOB) else None

    async with faulty(MODEL, stalls) as site:
        program = [sys.executable, "-m", __name__, str(tmp_path), site.host]
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"far\n"
        process.kill()
        await process.wait()
        async with place(tmp_path, site.host, BIG) as here:
            assert here.names() == []
            assert not here.has(BLOB)
            site.asked.clear()
            site.answer = lambda asked: None
            assert (await told(here.pull(ModelName("m", host=site.host))))[-1] == SUCCESS
            assert here.holds(MODEL)
            assert here.left() == []
        asked = sum(end - begin for begin, end in (each.range or (0, 0) for each in site.blob_requests()))
    assert asked <= len(DATA) - SAVED_BYTES + len(b"{}")


if __name__ == "__main__":
    asyncio.run(pull_for_ever(Path(sys.argv[1]), sys.argv[2]))
