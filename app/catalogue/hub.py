"""Models from the Hugging Face hub, or from its cache on disk."""

import re
from pathlib import Path

from app.catalogue.folder import OTHER_EXPORTS, TORCH_SUFFIXES
from app.core.errors import LoadFailed

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")

SMALL_FILES = (
    "*.json",
    "*.jinja",
    "*.model",
    "tokenizer.model.v*",
    "*.txt",
    "*.tiktoken",
    "*.py",
    "*_Dense/*.bin",
)
WEIGHTS = (
    ("model*.safetensors", "*/model*.safetensors"),
    ("*.safetensors",),
    tuple(f"*{suffix}" for suffix in sorted(TORCH_SUFFIXES)),
)
"""Patterns of weight files: the first that finds any is enough, so that nothing is fetched twice."""


def is_repo(source: str) -> bool:
    """Whether a text has the form of a repository, `org/name`."""
    return REPO.fullmatch(source) is not None


def fetch(repo: str) -> Path:
    """The folder of a repository: from the cache, and downloaded where that is not complete."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _fetch(repo)
    except LocalEntryNotFoundError as error:
        raise LoadFailed(f"{repo} is not in the local cache and the hub cannot be reached") from error
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise LoadFailed(f"cannot fetch {repo}: {reason[0]}") from error
    if folder is None:
        raise LoadFailed(f"{repo} has no weights that vLLM reads (.safetensors or .bin files)")
    return folder


def _fetch(repo: str) -> Path | None:
    from huggingface_hub import snapshot_download

    ignored = [f"{folder}/*" for folder in sorted(OTHER_EXPORTS)]
    for weights in WEIGHTS:
        allowed = [*SMALL_FILES, *weights]
        folder = Path(snapshot_download(repo, allow_patterns=allowed, ignore_patterns=ignored))
        if any(file.is_file() for pattern in weights for file in folder.glob(pattern)):
            return folder
    return None
