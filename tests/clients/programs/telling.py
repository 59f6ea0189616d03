"""What the programs beside this file share; they run where nothing of the server is installed."""

import asyncio
import contextlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

URL, KEY = sys.argv[1:3]
WRONG_KEY = "cvn_client_" + "0" * 64
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADElEQVR4nGMAAQAABQABDQottAAAAABJRU5ErkJggg=="
"""A PNG of 67 bytes, as base64."""


def tell(things: dict[str, Any]) -> None:
    """Do what is asked for, line by line, with the functions of a module; what they print goes to stderr."""
    out = sys.stdout
    with asyncio.Runner() as runner, contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            do = things[json.loads(line)["do"]]
            try:
                told = do()
                if inspect.iscoroutine(told):
                    told = runner.run(told)
                answer = {"told": told}
            except Exception:
                answer = {"error": traceback.format_exc()}
            out.write(json.dumps(answer) + "\n")
            out.flush()


def failure(call: Callable[[], Any]) -> list[Any]:
    """The class, the status and the text of the error that a call ends in."""
    try:
        told = call()
    except Exception as error:
        return [type(error).__name__, getattr(error, "status_code", None), str(error)]
    raise AssertionError(f"no error but {told!r}")
