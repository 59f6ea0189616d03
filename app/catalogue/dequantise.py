"""The process that reads a GGUF file whole: `python -m app.catalogue.dequantise SOURCE TARGET PARENT LIMITS`.

transformers dequantises the weights, so that the server never carries what that takes. Whatever the file
leads it to, it has been bound before the file is opened (`confinement.py`).
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import orjson

from app.core.confinement import bind, end_with_parent

SIDECAR = "gguf.json"
"""What the GGUF file said: its hash, size, file type, metadata and tensors."""

DROPPED = ("general.name", "tokenizer.chat_template")
"""Metadata that `/api/show` leaves out."""

_SHOWN = 3
_NO_MEMORY = "can't allocate memory"
"""What torch says, which raises no `MemoryError`."""


class Unsound(Exception):
    """A file whose content is no model; the text is one sentence."""


def main(
    source: Path, target: Path, parent: int, memory_bytes: int, file_bytes: int, processor_s: int
) -> int:
    """Write a folder for `source` into `target`, reporting on standard output."""
    end_with_parent(parent)
    reports = sys.stdout

    def report(**fields: str | float) -> None:
        reports.write(json.dumps(fields) + "\n")
        reports.flush()

    try:
        with redirect_stdout(sys.stderr):
            report(phase="starting", fraction=0.0)
            for library in ("gguf", "torch", "transformers"):  # before the limits, as they are large
                importlib.import_module(library)
            bind(memory_bytes=memory_bytes, file_bytes=file_bytes, processor_s=processor_s)
            dequantise(source, target, lambda phase, fraction: report(phase=phase, fraction=fraction))
    except ImportError as error:
        report(error=f"{error}; install caravan-server with its 'cpu' or 'gpu' extra")
        return 1
    except Exception as error:  # the edge of a process: the reason is all that leaves it
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, MemoryError) or _NO_MEMORY in text:
            text = f"it takes more memory than a file of its size should ({memory_bytes >> 20} MiB)"
        report(error=text)
        return 1
    return 0


def dequantise(source: Path, target: Path, progress: Callable[[str, float], None]) -> None:
    """Raises: whatever the libraries do, and `Unsound` for weights that are not whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress("reading metadata", 0.1)
    sidecar = _describe(source)
    progress("reading the tokenizer", 0.2)
    place: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **place)
    progress("dequantising", 0.3)
    how: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True), "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(source.parent), dtype=torch.bfloat16, **how, **place
    )
    model, told = loaded
    _check(told)
    progress("writing", 0.8)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    (target / SIDECAR).write_bytes(orjson.dumps(sidecar))
    progress("writing", 1.0)


def _check(told: Mapping[str, Any]) -> None:
    """Weights that a file lacks are made up by transformers, at random: such a model is none."""
    lacking = sorted(map(str, told.get("missing_keys") or ()))
    if lacking:
        shown = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
        raise Unsound(f"it lacks {len(lacking)} of the tensors of its architecture: {shown}")


def _describe(source: Path) -> dict[str, Any]:
    """The metadata and tensors of a GGUF file."""
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(str(source))
    info: dict[str, Any] = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    names = {member.value: member.name for member in LlamaFileType}
    file_type = names.get(info.get("general.file_type", -1), "unknown")
    return {
        "architecture": info["general.architecture"],
        "file_type": file_type.removeprefix("MOSTLY_").removeprefix("ALL_"),
        "parameter_count": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "info": {name: value for name, value in info.items() if name not in DROPPED},
        "tensors": [
            (tensor.name, tensor.tensor_type.name, [int(size) for size in tensor.shape])
            for tensor in reader.tensors
        ],
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])))
