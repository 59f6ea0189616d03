import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalogue.names import parse_name
from app.core.errors import BadManifest, BlobMissing, InvalidRequest, ModelNotFound, StoreFailed
from app.core.model import ModelName
from app.store import manifest as media
from app.store.config import ImageConfig, Serving, parse_config, parse_serving
from app.store.folders import changing
from app.store.manifest import Layer, Manifest, is_local, parse_manifest
from app.store.prune import prune_unused
from app.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def made(store: Store, name: str, text: str = "") -> str:
    """Store a model that has a template; its digest."""
    with store.hold() as hold:
        content = (text or name).encode()
        template = Layer(media.TEMPLATE, store.blobs.put(content, hold), len(content))
        config = ImageConfig(model_format="gguf").encode()
        manifest = Manifest(Layer(media.CONFIG, store.blobs.put(config, hold), len(config)), (template,))
        return store.manifests.write(parse_name(name), manifest).digest


def names(store: Store) -> list[str]:
    return [str(stored.name) for stored in store.manifests.list().models]


def folders(store: Store) -> list[str]:
    return sorted(path.relative_to(store.root).as_posix() for path in (store.root / "manifests").rglob("*"))


OLLAMAS = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":'
    b'"application/vnd.docker.container.image.v1+json","digest":"sha256:%s","size":151},"layers":[{"mediaType":'
    b'"application/vnd.ollama.image.model","digest":"sha256:%s","size":1472,"from":"base:latest"}]}\n'
) % (b"a" * 64, b"b" * 64)
"""As Ollama writes it: docs/reference 12.3, with the line's end of its encoder."""


def test_a_manifest_is_written_as_ollama_writes_it() -> None:
    manifest = parse_manifest(OLLAMAS)
    assert manifest.config == Layer(media.CONFIG, "sha256:" + "a" * 64, 151)
    assert manifest.layers == (Layer(media.MODEL, "sha256:" + "b" * 64, 1472, origin="base:latest"),)
    assert manifest.size_bytes == 1623
    assert manifest.encode() == OLLAMAS


def test_what_is_pulled_is_kept_byte_for_byte(store: Store) -> None:
    digest = store.blobs.put(b"x")
    data = b' {"layers": [{"digest": "%s", "size": 1, "runner": "?"}], "more": [1]}  ' % digest.encode()
    stored = store.manifests.write(ModelName("m"), data)
    assert (store.root / "manifests/registry.ollama.ai/library/m/latest").read_bytes() == data
    assert stored.digest == hashlib.sha256(data).hexdigest()
    assert store.manifests.find(ModelName("m")) == stored


def test_builds_of_one_model_are_read() -> None:
    data = json.dumps(
        {
            "mediaType": "application/vnd.ollama.manifest.list.v2+json",
            "manifests": [{"runner": "llamacpp", "format": "gguf", "digest": "sha256-" + "a" * 64, "x": 1}],
        }
    )
    manifest = parse_manifest(data.encode())
    assert manifest.builds == (media.Build("llamacpp", "gguf", "sha256:" + "a" * 64),)
    assert (manifest.layers, manifest.config) == ((), None)


BAD_MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"\x00\xff",
    "half of one": OLLAMAS[:150],
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "layers are a text": b'{"layers":"x"}',
    "a layer is a number": b'{"layers":[1]}',
    "no digest": b'{"layers":[{}]}',
    "a digest that leaves": b'{"layers":[{"digest":"sha256:../../../../etc/passwd"}]}',
    "a digest in upper case": b'{"layers":[{"digest":"sha256:%s"}]}' % (b"A" * 64),
    "a negative size": b'{"layers":[{"digest":"sha256:%s","size":-1}]}' % (b"a" * 64),
    "a size without bounds": b'{"layers":[{"digest":"sha256:%s","size":9223372036854775808}]}' % (b"a" * 64),
    "a size that is true": b'{"layers":[{"digest":"sha256:%s","size":true}]}' % (b"a" * 64),
    "a size with a part": b'{"layers":[{"digest":"sha256:%s","size":1.5}]}' % (b"a" * 64),
    "a media type that is none": b'{"layers":[{"digest":"sha256:%s","mediaType":[]}]}' % (b"a" * 64),
    "a bad configuration": b'{"config":{"digest":"x"}}',
    "too many bytes": b" " * (8 << 20) + b"{}",
    "too many layers": b'{"layers":[%s1]}' % (b"1," * 65_536),
    "builds that are none": b'{"manifests":[1]}',
}


@pytest.mark.parametrize("data", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_what_is_no_manifest_is_skipped_and_told(store: Store, data: bytes) -> None:
    made(store, "good")
    with pytest.raises(BadManifest):
        store.manifests.write(ModelName("m"), data)
    path = store.root / "manifests/registry.ollama.ai/library/bad/latest"
    path.parent.mkdir()
    path.write_bytes(data)
    listing = store.manifests.list()
    assert [str(stored.name) for stored in listing.models] == ["good:latest"]
    assert [bad.path for bad in listing.bad] == ["registry.ollama.ai/library/bad/latest"]
    with pytest.raises(BadManifest):
        store.manifests.find(ModelName("bad"))
    with pytest.raises(BadManifest):
        store.manifests.copy(ModelName("bad"), ModelName("copied"))
    assert store.delete(ModelName("bad"))
    assert folders(store)[-1] == "manifests/registry.ollama.ai/library/good/latest"


FILE_NAMES = (
    *(
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        ".",
        "..",
        "a/./b",
        "a\0b",
        "a\\b",
        "C:\\x",
        ".ssh",
    ),
    *("a/.git/config", "x" * 256, "a/" * 600 + "b", "a\nb", "..\\x", "~/../x/..", "a\u202eb", " /../x"),
)


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_cannot_be_called_what_leaves_its_folder(name: str) -> None:
    assert not is_local(name)
    layer = {"mediaType": media.FILE, "digest": "sha256:" + "a" * 64, "size": 1, "name": name}
    with pytest.raises(BadManifest):
        parse_manifest(json.dumps({"layers": [layer]}).encode())


@pytest.mark.parametrize("name", ["model.safetensors", "1_Pooling/config.json", "a b", "modèle.json"])
def test_names_of_files(name: str) -> None:
    assert is_local(name)


NAMES = (
    *(ModelName(".."), ModelName("."), ModelName(""), ModelName("a/b"), ModelName("a\0"), ModelName("a b")),
    *(ModelName("a", tag=".."), ModelName("a", tag=""), ModelName("a", tag="b/../c"), ModelName("a" * 81)),
    *(ModelName("a", namespace=".."), ModelName("a", namespace="a.b"), ModelName("a", namespace="/etc")),
    *(
        ModelName("a", host=".."),
        ModelName("a", host="/"),
        ModelName("a", host=""),
        ModelName("a", host="a/.."),
    ),
    *(ModelName("a", host="h" * 351), ModelName("a", host="h" * 300), ModelName("a", tag="x\n")),
    *(
        ModelName(".hidden"),
        ModelName("-a"),
        ModelName("a\\b"),
        ModelName("ä"),
        ModelName("a", tag="\u2024\u2024"),
    ),
)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_cannot_leave_the_folder(store: Store, name: ModelName) -> None:
    made(store, "here")
    before = folders(store)
    manifest = Manifest(None, ())
    uses: list[Callable[[], Any]] = [
        lambda: store.manifests.find(name),
        lambda: store.manifests.write(name, manifest),
        lambda: store.manifests.copy(name, ModelName("b")),
        lambda: store.manifests.copy(ModelName("here"), name),
        lambda: store.delete(name),
    ]
    for use in uses:
        with pytest.raises(InvalidRequest, match=r"^invalid model name$"):
            use()
    assert folders(store) == before


@given(st.text(st.sampled_from("aZ_0-.:/")) | st.text(max_size=12))
def test_the_store_takes_the_names_that_clients_may_use(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidRequest:
        return
    assert Store(Path("/nowhere")).manifests.find(name) is None


def test_names_that_differ_in_case_are_one(store: Store) -> None:
    made(store, "NS/Model:Tag", "1")
    made(store, "ns/mODEL:tAG", "2")
    made(store, "ns/MODEL:other", "3")
    assert names(store) == ["NS/Model:Tag", "NS/Model:other"]
    found = store.manifests.find(parse_name("nS/model:TAG"))
    assert found is not None
    assert (str(found.name), found.manifest.layers[0].size) == ("NS/Model:Tag", 1)
    assert (
        str(store.manifests.copy(parse_name("ns/model:tag"), parse_name("Ns/moDel:Third")).name)
        == "NS/Model:Third"
    )
    assert store.delete(parse_name("ns/model:tag"))
    assert names(store) == ["NS/Model:Third", "NS/Model:other"]


def test_of_two_that_only_differ_in_case_one_is_served(store: Store) -> None:
    made(store, "m:a")
    tags = store.root / "manifests/registry.ollama.ai/library/m"
    (tags / "A").write_bytes((tags / "a").read_bytes())
    listing = store.manifests.list()
    assert (names(store), [bad.reason for bad in listing.bad]) == (
        ["m:A"],
        ["it differs from m:A in case only"],
    )
    for tag in ("a", "A"):
        found = store.manifests.find(ModelName("m", tag))
        assert found is not None
        assert found.name.tag == tag


def test_copy_and_delete(store: Store) -> None:
    digest = made(store, "a")
    copied = store.manifests.copy(ModelName("a"), parse_name("host:5000/ns/b:1"))
    assert (copied.digest, names(store)) == (digest, ["host:5000/ns/b:1", "a:latest"])
    assert store.manifests.copy(ModelName("a"), ModelName("a")).digest == digest
    with pytest.raises(ModelNotFound):
        store.manifests.copy(ModelName("none"), ModelName("c"))
    assert store.delete(ModelName("a"))
    assert not store.delete(ModelName("a"))
    assert folders(store) == [
        "manifests/host:5000",
        "manifests/host:5000/ns",
        "manifests/host:5000/ns/b",
        "manifests/host:5000/ns/b/1",
    ]
    assert len(os.listdir(store.root / "blobs")) == 2
    assert store.delete(copied.name)
    assert (folders(store), os.listdir(store.root / "blobs")) == ([], [])


def test_a_manifest_names_only_what_is_there(store: Store) -> None:
    layer = Layer(media.MODEL, "sha256:" + "0" * 64, 3)
    with pytest.raises(BlobMissing):
        store.manifests.write(ModelName("m"), Manifest(None, (layer,)))
    digest = store.blobs.put(b"abc")
    with pytest.raises(BadManifest, match="is said to have 4 bytes and has 3"):
        store.manifests.write(ModelName("m"), Manifest(None, (Layer(media.MODEL, digest, 4),)))
    assert list((store.root / "manifests").iterdir()) == []


def test_the_signature_tells_of_every_change(store: Store) -> None:
    seen = {store.manifests.signature()}
    made(store, "a", "1")
    seen.add(store.manifests.signature())
    assert store.manifests.list().signature in seen
    made(store, "a", "2")
    seen.add(store.manifests.signature())
    store.manifests.copy(ModelName("a"), ModelName("b"))
    seen.add(store.manifests.signature())
    path = store.root / "manifests/registry.ollama.ai/library/b/latest"
    path.write_bytes(path.read_bytes() + b" ")  # as Ollama does, in its place
    seen.add(store.manifests.signature())
    store.delete(ModelName("a"))
    seen.add(store.manifests.signature())
    assert len(seen) == 6
    assert store.manifests.signature() in seen


def test_whatever_changes_the_store_waits_for_its_lock(store: Store) -> None:
    made(store, "a")
    made(store, "gone")
    digest = store.blobs.put(b"x")
    uses: list[Callable[[], Any]] = [
        lambda: store.manifests.write(ModelName("b"), Manifest(None, ())),
        lambda: store.manifests.copy(ModelName("a"), ModelName("c")),
        lambda: store.manifests.delete(ModelName("gone")),
        lambda: store.hold().add(digest),
        lambda: prune_unused(store.manifests, [digest]),
        store.prune,
    ]
    threads = [threading.Thread(target=use) for use in uses]
    with changing(store.root):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.1)
        assert all(thread.is_alive() for thread in threads)
        assert names(store) == ["a:latest", "gone:latest"]
    for thread in threads:
        thread.join()
    assert names(store) == ["a:latest", "b:latest", "c:latest"]


def test_a_store_that_is_not_there_is_empty(store: Store) -> None:
    listing = store.manifests.list()
    assert (listing.models, listing.bad) == ((), ())
    assert not store.delete(ModelName("a"))
    assert not store.prune().blobs
    assert store.manifests.find(ModelName("a")) is None


def test_what_does_not_belong_there_is_told_or_passed_over(store: Store) -> None:
    made(store, "a")
    base = store.root / "manifests"
    (base / ".DS_Store").write_bytes(b"x")
    (base / "registry.ollama.ai/library/a/.hidden").write_bytes(b"{}")
    os.mkfifo(base / "registry.ollama.ai/library/a/pipe")
    (base / "registry.ollama.ai/library/a/folder").mkdir()
    (base / "registry.ollama.ai/library/a/gone").symlink_to("/nowhere")
    (base / "registry.ollama.ai/library/a/loop").symlink_to(base)
    (base / "registry.ollama.ai/library/a/secret").symlink_to("/etc/hostname")
    before = len(os.listdir("/proc/self/fd"))
    for tag in ("pipe", "folder"):
        with pytest.raises(BadManifest, match="it is not a file"):
            store.manifests.find(ModelName("a", tag))
    listing = store.manifests.list()
    assert len(os.listdir("/proc/self/fd")) == before
    assert [str(stored.name) for stored in listing.models] == ["a:latest"]
    assert {bad.path.rpartition("/")[2]: bad.reason for bad in listing.bad} == {
        ".hidden": "its path is no model's name",
        "gone": "it cannot be read: No such file or directory",
        "pipe": "it is not a file",
        "secret": "it is not JSON",
    }


LINKED = ("blobs", "manifests", "manifests/registry.ollama.ai", "manifests/registry.ollama.ai/library")
LINKED_MODEL = "manifests/registry.ollama.ai/library/a"


@pytest.mark.parametrize("place", [*LINKED, LINKED_MODEL, ".caravan", ".caravan/scratch", ".caravan/wrote"])
def test_nothing_is_written_or_deleted_through_a_link(store: Store, tmp_path: Path, place: str) -> None:
    made(store, "a")
    outside = tmp_path / "outside"
    (store.root / place).rename(outside)
    (store.root / place).symlink_to(outside)
    before = sorted(path.as_posix() for path in outside.rglob("*"))
    with pytest.raises(StoreFailed, match="is not followed"):
        made(store, "a:new")
    with suppress(StoreFailed):
        store.delete(ModelName("a"))
    after = sorted(path.as_posix() for path in outside.rglob("*"))
    assert [path for path in before if path not in after] == []
    assert [path for path in after if path not in before] == []


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(store: Store, tmp_path: Path) -> None:
    made(store, "a")
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    tag = store.root / LINKED_MODEL / "latest"
    tag.unlink()
    tag.symlink_to(outside)
    made(store, "a")
    assert (tag.is_symlink(), outside.read_bytes()) == (False, b"precious")
    tag.unlink()
    tag.symlink_to(outside)
    assert store.delete(ModelName("a"))
    assert outside.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_stands_in_a_partials_place(store: Store, tmp_path: Path, kind: str) -> None:
    store.blobs.put(b"x")
    scratch, outside = store.root / ".caravan" / "scratch", tmp_path / "outside"
    outside.write_bytes(b"precious")
    digest = "sha256:" + "0" * 64
    path = scratch / digest[7:]
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(outside)}[kind]()
    with pytest.raises(StoreFailed):
        store.blobs.begin(digest, 10)
    assert outside.read_bytes() == b"precious"


def test_the_root_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "models")
    made(store, "a")
    assert names(Store(tmp_path / "disk")) == ["a:latest"]


OLLAMAS_CONFIG = (
    b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"1.2B","file_type":'
    b'"Q8_0","architecture":"amd64","os":"linux"}\n'
)


def test_a_configuration_is_written_as_ollama_writes_it() -> None:
    config = parse_config(OLLAMAS_CONFIG)
    assert config == ImageConfig("gguf", "llama", ("llama",), "1.2B", "Q8_0")
    assert config.encode() == OLLAMAS_CONFIG
    assert b'"model_families":null' in ImageConfig().encode()
    older = b'{"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"draft":{"config":"x"},"new":[1]}'
    read = parse_config(older)
    assert (read.diff_ids, read.extra, read.draft) == (("sha256:1",), {"new": [1]}, {"config": "x"})
    assert parse_config(read.encode()) == read


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b'{"model_format":1}', b'{"capabilities":"x"}', b'{"model_families":[1]}'),
        *(b'{"context_length":"1"}', b'{"context_length":true}', b'{"draft":[]}', b" " * (1 << 20) + b"{}"),
    ],
)
def test_what_is_no_configuration(data: bytes) -> None:
    with pytest.raises(BadManifest):
        parse_config(data)


def test_how_a_model_is_served_is_a_layer_of_its_own() -> None:
    serving = Serving("org/name", "a" * 40, {"max_model_len": 4096}, tool_parser="", reasoning_parser=None)
    assert parse_serving(serving.encode()) == serving
    assert parse_serving(Serving().encode()) == Serving()
    for data in (b'{"later":"x"}', b'{"engine":[]}', b'{"repository":1}', b"[]"):
        with pytest.raises(BadManifest):
            parse_serving(data)


texts = st.text(max_size=20)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
plain_layers = st.builds(
    Layer,
    st.sampled_from([media.MODEL, media.TENSOR, "x/y", ""]),
    digests,
    st.integers(0, 2**63 - 1),
    texts,
    texts,
)
manifests = st.builds(Manifest, st.none() | plain_layers, st.lists(plain_layers, max_size=4).map(tuple))


@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    assert parse_manifest(manifest.encode()) == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts | digests,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "name", "from", "x"]), inner, max_size=4
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["config", "layers", "manifests", "schemaVersion"]), json_values))
def test_any_json_is_a_manifest_or_a_bad_one(document: dict[str, Any]) -> None:
    try:
        manifest = parse_manifest(json.dumps(document).encode())
    except BadManifest:
        return
    assert parse_manifest(manifest.encode()).layers == manifest.layers


@given(
    st.builds(
        ImageConfig,
        *(texts, texts, st.lists(texts).map(tuple), texts, texts, texts, texts, texts, texts, texts),
        *(st.lists(texts).map(tuple), st.integers(0, 2**40), st.integers(0, 2**40), texts),
        diff_ids=st.lists(texts, min_size=1).map(tuple),
        extra=st.dictionaries(st.sampled_from(["a", "b"]), json_values),
    )
)
def test_a_configuration_comes_back_as_it_was(config: ImageConfig) -> None:
    assert parse_config(config.encode()) == config
