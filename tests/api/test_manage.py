"""Models that are made, copied and deleted over HTTP (docs/reference 11)."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.access.keys import new_key
from app.core.model import ModelName
from app.store.manifest import CHAT_TEMPLATE, MODEL, TEMPLATE, Layer, Manifest
from app.store.modelfile import parse_modelfile
from app.store.store import Store
from harness.fake_model import fake_model
from tests.api.managed import Site, digest_of, gguf, managed
from tests.unit.catalogue_folders import make_folder

KEY, HASH = new_key("narrow")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    async with managed(tmp_path) as made:
        yield made


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncGenerator[Site]:
    """The client's key allows the models `mine*`; there are others."""
    record = {
        "id": "narrow",
        "hash": HASH,
        "scopes": ["inference", "models:read", "models:write"],
        "models": ["mine*"],
    }
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [record]}))
    models = fake_model("mine", "completion"), fake_model("plain", "completion")
    async with managed(tmp_path, *models, keys_file=file) as made:
        made.client.headers["authorization"] = f"Bearer {KEY}"
        yield made


# Blobs


@pytest.mark.point(184)
async def test_whether_a_blob_is_there(site: Site) -> None:
    digest = digest_of(b"x")
    answer = await site.client.head(f"/api/blobs/{digest}")
    assert (answer.status_code, answer.content) == (404, b"")
    assert (await site.client.head("/api/blobs/nope")).status_code == 400
    await site.uploaded(b"x")
    answer = await site.client.head(f"/api/blobs/{digest}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "content-type" not in answer.headers


@pytest.mark.point(185)
async def test_a_blob_is_stored_once_and_held_to_its_digest(site: Site) -> None:
    path = f"/api/blobs/{digest_of(b'x' * 9_000_000)}"
    answer = await site.client.post(path, content=b"x" * 9_000_000)
    assert (answer.status_code, answer.content) == (201, b"")
    answer = await site.client.post(path, content=b"another")
    assert (answer.status_code, answer.content) == (200, b"")
    wrong = f"sha256:{'0' * 64}"
    answer = await site.client.post(f"/api/blobs/{wrong}", content=b"x")
    assert answer.status_code == 400
    assert answer.json() == {"error": f'digest mismatch, expected "{wrong}", got "{digest_of(b"x")}"'}
    assert (await site.client.head(f"/api/blobs/{wrong}")).status_code == 404
    assert list((site.store.root / ".caravan/scratch").iterdir()) == []


@pytest.mark.point(186)
@pytest.mark.parametrize("digest", ["nope", f"md5:{'0' * 64}", f"sha256:{'0' * 63}", f"SHA256:{'0' * 64}"])
async def test_what_is_no_digest(site: Site, digest: str) -> None:
    answer = await site.client.post(f"/api/blobs/{digest}", content=b"x")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid digest format"})


async def test_blobs_have_limits_of_their_own(tmp_path: Path) -> None:
    data = b"x" * 5_000
    path = f"/api/blobs/{digest_of(data)}"
    async with managed(tmp_path / "a", max_body_bytes=100) as site:
        assert (await site.client.post(path, content=data)).status_code == 201
    async with managed(tmp_path / "b", limits={"blob_bytes": 4_999}) as site:
        for content in (data, _pieces(data)):
            answer = await site.client.post(path, content=content)
            assert answer.status_code == 413
            assert answer.json() == {"error": "the blob is too large: the limit is 4999 bytes"}
    async with managed(tmp_path / "c", models_max_bytes=4_999) as site:
        assert (await site.client.post(path, content=data)).status_code == 403
        assert (await site.client.post(path, content=_pieces(data))).status_code == 507
        assert list((site.store.root / "blobs").glob("*")) == []


async def _pieces(data: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), 100):
        yield data[at : at + 100]


async def test_an_encoded_blob_is_refused(site: Site) -> None:
    answer = await site.client.post(
        f"/api/blobs/{digest_of(b'x')}", content=b"x", headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == 415


# Create


@pytest.mark.point(33, 34)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/api/{name}") for name in ("create", "copy", "pull", "push")] + [("DELETE", "/api/delete")],
)
@pytest.mark.parametrize("body", [b"", b" \n "])
async def test_a_body_is_needed(site: Site, method: str, path: str, body: bytes) -> None:
    answer = await site.client.request(method, path, content=body)
    assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels else {}


NEITHER = "neither 'from' or 'files' was specified"


@pytest.mark.point(187, 188, 189, 190, 191, 195, 197, 198)
@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"model": "m"}, 400, NEITHER),
        ({"model": "m", "modelfile": "FROM plain"}, 400, NEITHER),
        ({"model": "a b", "from": "plain"}, 400, "invalid model name"),
        ({"from": "plain"}, 400, "invalid model name"),
        ({"model": "m", "from": "a b"}, 400, "invalid model name"),
        ({"model": "m", "files": {"../a": "d"}}, 400, "file path must be relative"),
        ({"model": "m", "files": {"/a": "d"}}, 400, "file path must be relative"),
        ({"model": "m", "files": {"a": ""}}, 400, "invalid digest format"),
        ({"model": "m", "files": {"a.gguf": "x"}}, 400, "invalid digest format"),
        ({"model": "m", "files": {"a": "x"}}, 400, "unknown type"),
        ({"model": "m", "files": {}}, 400, "unknown type"),
        (
            {"model": "m", "files": {"a.gguf": f"sha256:{'1' * 64}"}},
            500,
            f"open blobs/sha256-{'1' * 64}: no such file or directory",
        ),
        ({"model": "m", "from": "plain", "template": "{{ if"}, 400, "template error: template: :1: unclosed"),
        ({"model": "m", "from": "plain", "template": "{% if x %}"}, 400, "template error: template: :1: Un"),
        ({"model": "m", "from": "plain", "template": "{{ messages }}"}, 400, "template error: template: :1"),
        ({"model": "m", "from": "plain", "template": "{% if x %}" * 7000}, 400, "template: at most 65536"),
        (
            {"model": "m", "from": "plain", "quantize": "bogus"},
            500,
            "unsupported quantization type BOGUS - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
        ),
        ({"model": "m", "from": "plain", "quantize": "q4_K_M"}, 400, "quantize q4_K_M: vLLM makes no Q4_K_M"),
        ({"model": "m", "from": "plain", "quantization": "q8_0"}, 400, "quantize q8_0: eight bits a weight"),
        ({"model": "m", "from": "plain", "capabilities": ["vision"]}, 400, "capabilities: this model has no"),
        ({"model": "m", "from": "plain", "capabilities": "x"}, 400, "json: cannot unmarshal string into Go"),
        ({"model": "m", "from": "plain", "license": ["x"] * 1025}, 400, "license: at most 1024"),
        ({"model": "m", "from": "plain", "draft_files": {"a": digest_of(b"x")}}, 400, "draft models are not"),
        *(
            (
                {"model": "m", "from": "plain", "messages": [{"role": "user", **wrong}]},
                400,
                text,
            )
            for wrong, text in (
                ({"thinking": 1}, "json: cannot unmarshal number into Go struct field"),
                ({"images": ["!"]}, "illegal base64 data at input byte 0"),
                ({"images": ["aGk="] * 65}, "images: at most 64"),
                ({"tool_calls": [{"function": {"name": "f"}}] * 20_001}, "tool_calls: at most 20000"),
                ({"tool_calls": [{"function": {"arguments": nested(200)}}]}, "messages.tool_calls: "),
            )
        ),
        ({"model": "m", "from": "plain", "adapters": {"a.safetensors": "x"}}, 400, "invalid digest format"),
        ({"model": "m", "from": "plain", "adapters": {"a": digest_of(b"x")}}, 400, "unknown type"),
        ({"model": "m", "from": "plain", "adapters": {}}, 400, "unknown type"),
        ({"model": "m", "from": "plain", "draft_quantize": "x"}, 400, "--draft-quantize requires a DRAFT"),
        ({"model": "m", "from": "plain", "remote_host": "x"}, 400, "remote models are not served"),
        ({"model": "m", "from": "plain", "info": {"base_name": "x"}}, 400, "info cannot be overridden"),
        ({"model": "m", "from": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            {"model": "m", "from": "plain", "license": 1},
            500,
            "json: cannot unmarshal number into Go value of type []string",
        ),
        ({"model": "m", "from": "plain", "messages": [{"role": "x"}]}, 400, "a message's role must be one"),
        ({"model": "PLAIN", "from": "plain"}, 403, "the model PLAIN:latest comes from the configuration"),
    ],
)
async def test_what_is_not_created(site: Site, body: dict[str, Any], status: int, error: str) -> None:
    for stream in (True, False):
        answer = await site.send("/api/create", **body, stream=stream)
        if "a.gguf" in body.get("files", {}) and status == 500 and stream:
            assert [json.loads(line) for line in answer.text.splitlines()][-1] == {"error": error}
            continue
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].startswith(error)
    assert await site.names() == ["plain:latest"]


@pytest.mark.point(192, 193)
async def test_a_model_of_another_has_its_layers(site: Site) -> None:
    lines = await site.made(model="poet", **{"from": "plain"}, system="You rhyme.")
    statuses = [line["status"] for line in lines]
    assert statuses[0].startswith("using existing layer sha256:")
    assert statuses[1].startswith("creating new layer sha256:")
    assert statuses[-2:] == ["writing manifest", "success"]
    answer = await site.send("/api/create", model="poet", **{"from": "plain"}, stream=False)
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert answer.headers["content-type"] == "application/json"
    assert await site.names() == ["plain:latest", "poet:latest"]


async def test_a_model_on_a_configured_one_is_not_pushed(site: Site) -> None:
    """A registry would take its layers, and nobody could pull them: the weights are not among them."""
    await site.made(model="poet", **{"from": "plain"}, system="You rhyme.")
    answer = await site.send("/api/push", model="poet", stream=False)
    text = "poet:latest runs on plain:latest of the configuration, without which nobody can pull it"
    assert (answer.status_code, answer.json()) == (500, {"error": text})


@pytest.mark.point(194)
async def test_what_a_model_is_given_is_shown(site: Site) -> None:
    await site.made(
        model="poet",
        **{"from": "plain"},
        system="You rhyme.",
        template="{{ .Prompt }}!",
        license="MIT",
        parameters={"temperature": 0.5, "stop": ["a", "b"]},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    )
    await site.made(
        model="bard", **{"from": "POET"}, license=["BSD", "GPL"], parameters={"seed": 7, "temperature": 1}
    )
    shown = await site.shown("bard")
    assert shown["system"] == "You rhyme."
    assert shown["template"] == "{{ .Prompt }}!"
    assert shown["license"] == "MIT\nBSD\nGPL"
    assert shown["messages"] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert sorted(line.split() for line in shown["parameters"].splitlines()) == [
        ["seed", "7"],
        ["stop", '"a"'],
        ["stop", '"b"'],
        ["temperature", "1"],
    ]
    assert shown["details"]["parent_model"] == "poet:latest"
    assert (await site.answer("bard")).status_code == 200


@pytest.mark.point(196)
async def test_bad_parameters_are_taken_and_then_not_run(site: Site) -> None:
    await site.made(model="odd", **{"from": "plain"}, parameters={"stop": "x"})
    answer = await site.answer("odd")
    assert (answer.status_code, answer.json()) == (500, {"error": 'option "stop" must be of type array'})
    assert (await site.client.request("DELETE", "/api/delete", json={"model": "odd"})).status_code == 200


JINJA = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


async def test_a_jinja_template_is_the_models_own_on_the_engine_of_its_base(site: Site) -> None:
    await site.answer("plain")
    await site.made(model="go", **{"from": "plain"}, template="{{ .Prompt }}!")
    await site.made(model="j", **{"from": "go"}, template=JINJA)
    await site.made(model="k", **{"from": "j"}, system="You rhyme.")
    for name in ("j", "k"):
        assert (await site.shown(name))["template"] == JINJA
        await site.answer(name)
        assert site.engines[0].renderings[-1].chat_template == JINJA
    assert len(site.loads) == 1
    stored = site.store.manifests.find(ModelName("j"))
    assert stored is not None
    kinds = [layer.media_type for layer in stored.manifest.layers]
    assert CHAT_TEMPLATE in kinds
    assert TEMPLATE not in kinds, "one template at a time: that of Go would come first"
    await site.made(model="go", **{"from": "j"}, template="{{ .Prompt }}?")
    assert (await site.shown("go"))["template"] == "{{ .Prompt }}?"


async def test_a_jinja_template_survives_its_modelfile(site: Site) -> None:
    template = JINJA + """\n{# "quoted" \'twice\' #}\n{%- if tools %}{{ tools | tojson }}{% endif %}\n"""
    await site.made(model="j", **{"from": "plain"}, template=template)
    commands = parse_modelfile((await site.shown("j"))["modelfile"])
    (found,) = (command.value for command in commands if command.name == "template")
    await site.made(model="again", **{"from": "plain"}, template=found)
    assert (await site.shown("again"))["template"] == template


async def loads(site: Site) -> float:
    lines = (await site.client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("caravan_model_loads_total"))


async def test_models_of_one_base_share_its_engine(site: Site) -> None:
    await site.answer("plain")
    before = await loads(site)
    for number in range(50):
        await site.made(model=f"m{number}", **{"from": "plain"}, system=f"You are number {number}.")
        assert (await site.answer(f"m{number}")).status_code == 200
    assert len(site.loads) == 1
    assert await loads(site) == before == 1
    assert len(await site.names()) == 51
    digests = {item["digest"] for item in (await site.client.get("/api/tags")).json()["models"]}
    assert len(digests) == 51


async def test_a_model_of_a_gguf_file(site: Site) -> None:
    data = gguf()
    digest = await site.uploaded(data)
    lines = await site.made(model="g", files={"w.gguf": digest})
    assert lines[0] == {"status": "parsing GGUF"}
    shown = await site.shown("g")
    assert shown["details"]["format"] == "gguf"
    assert shown["details"]["quantization_level"] == "F32"
    assert shown["model_info"]["llama.context_length"] == 2048
    item = next(x for x in (await site.client.get("/api/tags")).json()["models"] if x["name"] == "g:latest")
    stored = site.store.manifests.find(ModelName("g"))
    assert stored is not None
    assert item["digest"] == stored.digest
    assert item["size"] == stored.manifest.size_bytes > len(data)
    await site.made(model="h", **{"from": "g"}, system="Short.")
    assert (await site.shown("h"))["details"]["parent_model"] == "g:latest"
    for name in ("g", "h"):
        assert (await site.answer(name)).status_code == 200
    assert [str(model.name) for model in site.loads] == ["g:latest"]


@pytest.mark.parametrize(
    "data",
    [
        b"GGUFxxxx",
        b"not a file",
        gguf()[:-40],
        gguf() + b"",
        gguf().replace(b"\x08\0\0\0\0\0\0\0", b"\xff" * 8, 1),
    ],
)
async def test_a_gguf_file_that_lies_is_refused(site: Site, data: bytes) -> None:
    if data == gguf():
        return
    digest = await site.uploaded(data)
    lines = await site.lines("/api/create", model="g", files={"w.gguf": digest})
    assert lines[-1]["error"].startswith("supplied file was not in GGUF format")
    assert await site.names() == ["plain:latest"]
    assert list((site.store.root / "manifests").iterdir()) == []


async def test_files_that_are_programs_are_refused(site: Site) -> None:
    files = {"pytorch_model.bin": await site.uploaded(b"x"), "config.json": await site.uploaded(b"{}")}
    answer = await site.send("/api/create", model="p", files=files)
    assert answer.status_code == 400
    assert "pickled weights are not taken" in answer.json()["error"]


async def test_a_safetensors_file_that_lies_is_refused(site: Site) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    files = {"model.safetensors": await site.uploaded(data), "config.json": await site.uploaded(b"{}")}
    answer = await site.send("/api/create", model="s", files=files)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("model.safetensors is not a sound safetensors file")


# What is kept, and what is made of weights


async def test_what_only_ollama_reads_is_kept_for_it(site: Site) -> None:
    kept = {"renderer": "qwen3-coder", "parser": "qwen3", "requires": "0.14.0"}
    await site.made(name="a", **{"from": "plain"}, **kept, capabilities=["completion"])
    await site.made(model="b", **{"from": "a"}, parser="other", modelfile="FROM x", info={})
    for name, parser in (("a", "qwen3"), ("b", "other")):
        stored = site.store.manifests.find(ModelName(name))
        assert stored is not None
        assert stored.manifest.config is not None
        config = json.loads(site.store.blobs.read(stored.manifest.config.digest, 10_000))
        assert config["capabilities"] == ["completion"]
        assert {key: config[key] for key in kept} == {**kept, "parser": parser}
        shown = await site.shown(name)
        assert list(shown)[-1] == "requires"
        assert shown["requires"] == "0.14.0"
        assert "renderer" not in shown
        commands = {each.name: each.value for each in parse_modelfile(shown["modelfile"])}
        assert (commands["renderer"], commands["parser"]) == ("qwen3-coder", parser)
        item = next(x for x in (await site.client.get("/api/tags")).json()["models"] if x["name"][0] == name)
        assert item["digest"] == stored.digest
        assert "runner" not in item


@pytest.mark.parametrize("name", ["q8_0", "Q8_0", "fp8"])
async def test_weights_are_quantized_when_they_are_loaded(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "folder")
    async with managed(tmp_path, on_gpu=True) as site:
        files = {file.name: await site.uploaded(file.read_bytes()) for file in folder.iterdir()}
        await site.made(model="whole", files=files)
        lines = await site.made(model="eight", **{"from": "whole"}, quantize=name)
        assert lines[0] == {"status": "quantizing BF16 model to FP8 at each load"}
        await site.made(model="rhymes", **{"from": "eight"}, system="You rhyme.")
        levels = {each: (await site.shown(each))["details"] for each in ("whole", "eight", "rhymes")}
        assert [each["quantization_level"] for each in levels.values()] == ["BF16", "FP8", "FP8"]
        assert levels["eight"]["parent_model"] == "whole:latest"
        for each in levels:
            assert (await site.answer(each)).status_code == 200
        assert [dict(model.spec.engine) for model in site.loads] == [{}, {"quantization": "fp8_per_tensor"}]
        answer = await site.send("/api/create", model="again", **{"from": "eight"}, quantize=name)
        error = "quantization is only supported for F16, BF16 and F32 models"
        assert (answer.status_code, answer.json()) == (500, {"error": error})
        await site.made(model="g", files={"w.gguf": await site.uploaded(gguf())})
        for base, reason in (("g", "only weights in safetensors"), ("plain", "would run on the engine of")):
            answer = await site.send("/api/create", model="again", **{"from": base}, quantize=name)
            assert answer.status_code == 400
            assert reason in answer.json()["error"]
        assert "again:latest" not in await site.names()


# Copy and delete


async def delete(site: Site, **body: Any) -> tuple[int, Any]:
    answer = await site.client.request("DELETE", "/api/delete", json=body)
    if answer.status_code == 200:
        assert "content-type" not in answer.headers
        return 200, answer.text
    return answer.status_code, answer.json()["error"]


@pytest.mark.point(199)
async def test_a_copy_is_a_model_of_its_own(site: Site) -> None:
    await site.made(model="poet", **{"from": "plain"}, system="You rhyme.")
    for source, destination in (("plain", "one"), ("POET", "two"), ("poet", "Poet"), ("plain", "plain")):
        answer = await site.send("/api/copy", source=source, destination=destination)
        assert (answer.status_code, answer.content) == (200, b""), answer.text
        assert "content-type" not in answer.headers
    assert await site.names() == ["one:latest", "plain:latest", "poet:latest", "two:latest"]
    assert (await site.shown("two"))["system"] == "You rhyme."
    await delete(site, model="poet")
    assert (await site.answer("two")).status_code == 200


@pytest.mark.point(172)
async def test_the_id_of_a_stored_model_is_that_of_its_manifest(site: Site) -> None:
    await site.made(model="alias", **{"from": "plain"})
    await site.made(model="alias2", **{"from": "alias"})
    await site.send("/api/copy", source="alias2", destination="copy")
    ids = {item["model"]: item["digest"] for item in (await site.client.get("/api/tags")).json()["models"]}
    for name in ("alias", "alias2", "copy"):
        place = site.store.root / "manifests/registry.ollama.ai/library" / name / "latest"
        assert ids[f"{name}:latest"] == hashlib.sha256(place.read_bytes()).hexdigest()
    assert len({ids[f"{name}:latest"] for name in ("plain", "alias", "alias2")}) == 3
    assert ids["copy:latest"] == ids["alias2:latest"]


@pytest.mark.point(199)
@pytest.mark.parametrize(
    ("source", "destination", "status", "error"),
    [
        ("nosuch", "x", 404, 'model "nosuch" not found'),
        ("", "x", 400, 'source "" is invalid'),
        ("a b", "x", 400, 'source "a b" is invalid'),
        ("plain", "a b", 400, 'destination "a b" is invalid'),
        ("poet", "plain", 403, "the model plain:latest comes from the configuration"),
    ],
)
async def test_what_is_not_copied(site: Site, source: str, destination: str, status: int, error: str) -> None:
    await site.made(model="poet", **{"from": "plain"})
    answer = await site.send("/api/copy", source=source, destination=destination)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(error)


@pytest.mark.point(53, 200)
async def test_a_model_is_deleted_once(site: Site) -> None:
    await site.made(model="x", **{"from": "plain"}, system="gone")
    assert await delete(site, model="X") == (200, "")
    assert await site.names() == ["plain:latest"]
    assert await delete(site, name="x") == (404, "model 'x' not found")
    assert await delete(site, model="bad name") == (400, 'name "bad name" is invalid')
    assert await delete(site) == (400, "model is required")
    status, error = await delete(site, model="plain")
    assert status == 403
    assert error.startswith("the model plain:latest comes from the configuration of this server")
    assert list((site.store.root / "blobs").iterdir()) == []


async def test_deleting_unloads_what_no_other_name_holds(site: Site) -> None:
    digest = await site.uploaded(gguf())
    await site.made(model="a", files={"w.gguf": digest})
    await site.made(model="b", **{"from": "a"})
    await site.answer("a")
    await delete(site, model="a")
    running = (await site.client.get("/api/ps")).json()["models"]
    assert len(running) == 1
    await delete(site, model="b")
    assert (await site.client.get("/api/ps")).json()["models"] == []
    assert (await site.client.head(f"/api/blobs/{digest}")).status_code == 404


async def running(site: Site) -> list[str]:
    return [row["name"] for row in (await site.client.get("/api/ps")).json()["models"]]


async def test_a_model_that_another_process_deletes_is_unloaded_here(site: Site) -> None:
    """It stayed, for ever with a keep-alive without end, and nobody could unload it by its name."""
    await site.made(model="a", files={"w.gguf": await site.uploaded(gguf())})
    await site.answer("a")
    assert await running(site) == ["a:latest"]
    assert Store(site.store.root).delete(ModelName("a"))
    await site.library.reload()
    assert await running(site) == []


async def test_what_a_name_stood_for_before_is_unloaded(site: Site) -> None:
    await site.made(model="a", files={"w.gguf": await site.uploaded(gguf())})
    await site.answer("a")
    await site.made(model="a", files={"w.gguf": await site.uploaded(gguf(marker=7))})
    assert await running(site) == []
    await site.answer("a")
    assert await running(site) == ["a:latest"]


# What keys may


@pytest.mark.parametrize(
    ("path", "body", "refused"),
    [
        ("/api/create", {"model": "other", "from": "mine"}, "other"),
        ("/api/create", {"model": "mine2", "from": "plain"}, "plain"),
        ("/api/copy", {"source": "plain", "destination": "mine2"}, "plain"),
        ("/api/copy", {"source": "mine", "destination": "other"}, "other"),
        ("/api/pull", {"model": "plain"}, "plain"),
        ("/api/push", {"model": "plain"}, "plain"),
    ],
)
async def test_a_key_changes_only_its_models(
    narrow: Site, path: str, body: dict[str, Any], refused: str
) -> None:
    answer = await narrow.send(path, **body)
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("this API key does not allow the model")
    assert refused in answer.json()["error"]
    assert await delete(narrow, model="plain") == (403, 'this API key does not allow the model "plain"')


async def test_a_key_makes_models_of_its_own(narrow: Site) -> None:
    await narrow.made(model="mine2", **{"from": "mine"})
    assert (await narrow.answer("mine2")).status_code == 200
    assert await delete(narrow, model="mine2") == (200, "")


# What others write into the store


async def test_a_folder_that_ollama_wrote_is_served(tmp_path: Path) -> None:
    data, template = gguf(), b"{{ .System }}{{ .Prompt }}"
    root = tmp_path / "models"
    layers = [
        {"mediaType": MODEL, "digest": digest_of(data), "size": len(data)},
        {
            "mediaType": MODEL.replace("model", "template"),
            "digest": digest_of(template),
            "size": len(template),
        },
    ]
    (root / "blobs").mkdir(parents=True)
    for blob in (data, template):
        (root / "blobs" / digest_of(blob).replace(":", "-")).write_bytes(blob)
    place = root / "manifests/registry.ollama.ai/library/tiny/latest"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (place.parent / "broken").write_text("{")
    (place.parent / "noblob").write_text(
        json.dumps({"layers": [{"mediaType": MODEL, "digest": f"sha256:{'2' * 64}", "size": 1}]})
    )
    async with managed(tmp_path) as site:
        assert await site.names() == ["plain:latest", "tiny:latest"]
        assert (await site.shown("tiny"))["template"] == template.decode()
        assert (await site.answer("tiny")).status_code == 200
        assert await delete(site, model="tiny") == (200, "")
        assert len(list((root / "blobs").iterdir())) == 2, "what Ollama wrote is not pruned"


async def test_what_another_process_changes_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with managed(tmp_path) as site:
        other = Store(site.store.root)
        data = gguf()
        layer = Layer(MODEL, other.blobs.put(data), len(data))
        other.manifests.write(ModelName("new"), Manifest(None, (layer,)))
        other.manifests.write(ModelName("empty"), Manifest(None, ()))
        for _ in range(2):
            await site.library.reload()
        assert await site.names() == ["new:latest", "plain:latest"]
        told = [entry.message for entry in caplog.records if "empty" in entry.message]
        assert told == ["the stored model empty:latest is not served: it has no weights"]
        other.delete(ModelName("new"))
        await site.library.reload()
        assert await site.names() == ["plain:latest"]


async def seen(site: Site, names: list[str]) -> bool:
    """Whether the server lists these within two seconds."""
    for _ in range(20):
        if await site.names() == names:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_two_servers_on_one_store_see_each_others_changes(tmp_path: Path) -> None:
    async with managed(tmp_path) as one, managed(tmp_path) as other:
        await one.made(model="new", **{"from": "plain"})
        assert await seen(other, ["new:latest", "plain:latest"])
        assert (await other.answer("new")).status_code == 200
        assert await delete(other, model="new") == (200, "")
        assert await seen(one, ["plain:latest"])
        assert (await one.answer("new")).status_code == 404
