"""What `make chaos`, `make soak` and `make fuzz` do at length, in little, against the real engine."""

import argparse
import asyncio
import random

import pytest

from chaos import fuzz
from chaos.answers import Outcome
from chaos.harm import kill
from chaos.requests import Mix
from chaos.site import eventually, serving_site
from chaos.storm import storm
from chaos.traffic import Traffic

pytestmark = pytest.mark.engine

SEED = 35


async def test_leavers_a_kill_and_requests_of_any_kind() -> None:
    """One server for all three, since it takes long to start."""
    async with serving_site(CARAVAN_BODY_TIMEOUT="1s") as site:
        found = await storm(site, 60, random.Random(SEED))
        assert found.problems == []
        assert found.left.total() == 60
        assert len(found.left) > 8, "hardly any mode was tried"

        mix = Mix(await site.vectors(), random.Random(SEED))
        traffic = Traffic(site, mix, clients=4, pause_s=0.0, seed=SEED)
        async with traffic.running():
            await eventually(lambda: traffic.tally.total(Outcome.WHOLE) >= 20, 60, "twenty answers")
            window = await kill("Engine")(site)
        assert traffic.tally.problems([window]) == []

        sender = fuzz.Fuzz(site)
        plan = argparse.Namespace(count=120, seed=SEED)
        await asyncio.to_thread(fuzz.generate, sender, plan, asyncio.get_running_loop())
        await sender.check_greeting()
        assert sender.problems == []
        assert sender.sent.total() == 120
