"""How many cores an engine on a CPU takes, by what the process has."""

from pathlib import Path

import pytest

from app.engine.vllm.process.cpu_quota import environment, quota

BOUND: dict[str, str] = {}
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@pytest.mark.parametrize(
    ("cores", "share", "threads", "binding"),
    [
        (8, None, "7", BOUND),
        (8, 8.0, "7", BOUND),
        (8, 16.0, "7", UNBOUND),
        (1, None, "1", BOUND),
        (64, 4.0, "3", UNBOUND),
        (64, 2.5, "1", UNBOUND),
        (64, 0.5, "1", UNBOUND),
    ],
)
def test_threads_and_binding(cores: int, share: float | None, threads: str, binding: dict[str, str]) -> None:
    """One core is left to the server; cores that are shared with others are not bound to."""
    assert environment({}, cores, share) == {"OMP_NUM_THREADS": threads} | binding


def test_a_number_of_threads_that_was_set_is_not_replaced() -> None:
    """vLLM would replace it where it binds."""
    assert environment({"OMP_NUM_THREADS": "3"}, 8, None) == UNBOUND


def test_a_binding_that_was_set_stays() -> None:
    given = {"VLLM_CPU_OMP_THREADS_BIND": "0-3"}
    assert environment(given, 64, 4.0) == {"OMP_NUM_THREADS": "3"}
    assert environment(given | {"OMP_NUM_THREADS": "4"}, 64, 4.0) == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "400000 100000\n"}, 4.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense\n"}, None),
        ({}, None),
    ],
)
def test_the_share_that_a_control_group_has(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert quota(tmp_path) == expected
