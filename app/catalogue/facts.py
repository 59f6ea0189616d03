"""Everything that is known of a model from its own files, before any engine is started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.catalogue import architecture
from app.catalogue.dequantise import SIDECAR
from app.catalogue.digest import FileHashes, folder_digest, manifest_digest
from app.catalogue.folder import ModelFolder, model_files, open_folder, read_json
from app.catalogue.native import Native, native, without_native
from app.catalogue.parsers import REASONING_RULES, TOOL_RULES, Rule, choose
from app.catalogue.templates import go_field, thinking_variable, variables
from app.catalogue.thinking import thinking_levels
from app.catalogue.vocabulary import Vocabulary, read_vocabulary, tokenizer_info
from app.catalogue.weights import human_number, read_weights
from app.core.errors import LoadFailed
from app.core.model import Capability, ModelFacts, ModelSpec, TensorInfo, ThinkingLevels

THINK_MARKS = ("<think", "[THINK]", "<|channel", "<|START_THINKING|>", "<seed:think>")
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForRanking")


@dataclass(frozen=True, slots=True)
class _Content:
    """What the weights are: said by their own headers, or by the GGUF file that they were made from."""

    digest: str
    size_bytes: int
    format: str
    family: str
    parameter_count: int
    quantization: str
    info: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class _Abilities:
    capabilities: tuple[Capability, ...]
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    thinking_variable: str | None = None
    thinking: ThinkingLevels | None = None
    fim: tuple[str, str, str] | None = None
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_facts(
    path: Path,
    spec: ModelSpec,
    hashes: FileHashes,
    progress: Callable[[str, float], None] = lambda _phase, _fraction: None,
    *,
    known: ModelFacts | None = None,
) -> ModelFacts:
    """Read the files of a model's folder. `known` are facts of the same files for another `spec`: what the
    weights are is taken from there.
    """
    folder = open_folder(path)
    if folder.architecture.endswith(CLASSIFIERS):
        raise LoadFailed(f"{folder.architecture} is a classifier: it neither writes text nor embeds it")
    vocabulary = read_vocabulary(folder)
    content = known or _gguf_content(folder) or _folder_content(folder, vocabulary, hashes, progress)
    abilities = _abilities(folder, spec, vocabulary)
    families = (content.family, "clip") if "vision" in abilities.capabilities else (content.family,)
    modified = max(file.stat().st_mtime for file in model_files(path))
    return ModelFacts(
        path=path,
        digest=content.digest,
        size_bytes=content.size_bytes,
        modified_at=datetime.fromtimestamp(modified, UTC),
        format=content.format,
        family=content.family,
        families=families,
        parameter_count=content.parameter_count,
        parameter_size=human_number(content.parameter_count),
        quantization=content.quantization,
        context_length=architecture.context_length(folder),
        embedding_length=architecture.embedding_length(folder),
        capabilities=abilities.capabilities,
        chat_template=spec.chat_template or folder.template,
        tool_parser=abilities.tool_parser,
        reasoning_parser=abilities.reasoning_parser,
        thinking_variable=abilities.thinking_variable,
        thinking=abilities.thinking,
        fim=abilities.fim,
        engine=abilities.engine,
        info=content.info,
        tensors=content.tensors,
    )


def with_go_template(facts: ModelFacts, template: str) -> ModelFacts:
    """The same model seen through a Go template: it can do what both the template and the engine can."""
    if not template or "embedding" in facts.capabilities:
        return facts
    granted: dict[Capability, bool] = {
        "completion": True,
        "vision": "vision" in facts.capabilities,
        "tools": facts.tool_parser is not None and go_field(template, "Tools"),
        "insert": facts.fim is not None or go_field(template, "Suffix"),
        "thinking": facts.reasoning_parser is not None and _go_thinks(template),
    }
    return replace(facts, capabilities=_granted(granted), thinking=None)


def with_chat_template(facts: ModelFacts, template: str) -> ModelFacts:
    """The same model seen through another Jinja template, as `with_go_template`."""
    if not template or "embedding" in facts.capabilities:
        return facts
    thinks = facts.reasoning_parser is not None and _jinja_thinks(template)
    granted: dict[Capability, bool] = {
        "completion": True,
        "vision": "vision" in facts.capabilities,
        "tools": facts.tool_parser is not None and "tools" in variables(template),
        "insert": facts.fim is not None,
        "thinking": thinks,
    }
    return replace(
        facts,
        chat_template=template,
        capabilities=_granted(granted),
        thinking_variable=thinking_variable(template) if thinks else None,
        thinking=thinking_levels(template, facts.reasoning_parser if thinks else None),
    )


def _gguf_content(folder: ModelFolder) -> _Content | None:
    """What a GGUF file said of itself, where the folder was made from one."""
    file = read_json(folder.path / SIDECAR)
    if not file:
        return None
    count = int(file["parameter_count"])
    return _Content(
        digest=manifest_digest([("model.gguf", file["sha256"], file["size_bytes"])]),
        size_bytes=file["size_bytes"],
        format="gguf",
        family=file["architecture"],
        parameter_count=count,
        quantization=file["file_type"],
        info=file["info"] | {"general.parameter_count": count},
        tensors=tuple(TensorInfo(name, kind, tuple(shape)) for name, kind, shape in file["tensors"]),
    )


def _folder_content(
    folder: ModelFolder, vocabulary: Vocabulary, hashes: FileHashes, progress: Callable[[str, float], None]
) -> _Content:
    weights = read_weights(folder)
    files = model_files(folder.path)
    size, done = sum(file.stat().st_size for file in files), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress("hashing", done / size)

    return _Content(
        digest=folder_digest(folder.path, files, hashes, step),
        size_bytes=size,
        format="safetensors" if weights.tensors else "pytorch",
        family=architecture.family(folder),
        parameter_count=weights.parameter_count,
        quantization=weights.quantization,
        info=architecture.info(folder, weights.parameter_count) | tokenizer_info(folder, vocabulary),
        tensors=weights.tensors,
    )


def _abilities(folder: ModelFolder, spec: ModelSpec, vocabulary: Vocabulary) -> _Abilities:
    if architecture.is_embedder(folder):
        return _Abilities(("embedding",))
    if not spec.template and (written := native(folder, spec.engine, spec.chat_template)) is not None:
        return _native_abilities(written, folder, spec, vocabulary)
    template = spec.chat_template or folder.tool_template
    tool_parser = _parser(TOOL_RULES, spec.tool_parser, spec, folder, vocabulary)
    if not _takes_tools(template, spec):
        tool_parser = None
    reasoning_parser = _parser(REASONING_RULES, spec.reasoning_parser, spec, folder, vocabulary)
    if not (spec.reasoning_parser or _thinks(template, spec)):
        reasoning_parser = None
    granted: dict[Capability, bool] = {
        "completion": True,
        "vision": architecture.sees_images(folder),
        "tools": tool_parser is not None,
        "insert": vocabulary.fim is not None or go_field(spec.template, "Suffix"),
        "thinking": reasoning_parser is not None,
    }
    switch = thinking_variable(template) if reasoning_parser and template else None
    # Of a Go template nothing is known.
    levels = None if spec.template else thinking_levels(template, reasoning_parser)
    return _Abilities(
        _granted(granted),
        tool_parser,
        reasoning_parser,
        switch,
        levels,
        vocabulary.fim,
        without_native(folder),
    )


def _native_abilities(
    written: Native, folder: ModelFolder, spec: ModelSpec, vocabulary: Vocabulary
) -> _Abilities:
    """What a model can do whose prompts are written by code; the operator's parsers come first."""
    tools = choose((), spec.tool_parser, "") if spec.tool_parser else written.tool_parser
    reasoning = choose((), spec.reasoning_parser, "") if spec.reasoning_parser else written.reasoning_parser
    granted: dict[Capability, bool] = {
        "completion": True,
        "vision": architecture.sees_images(folder),
        "tools": tools is not None,
        "insert": vocabulary.fim is not None,
        "thinking": reasoning is not None,
    }
    return _Abilities(
        _granted(granted),
        tools,
        reasoning,
        written.variable if reasoning else None,
        written.thinking if reasoning else None,
        vocabulary.fim,
        written.engine or {},
    )


def _parser(
    rules: tuple[Rule, ...], asked: str | None, spec: ModelSpec, folder: ModelFolder, vocabulary: Vocabulary
) -> str | None:
    """Chosen by the chat template, or else by the Go template."""
    texts = (spec.chat_template or folder.tool_template, spec.template)
    types = architecture.model_types(folder)
    found = (choose(rules, asked, text, types, vocabulary.ids) for text in texts)
    return next((parser for parser in found if parser), None)


def _takes_tools(template: str, spec: ModelSpec) -> bool:
    if spec.template:
        return go_field(spec.template, "Tools")
    return "tools" in variables(template) if template else spec.tool_parser is not None


def _thinks(template: str, spec: ModelSpec) -> bool:
    if spec.template:
        return _go_thinks(spec.template)
    return _jinja_thinks(template)


def _jinja_thinks(template: str) -> bool:
    return thinking_variable(template) is not None or any(mark in template for mark in THINK_MARKS)


def _go_thinks(template: str) -> bool:
    return go_field(template, "Think") or go_field(template, "Thinking")


def _granted(granted: Mapping[Capability, bool]) -> tuple[Capability, ...]:
    return tuple(capability for capability, given in granted.items() if given)
