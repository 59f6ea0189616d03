"""A family's folder, its prompts and its replies, by the code that an engine uses. No engine is started."""

import json
import re
import shutil
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts
from app.core.events import Delta
from app.core.limits import InputLimits
from app.core.model import Model, ModelName, ModelSpec
from app.core.pool import Pool
from app.core.request import ChatPrompt, Message, Sampling, Think
from app.engine.base import Prompt, Run
from scripts.families.rows import Family
from scripts.families.templates import jinja
from tests.unit.catalogue_folders import make_folder
from tests.unit.rendering import of_folder, renderer_config
from tests.unit.replying import Answer, read

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding
    from transformers import PreTrainedTokenizerFast
    from vllm.renderers.deepseek_v4 import DeepseekV4Renderer
    from vllm.renderers.deepseek_v32 import DeepseekV32Renderer
    from vllm.renderers.hf import HfRenderer
    from vllm.renderers.mistral import MistralRenderer
    from vllm.tokenizers import get_tokenizer
    from vllm.tokenizers.hf import get_cached_tokenizer
    from vllm.tokenizers.mistral import MistralTokenizer

    from app.core.thinking import thinking_kwargs
    from app.engine.vllm.input.prompts import Prompts
    from app.engine.vllm.parse.choice import decoder_of, parser_for
    from app.engine.vllm.parse.reply import Parsers

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
END = "<end of reply>"
_PLAIN = re.compile(r"</?[\w:]+>")
"""How tokens are written that stay in a reply's text; the others are special."""

_RENDERERS = {
    "DeepseekV32ForCausalLM": ("deepseek_v32", DeepseekV32Renderer),
    "DeepseekV4ForCausalLM": ("deepseek_v4", DeepseekV4Renderer),
    "DeepseekV41ForCausalLM": ("deepseek_v41", DeepseekV4Renderer),
}
_TEKKEN = {
    "Mistral Nemo, Large 2 (tekken)": "tekken_240718.json",
    "Mistral Small 3 (tekken)": "tekken_240911.json",
    "Magistral (tekken)": "tekken_240911.json",
}


class HarmonyTokenizer:
    """gpt-oss's own vocabulary, as a tokenizer that can only take tokens apart."""

    all_special_tokens = ()

    def __init__(self) -> None:
        self.encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)

    def decode(self, token_ids: list[int]) -> str:
        return self.encoding.decode(token_ids)

    def __len__(self) -> int:
        return 201_088


@dataclass(frozen=True)
class Site:
    """A family in a folder."""

    family: Family
    folder: Path

    @cached_property
    def model(self) -> Model:
        spec = ModelSpec(ModelName("m"), str(self.folder))
        return Model(spec, read_facts(self.folder, spec, FileHashes(Path("/nonexistent"))), "m")

    @cached_property
    def tokenizer(self) -> Any:
        if self.is_harmony:
            return HarmonyTokenizer()
        if self.is_mistral:
            return MistralTokenizer.from_pretrained(str(self.folder))
        if self.family.kind == "kimi_k3":
            # Its configuration is code of vLLM that wants the whole of the real one.
            file = str(self.folder / "tokenizer.json")
            return get_cached_tokenizer(PreTrainedTokenizerFast(tokenizer_file=file, eos_token=END))
        mode, _ = _RENDERERS.get(self.family.architecture, ("hf", HfRenderer))
        return get_tokenizer(str(self.folder), tokenizer_mode=mode)

    @property
    def is_harmony(self) -> bool:
        return self.family.kind == "gpt_oss"

    @property
    def is_mistral(self) -> bool:
        return self.family.name in _TEKKEN

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.model, self._renderer(), Pool(), InputLimits())

    def _renderer(self) -> Any:
        if self.is_harmony:
            return SimpleNamespace(get_tokenizer=lambda: self.tokenizer)
        made: Any = MistralRenderer if self.is_mistral else None
        made = made or _RENDERERS.get(self.family.architecture, ("hf", HfRenderer))[1]
        config = renderer_config(**of_folder(self.folder, self.family.kind))
        return made(config, self.tokenizer)

    async def prompt(self, *messages: Message, think: Think = None, tools: bool = False) -> Prompt:
        chat = ChatPrompt(messages or (Message.of("user", "Weather in Paris?"),), (TOOL,) if tools else ())
        return await self.prompts.render(chat, think=think, continue_last=False)

    def run(self, *, think: Think, tools: bool, **more: Any) -> Run:
        return Run(
            Sampling(), max_tokens=1, think=think, chat=ChatPrompt((), (TOOL,) if tools else ()), **more
        )

    def parser(self, prompt: Prompt, run: Run) -> Any:
        facts = self.model.facts
        parsers = Parsers(
            self.tokenizer,
            None,
            facts.tool_parser if self.model.can("tools") else None,
            facts.reasoning_parser if self.model.can("thinking") else None,
        )
        kwargs = thinking_kwargs(facts.thinking_variable, run.think, facts.thinking)
        return parser_for(parsers, run, prompt, kwargs)

    def answer(self, reply: str, prompt: Prompt, run: Run) -> Answer:
        parser = self.parser(prompt, run)
        skip = parser is None or parser.skip_special_tokens
        decoder: Any = decoder_of(parser)
        return read(decoder, self._deltas(reply, skip=skip))

    def _deltas(self, reply: str, *, skip: bool) -> list[Delta]:
        if self.is_harmony:
            ids = self.tokenizer.encoding.encode(reply, allowed_special="all")
            deltas = [Delta("", [each]) for each in ids]
        elif self.is_mistral:
            deltas = self._of_mistral(reply)
        else:
            stream = DecodeStream(skip_special_tokens=skip)
            inner = self.tokenizer.backend_tokenizer
            ids = self.tokenizer.encode(reply + END, add_special_tokens=False)
            deltas = [Delta(stream.step(inner, each) or "", [each]) for each in ids]
            deltas[-1].text = ""
        deltas[-1].finish = "stop"
        return deltas

    def _of_mistral(self, reply: str) -> list[Delta]:
        special = self.tokenizer.all_special_tokens
        pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", reply)
        deltas = list[Delta]()
        for piece in filter(None, pieces):
            if piece in special:
                deltas.append(Delta(piece, [self.tokenizer.get_vocab()[piece]]))
            else:
                ids = self.tokenizer.encode(piece, add_special_tokens=False)
                deltas += [Delta(piece if at == 0 else "", [each]) for at, each in enumerate(ids)]
        return deltas


@cache
def tokenizer_json(tokens: tuple[str, ...], pieces: tuple[str, ...]) -> dict[str, Any]:
    """The tokenizer of single bytes, of `pieces` and of `tokens`."""
    alphabet = dict.fromkeys((*sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces))
    made = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    for token in (*tokens, END):
        special = _PLAIN.fullmatch(token) is None
        added = AddedToken(token, special=special, normalized=False)
        (made.add_special_tokens if special else made.add_tokens)([added])
    return json.loads(made.to_str())


def make_site(family: Family, path: Path) -> Site:
    template = jinja(family.turns, family.example, family.reasoning) if family.turns else ""
    config = {
        "architectures": [family.architecture],
        "model_type": family.kind,
        "max_position_embeddings": 8192,
        "hidden_size": 1920,
        **({"vision_config": {"hidden_size": 1920}} if family.vision else {}),
        **family.config,
    }
    files: dict[str, Any] = {
        "tokenizer.json": tokenizer_json(family.tokens, family.pieces),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END},
    }
    if family.embeds:
        files |= {"modules.json": [{"type": "sentence_transformers.models.Transformer"}]}
    make_folder(path, config, template=template, files=files)
    if family.name in _TEKKEN:
        _with_tekken(family, path)
    return Site(family, path)


def _with_tekken(family: Family, path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    spec = find_spec("mistral_common")
    assert spec is not None
    assert spec.origin is not None
    real = Path(spec.origin).parent / "data" / _TEKKEN[family.name]
    if family.reasoning is None:
        shutil.copy(real, path / "tekken.json")
        return
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    made = json.loads(real.read_text())
    made["config"]["version"] = "v13"
    named = [dict(each) for each in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    named += [
        {"rank": len(named) + at, "token_str": text, "is_control": True}
        for at, text in enumerate(("[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"))
    ]
    made["special_tokens"] = named
    (path / "tekken.json").write_text(json.dumps(made))
