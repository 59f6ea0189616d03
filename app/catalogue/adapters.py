"""LoRA adapters: PEFT's two files, held against their base before any engine reads them.

What is kept of the configuration is written anew, of what was checked alone.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from app.catalogue.adaptercopies import CONFIG, WEIGHTS, checked, keep
from app.catalogue.folder import open_folder
from app.catalogue.headers import BadHeader, read_safetensors
from app.catalogue.weights import PACKED, read_weights
from app.core.errors import InvalidRequest, LoadFailed
from app.core.limits import DEFAULTS, InputLimits
from app.core.model import Adapter, TensorInfo
from app.golang.quote import quoted

MOST_RANK = 512
"""What vLLM takes at most."""

MOST_CONFIG_BYTES = 1 << 20
_MOST_PATTERNS = 100_000
"""Patterns of ranks and alphas times modules: vLLM matches them one by one while everybody waits.

Of those that some module uses, so many are 446 at most: `re` keeps 512 compiled, and compiles more anew at
each match."""

_MOST_PATTERN_CHARS = 200_000_000
"""The length of all patterns times that of all modules' names: a match looks from each dot of a name on."""

MOST_ALPHA = 1000.0

_FLOATS = frozenset({"F32", "F16", "BF16"})
_MODULE = re.compile(r"[\w.]{1,512}", re.ASCII)
_TENSOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<part>[AB])\.weight|lora_embedding_(?P<table>[AB]))")
_SEEING = re.compile(r"vision|visual|image|audio|projector|connector|merger|tower")
"""Parts of a name outside the language model: vLLM would leave such weights out without a word."""

_PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Ways to begin a training that leave a plain LoRA; the others change the base too."""

_ABSENT = (
    *("lora_bias", "modules_to_save", "layer_replication", "alora_invocation_tokens"),
    *("target_parameters", "trainable_token_indices", "arrow_config"),
)
"""What changes the meaning of an adapter and is not served, with every `use_...` but `use_rslora`."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter as it came: its two files, and 64 hex digits over them."""

    config: Path
    weights: Path
    digest: str


@dataclass(frozen=True, slots=True)
class _Config:
    rank: int
    alpha: float
    rank_stabilised: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def most_rank(self) -> int:
        return max((self.rank, *self.ranks.values()))

    @property
    def factor(self) -> float:
        """Rank times scale, at most."""
        alpha = max((self.alpha, *self.alphas.values()))
        return alpha * math.sqrt(self.most_rank) if self.rank_stabilised else alpha

    def rank_of(self, module: str) -> int:
        key = _pattern_of(module, self.ranks)
        return self.rank if key is None else self.ranks[key]

    def encode(self, modules: Collection[str]) -> bytes:
        return orjson.dumps(
            {
                "peft_type": "LORA",
                "r": self.rank,
                "lora_alpha": self.alpha,
                "use_rslora": self.rank_stabilised,
                "rank_pattern": _used(self.ranks, modules),
                "alpha_pattern": _used(self.alphas, modules),
                "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
            }
        )


def _pattern_of(module: str, patterns: Iterable[str]) -> str | None:
    """By PEFT's rule, the first pattern that is the end of the name from a dot on; a dot of it is one."""
    return next((key for key in patterns if module == key or module.endswith(f".{key}")), None)


def _used(patterns: Mapping[str, float], modules: Iterable[str]) -> dict[str, float]:
    """What vLLM is told, which takes the keys for regular expressions."""
    used = {_pattern_of(module, patterns) for module in modules}
    return {re.escape(key): value for key, value in patterns.items() if key in used}


@dataclass(slots=True)
class _Pair:
    """The two halves of one module's weights, `a` of (rank, in) and `b` of (out, rank)."""

    a: TensorInfo | None = None
    b: TensorInfo | None = None
    is_table: bool = False


def take_adapter(
    files: AdapterFiles,
    base: Path | None,
    cache: Path,
    *,
    limits: InputLimits = DEFAULTS,
    copied: bool = True,
) -> Adapter:
    """Check an adapter against the weights in the folder `base` and keep a copy of it below `cache`.

    Without `base`, whose weights are not there yet, it is checked for itself. It is not `copied` where it may
    still be refused: the copy would stay.

    Raises:
        LoadFailed: saying what about it is not served.
    """
    try:
        config = _read_config(files.config)
        size = files.weights.stat().st_size
        if 0 < limits.adapter_bytes < size:
            raise BadHeader(f"it has {size} bytes, of at most {limits.adapter_bytes}")
        most = min(MOST_RANK, limits.adapter_rank or MOST_RANK)
        if config.most_rank > most:
            raise BadHeader(f"its rank is {config.most_rank}, of at most {most}")
        pairs = _pairs(read_safetensors(files.weights), config)
        if base is not None:
            _check_against(pairs, read_weights(open_folder(base)).tensors)
        take = keep if copied else checked
        path = take(files.digest, files.weights, config.encode(pairs), cache, factor=config.factor)
    except BadHeader as error:
        raise LoadFailed(f"the adapter is not served: {error}") from error
    except OSError as error:
        raise LoadFailed(f"the adapter cannot be kept: {error.strerror}") from error
    return Adapter(path, files.digest, config.most_rank, size)


def check_names(names: Collection[str]) -> None:
    """Whether uploaded files are an adapter; other JSON files of its folder are kept and not used.

    Raises:
        InvalidRequest: in Ollama's words where it has some (docs/reference 11.1).
    """
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    if suffixes[".gguf"] > 1:
        raise InvalidRequest("only one adapter is currently supported")
    if suffixes[".gguf"]:
        raise InvalidRequest(
            "adapters in GGUF are not served: vLLM takes those of PEFT, which are "
            f"the files {CONFIG} and {WEIGHTS}"
        )
    if not suffixes[".safetensors"]:
        raise InvalidRequest("unknown type")
    others = [name for name in names if name != WEIGHTS and Path(name).suffix.lower() != ".json"]
    if others or not {CONFIG, WEIGHTS} <= set(names):
        raise InvalidRequest(f"an adapter has the files {CONFIG} and {WEIGHTS}, and no other weights")


def check_engine_takes(adapter: Adapter, engine: Mapping[str, Any]) -> None:
    """Whether the engine arguments of the base leave room for its adapter.

    Raises:
        LoadFailed: where an operator has set less.
    """
    if engine.get("enable_lora") is False:
        raise LoadFailed("the adapter is not served: the engine of its base is configured without adapters")
    most = engine.get("max_lora_rank")
    if isinstance(most, int) and adapter.rank > most:
        raise LoadFailed(
            f"the adapter is not served: its rank is {adapter.rank}, and the engine of its base is "
            f"configured for at most {most}"
        )


def _read_config(path: Path) -> _Config:
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise BadHeader(f"{CONFIG} has more than {MOST_CONFIG_BYTES} bytes")
    try:
        found = orjson.loads(path.read_bytes())
    except ValueError:
        raise BadHeader(f"{CONFIG} is not JSON") from None
    if not isinstance(found, dict):
        raise BadHeader(f"{CONFIG} is not a JSON object")
    _check_kind(found)
    rank, alpha = found.get("r"), found.get("lora_alpha")
    if not _is_rank(rank) or not _is_alpha(alpha):
        raise BadHeader(
            f"{CONFIG} has no rank (r) and lora_alpha that are positive numbers up to {MOST_ALPHA:.0f}"
        )
    return _Config(
        rank,
        alpha,
        found.get("use_rslora") is True,
        _patterns(found, "rank_pattern", _is_rank),
        _patterns(found, "alpha_pattern", _is_alpha),
    )


def _check_kind(found: Mapping[str, Any]) -> None:
    kind, start, bias = found.get("peft_type", "LORA"), found.get("init_lora_weights"), found.get("bias")
    if kind != "LORA":
        raise BadHeader("its peft_type is not LORA")
    others = [key for key in found if key.startswith("use_") and key != "use_rslora"]
    if refused := next((key for key in (*_ABSENT, *others) if found.get(key)), ""):
        raise BadHeader(f"{quoted(refused[:64])} of {CONFIG} is not supported")
    if bias not in (None, "none"):
        raise BadHeader(f'"bias" of {CONFIG} is not supported')
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        raise BadHeader(
            f'"init_lora_weights" of {CONFIG} says that the base was changed too: '
            "save the adapter converted to a plain LoRA"
        )


def _patterns(found: Mapping[str, Any], key: str, is_value: Any) -> dict[str, Any]:
    """Names of modules alone: vLLM takes them for regular expressions, and those of strangers can be slow."""
    patterns = found.get(key) or {}
    if not isinstance(patterns, dict) or not all(
        _MODULE.fullmatch(name) and is_value(value) for name, value in patterns.items()
    ):
        raise BadHeader(
            f"{quoted(key)} of {CONFIG} is not a map of module names to such numbers as r or lora_alpha"
        )
    return patterns


def _is_rank(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _is_alpha(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 < value <= MOST_ALPHA


def _pairs(tensors: Sequence[TensorInfo], config: _Config) -> dict[str, _Pair]:
    """The weights by module, each of the rank that the configuration gives it."""
    pairs: defaultdict[str, _Pair] = defaultdict(_Pair)
    for tensor in tensors:
        match = _TENSOR.fullmatch(tensor.name.removeprefix("base_model.model."))
        if match is None or not _MODULE.fullmatch(module := match["module"]):
            raise BadHeader(f"the tensor {_named(tensor.name)} is none of a LoRA")
        if tensor.type not in _FLOATS or len(tensor.shape) != 2:
            raise BadHeader(f"the tensor {_named(tensor.name)} is no matrix of floating-point numbers")
        pair = pairs[module]
        pair.is_table = match["table"] is not None
        if (match["part"] or match["table"]) == "A":
            pair.a = tensor
        else:
            pair.b = tensor
    if not pairs:
        raise BadHeader("it has no weights")
    patterns = (*config.ranks, *config.alphas)
    chars = sum(map(len, pairs)) * sum(map(len, patterns))
    if len(pairs) * len(patterns) > _MOST_PATTERNS or chars > _MOST_PATTERN_CHARS:
        raise BadHeader("rank_pattern and alpha_pattern have too many entries for so many modules")
    for module, pair in pairs.items():
        rank = config.rank_of(module)
        if pair.a is None or pair.b is None or pair.a.shape[0] != rank or pair.b.shape[1] != rank:
            raise BadHeader(f"the weights of {_named(module)} are not two matrices of rank {rank}")
    return dict(pairs)


def _check_against(pairs: Mapping[str, _Pair], base: Sequence[TensorInfo]) -> None:
    if not base:
        return  # PyTorch files do not tell: vLLM finds out
    by_tail: defaultdict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in base:
        module, _, last = tensor.name.rpartition(".")
        if last == "weight" or last in PACKED:
            for tail in _tails(module, 1):
                by_tail[tail].append(tensor)
    for module, pair in pairs.items():
        if _SEEING.search(module):
            raise BadHeader(f"{_named(module)} is no part of the language model, and only that is adapted")
        # The same module may stand below other parents in a checkpoint than in the class that was trained.
        least = min(3, module.count(".") + 1)
        found = next((by_tail[tail] for tail in _tails(module, least) if tail in by_tail), None)
        if found is None:
            raise BadHeader(f"the base has no {_named(module)}")
        if not any(_fits(module, pair, tensor) for tensor in found):
            raise BadHeader(
                f"the weights of {_named(module)} are for {_made(pair)}, and the base has "
                f"{list(found[0].shape)}"
            )


def _tails(module: str, least: int) -> list[str]:
    """The name and its ends, down to `least` parts."""
    parts = module.split(".")
    return [".".join(parts[at:]) for at in range(len(parts) - least + 1)]


def _fits(module: str, pair: _Pair, tensor: TensorInfo) -> bool:
    if tensor.type not in _FLOATS and not tensor.type.startswith("F8"):
        return len(tensor.shape) >= 1  # packed weights: the shape is not that of the matrix
    shape = list(tensor.shape)
    if module.rpartition(".")[2].startswith("c_"):  # as GPT-2 names matrices that it keeps transposed
        return shape in (_made(pair), _made(pair)[::-1])
    return shape == _made(pair)


def _made(pair: _Pair) -> list[int]:
    """The shape of the matrix that the pair is added to."""
    assert pair.a is not None
    assert pair.b is not None
    made = [pair.b.shape[0], pair.a.shape[1]]
    return made[::-1] if pair.is_table else made


def _named(name: str) -> str:
    return quoted(name[:128])
