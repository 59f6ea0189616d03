"""A model's folder: its JSON files, its chat templates, and which of its files make the model."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.catalogue.templates import MOST_CHARS as MOST_TEMPLATE_CHARS
from app.core.errors import LoadFailed

MOST_JSON_BYTES = 64 << 20
MOST_JSON_VALUES = 6_000_000
"""Of one file: the largest vocabularies have a quarter of a million tokens and twice the merges, in 35 MB."""

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
TORCH_SUFFIXES = frozenset({".bin", ".pt", ".pth"})
OTHER_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"})
MISTRAL_CONFIG = "params.json"
"""What Mistral's own format has in place of `config.json`."""

MISTRAL_LENGTH = 128_000
"""What vLLM takes where `params.json` names no length of context."""

MISTRAL_PIECES = "tokenizer.model.v"
"""How the name of a sentencepiece tokenizer of Mistral's begins; its version is the rest."""

OTHER_EXPORTS = frozenset({"onnx", "openvino", "original", "metal", "gguf"})


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What the small files of a folder say.

    `text` is `config` with the keys of a nested text model laid over it. `template` is the chat template
    and `tool_template` the one used when there are tools, which is often the same.
    """

    path: Path
    config: Mapping[str, Any]
    text: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    template: str = ""
    tool_template: str = ""
    modules: tuple[Mapping[str, Any], ...] = ()
    sentence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pooling: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_mistral_format(self) -> bool:
        """Whether only Mistral's own files say what the model is."""
        return not (self.path / "config.json").is_file()

    @property
    def architecture(self) -> str:
        """The class that `config.json` names, `LlamaForCausalLM`."""
        names = self.config.get("architectures") or self.text.get("architectures") or [""]
        return str(names[0])


def open_folder(path: Path) -> ModelFolder:
    """Read the small files of a model's folder."""
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
    elif (path / MISTRAL_CONFIG).is_file():
        config = _from_mistral(read_json(path / MISTRAL_CONFIG))
    else:
        raise LoadFailed(f"{path} is not a model folder: it has no config.json")
    tokenizer_config = read_json(path / "tokenizer_config.json")
    templates = dict(_templates(path, tokenizer_config))
    if any(len(template) > MOST_TEMPLATE_CHARS for template in templates.values()):
        raise LoadFailed(f"a chat template has more than {MOST_TEMPLATE_CHARS} characters")
    plain = templates.get("default", "")
    return ModelFolder(
        path=path,
        config=config,
        text=_text_config(config),
        tokenizer_config=tokenizer_config,
        template=plain,
        tool_template=templates.get("tool_use", plain),
        modules=tuple(read_list(path / "modules.json")),
        sentence=read_json(path / "sentence_bert_config.json"),
        pooling=read_json(path / "1_Pooling" / "config.json"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    value = _read(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LoadFailed(f"{path} does not hold a JSON object")
    return value


def model_files(folder: Path) -> list[Path]:
    """The files that make the model, sorted by name: no caches, no other exports, no second copy."""
    found = [path for path in sorted(_walk(folder)) if not OTHER_EXPORTS & set(_parents(path, folder))]
    tensors = {path for path in found if path.suffix == ".safetensors"}
    if (folder / "model.safetensors.index.json").is_file() or (folder / "model.safetensors").is_file():
        tensors = {path for path in tensors if not path.name.startswith("consolidated")}
    weights = tensors or {path for path in found if path.suffix in TORCH_SUFFIXES}
    return [path for path in found if path in weights or _is_other(path)]


def _is_other(path: Path) -> bool:
    return path.suffix in OTHER_SUFFIXES or path.name.startswith(MISTRAL_PIECES)


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _parents(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts[:-1]


def _read(path: Path) -> Any:
    try:
        data = _content(path, MOST_JSON_BYTES)
    except FileNotFoundError:
        return None
    # Each value but the first follows one of these, and may take sixty bytes of memory for one of text.
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_JSON_VALUES:
        raise LoadFailed(f"{path} has more than {MOST_JSON_VALUES} values")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LoadFailed(f"{path} is not valid JSON: {error}") from error


def _content(path: Path, most_bytes: int) -> bytes:
    """A file's bytes.

    Raises:
        LoadFailed: where it has more than such a file needs: its sender chose how much.
    """
    with path.open("rb") as stream:
        data = stream.read(min(most_bytes, os.fstat(stream.fileno()).st_size) + 1)
    if len(data) > most_bytes:
        raise LoadFailed(f"{path} has more than {most_bytes} bytes")
    return data


def _template(path: Path) -> str:
    return _content(path, 4 * MOST_TEMPLATE_CHARS).decode("utf-8")


def read_list(path: Path) -> list[Mapping[str, Any]]:
    """The objects in a list of a JSON file; none where it holds no list, or is not there."""
    value = _read(path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for key in TEXT_CONFIGS:
        if isinstance(nested := config.get(key), dict):
            return merged | _text_config(nested)
    return merged


def _from_mistral(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params.json` with the keys of `config.json` that say what a model is; vLLM reads the rest itself."""
    config = dict(params)
    vision = config.get("vision_encoder") or (config.get("multimodal") or {}).get("vision_encoder_args")
    kind, name = "mistral", "MistralForCausalLM"
    if config.get("moe"):
        kind, name = "mixtral", "MixtralForCausalLM"
    if vision:
        kind, name = "pixtral", "PixtralForConditionalGeneration"
        config["vision_config"] = vision
    config.setdefault("max_position_embeddings", config.get("max_seq_len") or MISTRAL_LENGTH)
    return {**config, "model_type": kind, "architectures": [name]}


def _templates(path: Path, tokenizer_config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Named chat templates, from the weakest source to the strongest."""
    for source in (tokenizer_config, read_json(path / "chat_template.json")):
        given = source.get("chat_template")
        if isinstance(given, str):
            yield "default", given
        elif isinstance(given, list):
            yield from ((item["name"], item["template"]) for item in given)
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        yield file.stem, _template(file)
    if (main := path / "chat_template.jinja").is_file():
        yield "default", _template(main)
