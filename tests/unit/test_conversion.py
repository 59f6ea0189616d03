"""The process that reads a GGUF file: what it is given, what it may do, and how its end is told."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.catalogue import conversion
from app.catalogue.conversion import Allowance, allowance, run
from app.catalogue.headers import read_gguf
from app.core.errors import Draining, LoadFailed
from harness.tiny_gguf import write_gguf

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
ALLOWED = Allowance(memory_bytes=64 * MIB, file_bytes=MIB, time_s=60, threads=1)
CONFINED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PROGRAM", "tests.unit.conversion_worker")
    monkeypatch.syspath_prepend(str(ROOT))


def reason(folder: Path, kind: str, allowed: Allowance = ALLOWED, stop: threading.Event | None = None) -> str:
    """How the conversion of a file of that name fails."""
    (folder / "part").mkdir(exist_ok=True)
    with pytest.raises(LoadFailed) as failure:
        run(folder / f"{kind}.gguf", folder / "part", lambda _phase, _fraction: None, allowed, stop)
    return str(failure.value).removeprefix(f"cannot convert {kind}.gguf: ")


def test_it_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("CARAVAN_KEYS_FILE", "CARAVAN_HUB_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY")
    for name in secrets:
        monkeypatch.setenv(name, "precious")
    monkeypatch.setattr(conversion, "_MOST_REASON_CHARS", 100_000)
    seen = json.loads(reason(tmp_path, "environment"))
    assert "precious" not in seen.values()
    assert seen["HOME"] == seen["HF_HOME"] == seen["cwd"]
    assert seen["HOME"] not in (os.environ.get("HOME"), str(tmp_path))
    given = {
        "PYTHONPATH",
        "LC_ALL",
        "LC_CTYPE",
        "HOME",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
    }
    given |= {
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "MALLOC_ARENA_MAX",
        "PATH",
        "LD_LIBRARY_PATH",
        "TMPDIR",
    }
    assert set(seen) <= given | {"cwd"}


@pytest.mark.skipif(not CONFINED, reason="the filter of system calls is written for two machines of Linux")
def test_it_reaches_nobody(tmp_path: Path) -> None:
    assert reason(tmp_path, "network") == "['PermissionError 1', 'PermissionError 1', 'done None']"
    assert reason(tmp_path, "program") == "1", "nor does what it starts"


def test_its_memory_and_files_are_bounded(tmp_path: Path) -> None:
    assert reason(tmp_path, "memory") == "MemoryError"
    assert reason(tmp_path, "file") == "OSError 27"
    assert (tmp_path / "part" / "file").stat().st_size <= MIB


def test_its_time_is_bounded(tmp_path: Path) -> None:
    began = time.monotonic()
    short = replace(ALLOWED, time_s=0.5)
    assert reason(tmp_path, "wait", short) == "it takes longer than a file of its size should"
    assert time.monotonic() - began < 20
    assert reason(tmp_path, "spin", short) == "it takes longer than a file of its size should"


def test_a_death_is_told(tmp_path: Path) -> None:
    assert reason(tmp_path, "core") == "the conversion was killed by signal 11; is there enough memory?"
    assert not list(ROOT.glob("core*"))
    assert reason(tmp_path, "silent") == "the conversion ended with status 3"


def test_a_reason_names_no_folder_of_the_server(tmp_path: Path) -> None:
    assert reason(tmp_path, "path") == "no such file: path.gguf in the folder for x"


def test_what_is_no_report_is_passed_over(tmp_path: Path) -> None:
    heard = list[tuple[str, float]]()
    run(tmp_path / "noise.gguf", tmp_path, lambda phase, fraction: heard.append((phase, fraction)), ALLOWED)
    assert heard[-1] == ("writing", 1.0)


def test_it_is_ended_with_the_server(tmp_path: Path) -> None:
    stop, pids = threading.Event(), list[int]()

    def heard(phase: str, _fraction: float) -> None:
        pids.append(int(phase))
        stop.set()

    with pytest.raises(Draining):
        run(tmp_path / "wait.gguf", tmp_path, heard, ALLOWED, stop)
    assert not psutil.pid_exists(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not end a process with its parent")
def test_it_ends_when_the_server_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from app.catalogue import conversion as c\n"
        "c.PROGRAM = 'tests.unit.conversion_worker'\n"
        "tell = lambda phase, _: print(phase, flush=True)\n"
        f"c.run(Path('wait.gguf'), Path('.'), tell, c.Allowance({64 * MIB}, {MIB}, 60, 1))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert server.stdout is not None
    child = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.communicate()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_what_a_file_may_take_grows_with_it(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    small = allowance(file.stat().st_size, read_gguf(file))
    assert 4 << 30 < small.memory_bytes < 5 << 30
    large = allowance(40 << 30, replace(read_gguf(file), tensors=read_gguf(file).tensors * 1000))
    assert large.memory_bytes > 240 << 30
    assert (large.time_s > small.time_s, large.file_bytes > small.file_bytes) == (True, True)
