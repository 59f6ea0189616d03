"""Programs that tests need come from PATH, from the cache or from Debian, in this order."""

import os
import subprocess
from pathlib import Path

import pytest

from scripts.tools import NoApt, main, tool
from tests.programs import program


def _program(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\necho here\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without apt: the only folder on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_program_on_the_path_is_used_as_it_is(bare: Path, tmp_path: Path) -> None:
    installed = _program(bare / "redis-server")
    found = tool("redis-server", tmp_path / "cache")
    assert found.path == installed
    assert found.environment == {}
    assert not (tmp_path / "cache").exists()


def test_a_program_in_the_cache_runs_with_the_libraries_beside_it(bare: Path, tmp_path: Path) -> None:
    unpacked = _program(tmp_path / "cache/redis-server/usr/bin/redis-server")
    library = tmp_path / "cache/redis-server/usr/lib/x/liblzf.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    found = tool("redis-server", tmp_path / "cache")
    assert found.path == unpacked
    assert found.env["LD_LIBRARY_PATH"].split(os.pathsep)[0] == str(library.parent)
    assert subprocess.check_output([found.path], env=found.env, text=True) == "here\n"


def test_a_browser_is_its_program_and_not_the_script_that_looks_for_an_installed_one(
    bare: Path, tmp_path: Path
) -> None:
    _program(tmp_path / "cache/chromium/usr/bin/chromium")
    real = _program(tmp_path / "cache/chromium/usr/lib/chromium/chromium")
    assert tool("chromium", tmp_path / "cache").path == real


@pytest.mark.usefixtures("bare")
class TestWithoutApt:
    def test_it_is_said_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(NoApt, match="prometheus is needed and this machine has no apt"):
            tool("promtool", tmp_path)

    def test_the_test_is_skipped_but_not_where_every_test_must_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CI", "false")
        with pytest.raises(pytest.skip.Exception, match="no apt"):
            program("promtool", tmp_path)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(NoApt):
            program("promtool", tmp_path)
        assert main(["promtool", "--cache", str(tmp_path)]) == 1
