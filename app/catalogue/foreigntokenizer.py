"""Which tokenizers of others are taken: a `tokenizer.json` of known steps that let no text grow without end.

A few letters must not become gigabytes, wherever the server or vLLM tokenises them. How long a regular
expression takes is not told by looking at it: texts are tokenised in a process that is ended
(`engine/confined`).
"""

import re
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.catalogue.folder import read_json
from app.core.errors import BadManifest

MOST_GROWTH = 64.0
"""Bytes that one byte of text may become; the usual ones stay below 16."""

MOST_STEPS = 32
"""Of each part; the longest lists have nine."""

MOST_TOKEN_BYTES = 16_384
"""Of the longest token's text as it is decoded: the longest ones are a thousand spaces."""

MOST_ADDED = 131_072
"""Tokens that are looked for in a text before all others: models of speech have 65,536 sounds among them."""

MOST_FRAME = 1_024
"""Tokens that may be put around a text; the usual frames have two."""

MOST_PATTERN_CHARS = 4096
_LONGEST_FORM = 64
"""Bytes of the longest text that a table of SentencePiece writes for a character; NFKC has one of 33."""

_UNICODE: Mapping[str, float] = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "BertNormalizer": 5}
"""What becomes of one byte at most; a second form of the same kind changes nothing."""

_NORMALIZERS = frozenset(
    {*_UNICODE, "Sequence", "Strip", "StripAccents", "Lowercase", "Nmt", "Precompiled", "Replace", "Prepend"}
    | {"ByteLevel"}
)
_PRE_TOKENIZERS = frozenset(
    {"Sequence", "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Metaspace", "Whitespace"}
    | {"WhitespaceSplit", "Split", "Punctuation", "Digits", "UnicodeScripts", "FixedLength"}
)
_DECODERS = frozenset(
    {"Sequence", "BPEDecoder", "ByteLevel", "WordPiece", "Metaspace", "CTC", "Replace", "Fuse", "Strip"}
    | {"ByteFallback"}
)
_PROCESSORS = frozenset(
    {"Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"}
)
_PARTS: Mapping[str, tuple[frozenset[str], str]] = {
    "normalizer": (_NORMALIZERS, "normalizers"),
    "pre_tokenizer": (_PRE_TOKENIZERS, "pretokenizers"),
    "decoder": (_DECODERS, "decoders"),
    "post_processor": (_PROCESSORS, "processors"),
}
"""By part: the kinds of step that are known, and where `Sequence` has its steps."""


def check(folder: Path) -> None:
    """
    Raises:
        BadManifest: naming the step that is not taken.
        LoadFailed: where the file cannot be read.
    """
    file = read_json(folder / "tokenizer.json")
    if len(file.get("added_tokens") or ()) > MOST_ADDED:
        raise BadManifest(f"tokenizer.json: more than {MOST_ADDED} added tokens")
    longest = max(map(_size, _texts(file)), default=0)
    for part, (known, below) in _PARTS.items():
        steps = list(_steps(part, file.get(part), below, 0))
        for step in steps:
            if (kind := str(step.get("type"))) not in known:
                raise BadManifest(f"tokenizer.json: a {part} of the kind {kind[:64]!r} is not taken")
        if len(steps) > MOST_STEPS:
            raise BadManifest(f"tokenizer.json: more than {MOST_STEPS} steps in {part}")
        if (growth := _growth(steps)) > MOST_GROWTH:
            raise BadManifest(
                f"tokenizer.json: its {part} makes texts more than {MOST_GROWTH:.0f} times as long"
            )
        if part == "decoder" and any(_has_expression(step) for step in steps):
            raise BadManifest("tokenizer.json: a decoder with a regular expression is not taken")
        if part == "decoder" and longest * growth > MOST_TOKEN_BYTES:
            raise BadManifest(f"tokenizer.json: a token becomes more than {MOST_TOKEN_BYTES} bytes of text")
        if sum(map(_frame, steps)) > MOST_FRAME:
            raise BadManifest(f"tokenizer.json: its {part} puts more than {MOST_FRAME} tokens around a text")


def _texts(file: Mapping[str, Any]) -> Iterator[Any]:
    """Of all tokens, however the file lists them."""
    model = file.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        yield from vocab
    for each in vocab if isinstance(vocab, list) else ():
        yield each[0] if isinstance(each, list) and each else each
    for token in file.get("added_tokens") or ():
        yield token.get("content") if isinstance(token, dict) else None


def _steps(part: str, value: Any, below: str, depth: int) -> Iterator[Mapping[str, Any]]:
    if value is None:
        return
    if not isinstance(value, dict) or depth > MOST_STEPS:
        raise BadManifest(f"tokenizer.json: {part} is none that is known")
    if value.get("type") != "Sequence":
        yield value
        return
    for each in value.get(below) or ():
        yield from _steps(part, each, below, depth + 1)


def _growth(steps: list[Mapping[str, Any]]) -> float:
    """Bytes that a byte may be once all steps are done, at the most."""
    whole, forms = 1.0, 1.0
    for step in steps:
        match step.get("type"):
            case "Replace":
                whole *= max(1.0, _replaced(step))
            case "Prepend":
                whole *= 1 + _size(step.get("prepend"))
            case "TemplateProcessing":
                whole *= max(1, *map(len, _repeated(step)))
            case "Precompiled":
                forms = max(forms, _precompiled(step))
            case kind:
                forms = max(forms, _UNICODE.get(str(kind), 1.0))
                whole *= 2 if kind == "ByteLevel" else 1
    return whole * forms


def _has_expression(step: Mapping[str, Any]) -> bool:
    """How long one takes cannot be told, and each token of an answer goes through it on the event loop."""
    return isinstance(pattern := step.get("pattern"), dict) and "Regex" in pattern


def _repeated(step: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The places of the text, and of a pair of texts, in what is made of them."""
    for kind in ("single", "pair"):
        pieces = step.get(kind) or []
        if not isinstance(pieces, list):
            raise BadManifest("tokenizer.json: post_processor is none that is known")
        yield [each for each in pieces if isinstance(each, dict) and "Sequence" in each]


def _frame(step: Mapping[str, Any]) -> int:
    """Tokens that a step adds to a text, at the most."""
    named = step.get("special_tokens")
    tokens = named.values() if isinstance(named, dict) else ()
    longest = max((len(each.get("ids") or ()) for each in tokens if isinstance(each, dict)), default=0)
    return longest * max((len(step.get(kind) or ()) for kind in ("single", "pair")), default=0)


def _replaced(step: Mapping[str, Any]) -> float:
    """Bytes for one byte of what is replaced."""
    pattern, content = step.get("pattern"), _size(step.get("content"))
    if isinstance(pattern, dict) and isinstance(text := pattern.get("String"), str) and text:
        return content / len(text.encode("utf-8", "replace"))
    least = _least_match(pattern.get("Regex") if isinstance(pattern, dict) else "")
    return content / least if least else 1 + content


def _least_match(pattern: Any) -> int:
    """Characters that a pattern takes at least; 0 where Python's language has no such pattern."""
    if not isinstance(pattern, str) or len(pattern) > MOST_PATTERN_CHARS:
        return 0
    try:
        parsed: Any = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, OverflowError, RecursionError):
        return 0
    return int(parsed.getwidth()[0])


def _precompiled(step: Mapping[str, Any]) -> float:
    """By a table of SentencePiece: a trie of so many bytes, then the texts it leads to, each up to a zero.

    What the shortest text is that it replaces is not looked at.
    """
    try:
        table = b64decode(step.get("precompiled_charsmap") or "", validate=True)
    except (BadBase64, TypeError, ValueError) as error:
        raise BadManifest("tokenizer.json: a table of characters that cannot be read") from error
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    longest = max(map(len, texts.split(b"\0")), default=0)
    if longest > _LONGEST_FORM:
        raise BadManifest("tokenizer.json: a table of characters with a text that none is written as")
    return float(longest)


def _size(text: Any) -> int:
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
