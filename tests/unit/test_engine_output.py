"""What is made of the words of an engine's processes."""

import multiprocessing
import os
import subprocess

import pytest

from app.engine.vllm.process.stderr import CapturingContext, ChildOutput, cause

WORKER = "(Worker pid=12) ERROR 11-25 18:00:00 [multiproc_executor.py:970] "
CORE = "(EngineCore pid=11) ERROR 11-25 18:00:00 [core.py:1200] "
NOT_TOLD = "Exception: WorkerProc initialization failed due to an exception in a background process. " + (
    "See stack trace for root cause."
)


def told(prefix: str, *lines: str) -> list[str]:
    return [prefix + line for line in lines]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ""),
        (["loading", "all is well"], ""),
        (told(CORE, "Traceback (most recent call last):", '  File "x.py"', NOT_TOLD), ""),
        (
            [
                *told(WORKER, "WorkerProc failed to start.", "Traceback (most recent call last):"),
                *told(WORKER, "safetensors_rust.SafetensorError: Error while deserializing header: torn"),
                *told(CORE, "EngineCore failed to start.", NOT_TOLD),
            ],
            "safetensors_rust.SafetensorError: Error while deserializing header: torn",
        ),
        (
            told(CORE, "ValueError: No available memory for the cache blocks. Try another value.", NOT_TOLD),
            "No available memory for the cache blocks. Try another value.",
        ),
        (
            [
                *told(
                    WORKER, "KeyError: 'x'", "", "During handling of the above exception, another occurred:"
                ),
                *told(WORKER, "", "OSError: no weights in here"),
                *told(CORE, "EOFError"),
            ],
            "OSError: no weights in here",
        ),
        (
            ["Process EngineCore:", "torch.OutOfMemoryError: CUDA out of memory."],
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
    ],
)
def test_the_cause_is_the_end_of_the_first_chain_of_exceptions(lines: list[str], expected: str) -> None:
    assert cause(lines) == expected


def _speak(text: str, child_text: str) -> None:
    os.write(1, text.encode())
    subprocess.run(["sh", "-c", f"printf '{child_text}' >&2"], check=True)  # as a worker is its core's child


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_processes_write_is_kept_and_passed_on(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    output = ChildOutput()
    context = CapturingContext(multiprocessing.get_context(method), output)
    with output.of_what_starts():
        process = context.Process(
            target=_speak, name="engine", kwargs={"text": "one\ntwo\n", "child_text": "three"}
        )
        process.start()
    process.join()
    output.wait_end()
    assert output.lines == ["one", "two", "three"]
    assert output.last == "one\ntwo\nthree"
    assert capfd.readouterr().err == "one\ntwo\nthree"
