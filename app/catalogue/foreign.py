"""What the small files of a folder may say that clients or registries brought, before an engine reads them.

vLLM follows what they name: another model to load in place of this one, weights elsewhere. And a tokenizer is
a program that runs in the server.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from app.catalogue import foreignsizes, foreigntokenizer
from app.catalogue.folder import MISTRAL_CONFIG, read_json, read_list
from app.core.errors import BadManifest

_CONFIGS = ("config.json", MISTRAL_CONFIG)
_OTHERS = frozenset({"speculators_config", "use_pretrained_backbone"})
_NAMES = re.compile(r"(?:\w+_)?(?:model_id|name_or_path)", re.ASCII)
_MOST_NAME_CHARS = 64


def check(folder: Path) -> None:
    """
    Raises:
        BadManifest: where the folder names another model or a file outside of it, counts more than any model
            has, or brings a tokenizer that may take any time or memory.
        LoadFailed: where one of its files cannot be read.
    """
    for name in _CONFIGS:
        _check_names(name, read_json(folder / name))
    if (folder / "adapter_config.json").is_file():
        raise BadManifest("adapter_config.json names another model: an adapter is brought as one")
    for module in read_list(folder / "modules.json"):
        path = PurePosixPath(str(module.get("path") or ""))
        if path.is_absolute() or ".." in path.parts:
            raise BadManifest("modules.json names a folder outside of the model's")
    foreignsizes.check(folder)
    foreigntokenizer.check(folder)


def _check_names(file: str, config: Mapping[str, Any]) -> None:
    for key, value in foreignsizes.entries(config):
        # With an underscore transformers writes down where a model came from, which nothing loads.
        if key.startswith("_") or value in (None, False, "", []):
            continue
        if key in _OTHERS or _NAMES.fullmatch(key):
            raise BadManifest(
                f"{file}: {key[:_MOST_NAME_CHARS]} names another model, and only this one is served"
            )
        if isinstance(value, str) and _leads_out(value):
            raise BadManifest(f"{file}: {key[:_MOST_NAME_CHARS]} names a file outside of the model's folder")


def _leads_out(text: str) -> bool:
    return text.startswith(("/", "~", "file:")) or ".." in text.split("/")
