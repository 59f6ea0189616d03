"""From manifests of a store to models, without a server."""

import asyncio
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import conversion
from app.catalogue.layers import read_messages, read_params
from app.catalogue.library import Library, key_of
from app.catalogue.stored import Reading, StoredModels
from app.core.errors import BadManifest, Draining, Forbidden, LoadFailed
from app.core.model import ENGINE_FIELDS, Model, ModelName
from app.core.request import Message
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


SWITCHED = "{% if tools %}{{ tools }}{% endif %}{% if thinking %}<think>{% endif %}{{ messages }}"


def test_models_that_differ_in_a_jinja_template_share_an_engine(place: Place) -> None:
    weights = place.layer(media.MODEL, gguf(template=QWEN))
    templates = {"bare": b"{% if messages %}x{% endif %}", "other": SWITCHED.encode()}
    place.put("base", weights)
    for name, template in templates.items():
        place.put(name, weights, place.layer(media.CHAT_TEMPLATE, template))
    place.put("go", weights, place.layer(media.TEMPLATE, b"{{ .Prompt }}"))
    models = place.read()
    assert len({model.engine_key for model in models.values()}) == 1
    assert models["bare"].facts.capabilities == models["go"].facts.capabilities == ("completion",)
    assert models["other"].facts.capabilities == ("completion", "tools", "thinking")
    assert models["other"].facts.thinking_variable == "thinking"
    assert models["other"].facts.chat_template == models["other"].spec.chat_template == SWITCHED
    for model in models.values():
        loaded = model.on_engine()
        assert loaded.facts.capabilities == models["base"].facts.capabilities, "whichever is loaded first"
        assert loaded.name == model.name


def test_a_model_on_a_configured_one_has_its_templates_or_its_own(place: Place, tmp_path: Path) -> None:
    base = fake_model("base", "completion", "tools")
    facts = replace(base.facts, tool_parser="hermes")
    layer = place.layer(media.SERVING, Serving(base="base").encode())
    place.put("same", layer)
    place.put("go", layer, place.layer(media.TEMPLATE, b"{{ .Prompt }}"))
    place.put("jinja", layer, place.layer(media.CHAT_TEMPLATE, SWITCHED.encode()))
    for template, chat_template in (("{{ .Tools }}", ""), ("", QWEN)):
        spec = replace(base.spec, template=template, chat_template=chat_template)
        under = {key_of(base.name): replace(base, spec=spec, facts=facts)}
        found = {model.name.model: model for model in StoredModels(place.store, tmp_path).read(under).models}
        specs = {name: (model.spec.template, model.spec.chat_template) for name, model in found.items()}
        assert specs == {
            "same": (template, chat_template),
            "go": ("{{ .Prompt }}", ""),
            "jinja": ("", SWITCHED),
        }
        assert {name for name, model in found.items() if model.can("tools")} == {"same", "jinja"}
        assert all(model.on_engine().can("tools") for model in found.values())


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


def test_links_that_no_model_has_go_when_they_are_old(place: Place, tmp_path: Path) -> None:
    """Each create of other names makes some, be it refused or not, and its blobs may stay for another."""
    folder = make_folder(tmp_path / "folder")
    files = [place.layer(media.FILE, file.read_bytes(), name=file.name) for file in sorted(folder.iterdir())]
    place.put("m", *files)
    kept = place.read()["m"].facts.path
    more = replace(files[0], name="again.json")
    old, young = (
        place.stored.tried(ModelName("n"), Manifest(None, (*files, *others)), CONFIGURED).facts.path
        for others in ([more], [more, replace(more, name="and.json")])
    )
    for each in (kept, old):
        os.utime(each, (0, 0))
    place.stored.prune()
    assert [each.is_dir() for each in (kept, old, young)] == [True, False, True]


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
        ([(media.ADAPTER, b"x", "")], "its adapter is in GGUF"),
        ([(media.MODEL, gguf(), ""), (media.ADAPTER_FILE, b"{}", "adapter_config.json")], "an adapter has"),
        (
            [
                (media.MODEL, gguf(), ""),
                (media.ADAPTER_FILE, b"{}", "adapter_config.json"),
                (media.ADAPTER_FILE, b"x", "adapter_model.safetensors"),
            ],
            "the adapter is not served",
        ),
        ([(media.TENSOR, b"x", "a")], "its weights are in a blob for each tensor"),
        ([(media.MODEL, b"GGUF", "")], ""),
        ([(media.FILE, b"x", "pytorch_model.bin")], "pickled weights are not served"),
        ([(media.FILE, b"{}", "config.json")], ""),
        ([(media.FILE, b"{", "config.json"), (media.FILE, b"x", "model.safetensors")], ""),
        ([(media.SERVING, Serving(base="nosuch").encode(), "")], "it is made from nosuch, which is not"),
        ([(media.SERVING, Serving(base="m").encode(), "")], "it is made from m, which is not"),
        *(
            ([(media.SERVING, Serving(engine=engine).encode(), "")], "engine argument")
            for engine in (
                *(
                    {"trust_remote_code": True},
                    {"model": "/etc"},
                    {"tokenizer": "org/name"},
                    {"worker_cls": "a.B"},
                ),
                *({"logits_processors": ["a:B"]}, {"load_format": "pt"}, {"load_format": ["auto"]}),
                *({"max_model_len": -1}, {"max_model_len": True}, {"MODEL": "x"}, {"hf_overrides": {}}),
            )
        ),
        ([(media.SERVING, Serving("org/name", "../../x").encode(), "")], "names no commit"),
        ([(media.SERVING, Serving("../../etc", "main").encode(), "")], "is not in this machine's cache"),
        ([(media.SERVING, b'{"later":"x"}', "")], "the serving layer has keys"),
        ([(media.SERVING, b"[", "")], "the serving layer is not JSON"),
        ([(media.MODEL, gguf(architecture="x" * 65), "")], "its files name no architecture"),
        ([(media.MODEL, gguf(template="x" * 200_000), "")], "its chat template has more than"),
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


def test_messages_are_as_ollama_has_them() -> None:
    text = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant"}])
    assert read_messages(text) == (Message.of("user", "Hi"), Message.of("assistant"))
    for wrong in (
        {"content": 1},
        {"images": ["!"]},
        {"images": [1]},
        {"tool_calls": [1]},
        {"thinking": ["x"]},
    ):
        with pytest.raises(BadManifest, match="a message is not as Ollama has them"):
            read_messages(json.dumps([{"role": "user", **wrong}]))
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

    def convert(blob: Path, cache: Path, _progress: object, *, digest: str, **_more: object) -> Path:
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
    assert await library.materialized(library.find("m")) == library.find("m").on_engine()
    assert len(made) == 1


async def test_a_conversion_goes_on_when_its_client_leaves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release, runs = threading.Event(), threading.Event(), list[Path]()

    def run(blob: Path, part: Path, _progress: object, _allowed: object, stop: threading.Event) -> None:
        runs.append(blob)
        begun.set()
        while not release.wait(0.01):
            if stop.is_set():
                raise Draining
        sidecar = {
            "architecture": "llama",
            "file_type": "F32",
            "parameter_count": 8,
            "info": {},
            "tensors": [],
        }
        make_folder(part, template=QWEN, tokens=QWEN_TOKENS, files={"gguf.json": sidecar})

    monkeypatch.setattr(conversion, "run", run)
    place.put("m", place.layer(media.MODEL, gguf(template=QWEN)))
    library = Library([])
    library.open(place.stored)
    await library.reload()
    left = asyncio.create_task(library.materialized(library.find("m")))
    await asyncio.to_thread(begun.wait)
    left.cancel()
    await asyncio.wait({left})
    later = asyncio.create_task(library.materialized(library.find("m")))
    await asyncio.sleep(0.2)
    release.set()
    ready = await later
    assert not place.stored.is_lacking(ready)
    assert len(runs) == 1
    # At the end of the server nothing waits for a conversion.
    release.clear()
    place.put("n", place.layer(media.MODEL, gguf(2)))
    await library.reload()
    for last in [asyncio.create_task(library.materialized(library.find("n"))) for _ in range(2)]:
        library.close()
        with pytest.raises(Draining):
            await last
    assert not list(ready.facts.path.parent.glob("*.part"))


async def test_a_model_that_went_before_it_was_converted(place: Place) -> None:
    """Whoever waits for it is told, and not where this server has its store."""
    weights = place.layer(media.MODEL, gguf())
    place.put("m", weights)
    library = Library([])
    library.open(place.stored)
    await library.reload()
    model = library.find("m")
    place.store.blobs.remove(weights.digest)
    name = weights.digest.replace(":", "-")
    with pytest.raises(
        LoadFailed, match=f"^model 'm:latest': cannot read {name}: No such file or directory$"
    ):
        await library.materialized(model)


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


def test_what_was_skipped_is_looked_at_again_where_that_is_asked_for(place: Place) -> None:
    """On a shared volume a manifest may be seen before the blobs that it names."""
    layer = place.layer(media.MODEL, gguf())
    place.put("late", layer)
    blob = place.store.blobs.path(layer.digest)
    away = blob.with_name("away")
    blob.rename(away)
    assert "late" not in place.read()
    away.rename(blob)
    assert "late" not in place.read()
    assert [model.name.model for model in place.stored.read(CONFIGURED, again=True).models] == ["late"]
    assert "late" in place.read()


async def test_the_library_looks_again_by_itself_ever_less_often(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []
    read = place.stored.read

    def counted(configured: Mapping[str, Model], *, again: bool = False) -> Reading:
        looked.append(again)
        return read(configured, again=again)

    monkeypatch.setattr(place.stored, "read", counted)
    monkeypatch.setattr("app.catalogue.library._INTERVAL_S", 0.01)
    monkeypatch.setattr("app.catalogue.library._AGAIN_S", (0.05, 0.2))
    place.put("bad", place.layer(media.MODEL, b"no GGUF"))
    library = Library([], place.stored)
    watching = asyncio.create_task(library.watch())
    await asyncio.sleep(1)
    watching.cancel()
    assert looked[0] is False
    assert 3 <= looked.count(True) <= 8, looked
    assert looked.count(False) == 1
