"""Texts and facts of stored models: within the limits, in memory once, and read no oftener than needed."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from app.catalogue import foreigntokenizer, weightfacts
from app.catalogue.shared import Held, Shared
from app.catalogue.stored import StoredModels
from app.catalogue.texts import Texts
from app.core.errors import LoadFailed
from app.core.limits import DEFAULTS, InputLimits
from app.core.model import Model, ModelName
from app.store import manifest as media
from app.store import manifests as listing
from app.store.blobs import Blobs
from app.store.config import Serving
from app.store.manifest import Layer, Manifest, parse_manifest
from app.store.store import Store
from tests.api.managed import gguf
from tests.unit.catalogue_folders import LLAMA, make_folder, tokenizer

MIB = 1 << 20


class Place:
    def __init__(self, root: Path, limits: InputLimits = DEFAULTS) -> None:
        self.store = Store(root / "models")
        self.stored = StoredModels(self.store, root / "cache", limits=limits)
        self.weights = self.layer(media.MODEL, gguf())

    def layer(self, kind: str, data: bytes, **more: str) -> Layer:
        return Layer(kind, self.store.blobs.put(data), len(data), **more)

    def put(self, name: str, *layers: Layer) -> None:
        self.store.manifests.write(ModelName(name), Manifest(None, (self.weights, *layers)))

    def read(self) -> dict[str, Model]:
        return {model.name.model: model for model in self.stored.read({}).models}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def params(**values: Any) -> bytes:
    return json.dumps(values).encode()


def messages(count: int, content: str = "") -> bytes:
    return json.dumps([{"role": "user", "content": content}] * count).encode()


def nested(levels: int) -> bytes:
    return b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


AT_LIMITS = (
    (media.SYSTEM, b"x" * DEFAULTS.text_chars),
    (media.TEMPLATE, b"x" * DEFAULTS.template_chars),
    (media.CHAT_TEMPLATE, b"x" * DEFAULTS.template_chars),
    (media.MESSAGES, messages(DEFAULTS.messages)),
    (media.PARAMS, params(stop=["x"] * DEFAULTS.stop)),
    (media.PARAMS, params(stop=["x" * DEFAULTS.stop_chars])),
    (media.PARAMS, params(**{f"k{number}": number for number in range(DEFAULTS.options)})),
    (media.PARAMS, nested(DEFAULTS.nesting)),
)


def call(levels: int = 2, chars: int = 0) -> bytes:
    arguments = json.loads(nested(levels)) | {"text": "x" * chars}
    said = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    return json.dumps([said]).encode()


def pictures(count: int, size_bytes: int = 3) -> bytes:
    return json.dumps([{"role": "user", "images": [b64encode(b"x" * size_bytes).decode()] * count}]).encode()


OVER_LIMITS = (
    (media.MESSAGES, call(240), "tool_calls: at most 200 levels of nesting, this model has more"),
    (media.MESSAGES, call(chars=DEFAULTS.text_chars), f"text: at most {DEFAULTS.text_chars} characters"),
    (media.MESSAGES, pictures(65), "images: at most 64, this model has 65"),
    (media.MESSAGES, pictures(4, MIB), "texts: at most 4194304 bytes together, this model has"),
    (media.SYSTEM, b"x" * (MIB + 1), "a layer of text: at most 1048576 bytes, this model has 1048577"),
    (media.TEMPLATE, b"x" * 65_537, "template: at most 65536 characters, this model has 65537"),
    (media.PROMPT, b"x" * 65_537, "template: at most 65536 characters, this model has 65537"),
    (media.CHAT_TEMPLATE, b"x" * 65_537, "template: at most 65536 characters, this model has 65537"),
    (media.MESSAGES, messages(10_001), "messages: at most 10000, this model has 10001"),
    (media.MESSAGES, b"[" + b"{}," * 340_000 + b"{}]", "messages: at most 10000, this model has 340001"),
    (media.PARAMS, params(stop=["x"] * 65), "stop: at most 64, this model has 65"),
    (media.PARAMS, params(stop=["x" * 16_385]), "stop: at most 16384 characters together, this model has"),
    (media.PARAMS, params(**{f"k{n}": n for n in range(257)}), "parameters: at most 256, this model has 257"),
    (media.PARAMS, params(x=[[0] * 128, [0] * 129]), "parameters: at most 256, this model has 257"),
    (media.PARAMS, nested(202), "parameters: at most 200 levels of nesting, this model has more"),
)


WITH_PICTURES = (media.MESSAGES, pictures(2, MIB)), (media.MESSAGES, call(DEFAULTS.nesting - 2))


@pytest.mark.parametrize(("kind", "data"), [*AT_LIMITS, *WITH_PICTURES])
def test_a_text_at_its_limit_is_served(place: Place, kind: str, data: bytes) -> None:
    place.put("m", place.layer(kind, data))
    assert list(place.read()) == ["m"]


@pytest.mark.parametrize(("kind", "data", "reason"), OVER_LIMITS)
def test_a_text_over_its_limit_is_not(place: Place, kind: str, data: bytes, reason: str) -> None:
    place.put("m", place.layer(kind, data))
    place.put("good")
    assert list(place.read()) == ["good"]
    assert place.stored.read({}).skipped["m:latest"].startswith(reason)


def test_the_texts_of_a_model_are_bounded_together(place: Place) -> None:
    """A blob that is there once counts each time it is named."""
    mebibyte = place.layer(media.LICENSE, b"x" * MIB)
    place.put("four", *[mebibyte] * 4)
    place.put("five", *[mebibyte] * 5)
    place.put("many", *[place.layer(media.LICENSE, b"x")] * (DEFAULTS.create_files + 1))
    half = b"x" * (MIB // 2)
    talk = place.layer(media.MESSAGES, messages(1, "x" * (MIB // 2)))
    place.put("long", place.layer(media.SYSTEM, half), talk)
    assert list(place.read()) == ["four"]
    assert dict(place.stored.read({}).skipped) == {
        "five:latest": "texts: at most 4194304 bytes together, this model has 5242880",
        "many:latest": "license: at most 1024, this model has 1025",
        "long:latest": f"text: at most 1048576 characters, this model has {MIB + len('user')}",
    }


def test_a_size_that_a_manifest_makes_up_bounds_nothing(place: Place) -> None:
    """What another program has written into the folder: the blob is larger than it says."""
    mebibyte = place.layer(media.LICENSE, b"x" * MIB)
    layers = [Layer(media.LICENSE, mebibyte.digest, 1)] * 5
    folder = place.store.root / "manifests/registry.ollama.ai/library/m"
    folder.mkdir(parents=True)
    (folder / "latest").write_bytes(Manifest(None, (place.weights, *layers)).encode())
    assert place.read() == {}
    assert place.stored.read({}).skipped["m:latest"].startswith("texts: at most 4194304 bytes together")


def test_what_is_over_a_limit_is_not_looked_at_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but another manifest changes it; what lacks a blob, as on a shared volume, may come."""
    looks: list[Manifest] = []
    settings = Texts.settings

    def counted(self: Texts, manifest: Manifest, held: Held) -> Any:
        looks.append(manifest)
        return settings(self, manifest, held)

    monkeypatch.setattr(Texts, "settings", counted)
    late = place.layer(media.SYSTEM, b"late")
    place.put("late", late)
    place.put("over", place.layer(media.MESSAGES, messages(10_001)))
    place.store.blobs.path(late.digest).unlink()
    assert place.read() == {}
    assert len(looks) == 2
    for _ in range(3):
        place.stored.read({}, again=True)
    assert len(looks) == 2 + 3
    place.put("over", place.layer(media.MESSAGES, messages(1)))
    place.store.blobs.put(b"late")
    assert {model.name.model for model in place.stored.read({}, again=True).models} == {"late", "over"}


def test_texts_are_in_memory_once(place: Place) -> None:
    layers = (
        *(place.layer(media.SYSTEM, b"Be brief."), place.layer(media.TEMPLATE, b"{{ .Prompt }}")),
        *(place.layer(media.PARAMS, params(stop=["x"])), place.layer(media.MESSAGES, messages(2, "Hi"))),
    )
    place.put("one", *layers)
    place.put("two", *layers, place.layer(media.LICENSE, b"MIT"))
    found = place.read()
    one, two = found["one"].spec, found["two"].spec
    assert one.system is two.system
    assert one.template is two.template
    assert one.parameters is two.parameters
    assert one.messages is two.messages


def test_the_texts_of_all_models_are_bounded_together(tmp_path: Path) -> None:
    """What is served stays, and what had no room is served once others have gone."""
    place = Place(tmp_path, InputLimits(stored_text_bytes=3 * MIB))
    same = place.layer(media.SYSTEM, b"x" * MIB)
    texts = {name: place.layer(media.SYSTEM, name.encode() * MIB) for name in "abcd"}
    del texts["a"], texts["b"]
    talk = json.dumps([{"content": str(number)} for number in range(3_000)]).encode()
    for name, layer in {"one": same, "two": same, **texts, "e": place.layer(media.MESSAGES, talk)}.items():
        place.put(name, layer)
        place.read()
    served = {"one", "two", "c"}
    assert place.read().keys() == served
    reason = "the texts of all models together take more than 3145728 bytes of memory"
    assert dict(place.stored.read({}, again=True).skipped) == {"d:latest": reason, "e:latest": reason}
    other = Manifest(None, (place.weights, place.layer(media.SYSTEM, b"y" * MIB)))
    with pytest.raises(LoadFailed, match=reason):
        place.stored.tried(ModelName("new"), other, {})
    place.store.manifests.delete(ModelName("one"))
    place.store.manifests.delete(ModelName("c"))
    place.read()
    assert {model.name.model for model in place.stored.read({}, again=True).models} >= {"two", "d"}
    place.store.manifests.delete(ModelName("d"))
    place.read()
    assert {model.name.model for model in place.stored.read({}, again=True).models} >= {"two", "e"}


def test_a_license_is_read_when_it_is_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    of_blobs = Blobs.read

    def counted(self: Blobs, digest: str, most_bytes: int) -> bytes:
        read.append(digest)
        return of_blobs(self, digest, most_bytes)

    monkeypatch.setattr(Blobs, "read", counted)
    layers = [place.layer(media.LICENSE, text) for text in (b"MIT", b"\xff BSD")]
    place.put("m", *layers)
    model = place.read()["m"]
    assert read == []
    assert [text if isinstance(text, str) else text() for text in model.spec.license] == ["MIT", "\ufffd BSD"]
    assert read == [layer.digest for layer in layers]


def test_values_are_shared_as_long_as_somebody_holds_them() -> None:
    made: list[str] = []

    def make() -> list[str]:
        made.append("x")
        return ["x"]

    shared, one, two = Shared(0), Held(), Held()
    first = shared.get("key", make, one)
    assert shared.get("key", make, two) is first
    one.clear()
    assert shared.get("key", make, one) is first
    one.clear()
    two.clear()
    assert shared.get("key", make, one) is not first
    assert made == ["x", "x"]
    with pytest.raises(ZeroDivisionError):
        shared.get("other", lambda: 1 // 0, one)


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the GGUF files whose headers were read."""
    read: list[str] = []
    read_gguf = weightfacts.read_gguf

    def counted(blob: Path) -> Any:
        read.append(blob.name)
        return read_gguf(blob)

    monkeypatch.setattr(weightfacts, "read_gguf", counted)
    return read


@pytest.mark.parametrize("template", ["{{ messages }}", ""])
def test_a_header_is_read_once_for_all_models_on_it(place: Place, headers: list[str], template: str) -> None:
    place.weights = place.layer(media.MODEL, gguf(template=template))
    place.put("one")
    place.put("two", place.layer(media.SYSTEM, b"Be brief."))
    place.put("seen", place.layer(media.TEMPLATE, b"{{ .Tools }}{{ .Prompt }}"))
    place.put("jinja", place.layer(media.CHAT_TEMPLATE, b"{{ tools }}{{ messages }}"))
    place.put("worse", place.layer(media.ADAPTER_FILE, b"{}", name="adapter_config.json"))
    first, *others = place.read().values()
    assert len(others) == 3
    for model in others:
        assert model.facts.tensors is first.facts.tensors
        assert model.facts.info is first.facts.info
    place.put("three")
    place.stored.read({}, again=True)
    assert len(headers) == 1
    place.weights = place.layer(media.MODEL, gguf(1))
    place.put("other")
    assert place.read()["other"].facts.tensors is not first.facts.tensors
    assert len(headers) == 2


def test_a_bad_header_is_read_once_as_well(place: Place, headers: list[str]) -> None:
    place.weights = place.layer(media.MODEL, b"GGUF")
    place.put("one")
    place.put("two")
    for _ in range(3):
        assert len(place.stored.read({}, again=True).skipped) == 2
    assert len(headers) == 1
    # A file that was damaged may be replaced: it is another.
    blob = place.store.blobs.path(place.weights.digest)
    blob.with_name("mended").write_bytes(gguf())
    blob.with_name("mended").rename(blob)
    assert len(place.stored.read({}, again=True).models) == 2


def test_a_folder_is_read_once_for_all_models_on_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_facts = weightfacts.read_facts

    def counted(path: Path, *args: Any, **more: Any) -> Any:
        read.append(path)
        return read_facts(path, *args, **more)

    monkeypatch.setattr(weightfacts, "read_facts", counted)
    folder = make_folder(tmp_path / "folder", LLAMA)
    files = [place.layer(media.FILE, file.read_bytes(), name=file.name) for file in sorted(folder.iterdir())]
    place.weights = files[0]
    place.put("one", *files[1:])
    place.put("two", *files[1:], place.layer(media.SYSTEM, b"Be brief."))
    one, two = place.read().values()
    assert one.facts.info is two.facts.info
    assert len(read) == 1


@pytest.mark.parametrize("is_taken", [True, False])
def test_the_tokenizer_of_a_folder_is_looked_at_once_for_all_models_on_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    looked: list[Path] = []
    check = foreigntokenizer.check

    def counted(folder: Path) -> None:
        looked.append(folder)
        check(folder)

    monkeypatch.setattr(foreigntokenizer, "check", counted)
    bad = {} if is_taken else {"tokenizer.json": {**tokenizer(()), "normalizer": {"type": "Own"}}}
    folder = make_folder(tmp_path / "folder", LLAMA, files=bad)
    files = [place.layer(media.FILE, file.read_bytes(), name=file.name) for file in sorted(folder.iterdir())]
    place.weights = files[0]
    place.put("one", *files[1:])
    place.put("own", *files[1:], place.layer(media.CHAT_TEMPLATE, b"{{ messages }}"))
    reading = place.stored.read({})
    assert len(reading.models) == (2 if is_taken else 0)
    assert {"kind 'Own' is not taken" in reason for reason in reading.skipped.values()} <= {True}
    place.stored.read({}, again=True)
    assert len(looked) == 1


def test_a_converted_file_is_read_once_for_all_models_on_it(
    place: Place, headers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.weights = place.layer(media.MODEL, gguf(template=""))
    place.put("one")
    path = place.read()["one"].facts.path
    sidecar: dict[str, Any] = {"architecture": "llama", "file_type": "F32", "parameter_count": 8, "info": {}}
    sidecar |= {"tensors": [["a", "F32", [8]]], "sha256": path.name, "size_bytes": 1}
    make_folder(path, LLAMA, files={"gguf.json": sidecar})
    parsed: list[Path] = []
    read_facts = weightfacts.read_facts

    def counted(path: Path, *args: Any, **more: Any) -> Any:
        parsed.append(path)
        return read_facts(path, *args, **more)

    monkeypatch.setattr(weightfacts, "read_facts", counted)
    place.put("two")
    place.put("jinja", place.layer(media.CHAT_TEMPLATE, b"{{ messages }}"))
    one, two, jinja = (place.read()[name].facts for name in ("one", "two", "jinja"))
    assert one.tensors is two.tensors is jinja.tensors
    assert one.info is two.info is jinja.info
    assert len(parsed) == 2, "once, and once more for another template of the engine"
    assert len(headers) <= 2


def test_a_serving_layer_that_is_not_for_a_manifest_is_refused_each_time(place: Place) -> None:
    bad = place.layer(media.SERVING, Serving(engine={"model": "/etc"}).encode())
    place.put("one", bad)
    place.put("two", bad)
    assert place.read() == {}
    assert len(place.stored.read({}).skipped) == 2


def licences(count: int, size: int) -> bytes:
    layer = {"mediaType": media.LICENSE, "digest": "sha256:" + "a" * 64, "size": size}
    return json.dumps({"layers": [layer] * count}).encode()


@pytest.mark.parametrize(
    ("count", "size", "reason"),
    [
        (10_000, 1, "^it has more than 4096 texts$"),
        (4_097, 0, "^it has more than 4096 texts$"),
        (65, MIB, "^its texts have more than 67108864 bytes$"),
    ],
)
def test_a_manifest_of_too_many_texts_is_none(count: int, size: int, reason: str) -> None:
    """A pull ends there, before anything is fetched."""
    with pytest.raises(Exception, match=reason):
        parse_manifest(licences(count, size))


def test_a_manifest_of_as_many_texts_as_may_be() -> None:
    assert len(parse_manifest(licences(4_096, 1)).layers) == 4_096
    assert len(parse_manifest(licences(64, MIB)).layers) == 64


def test_files_of_manifests_are_parsed_once_be_they_good_or_bad(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []

    def counted(data: bytes) -> Manifest:
        parsed.append(len(data))
        return parse_manifest(data)

    monkeypatch.setattr(listing, "parse_manifest", counted)
    place.put("one")
    place.store.manifests.copy(ModelName("one"), ModelName("two"))
    bad = place.store.root / "manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir()
    bad.write_bytes(licences(4_097, 1))
    parsed.clear()
    one, two = place.store.manifests.list().models
    assert one.manifest is two.manifest
    assert len(parsed) == 2
    for _ in range(3):
        assert len(place.store.manifests.list().bad) == 1
    assert len(parsed) == 2
    bad.unlink()
    place.store.manifests.copy(ModelName("one"), ModelName("bad"))
    assert len(place.store.manifests.list().models) == 3
