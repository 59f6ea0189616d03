"""A server that a test or a benchmark starts: nothing of it is left, and one that fails says why."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from harness.ports import free_port
from harness.process import NotStarted, running, wait_ready

WITH_A_CHILD = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_what_a_server_has_started_is_gone_with_it(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", WITH_A_CHILD, str(port)]
    with running(command, tmp_path / "log", os.environ) as process:
        wait_ready(f"http://127.0.0.1:{port}", process)
        family = [process, *process.children(recursive=True)]
        assert len(family) == 2
    psutil.wait_procs(family, timeout=10)
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


def test_a_server_that_ends_at_once_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room')"]
    with (
        pytest.raises(NotStarted, match="nothing answers"),
        running(command, tmp_path / "log", os.environ) as process,
    ):
        wait_ready(f"http://127.0.0.1:{free_port()}", process)
    assert "no room" in capsys.readouterr().err
