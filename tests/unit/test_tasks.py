"""Tasks that run beside the requests: what happens when one dies, and that each has an owner."""

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from app.core import tasks
from app.core.tasks import supervise
from tests.unit.virtual_time import now, virtual

ROOT = Path(app.__file__).parent
STARTERS = {"create_task", "ensure_future", "run_in_executor", "Thread", "start_soon"}

OWNED = {
    "core/tasks.py:supervise": "the owner itself",
    "runtime/toolloop.py:_call": "children of a group, which is awaited",
    "registry/download.py:together": "all are awaited there",
    "registry/downloads.py:_begun": "a thread whose result is given back where nobody waits for it",
    "registry/downloads.py:prove": "awaited there, cancelled by whoever leaves",
    "catalogue/conversions.py:run": "awaited by all who want the file",
    "core/processes.py:_end_idle": "ends processes that nobody uses; an engine's end waits for it",
    "registry/downloads.py:_give_back": "nothing is waited for: the lock is let go",
    "registry/downloads.py:fetch": "awaited by all who want the blob, cancelled by the last that leaves",
    "registry/hub.py:pull_folder": "awaited; one that is left ends at its next piece, and nobody is told how",
    "registry/push.py:_sent": "awaited there",
    "tools/chromium.py:get": "awaited by all who want the browser; a callback hears of its end",
    "tools/webview.py:_context": "awaited there, also where whoever wants it leaves",
    "tools/webview.py:_loaded": "both are awaited there",
    "tools/webview.py:_show": "pages that a page opens are closed, and a failure means that they are",
    "tools/webview.py:open": "kept in the set of open pages, which closing ends",
    "egress/proxy.py:_carry": "children of a group, which is awaited",
    "egress/proxy.py:_forward": "awaited there; what fails ends the answer too",
    "api/openai/choices.py:merged": "awaited there; a failure is handed on in the queue",
    "core/pool.py:_put": "a thread of the pool, whose jobs hand on whatever they raise",
    "api/relay.py:__call__": "both are awaited there",
    "api/relay.py:left": "both are waited for there, and raise nothing",
    "fronts/workers.py:run": "children of a group, which is awaited",
    "fronts/remote.py:_opened": "awaited by whoever has told of the engine",
    "fronts/peer.py:_start": "kept until it ends; what it raises is told to the process that has asked",
    "frontend.py:_open": "a thread that imports, which whoever needs it does again; it ends with the process",
    "api/stream.py:_while_connected": "the reply is awaited; the listener ends with it",
    "runtime/loader.py:_within": "awaited there",
    "engine/fake/engine.py:_or_end": "both are awaited there",
    "engine/vllm/input/window.py:in_window": "children of a group, which is awaited",
    "engine/memory/readings.py:__init__": "a thread that a driver may never answer; what it read last stays",
    "engine/vllm/start.py:_run": "awaited there",
    "engine/vllm/engine.py:close": "awaited there, within a time",
    "engine/vllm/stream/client.py:_run_output_handler": "it logs and ends the requests",
    "engine/vllm/adapters.py:_call": "kept until it ends; whoever wants the adapter awaits it",
    "engine/vllm/process/death_pipe.py:end_with": "a thread of an engine process, which ends with it",
    "engine/vllm/process/work.py:look": "a thread that a driver may never answer; it hands nothing on",
    "engine/vllm/process/stderr.py:__init__": "a copying thread that suppresses what writing raises",
    "engine/vllm/process/tree.py:start_in_thread": "awaited there",
    "engine/vllm/process/tree.py:_discard": "the shutdown of an engine that nobody waits for any more",
    "engine/vllm/process/watchdog.py:wait_hung": "a probe without an answer is what the watchdog looks for",
}


def starts() -> Iterator[str]:
    """Each place that starts a task or a thread, as `file:function`."""
    for file in ROOT.rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    called = node.func if isinstance(node, ast.Call) else None
                    if isinstance(called, ast.Attribute | ast.Name) and _name(called) in STARTERS:
                        yield f"{name}:{function.name}"


def _name(called: ast.Attribute | ast.Name) -> str:
    return called.attr if isinstance(called, ast.Attribute) else called.id


def test_every_task_and_thread_has_an_owner_or_a_reason() -> None:
    """F13: a task that nobody holds dies in silence."""
    assert set(starts()) == set(OWNED)


@virtual
async def test_a_task_that_dies_is_logged_counted_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "caravan")
    begun: list[float] = []
    before = tasks.deaths["key files"]

    async def work() -> None:
        begun.append(now())
        if len(begun) < 3:
            raise KeyError("a field")

    await supervise("key files", work, restart_s=5)
    assert begun == pytest.approx([0, 5, 10])
    assert tasks.deaths["key files"] == before + 2
    assert [entry.message for entry in caplog.records] == ["background task 'key files' failed"] * 2


@virtual
async def test_a_task_that_is_not_begun_again_tells_whoever_depends_on_it() -> None:
    told: list[str] = []

    async def work() -> None:
        raise ValueError("no more")

    await supervise("engine moves", work, restart_s=None, on_death=told.append)
    assert told == ["background task 'engine moves' failed: no more"]


@virtual
async def test_a_task_that_is_cancelled_has_not_died() -> None:
    before = tasks.deaths.total()
    task = supervise("key files", asyncio.Event().wait)  # type: ignore[arg-type]
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert tasks.deaths.total() == before
