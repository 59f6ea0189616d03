import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.catalogue.bundled import bundled
from app.catalogue.gguf import convert
from app.catalogue.library import prepare
from app.core.errors import LoadFailed
from tests.unit.catalogue_folders import spec


def silent(_phase: str, _fraction: float) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.gguf", b"PK..", "m.gguf is not a GGUF file"),
        ("m.gguf", b"", "m.gguf is not a GGUF file"),
        ("m-00002-of-00003.gguf", b"GGUF", "is one of several parts"),
    ],
)
def test_files_that_are_not_tried(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadFailed, match=message):
        convert(tmp_path / name, tmp_path / "cache", silent)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LoadFailed, match="cannot write to the cache"):
        convert(tmp_path / "m.gguf", tmp_path / "cache", silent)


def test_the_reason_of_a_failure_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LoadFailed, match=r"cannot convert m\.gguf: \S+"):
        convert(tmp_path / "m.gguf", tmp_path / "cache", silent)
    assert [path for path in (tmp_path / "cache" / "gguf").iterdir() if path.suffix != ".lock"] == []


def test_the_bundled_model_is_converted_once(tmp_path: Path) -> None:
    heard = list[tuple[str, float]]()
    gguf = bundled(tmp_path, silent)

    def run(_number: int) -> Path:
        return convert(gguf, tmp_path, lambda phase, fraction: heard.append((phase, fraction)))

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

    [model] = prepare([spec("smollm2", gguf)], tmp_path).all()
    facts = model.facts
    assert (facts.path, facts.format, facts.quantization) == (first, "gguf", "Q4_1")
    assert (facts.family, facts.parameter_size, facts.context_length) == ("llama", "134.52M", 8192)
    assert (facts.capabilities, facts.size_bytes) == (("completion",), gguf.stat().st_size)
    assert facts.info["general.file_type"] == 3
    assert facts.info["tokenizer.ggml.pre"] == "smollm"
    assert len(facts.info["tokenizer.ggml.tokens"]) == 49152
    assert not {"general.name", "tokenizer.chat_template"} & set(facts.info)
    assert (facts.tensors[0].name, facts.tensors[0].type) == ("token_embd.weight", "Q8_0")
