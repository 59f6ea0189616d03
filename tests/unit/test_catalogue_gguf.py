import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.catalogue import conversion
from app.catalogue.bundled import bundled
from app.catalogue.gguf import SIDECAR, convert
from app.catalogue.preparation import prepare
from app.core.errors import LoadFailed
from tests.unit.catalogue_folders import spec

EMPTY = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
"""A file that is sound, and holds nothing to convert."""


def silent(_phase: str, _fraction: float) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.gguf", b"PK..", "m.gguf is not a GGUF file"),
        ("m.gguf", b"", "m.gguf is not a GGUF file"),
        ("m.gguf", b"GGUF" + bytes(100), "m.gguf is not a sound GGUF file: its version is neither"),
        ("m-00002-of-00003.gguf", b"GGUF", "is one of several parts"),
    ],
)
def test_files_that_are_not_tried(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadFailed, match=message):
        convert(tmp_path / name, tmp_path / "cache", silent)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(EMPTY)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LoadFailed, match="cannot write to the cache"):
        convert(tmp_path / "m.gguf", tmp_path / "cache", silent)


def test_the_reason_of_a_failure_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(EMPTY)
    with pytest.raises(LoadFailed, match=r"cannot convert m\.gguf: \S+"):
        convert(tmp_path / "m.gguf", tmp_path / "cache", silent)
    assert [path for path in (tmp_path / "cache" / "gguf").iterdir() if path.suffix != ".lock"] == []


def test_the_bundled_model_is_converted_once(tmp_path: Path) -> None:
    heard = list[tuple[str, float]]()
    source = bundled(tmp_path, silent)

    def run(_number: int) -> Path:
        return convert(source, tmp_path, lambda phase, fraction: heard.append((phase, fraction)))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second
    assert [phase for phase, _ in heard].count("dequantising") == 1
    assert ("writing", 1.0) in heard

    config = json.loads((first / "config.json").read_text())
    tokenizer = json.loads((first / "tokenizer_config.json").read_text())
    assert config["max_position_embeddings"] == 8192
    assert tokenizer["eos_token"] == "<|im_end|>"
    assert "<|im_start|>assistant" in (first / "chat_template.jinja").read_text()
    assert {file.stat().st_mode & 0o444 for file in first.iterdir()} == {0o444}

    [model] = prepare([spec("smollm2", source)], tmp_path).all()
    facts = model.facts
    assert (facts.path, facts.gguf, facts.format, facts.quantization) == (first, source, "gguf", "Q4_1")
    assert (facts.family, facts.parameter_size, facts.context_length) == ("llama", "134.52M", 8192)
    assert (facts.capabilities, facts.size_bytes) == (("completion",), source.stat().st_size)
    assert facts.info["general.file_type"] == 3
    assert facts.info["tokenizer.ggml.pre"] == "smollm"
    assert len(facts.info["tokenizer.ggml.tokens"]) == 49152
    assert not {"general.name", "tokenizer.chat_template"} & set(facts.info)
    assert (facts.tensors[0].name, facts.tensors[0].type) == ("token_embd.weight", "Q8_0")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[int]]:
    """A GGUF file, and how often it was converted, which writes three files."""
    runs = list[int]()

    def run(_gguf: Path, part: Path, *_more: object) -> None:
        runs.append(len(runs))
        (part / "model.safetensors").write_bytes(b"w" * 4096)
        (part / "config.json").write_text("{}")
        (part / SIDECAR).write_text('{"architecture": "llama"}')

    monkeypatch.setattr(conversion, "run", run)
    (tmp_path / "m.gguf").write_bytes(EMPTY)
    return tmp_path / "m.gguf", runs


@pytest.mark.parametrize(
    ("name", "size"),
    [("model.safetensors", 0), ("model.safetensors", 4095), ("config.json", 0), (SIDECAR, 0), (SIDECAR, 30)],
)
def test_files_that_were_cut_short_are_made_again(
    tmp_path: Path, made: tuple[Path, list[int]], name: str, size: int
) -> None:
    """F18: what a loss of power leaves."""
    source, runs = made
    folder = convert(source, tmp_path, silent)
    assert convert(source, tmp_path, silent) == folder
    assert len(runs) == 1
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    os.truncate(folder / name, size)
    assert convert(source, tmp_path, silent) == folder
    assert len(runs) == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


@pytest.mark.parametrize("name", ["model.safetensors", SIDECAR])
def test_a_file_that_is_gone_is_made_again(tmp_path: Path, made: tuple[Path, list[int]], name: str) -> None:
    source, runs = made
    (convert(source, tmp_path, silent) / name).unlink()
    assert (convert(source, tmp_path, silent) / name).is_file()
    assert len(runs) == 2


def test_files_and_folder_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, made: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F18."""
    done = list[str]()
    rename = Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").readlink().name)
    )
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append("renamed"), rename(path, to))[1])
    folder = convert(made[0], tmp_path, silent)
    *files, part, renamed, parent = done[-6:]
    assert {*files} == {file.name for file in folder.iterdir()}
    assert (part.endswith(".part"), renamed, parent) == (True, "renamed", "gguf")


def test_a_folder_that_tells_no_sizes_is_used_as_it_is(tmp_path: Path, made: tuple[Path, list[int]]) -> None:
    source, runs = made
    folder = convert(source, tmp_path, silent)
    (folder / SIDECAR).write_text('{"architecture": "llama"}')
    convert(source, tmp_path, silent)
    assert len(runs) == 1
