"""Folders that configuration does not own: what they may name, and which tokenizers they may bring."""

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import foreign
from app.catalogue.stored import StoredModels
from app.catalogue.templates import variables
from app.core.errors import BadManifest, InvalidRequest, LoadFailed
from app.core.model import Model, ModelName
from app.engine.vllm.process.offline import in_context, offline
from app.prompt.jinja import is_jinja
from app.store import manifest as media
from app.store.config import Serving
from app.store.manifest import Layer, Manifest
from app.store.store import Store
from harness.fake_model import fake_model
from tests.unit.catalogue_folders import LLAMA, make_folder, tokenizer
from tests.unit.garage import model

SPECULATORS = {"verifier": {"name_or_path": "org/other"}}
FRAME = {"type": "TemplateProcessing", "special_tokens": {"x": {"id": "x", "ids": [1] * 64}}}
BOMB = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"config.json": {**LLAMA, "speculators_config": SPECULATORS}}, "speculators_config names another"),
        ({"params.json": {"speculators_config": SPECULATORS}}, "speculators_config names another"),
        ({"config.json": {**LLAMA, "text_model_id": "org/other"}}, "text_model_id names another"),
        ({"config.json": {**LLAMA, "a": [{"audio_model_id": "/m"}]}}, "audio_model_id names another"),
        ({"config.json": {**LLAMA, "tower": "/models/other"}}, "tower names a file outside"),
        ({"config.json": {**LLAMA, "towers": ["x/../../other"]}}, "towers names a file outside"),
        ({"adapter_config.json": {"base_model_name_or_path": "/models/other"}}, "adapter_config"),
        ({"modules.json": [{"path": "../other"}]}, "a folder outside"),
        ({"modules.json": [{"path": "/models/other"}]}, "a folder outside"),
    ],
)
def test_a_folder_names_no_other_model(tmp_path: Path, files: dict[str, Any], reason: str) -> None:
    """M21."""
    foreign.check(make_folder(tmp_path / "plain"))
    with pytest.raises(BadManifest, match=reason):
        foreign.check(make_folder(tmp_path / "m", files=files))


def test_what_folders_tell_of_where_they_come_from_is_taken(tmp_path: Path) -> None:
    config = {
        **LLAMA,
        "_name_or_path": "/home/me/m",
        "text_model_id": None,
        "auto_map": {"AutoConfig": "a/b--c.D"},
    }
    foreign.check(
        make_folder(tmp_path / "m", config, files={"modules.json": [{"path": ""}, {"path": "1_Pooling"}]})
    )
    with pytest.raises(BadManifest, match="text_model_id"):
        foreign.check(make_folder(tmp_path / "other", config | {"text_model_id": "org/other"}))


def stored(tmp_path: Path, folder: Path, configured: Model, *more: tuple[str, bytes]) -> tuple[Any, Any]:
    store = Store(tmp_path / "models")

    def layer(kind: str, data: bytes, name: str = "") -> Layer:
        return Layer(kind, store.blobs.put(data), len(data), name=name)

    files = [layer(media.FILE, each.read_bytes(), each.name) for each in sorted(folder.iterdir())]
    derived = layer(media.SERVING, Serving(base=str(configured.name)).encode())
    store.manifests.write(ModelName("files"), Manifest(None, tuple(files)))
    store.manifests.write(ModelName("same"), Manifest(None, (derived,)))
    own = layer(media.CHAT_TEMPLATE, b"{% if messages %}x{% endif %}")
    store.manifests.write(ModelName("own"), Manifest(None, (derived, own)))
    reading = StoredModels(store, tmp_path / "cache").read({configured.name.canonical.lower(): configured})
    return {each.name.model: each for each in reading.models}, reading.skipped


def test_models_of_the_store_are_known_for_what_is_foreign_in_them(tmp_path: Path) -> None:
    base = fake_model("base", "completion")
    models, _ = stored(tmp_path, make_folder(tmp_path / "folder"), base)
    found = {name: (each.foreign_files, each.foreign_template) for name, each in models.items()}
    assert found == {"files": (True, True), "same": (False, False), "own": (False, True)}
    assert not base.foreign_files
    assert models["files"].on_engine().foreign_files


def test_a_model_whose_files_name_another_is_not_served(tmp_path: Path) -> None:
    """M21."""
    folder = make_folder(tmp_path / "folder", {**LLAMA, "speculators_config": SPECULATORS})
    models, skipped = stored(tmp_path, folder, fake_model("base", "completion"))
    assert "files" not in models
    assert "names another model" in skipped["files:latest"]


@pytest.mark.filterwarnings("ignore")
def test_vllm_loads_the_model_that_was_asked_for(tmp_path: Path) -> None:
    """M21: whatever led it to another, that is refused before weights are read; configuration may do so."""
    from app.engine.vllm.config import EngineDefaults, check_own, engine_args, engine_config

    other = make_folder(tmp_path / "other")
    config = {
        **LLAMA,
        "speculators_model_type": "eagle3",
        "transformer_layer_config": {**LLAMA, "num_hidden_layers": 1},
        "draft_vocab_size": 6,
        "speculators_config": {
            "algorithm": "eagle3",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 1}],
            "verifier": {"name_or_path": str(other)},
        },
    }
    before = dict(os.environ)
    try:
        for foreign_files, folder in (
            (True, other),
            (False, make_folder(tmp_path / "m", config)),
            (True, tmp_path / "m"),
        ):
            known = model("m")
            facts = replace(known.facts, path=folder, format="safetensors")
            asked = replace(known, facts=facts, foreign_files=foreign_files)
            made, _ = engine_config(engine_args(asked, EngineDefaults()))
            if made.model_config.model == str(folder) or not foreign_files:
                check_own(asked, made)
                continue
            with pytest.raises(LoadFailed, match="its files name another model"):
                check_own(asked, made)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert made.model_config.model == str(other), "else vLLM does not follow such files any more"


def test_the_load_of_a_foreign_model_asks_the_hub_for_nothing() -> None:
    """M21: it asked for what the files named, past the address guard and the list of registries."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    def ask() -> None:
        huggingface_hub.HfApi(endpoint="http://127.0.0.1:9").model_info("org/name", timeout=1)

    with offline(on=True), pytest.raises(OfflineModeIsEnabled):
        ask()
    with offline(on=False), pytest.raises(Exception, match=r"^(?!.*offline mode)") as failed:
        ask()
    assert not isinstance(failed.value, OfflineModeIsEnabled)
    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    told: list[Any] = []

    def work(**arguments: Any) -> None:
        told.append((constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"], arguments))

    try:
        with offline(on=True):
            target = in_context(work)
        target(a=1)
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.pop("HF_HUB_OFFLINE", None)
        if variable is not None:
            os.environ["HF_HUB_OFFLINE"] = variable
    assert told == [(True, "1", {"a": 1})]
    with offline(on=False):
        assert in_context(work) is work


# Tokenizers


def with_parts(path: Path, **parts: Any) -> Path:
    return make_folder(path, files={"tokenizer.json": {**tokenizer(()), **parts}})


def charsmap(*texts: bytes) -> dict[str, Any]:
    table = (4).to_bytes(4, "little") + bytes(4) + b"\0".join(texts) + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": None},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "\u2581"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                ],
            },
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        },
        {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{L}+"}}},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "NFKD"},
                    {"type": "Lowercase"},
                    charsmap(b"x" * 33),
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                ],
            }
        },
        {"post_processor": {"type": "TemplateProcessing", "single": []}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]"}}, {"Sequence": {"id": "A"}}],
                "pair": [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}},
            }
        },
        {"added_tokens": [{"id": 2, "content": " " * 1024}]},
    ],
    ids=["none", "Llama", "Qwen", "SentencePiece", "post", "frame", "spaces"],
)
def test_the_usual_tokenizers_are_taken(tmp_path: Path, parts: dict[str, Any]) -> None:
    foreign.check(with_parts(tmp_path / "m", **parts))
    with pytest.raises(BadManifest, match="'Own' is not taken"):
        foreign.check(with_parts(tmp_path / "own", **parts | {"decoder": {"type": "Own"}}))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [BOMB] * 9}}, "64 times as long"),
        ({"normalizer": {**BOMB, "content": "a" * 65}}, "64 times as long"),
        ({"normalizer": {**BOMB, "pattern": {"Regex": ""}, "content": "a" * 64}}, "64 times as long"),
        ({"normalizer": {**BOMB, "pattern": {"Regex": "\\p{L}*"}, "content": "a" * 64}}, "64 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 64}}, "64 times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 33}}, "more than 32 steps"),
        ({"normalizer": charsmap(b"a" * 65)}, "a text that none is written as"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "cannot be read"),
        ({"normalizer": {"type": "Own"}}, "of the kind 'Own' is not taken"),
        ({"normalizer": ["Own"]}, "none that is known"),
        ({"pre_tokenizer": {"type": "Own"}}, "of the kind 'Own' is not taken"),
        ({"decoder": {"type": "Sequence", "decoders": [BOMB] * 9}}, "64 times as long"),
        ({"post_processor": {"type": "Own"}}, "of the kind 'Own' is not taken"),
        ({"post_processor": {**FRAME, "single": [{"Sequence": {"id": "A"}}] * 65}}, "64 times as long"),
        ({"post_processor": {**FRAME, "single": "$A " * 65}}, "none that is known"),
        ({"post_processor": {**FRAME, "single": [{"SpecialToken": {"id": "x"}}] * 20}}, "1024 tokens around"),
        ({"decoder": {**BOMB, "pattern": {"Regex": "(a|a)+b"}, "content": ""}}, "regular expression"),
        ({"added_tokens": [{"id": 2, "content": "a"}] * 131_073}, "131072 added tokens"),
        ({"added_tokens": [{"id": 2, "content": "a" * 16_385}]}, "16384 bytes of text"),
        ({"model": {"type": "BPE", "vocab": {"a" * 16_385: 0}, "merges": []}}, "16384 bytes of text"),
        ({"model": {"type": "Unigram", "vocab": [["a" * 16_385, 0.0]]}}, "16384 bytes of text"),
        ({"added_tokens": [{"id": 2, "content": "a" * 4096}], "decoder": BOMB}, "16384 bytes of text"),
    ],
)
def test_a_tokenizer_lets_no_text_grow_without_end(
    tmp_path: Path, parts: dict[str, Any], reason: str
) -> None:
    """M23: nine steps of `a` to `aaaaaaaaaa` made six gigabytes of a chat of three letters."""
    with pytest.raises(BadManifest, match=reason):
        foreign.check(with_parts(tmp_path, **parts))


# Templates, read without being run


ENDLESS = "9**(9**9)"


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (f"{{{{ {ENDLESS} }}}}", set[str]()),
        (f"{{% if {ENDLESS} %}}{{{{ tools }}}}{{% endif %}}", {"tools"}),
        ("{% set a = 'a' * (10**10) %}{{ thinking|center(10**10) }}", {"thinking"}),
        (f"{{% autoescape {ENDLESS} %}}{{{{ tools }}}}{{% endautoescape %}}", {"tools"}),
    ],
)
def test_nothing_of_a_template_is_worked_out_to_know_its_variables(template: str, names: set[str]) -> None:
    """M22: a number of a hundred million digits held the process while a model was made."""
    assert variables(template) == names


def test_what_would_be_worked_out_while_it_compiles_is_refused() -> None:
    """M22."""
    with pytest.raises(InvalidRequest, match="autoescape is not for prompts"):
        is_jinja(f"{{% autoescape {ENDLESS} %}}{{{{ tools }}}}{{% endautoescape %}}")
