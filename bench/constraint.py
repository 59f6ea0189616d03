"""How ways to keep an answer to a schema compare: what they take, whether it is right, what it costs.

`python -m bench.constraint TOKENIZER [PREPARED]` writes the table of docs/constraint.md. TOKENIZER is a
folder with a fast tokenizer. PREPARED, a file with a JSON Schema or null for each subject of the corpus,
adds a row for a compiler that writes schemas for xgrammar.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import llguidance.hf
import numpy as np
import xgrammar
from jsonschema import Draft7Validator, Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from transformers import AutoTokenizer

from app.constrain.compile import grammar_for
from app.constrain.nulls import without_nulls
from app.core.errors import InvalidRequest
from harness.schema_corpus import Subject, subjects

_SAMPLES = 3
_LONGEST = 120
_OPTIONS = {"whitespace_flexible": False, "item_separator": r",[ \n]{0,20}", "key_separator": ":[ ]{0,4}"}


class Matcher(Protocol):
    def mask(self) -> Sequence[int]: ...
    def accept(self, token: int) -> bool: ...


class Guidance:
    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher.deep_copy()

    @classmethod
    def compiled(cls, tokenizer: LLTokenizer, grammar: str) -> "Callable[[], Guidance]":
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return partial(cls, matcher)

    def mask(self) -> Sequence[int]:
        return self._matcher.compute_bitmask()

    def accept(self, token: int) -> bool:
        return self._matcher.consume_token(token)


class Xgrammar:
    def __init__(self, compiled: xgrammar.CompiledGrammar, size: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = xgrammar.allocate_token_bitmask(1, size)

    @classmethod
    def compiled(cls, compiler: xgrammar.GrammarCompiler, schema: str, size: int) -> "Callable[[], Xgrammar]":
        return partial(cls, compiler.compile_json_schema(schema), size)

    def mask(self) -> Sequence[int]:
        self._matcher.fill_next_token_bitmask(self._mask, 0)
        return self._mask.numpy().tobytes()

    def accept(self, token: int) -> bool:
        return self._matcher.accept_token(token)


@dataclass(slots=True)
class Score:
    taken: int = 0
    subjects: int = 0
    complete: int = 0
    documents: int = 0
    broken: int = 0
    samples: int = 0
    compile_ms: list[float] = field(default_factory=list[float])
    token_us: list[float] = field(default_factory=list[float])


Make = Callable[[Subject, int], Callable[[], Matcher]]


def measure(
    make: Make, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], end: int
) -> Score:
    score = Score()
    for at, subject in enumerate(subjects()):
        score.subjects += 1
        score.documents += len(subject.valid)
        begun = time.perf_counter()
        try:
            start = make(subject, at)
            start().mask()
        except (InvalidRequest, ValueError, RuntimeError):
            continue
        score.taken += 1
        score.compile_ms.append((time.perf_counter() - begun) * 1e3)
        score.complete += sum(_passes(start(), [*encode(text), end], score) for text in subject.valid)
        for seed in range(_SAMPLES):
            text = _sample(start(), random.Random(seed), decode, end)
            score.samples += text is not None
            score.broken += text is not None and not _valid(subject.schema, text)
    return score


def _passes(matcher: Matcher, tokens: list[int], score: Score) -> bool:
    for token in tokens:
        begun = time.perf_counter()
        bits = matcher.mask()
        score.token_us.append((time.perf_counter() - begun) * 1e6)
        if not bits[token >> 3] & 1 << (token & 7) or not matcher.accept(token):
            return False
    return True


def _sample(
    matcher: Matcher, chooser: random.Random, decode: Callable[[list[int]], str], end: int
) -> str | None:
    tokens: list[int] = []
    while len(tokens) < _LONGEST:
        allowed = np.flatnonzero(
            np.unpackbits(np.frombuffer(bytes(matcher.mask()), np.uint8), bitorder="little")
        )
        token = end if end in allowed else int(chooser.choice(allowed.tolist()))
        if token == end:
            return decode(tokens)
        if not matcher.accept(token):
            return "refused by the matcher after its own mask"
        tokens.append(token)
    return None


def _valid(schema: dict[str, Any], text: str) -> bool:
    # A tuple as it was written before 2020-12, which the later rules cannot read.
    rules = Draft7Validator if '"items": [' in json.dumps(schema) else Draft202012Validator
    try:
        return rules(without_nulls(schema)).is_valid(json.loads(text))
    except ValueError:
        return False


def row(name: str, score: Score) -> str:
    compile_ms, token_us = sorted(score.compile_ms), sorted(score.token_us)
    cells = [
        name,
        f"{score.taken} of {score.subjects}",
        f"{score.complete} of {score.documents}",
        f"{score.broken} of {score.samples}",
        f"{statistics.median(compile_ms):.1f} / {compile_ms[-1]:.0f} ms",
        f"{statistics.median(token_us):.0f} / {statistics.fmean(token_us):.0f} us",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(sys.argv[1])
    size, end = len(tokenizer), tokenizer.eos_token_id
    ours = llguidance.hf.from_tokenizer(tokenizer, size)
    compiler = xgrammar.GrammarCompiler(
        xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size, stop_token_ids=[end]),
        max_threads=1,
        cache_enabled=False,
    )
    makers: dict[str, Make] = {
        "xgrammar, the schema as it is": lambda subject, _: Xgrammar.compiled(
            compiler, json.dumps(subject.schema), size
        ),
        "llguidance, the schema as it is": lambda subject, _: Guidance.compiled(
            ours, LLMatcher.grammar_from_json_schema({**subject.schema, "x-guidance": _OPTIONS})
        ),
        "`app/constrain` over llguidance": lambda subject, _: Guidance.compiled(
            ours, LLMatcher.grammar_from_lark(grammar_for(subject.schema))
        ),
    }
    if len(sys.argv) > 2:
        lines = Path(sys.argv[2]).read_text().splitlines()

        def prepared(_: Subject, at: int) -> Callable[[], Matcher]:
            if lines[at] == "null":
                raise ValueError("refused")
            return Xgrammar.compiled(compiler, lines[at], size)

        makers = {"a compiler over xgrammar": prepared, **makers}
    print("| way | taken | documents accepted | samples that break the schema | compiling | a mask |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in makers.items():
        score = measure(
            make, lambda text: tokenizer.encode(text, add_special_tokens=False), tokenizer.decode, end
        )
        print(row(name, score), flush=True)


if __name__ == "__main__":
    main()
