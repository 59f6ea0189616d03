"""Programs that drive a public client, each in an environment of its own: started once, asked by name.

A program reads a line `{"do": NAME}` and answers with a line: `{"told": ...}`, or `{"error": ...}` with the
traceback. `make test-clients` installs the environments.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

CACHE = Path(os.environ.get("CACHE", "~/.cache/caravan")).expanduser() / "clients"
HERE = Path(__file__).parent
ANSWER_S = 120
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LANGSMITH_TRACING": "false",
    "AI_SDK_LOG_WARNINGS": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Nothing but our server is asked for anything."""
_THEIRS = ("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LITELLM_", "CARAVAN_", "PYTHONPATH")


class Ask(Protocol):
    """Has the program do one thing, and gives what it told of it."""

    def __call__(self, name: str) -> Any: ...


@contextmanager
def python_program(client: str, *, url: str, key: str) -> Generator[Ask]:
    """`programs/use_CLIENT.py` in the virtual environment of `requirements/clients/CLIENT.lock`."""
    python = _installed(client) / "bin" / "python"
    with _running(
        [str(python), str(HERE / "programs" / f"use_{client.replace('-', '_')}.py"), url, key]
    ) as ask:
        yield ask


@contextmanager
def node_program(folder: str, *, url: str, key: str) -> Generator[Ask]:
    """`npm/FOLDER/use.mjs` beside the packages of its lock file, where node looks for them."""
    installed = _installed(f"npm-{folder}")
    for file in (HERE / "npm" / "tell.mjs", HERE / "npm" / folder / "use.mjs"):
        shutil.copy(file, installed)
    node = shutil.which("node")
    assert node is not None
    with _running([node, str(installed / "use.mjs"), url, key]) as ask:
        yield ask


def _installed(name: str) -> Path:
    folder = CACHE / name
    if not (folder / ".installed").exists():
        pytest.fail(f"{folder} is not there: `make test-clients` makes it")
    return folder


@contextmanager
def _running(command: Sequence[str]) -> Generator[Ask]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | _QUIET
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(name: str) -> Any:
            timer = threading.Timer(ANSWER_S, process.kill)
            timer.start()
            try:
                stdin.write(json.dumps({"do": name}) + "\n")
                stdin.flush()
                line = stdout.readline()
            finally:
                timer.cancel()
            assert line, f"{command[1]} ended at {name}"
            answer = json.loads(line)
            assert "error" not in answer, answer["error"]
            return answer["told"]

        try:
            yield ask
        finally:
            stdin.close()
