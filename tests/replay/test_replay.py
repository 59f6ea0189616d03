"""Histories of many seeds in which nothing may go wrong, and that a seed is enough to have one again."""

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from app.core.device import Need
from app.runtime import ledger, residency
from app.runtime.residency import Decision
from tests.replay.history import replay

SEEDS, CHUNK = 2_500, 250

SEEN = (
    *("ends: stop", "ends: length", "ends: vectors", "ends: loaded", "ends: unloaded", "ends: left"),
    *("ends: Overloaded", "ends: Draining", "ends: LoadFailed", "ends: EngineDied", "ends: EngineFailed"),
    *("ends: InvalidRequest", "ends: ConcurrencyExceeded", "ends: RequestRate", "ends: TokenRate"),
    *("timed out", "goes: idle", "goes: asked", "goes: evicted", "goes: died", "goes: shutdown", "gave up"),
)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_history_has_a_fault(first: int) -> None:
    for seed in range(first, first + CHUNK):
        told = replay(seed)
        assert not told.faults, f"python -m tests.replay {seed}\n{told}"


def test_everything_happens_that_the_plans_are_for() -> None:
    seen: Counter[str] = Counter()
    for seed in range(200):
        text = "\n".join(replay(seed).lines)
        seen.update(what for what in SEEN if what in text)
    assert min(seen[what] for what in SEEN) >= 5, seen


def test_a_seed_has_the_same_history_each_time() -> None:
    for seed in range(100):
        assert str(replay(seed)) == str(replay(seed))


def test_a_seed_has_the_same_history_in_another_process() -> None:
    for hashing in ("1", "2"):
        for seed in ("3", "8"):
            told = subprocess.run(
                [sys.executable, "-m", "tests.replay", seed],
                env={**os.environ, "PYTHONHASHSEED": hashing},
                capture_output=True,
                text=True,
                check=True,
            )
            assert told.stdout == f"{replay(int(seed))}\n"


def test_a_fault_is_found_and_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = residency.decide

    def one_too_many(need: Need, devices: Any, residents: Any, max_loaded: int) -> Decision:
        return true(need, devices, residents, max_loaded and max_loaded + 1)

    monkeypatch.setattr(ledger, "decide", one_too_many)
    told = next(told for told in map(replay, range(50)) if told.faults)
    assert "too many engines are alive" in told.faults
    assert str(told).startswith(f"seed {told.plan.seed}\n")
    assert "FAULT too many engines are alive" in str(told)
