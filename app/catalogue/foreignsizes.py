"""What the small files of others may count: the server makes lists, texts and pictures of such numbers.

A line of a configuration that says a hundred layers, a hundred extra tokens or a side of a picture is a few
bytes whatever number it has, and vLLM and transformers make as many things of it in the process that reads
it. The numbers are by the names that they have there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.catalogue.folder import MISTRAL_CONFIG, MOST_JSON_BYTES, read_json
from app.catalogue.vocabulary import MOST_TOKENS
from app.core.errors import BadManifest

MOST_COUNT = 65_536
"""Layers, labels, extra tokens: the largest models have a hundred, some tokenizers a few thousand."""

MOST_SIDE = 4_096
"""Of a picture as the model sees it: a square of that is what a request may bring (`image_pixels`)."""

MOST_PARTS = 128
"""Into which a picture is cut: all ways to lay them out are gone through, as the third power of these."""

_LEAST_PIXELS, _MOST_PIXELS = MOST_SIDE**2, 1 << 27
"""What a picture is made larger to, and smaller: of the second one is made when a model is loaded."""

_DEPTH = 32
_NAME_CHARS = 64

_WEIGHTS = frozenset(
    {".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".bin", ".pt", ".pth", ".index", ".data"}
)
"""Files of these kinds are read by an engine's own processes, or by none; all others may be by the server."""

_CONFIGS = ("config.json", MISTRAL_CONFIG)
_PICTURES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_ADDED = "added_tokens.json"

_COUNTS = re.compile(
    r"(?:\w+_)?(?:num|n|first_k)_\w+|\w*(?:layers?|labels|depths?|blocks|stages|kernel_size)"
)
_AMOUNTS = re.compile(
    r"\w*(?:positions?|ctx|embd|embeddings?|vocab|words|inner|param(?:eter)?s|tokens|frames|samples|steps|epochs)"
)
"""What numbers of these names count is data that passes through, or weights, and nothing made in advance."""

_PLACES = re.compile(r"\w*(?:image|video|vision|mm|query)_\w*(?:tokens|seq_len)\w*")
"""Of a picture in a prompt: it is written as so many."""

_PARTS = re.compile(r"\w*(?:dynamic_patch|tiles|crops)")
_SIDES = re.compile(r"(?:\w+_)?(?:image_size|crop_size|height|width|edge|pinpoints)")
_BY_AREA = ("Qwen", "Glm", "PaddleOCR", "Keye", "Ernie")
"""How processors are called whose `shortest_edge` and `longest_edge` are pixels of a whole picture."""

_OF_WHOLE = re.compile(r"(?:\w+_)?(?:pixels|edge|max_length)")
_IDS = re.compile(r"\w*_ids?")
"""Places in a vocabulary (`image_token_id`), but for the extra tokens that T5 counts so."""

_SAMPLES = re.compile(r"\w*samples")
_MOST_SAMPLES = 1 << 24
"""Of a sound: ten minutes have 9.6 million at 16 kHz, and Whisper's configuration says 480,000."""

_DIGITS = re.compile(r"[0-9]{1,300}")
_LENGTHS = re.compile(r"\w*(?:max_len|length|positions|pixels)\w*")


def check(folder: Path) -> None:
    """
    Raises:
        BadManifest: naming what counts more than any model has.
        LoadFailed: where one of the files cannot be read.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in _WEIGHTS and file.is_file():
            _check(file.name, "its size in bytes", file.stat().st_size, MOST_JSON_BYTES)
    for name in _CONFIGS:
        _check_config(name, read_json(folder / name))
    for name in _PICTURES:
        _check_processor(name, read_json(folder / name))
    for name in _SETTINGS:
        _check_settings(name, read_json(folder / name))
    for text, value in entries(read_json(folder / _ADDED)):
        _check(_ADDED, text, _number(value), MOST_TOKENS)


def entries(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every entry of objects in `value`, however they are nested; items of lists go by the list's key.

    Raises:
        BadManifest: for more nesting than a configuration has.
    """
    if depth > _DEPTH:
        raise BadManifest("its configuration is nested too deeply")
    items = value.items() if isinstance(value, dict) else ((key, each) for each in value)
    for name, each in items:
        yield name, each
        if isinstance(each, dict | list):
            yield from entries(each, name, depth + 1)


def _check_config(file: str, config: Mapping[str, Any]) -> None:
    for key, value in entries(config):
        # A text of digits is made a number of by some.
        number = float(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else _number(value)
        if _PLACES.fullmatch(key) or (_COUNTS.fullmatch(key) and not _AMOUNTS.fullmatch(key)):
            _check(file, key, number, MOST_COUNT)
        _check_picture(file, key, number, by_area=False)


def _check_processor(file: str, settings: Mapping[str, Any]) -> None:
    found = list(entries(settings))
    kinds = [str(value) for key, value in found if key.endswith("processor_type")]
    by_area = bool(kinds) and all(kind.startswith(_BY_AREA) for kind in kinds)
    for key, value in found:
        _check_picture(file, "image_size" if key == "size" else key, _number(value), by_area=by_area)
        if not _OF_WHOLE.fullmatch(key):
            _check(file, key, _number(value), _most_of(key))


def _most_of(key: str) -> int:
    """Of a setting about which no more is known than its name."""
    if _IDS.fullmatch(key) and key != "extra_ids":
        return MOST_TOKENS
    return _MOST_SAMPLES if _SAMPLES.fullmatch(key) else MOST_COUNT


def _check_picture(file: str, key: str, number: float, *, by_area: bool) -> None:
    if _PARTS.fullmatch(key):
        _check(file, key, number, MOST_PARTS)
    elif key == "min_pixels" or (by_area and key == "shortest_edge"):
        _check(file, key, number, _LEAST_PIXELS)
    elif key == "max_pixels" or (by_area and key == "longest_edge"):
        _check(file, key, number, _MOST_PIXELS)
    elif _SIDES.fullmatch(key):
        _check(file, key, number, MOST_SIDE)


def _check_settings(file: str, settings: Mapping[str, Any]) -> None:
    """Of a tokenizer, each of whose settings may be an argument of its class."""
    if any(each != "tokenizer.json" for each in settings.get("fast_tokenizer_files") or ()):
        raise BadManifest(f"{file}: fast_tokenizer_files names another tokenizer")
    for key, value in entries(settings):
        if isinstance(value, list):
            _check(file, f"the number of {key}", len(value), MOST_COUNT)
        if not _LENGTHS.fullmatch(key):
            _check(file, key, _number(value), _most_of(key))
    for number in settings.get("added_tokens_decoder") or ():
        # Each place up to the last is filled.
        _check(file, "added_tokens_decoder", float(number) if _DIGITS.fullmatch(number) else 0, MOST_TOKENS)


def _number(value: Any) -> float:
    """0 for what is none."""
    return float(value) if isinstance(value, int | float) else 0


def _check(file: str, key: str, number: float, most: int) -> None:
    if abs(number) > most:
        shown = f"{number:.0f}" if abs(number) < 10**15 else f"{number:g}"
        raise BadManifest(f"{file}: {key[:_NAME_CHARS]} is {shown}, and at most {most} is taken")
