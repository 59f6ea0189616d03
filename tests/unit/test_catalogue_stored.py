"""From manifests of a store to models, without a server."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.library import Library, key_of
from app.catalogue.stored import StoredModels, read_messages, read_params
from app.core.errors import BadManifest, Forbidden, LoadFailed
from app.core.model import ENGINE_FIELDS, Model, ModelName
from app.registry.policy import Policy
from app.runtime.transfers import policy_of
from app.store import manifest as media
from app.store.config import Serving
from app.store.manifest import Layer, Manifest
from app.store.store import Store
from harness.fake_model import fake_model
from tests.api.managed import gguf
from tests.unit.catalogue_folders import QWEN, QWEN_TOKENS, make_folder

BASE = fake_model("base", "completion")
CONFIGURED = {key_of(BASE.name): BASE}


class Place:
    def __init__(self, root: Path) -> None:
        self.store = Store(root / "models")
        self.stored = StoredModels(self.store, root / "cache")

    def layer(self, kind: str, data: bytes, **more: str) -> Layer:
        return Layer(kind, self.store.blobs.put(data), len(data), **more)

    def put(self, name: str, *layers: Layer) -> None:
        self.store.manifests.write(ModelName(name), Manifest(None, layers))

    def read(self) -> dict[str, Model]:
        return {model.name.model: model for model in self.stored.read(CONFIGURED).models}

    def skipped(self) -> dict[str, str]:
        return dict(self.stored.read(CONFIGURED).skipped)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("data", "capabilities", "context"),
    [
        (gguf(), ("completion",), 2048),
        (gguf(template=QWEN), ("completion", "tools", "thinking"), 2048),
        (gguf(architecture="bert"), ("embedding",), 2048),
    ],
)
def test_the_header_tells_what_a_model_can_do(
    place: Place, data: bytes, capabilities: tuple[str, ...], context: int
) -> None:
    place.put("m", place.layer(media.MODEL, data))
    model = place.read()["m"]
    assert model.facts.capabilities == capabilities
    assert model.facts.context_length == context
    assert (model.facts.format, model.facts.quantization) == ("gguf", "F32")
    assert place.stored.is_lacking(model)


def test_models_on_the_same_weights_share_an_engine(place: Place) -> None:
    weights = place.layer(media.MODEL, gguf())
    place.put("one", weights)
    place.put("two", weights, place.layer(media.TEMPLATE, b"{{ .Prompt }}"), place.layer(media.SYSTEM, b"Hi"))
    place.put("other", place.layer(media.MODEL, gguf(1)))
    place.put("long", weights, place.layer(media.SERVING, Serving(engine={"max_model_len": 9}).encode()))
    keys = {name: model.engine_key for name, model in place.read().items()}
    assert keys["one"] == keys["two"]
    assert len({keys["one"], keys["other"], keys["long"]}) == 3


def test_a_folder_of_blobs_is_one_of_links(place: Place, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", template=QWEN, tokens=QWEN_TOKENS)
    files = [place.layer(media.FILE, file.read_bytes(), name=file.name) for file in sorted(folder.iterdir())]
    place.put("m", *files)
    model = place.read()["m"]
    assert model.facts.format == "safetensors"
    assert model.can("tools")
    found = {file.name: file.read_bytes() for file in model.facts.path.iterdir()}
    assert found == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert not place.stored.is_lacking(model)
    assert place.read()["m"] is model, "what did not change is not read again"


def test_a_model_on_a_configured_one(place: Place) -> None:
    serving = place.layer(media.SERVING, Serving(base="base").encode(), origin="poet:latest")
    place.put("m", serving, place.layer(media.PARAMS, b'{"seed":7}'))
    model = place.read()["m"]
    assert model.engine_key == BASE.engine_key
    assert model.parent == "poet:latest"
    assert model.sampling == {"seed": 7}
    assert model.facts.digest != BASE.facts.digest
    assert len(model.facts.digest) == 64


def test_a_model_on_a_configured_one_loads_its_engine_as_that_one_would(place: Place) -> None:
    own = {"engine": {"dtype": "float32"}, "chat_template": "{{ tools }}", "tool_parser": "hermes"}
    base = replace(BASE, spec=replace(BASE.spec, **own, reasoning_parser="none"))
    place.put("m", place.layer(media.SERVING, Serving(base="base").encode()))
    [model] = place.stored.read({key_of(base.name): base}).models
    assert all(getattr(model.spec, field) == getattr(base.spec, field) for field in ENGINE_FIELDS)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "it has no weights"),
        ([(media.ADAPTER, b"x", "")], "adapters are not served"),
        ([(media.TENSOR, b"x", "a")], "weights in a blob for each tensor"),
        ([(media.MODEL, b"GGUF", "")], ""),
        ([(media.FILE, b"x", "pytorch_model.bin")], "pickled weights are not served"),
        ([(media.FILE, b"{}", "config.json")], ""),
        ([(media.FILE, b"{", "config.json"), (media.FILE, b"x", "model.safetensors")], ""),
        ([(media.SERVING, Serving(base="nosuch").encode(), "")], "it is made from nosuch, which is not"),
        ([(media.SERVING, Serving(base="m").encode(), "")], "it is made from m, which is not"),
        ([(media.SERVING, b'{"later":"x"}', "")], "the serving layer has keys"),
        ([(media.SERVING, b"[", "")], "the serving layer is not JSON"),
        ([(media.MODEL, gguf(), ""), (media.PARAMS, b"[]", "")], "the parameters are not an object"),
        ([(media.MODEL, gguf(), ""), (media.MESSAGES, b"{}", "")], "the messages are not a list"),
    ],
)
def test_what_cannot_be_served_is_skipped_and_told(
    place: Place, layers: list[tuple[str, bytes, str]], reason: str
) -> None:
    place.put("good", place.layer(media.MODEL, gguf()))
    place.put("m", *(place.layer(kind, data, name=name) for kind, data, name in layers))
    assert list(place.read()) == ["good"]
    (place_of, told), *others = place.skipped().items()
    assert (place_of, others) == ("m:latest", [])
    assert told
    assert reason in told
    assert str(place.store.root.parent) not in told


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_parameters_that_are_none(text: str) -> None:
    with pytest.raises(BadManifest):
        read_params(text)


def test_messages_are_pairs() -> None:
    text = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant"}])
    assert read_messages(text) == (("user", "Hi"), ("assistant", ""))
    with pytest.raises(BadManifest):
        read_messages('["x"]')


@pytest.mark.parametrize(
    ("entries", "name", "allowed"),
    [
        (["hf.co"], ("Qwen", "hf.co"), True),
        (["hf.co/Qwen"], ("qwen", "HF.CO"), True),
        (["hf.co/Qwen"], ("other", "hf.co"), False),
        (["hf.co/Qwen", "registry.ollama.ai"], ("library", "registry.ollama.ai"), True),
        (["hf.co"], ("library", "registry.ollama.ai"), False),
        ([], ("library", "registry.ollama.ai"), False),
    ],
)
def test_entries_name_hosts_and_their_organisations(
    entries: list[str], name: tuple[str, str], allowed: bool
) -> None:
    policy: Policy = policy_of(entries, enabled=True, insecure=False, quota_bytes=0)
    wanted: Any = ModelName("m", "latest", *name)
    if allowed:
        policy.check_pull(wanted)
    else:
        with pytest.raises(Forbidden):
            policy.check_pull(wanted)


async def test_weights_are_converted_when_they_are_first_needed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def convert(blob: Path, cache: Path, _progress: object, *, digest: str) -> Path:
        made.append(blob.name)
        sidecar = {"architecture": "llama", "file_type": "F32", "parameter_count": 8, "info": {}}
        sidecar |= {"tensors": [], "sha256": digest, "size_bytes": blob.stat().st_size}
        return make_folder(
            cache / "gguf" / digest, template=QWEN, tokens=QWEN_TOKENS, files={"gguf.json": sidecar}
        )

    monkeypatch.setattr("app.catalogue.gguf.convert", convert)
    place.put("m", place.layer(media.MODEL, gguf(template=QWEN)))
    place.put("n", *place.store.manifests.list().models[0].manifest.layers, place.layer(media.SYSTEM, b"Hi"))
    library = Library([])
    library.open(place.stored)
    await library.reload()
    before = library.find("n")
    ready = await library.materialized(before)
    assert ready.engine_key == before.engine_key
    assert ready.facts.path.is_dir()
    assert not place.stored.is_lacking(library.find("n"))
    assert await library.materialized(library.find("m")) is library.find("m")
    assert len(made) == 1


async def test_a_model_that_went_while_it_was_converted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.catalogue.gguf.convert", lambda *_, **__: place.store.delete(ModelName("m")))
    place.put("m", place.layer(media.MODEL, gguf()))
    library = Library([])
    library.open(place.stored)
    await library.reload()
    with pytest.raises(LoadFailed, match="the model m:latest has been deleted"):
        await library.materialized(library.find("m"))


async def test_a_configured_model_hides_one_of_the_store(place: Place) -> None:
    place.put("Base", place.layer(media.MODEL, gguf()))
    place.put("new", place.layer(media.MODEL, gguf()))
    heard: list[list[str]] = []
    library = Library([BASE])
    library.open(place.stored)
    library.on_new = lambda names: heard.append(list(names))
    for _ in range(2):
        await library.reload()
    assert library.find("base") is BASE
    assert [str(model.name) for model in library.all()] == ["base:latest", "new:latest"]
    assert heard == [["new:latest"]]
    with pytest.raises(Forbidden, match="comes from the configuration"):
        library.check_changeable(ModelName("BASE"))
