"""Programs of Debian that tests run beside the server: Prometheus, Redis."""

import os
from pathlib import Path

import pytest

from scripts.tools import CACHE, NoApt, Tool, tool


def program(name: str, cache: Path = CACHE) -> Tool:
    """The program; without apt the test is skipped, except where CI promises that every test runs."""
    try:
        return tool(name, cache)
    except NoApt as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
