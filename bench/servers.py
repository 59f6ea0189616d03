"""The servers of a side-by-side benchmark, started with one model and one engine configuration."""

import json
import shlex
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from harness.process import offline, running

NAME = "bench"

Body = dict[str, Any]


def cpu_seconds(process: psutil.Process) -> float:
    """Of that process alone: its engine's processes are its children."""
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def serving(command: str, model: Path, engine: Body, port: int) -> Generator[psutil.Process]:
    """The server as a process of its own; it and all it started are gone afterwards.

    `command` names what it needs in braces: `python`, `port`, `model`, `name`, `config` (a file for Caravan)
    and `flags` (for vLLM's command line).
    """
    with tempfile.TemporaryDirectory() as scratch:
        config, log = Path(scratch, "caravan.yaml"), Path(scratch, "log")
        config.write_text(
            yaml.safe_dump({"models": [{"name": NAME, "source": str(model), "engine": engine}]})
        )
        filled = command.format(
            python=sys.executable, port=port, model=model, name=NAME, config=config, flags=flags(engine)
        )
        with running(shlex.split(filled), log, offline()) as process:
            yield process


def flags(engine: Body) -> str:
    """Engine arguments as vLLM's command line spells them."""
    words: list[str] = []
    for name, value in engine.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", shlex.quote(value if isinstance(value, str) else json.dumps(value))]
    return " ".join(words)
