"""When an engine is taken for hung, and that a healthy one never is."""

import asyncio

from app.engine.vllm.process.watchdog import Judge, Look, Verdict, wait_hung
from tests.unit.virtual_time import now, virtual

LIMIT_S = 60.0
WELL, PROBE, HUNG = Verdict


def verdicts(*looks: Look, passed_s: float = 10.0, first: Look | None = None) -> list[Verdict]:
    judge = Judge(LIMIT_S, first or Look(0, False))
    return [judge.look(look, passed_s) for look in looks]


def test_an_engine_that_gives_output_is_well_however_long_it_takes() -> None:
    assert set(verdicts(*(Look(count, True) for count in range(1, 1000)), passed_s=59)) == {WELL}


def test_an_engine_that_owes_and_stands_still_is_probed_and_then_hung() -> None:
    assert verdicts(*[Look(0, True)] * 6) == [WELL, WELL, PROBE, WELL, WELL, HUNG]


def test_an_output_makes_up_for_the_time_before() -> None:
    looks = [Look(0, True)] * 5 + [Look(1, True)] * 6
    assert HUNG not in verdicts(*looks)


def test_a_long_prompt_is_no_hang_while_the_workers_compute() -> None:
    looks = [Look(0, True, cpu_s=10.0 * count) for count in range(1, 59)]
    assert HUNG not in verdicts(*looks)


def test_a_long_prompt_is_no_hang_while_the_gpus_compute() -> None:
    """Their workers wait for them, so that after a minute the engine was killed."""
    assert HUNG not in verdicts(*[Look(0, True, computing=True)] * 58)
    assert verdicts(*[Look(0, True, computing=True)] * 60)[-1] is HUNG
    assert verdicts(*[Look(0, True, computing=True)] * 20, *[Look(0, True)] * 6)[-1] is HUNG


def test_computing_without_end_is_a_hang_too() -> None:
    looks = [Look(0, True, cpu_s=10.0 * count) for count in range(1, 61)]
    assert verdicts(*looks)[-1] is HUNG


def test_a_worker_that_stops_in_the_middle_is_found_out() -> None:
    looks = [Look(0, True, cpu_s=10.0 * min(count, 20)) for count in range(1, 27)]
    assert verdicts(*looks).index(HUNG) == 25


def test_an_idle_engine_is_left_alone_and_probed_rarely() -> None:
    found = verdicts(*[Look(0, False)] * 30)
    assert (found.count(PROBE), found.index(PROBE), found.count(HUNG)) == (1, 29, 0)


def test_a_probe_that_comes_back_starts_the_idle_time_anew() -> None:
    found = verdicts(*[Look(0, False)] * 30, Look(1, False), *[Look(1, False)] * 29)
    assert found.count(PROBE) == 1


def test_a_probe_of_an_idle_engine_that_does_not_come_back_is_a_hang() -> None:
    found = verdicts(*[Look(0, False)] * 30, *[Look(0, True)] * 6)
    assert found[-1] is HUNG
    assert found.count(PROBE) == 1


@virtual
async def test_a_hang_is_told_soon_after_the_limit() -> None:
    probes: list[float] = []

    async def probe() -> None:
        probes.append(now())
        await asyncio.Event().wait()

    await wait_hung(2.0, lambda: Look(7, True), probe, now)
    assert 2.0 <= now() < 2.3
    assert len(probes) == 1


@virtual
async def test_a_clock_that_jumps_is_not_held_against_the_engine() -> None:
    jumps = iter((0.0, 1000.0))

    def clock() -> float:
        return now() + next(jumps, 1000.0)

    async def probe() -> None:
        return

    await wait_hung(2.0, lambda: Look(7, True), probe, clock)
    assert now() >= 1.8
