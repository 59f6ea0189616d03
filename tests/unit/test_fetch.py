"""`caravan fetch` as a job of a cluster runs it: a process, its log and its status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.catalogue_folders import make_folder

WATCHED = """
import sys
from app.cli import main
try:
    main()
finally:
    print(*sys.modules, sep="\\n")
"""
"""The command, and then the modules that it has imported."""


def fetch(*arguments: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WATCHED, "fetch", *arguments],
        env=os.environ | {"CARAVAN_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [json.loads(line)["message"] for line in done.stderr.splitlines() if line.startswith("{")]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_a_cache_is_filled_once_and_vllm_is_not_needed_for_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny")
    config = tmp_path / "caravan.yaml"
    config.write_text(
        yaml.safe_dump({"models": [{"name": "a", "source": str(folder)}, {"name": "b", "source": "a"}]})
    )
    cache = tmp_path / "cache"
    first = fetch("--config", str(config), cache=cache)
    assert (first.returncode, "Traceback" in first.stderr) == (0, False), first.stderr
    lines = said(first)
    assert lines[0] == f"fetching into {cache}"
    assert lines[-2:] == [f"a:latest is ready: {folder}", f"b:latest is ready: {folder}"]
    assert not {"vllm", "torch", "transformers", "fastapi"} & set(first.stdout.split())

    filled = snapshot(cache)
    assert fetch("--config", str(config), cache=cache).returncode == 0
    assert snapshot(cache) == filled, "a cache that is full is not written to"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/nowhere", "model 'mine:latest': there is no folder /nowhere"),
        ("org/nosuch", "org/nosuch is not in the local cache and the hub cannot be reached"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(tmp_path: Path, source: str, reason: str) -> None:
    done = fetch("--model", f"mine={source}", cache=tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("{"))
    assert line.startswith("caravan: ")
    assert reason in line


def test_a_model_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A dangling link stands for a file that may not be read, since tests may run as root."""
    weights = make_folder(tmp_path / "tiny") / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "gone")
    done = fetch("--model", f"mine={weights.parent}", cache=tmp_path / "cache")
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("{"))
    assert (done.returncode, "mine:latest" in line) == (1, True)


def test_an_option_that_is_no_model_is_refused(tmp_path: Path) -> None:
    assert fetch("--model", "mine", cache=tmp_path).returncode == 2
