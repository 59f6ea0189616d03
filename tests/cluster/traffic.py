"""Streams from outside the cluster while something is done to it."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.network import OUTSIDE, within
from tests.deploy.container import ROOT

END_S = 180.0
"""Longest time that the streams under way may take to end."""


@dataclass(slots=True)
class Told:
    """What became of the answers, complete once the traffic has ended."""

    answers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def tally(self) -> Counter[str]:
        return Counter(answer["ended"] for answer in self.answers)

    def lost(self) -> list[dict[str, Any]]:
        return [answer for answer in self.answers if answer["ended"] != "whole"]


@contextmanager
def streams(url: str, clients: int, body: dict[str, Any], settle_s: float = 5.0) -> Generator[Told]:
    """Traffic for as long as the block runs, which begins once the clients are at work."""
    told = Told()
    command = [
        *within(OUTSIDE),
        sys.executable,
        "-m",
        "tests.cluster.streams",
        url,
        str(clients),
        json.dumps(body),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        time.sleep(settle_s)
        yield told
    finally:
        process.terminate()
        try:
            written, _ = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        told.answers += [json.loads(line) for line in written.splitlines()]
    assert process.returncode == 0
