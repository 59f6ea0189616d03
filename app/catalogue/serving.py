"""What a manifest may say of how its model is served: it may come from anybody who may write to a registry.

vLLM's arguments name code to run (`trust_remote_code`, `worker_cls`, `logits_processors`), files to read
(`model`, `tokenizer`) and formats that are programs: those are for configuration alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.core.errors import BadManifest
from app.store.config import Serving

_REVISION = re.compile(r"|\w[\w.-]{0,127}", re.ASCII)

ENGINE: Mapping[str, frozenset[str] | None] = {
    "config_format": frozenset({"auto", "hf", "mistral"}),
    "dtype": frozenset({"auto", "bfloat16", "float16", "float32"}),
    "load_format": frozenset({"auto", "safetensors", "mistral"}),
    "max_model_len": None,
    "quantization": frozenset({"fp8_per_tensor"}),
    "tokenizer_mode": frozenset({"auto", "hf", "mistral"}),
}
"""Engine arguments that a manifest may set, and their values; None is a positive number."""


def check_engine(engine: Mapping[str, Any]) -> None:
    """Raises: BadManifest: for an argument, or a value of one, that only configuration may set."""
    for name, value in engine.items():
        known = ENGINE.get(name, frozenset[str]())
        good = (
            type(value) is int and value > 0 if known is None else isinstance(value, str) and value in known
        )
        if not good:
            raise BadManifest(f"the engine argument {name[:64]!r} is not for a manifest to set, or not so")


def repository_folder(serving: Serving) -> Path:
    """The folder of a repository that was pulled, in huggingface_hub's cache.

    Raises:
        BadManifest: where it is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not _REVISION.fullmatch(serving.revision):
        raise BadManifest("the serving layer names no commit or branch")
    try:
        return Path(
            snapshot_download(serving.repository, revision=serving.revision or None, local_files_only=True)
        )
    except (LocalEntryNotFoundError, ValueError, OSError) as error:
        raise BadManifest(f"{serving.repository} is not in this machine's cache: pull it again") from error
