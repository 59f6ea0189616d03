"""Model names as clients write them: the grammar and the source suffixes (docs/reference 3.1 and 3.4)."""

import re
from typing import Literal, TypeAlias, cast

from app.core.errors import Forbidden, InvalidRequest, ModelNotFound
from app.core.model import ModelName
from app.golang.quote import quoted

Source: TypeAlias = Literal["", "local", "cloud"]
"""Where a client wants the model to run; empty leaves it open."""

_CLOUD = "ollama cloud is disabled: remote model is unavailable"
_CLOUD_DETAILS = "ollama cloud is disabled: remote model details are unavailable"
_NAME = re.compile(
    r"""
    (?:
        (?: (?:[^/]*://)? (?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}) / )?
        (?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{0,79}) /
    )?
    (?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})
    (?: : (?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}) )?
    """,
    re.VERBOSE,
)


def parse_name(text: str) -> ModelName:
    """The parts of a name, the defaults in place of those left out. The scheme is read and dropped.

    Raises:
        InvalidRequest: when `text` is not a name.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise InvalidRequest("invalid model name")
    return ModelName(**{part: value for part, value in match.groupdict().items() if value is not None})


def split_source(text: str) -> tuple[str, Source]:
    """`text` without surrounding space and without its source suffix, and what that suffix was.

    Raises:
        InvalidRequest: when there are two suffixes.
    """
    text = text.strip()
    base, source = _cut_suffix(text)
    if source and _cut_suffix(base)[1]:
        raise InvalidRequest(f"use either :local or :cloud, not both: {quoted(text)}")
    return base, source


def _cut_suffix(text: str) -> tuple[str, Source]:
    base, colon, last = text.rpartition(":")
    last = last.strip()
    suffix = last.lower()
    if colon and suffix in ("local", "cloud"):
        return base, cast(Source, suffix)
    if colon and suffix.endswith("-cloud") and "/" not in suffix:
        return f"{base}:{last[: -len('-cloud')]}", "cloud"
    return text, ""


def read_reference(name: str, *, details: bool = False) -> ModelName:
    """The name in what a client calls a model.

    Raises:
        ModelNotFound: for one that is blank.
        InvalidRequest: for one that breaks the grammar.
        Forbidden: for a model in the cloud.
    """
    if not name.strip():
        raise ModelNotFound(name)
    text, source = split_source(name)
    parsed = parse_name(text)
    if source == "cloud":
        raise Forbidden(_CLOUD_DETAILS if details else _CLOUD)
    return parsed
