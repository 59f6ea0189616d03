"""Models whose prompts are written by code and not by a chat template: which they are, and what they can do.

vLLM chooses that code by the architecture, whatever template a repository has, or by the files of
Mistral's own tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.catalogue.folder import ModelFolder, read_json
from app.catalogue.templates import EFFORT
from app.catalogue.thinking import GPT_OSS, GPT_OSS_PARSER
from app.core.model import ThinkingLevels

_SWITCH = "thinking"


@dataclass(frozen=True, slots=True)
class Native:
    """The parsers of such a model (None where it has no calls or no reasoning), the variable that its
    reasoning is switched by, and the levels of that. `engine` are engine arguments that its files ask for.
    """

    tool_parser: str | None
    reasoning_parser: str | None
    variable: str | None = None
    thinking: ThinkingLevels | None = None
    engine: Mapping[str, Any] | None = None


_DEEPSEEK_V32 = Native("deepseek_v32", "deepseek_v3", _SWITCH, ThinkingLevels((False, True), True))
_DEEPSEEK_V4 = Native(
    "deepseek_v4", "deepseek_v4", _SWITCH, ThinkingLevels((False, "low", "high", "max"), "high")
)
_DEEPSEEK_V41 = Native(
    "deepseek_v41", "deepseek_v41", _SWITCH, ThinkingLevels((False, "low", "high", "xhigh", "max"), "high")
)
_KIMI_K3 = Native("kimi_k3", "kimi_k3", _SWITCH, ThinkingLevels((False, "low", "high", "max"), "high"))
_INKLING = Native(
    "inkling",
    "inkling",
    EFFORT,
    ThinkingLevels((False, "minimal", "low", "medium", "high", "xhigh", "max"), "high"),
)
_GPT_OSS = Native("openai", GPT_OSS_PARSER, EFFORT, GPT_OSS)

BY_ARCHITECTURE: Mapping[str, Native] = {
    "GptOssForCausalLM": _GPT_OSS,
    "DeepseekV32ForCausalLM": _DEEPSEEK_V32,
    "DeepseekV4ForCausalLM": _DEEPSEEK_V4,
    "DeepseekV4ForConditionalGeneration": _DEEPSEEK_V4,
    "DeepseekV41ForCausalLM": _DEEPSEEK_V41,
    "KimiK3ForConditionalGeneration": _KIMI_K3,
    "InklingForCausalLM": _INKLING,
    "InklingForConditionalGeneration": _INKLING,
}

MISTRAL = "mistral"
_FIRST_WITH_TOOLS = 2
_FIRST_WITH_EFFORT = 15
_THINK = ("[THINK]", "[/THINK]")


def native(folder: ModelFolder, engine: Mapping[str, Any], chat_template: str) -> Native | None:
    """None where a chat template writes the prompts; `engine` and `chat_template` are the operator's."""
    if (found := BY_ARCHITECTURE.get(folder.architecture)) is not None:
        # gpt-oss alone can do with a template in place of its code.
        return None if found is _GPT_OSS and chat_template else found
    files = mistral_tokenizers(folder.path)
    mode = engine.get("tokenizer_mode")
    if mode != MISTRAL and (mode or not files):
        return None
    if not mode and not _lacks_other(folder):
        return None
    arguments = {"tokenizer_mode": MISTRAL}
    if folder.is_mistral_format:
        arguments |= {"config_format": MISTRAL, "load_format": MISTRAL}
    return replace(_mistral(files), engine=arguments)


def mistral_tokenizers(path: Path) -> list[Path]:
    """The files of Mistral's own tokenizers, `tekken.json` or `tokenizer.model.v3`, the newest first."""
    tekken = path / "tekken.json"
    pieces = sorted(path.glob("tokenizer.model.v*"), reverse=True)
    return [*([tekken] if tekken.is_file() else []), *pieces]


def without_native(folder: ModelFolder) -> Mapping[str, Any]:
    """Engine arguments of a model with a template: vLLM would choose by weights in Mistral's format."""
    return {"tokenizer_mode": "hf"} if mistral_tokenizers(folder.path) else {}


def mistral_tokens(path: Path) -> dict[str, int]:
    """The control tokens that `tekken.json` names; older files leave them to the library."""
    special = read_json(path / "tekken.json").get("special_tokens") or ()
    return {str(token["token_str"]): int(token["rank"]) for token in special}


def _lacks_other(folder: ModelFolder) -> bool:
    """Whether nothing else there could write a prompt of this model."""
    return folder.is_mistral_format or not (folder.template and (folder.path / "tokenizer.json").is_file())


def _mistral(files: list[Path]) -> Native:
    tekken = read_json(files[0]) if files and files[0].suffix == ".json" else {}
    name = str((tekken.get("config") or {}).get("version") or (files[0].suffix[1:] if files else ""))
    digits = "".join(char for char in name.partition("m")[0] if char.isdigit())
    version = int(digits or _FIRST_WITH_TOOLS)
    tokens = {token.get("token_str") for token in tekken.get("special_tokens") or ()}
    thinks = all(token in tokens for token in _THINK)
    tools = MISTRAL if version >= _FIRST_WITH_TOOLS else None
    if not thinks:
        return Native(tools, None)
    if version < _FIRST_WITH_EFFORT:
        return Native(tools, MISTRAL, None, ThinkingLevels((True,), True))
    levels = ThinkingLevels((False, "minimal", "low", "medium", "high"), "high")
    return Native(tools, MISTRAL, EFFORT, levels)
