"""Two steps of the GPU script as `make gpu-check ARGS=--dry-run` runs them, with real engines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.models.build import DEFAULT_CACHE, ROOT

pytestmark = pytest.mark.engine

STEPS = ("first_token", "windowed")
"""Those that are held to what a CPU answered when `gpu/reference.json` was written."""


def test_two_steps_go_through_without_a_gpu(tmp_path: Path) -> None:
    results = tmp_path / "gpu-results.json"
    results.write_text(json.dumps({"steps": [{"step": "swap", "state": "failed"}]}))
    command = [sys.executable, "-m", "gpu.check", "--dry-run", "--results", str(results), "--only", *STEPS]
    done = subprocess.run(
        [*command, "--cache", str(DEFAULT_CACHE)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kept, *rows = json.loads(results.read_text())["steps"]
    assert kept["step"] == "swap"
    assert [(row["step"], row["state"]) for row in rows] == [(step, "ok") for step in STEPS]
    found = {row["step"]: row["found"] for row in rows}
    assert found["first_token"]["wrong"] == {}
    assert found["first_token"]["logprobs_apart"] < 0.001
    assert found["windowed"]["tokens/s with"] > 0
    assert "listening on" in results.with_suffix(".log").read_text(), "and what the servers wrote"
