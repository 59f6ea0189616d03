"""The commands that ask a server, against one with a store over scripted engines."""

import json
import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ollama import Client
from typer.testing import CliRunner, Result

from app.access.keys import new_key
from app.catalogue.names import parse_name
from app.cli import _app  # pyright: ignore[reportPrivateUsage]  # the program as it is installed
from app.store import manifest as media
from app.store.config import ImageConfig, Serving
from app.store.manifest import Layer, Manifest
from app.store.modelfile import Command, parse_modelfile
from app.store.store import Store
from harness.fake_model import fake_model
from tests.api.managed import digest_of, gguf
from tests.api.scripted import scripted
from tests.e2e.fake_site import FakeSite, fake_site
from tests.unit.catalogue_folders import QWEN, QWEN_TOKENS, make_folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[FakeSite]:
    folder = tmp_path_factory.mktemp("site")
    models = fake_model("plain", "completion"), fake_model("vector", "embedding")
    with fake_site(*models, models_dir=folder / "models", cache_dir=folder / "cache") as made:
        yield made


def caravan(site: FakeSite, *arguments: str, stdin: str | bytes | None = None) -> Result:
    environment = {"CARAVAN_HOST": f"0.0.0.0:{site.port}", "CARAVAN_API_KEY": "", "OLLAMA_API_KEY": ""}
    return CliRunner().invoke(_app, arguments, input=stdin, env=environment)


def done(result: Result) -> Result:
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in done(result).stdout.splitlines()]


def shown(site: FakeSite, name: str) -> Any:
    answer = site.client.post("/api/show", json={"model": name})
    assert answer.status_code == 200, answer.text
    return answer.json()


def make(site: FakeSite, name: str, text: str) -> None:
    done(caravan(site, "create", name, "-f", "-", stdin=text))


# Lists


def test_models_and_what_is_loaded(site: FakeSite) -> None:
    head, *rows = done(caravan(site, "models")).stdout.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert [row.split()[:4] for row in rows if row.startswith("plain")] == [
        ["plain:latest", "0" * 12, "1", "B"]
    ]
    site.client.post("/api/generate", json={"model": "plain", "prompt": "Hi", "stream": False})
    head, row = done(caravan(site, "ps")).stdout.splitlines()
    assert head.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.startswith("plain:latest")
    assert row.endswith("minutes from now")
    done(caravan(site, "stop", "plain"))
    assert done(caravan(site, "ps")).stdout.splitlines() == [
        "NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL"
    ]


def test_json_is_the_servers_own(site: FakeSite) -> None:
    for command, path in (("models", "/api/tags"), ("ps", "/api/ps")):
        assert done(caravan(site, command, "--json")).stdout == site.client.get(path).text + "\n"
    [answer] = lines(caravan(site, "stop", "plain", "--json"))
    assert (answer["model"], answer["done_reason"]) == ("plain", "unload")


def test_stopping_what_does_not_exist(site: FakeSite) -> None:
    result = caravan(site, "stop", "nope")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == 'caravan: couldn\'t find model "nope" to stop\n'


def test_stopping_a_model_that_embeds(site: FakeSite) -> None:
    done(caravan(site, "stop", "vector"))


# Pull and rm


def test_a_pull_of_what_is_there(site: FakeSite) -> None:
    result = done(caravan(site, "pull", "plain"))
    assert (result.stdout, result.stderr) == ("", "pulling manifest\nsuccess\n")
    assert lines(caravan(site, "pull", "plain", "--json")) == [
        {"status": "pulling manifest"},
        {"status": "success"},
    ]


def test_a_pull_that_fails(site: FakeSite) -> None:
    result = caravan(site, "pull", "registry.nowhere.example/library/m")
    assert result.exit_code == 1
    assert "registry.nowhere.example" in result.stderr.splitlines()[-1]
    assert result.stderr.count("caravan: ") == 1


def test_several_are_removed_and_one_that_is_not_there_stops_none(site: FakeSite) -> None:
    for name in ("one", "two"):
        make(site, name, "FROM plain")
    result = caravan(site, "rm", "one", "nope", "plain", "two")
    assert result.exit_code == 1
    assert result.stdout == "deleted 'one'\ndeleted 'two'\n"
    missing, configured = result.stderr.splitlines()
    assert missing == "caravan: model 'nope' not found"
    assert "configuration" in configured
    make(site, "one", "FROM plain")
    assert lines(caravan(site, "rm", "one", "--json")) == [{"deleted": "one"}]


# Create

EVERYTHING = (
    'TEMPLATE """{{ if .System }}<s>{{ .System }}</s>\n{{ end }}{{ .Prompt }} "quoted" """\n'
    "SYSTEM You rhyme.\n"
    "PARAMETER temperature 0.5\nPARAMETER num_ctx 2048\n"
    'PARAMETER stop "<end>"\nPARAMETER stop " b"\n'
    "LICENSE MIT\n"
    "MESSAGE user Hi\nMESSAGE assistant two lines\n"
)


def commands(text: str) -> list[Command]:
    """What a Modelfile says besides FROM, in no order of names and keys."""
    found = [command for command in parse_modelfile(text) if command.name != "from"]
    return sorted(found, key=lambda command: (command.name, command.key))


def test_a_modelfile_with_everything_comes_back(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf(7))
    (tmp_path / "Modelfile").write_text("FROM ./w.gguf\n" + EVERYTHING)
    result = done(caravan(site, "create", "all", "-f", str(tmp_path / "Modelfile")))
    assert result.stdout == ""
    assert result.stderr.splitlines()[:3] == [
        f"hashing w.gguf ({len(gguf(7))} B)",
        f"uploading w.gguf ({len(gguf(7))} B)",
        "parsing GGUF",
    ]
    assert result.stderr.splitlines()[-1] == "success"
    printed = shown(site, "all")["modelfile"]
    assert commands(printed) == commands("FROM x\n" + EVERYTHING)
    again = printed.splitlines()
    again = ["FROM all" if line.startswith("FROM ") else line for line in again]
    make(site, "again", "\n".join(again))
    assert commands(shown(site, "again")["modelfile"]) == commands(printed + "\nLICENSE MIT"), (
        "a license is added to the base's"
    )
    done(caravan(site, "rm", "all", "again"))


def test_a_gguf_model_is_made_again_of_its_modelfile(site: FakeSite, tmp_path: Path) -> None:
    """FROM is its blob, as with Ollama: before the weights are converted, and after."""
    (tmp_path / "w.gguf").write_bytes(gguf(8))
    make(site, "first", f"FROM {tmp_path}/w.gguf\nSYSTEM You rhyme.")
    blob = f"sha256-{digest_of(gguf(8))[7:]}"
    before = shown(site, "first")
    site.client.post("/api/generate", json={"model": "first", "prompt": "Hi"}).raise_for_status()
    for answer in (before, shown(site, "first")):
        (line,) = (line for line in answer["modelfile"].splitlines() if line.startswith("FROM "))
        path = Path(line.removeprefix("FROM "))
        assert (path.name, path.read_bytes()) == (blob, gguf(8))
        again = done(caravan(site, "create", "again", "-f", "-", stdin=answer["modelfile"]))
        assert "uploading" not in again.stderr
        with closing(Client(f"http://127.0.0.1:{site.port}")) as client:
            files = {path.name: client.create_blob(path)}
            client.create("by-client", files=files, system="You rhyme.")
            sizes = {row.model: (row.size, row.details) for row in client.list().models}
            for name in ("again", "by-client"):
                assert sizes[f"{name}:latest"] == sizes["first:latest"]
                assert commands(shown(site, name)["modelfile"]) == commands(answer["modelfile"])
        done(caravan(site, "rm", "again", "by-client"))
    done(caravan(site, "rm", "first"))


def test_a_folder_is_uploaded_once(site: FakeSite, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", template=QWEN, tokens=QWEN_TOKENS)
    (tmp_path / "Modelfile").write_text("FROM folder")
    command = "create", "folder", "--file", str(tmp_path / "Modelfile")
    assert "uploading model.safetensors" in done(caravan(site, *command)).stderr
    assert "uploading" not in done(caravan(site, *command)).stderr
    events = lines(caravan(site, *command, "--json"))
    assert events[-2:] == [{"status": "writing manifest"}, {"status": "success"}]
    assert "tools" in shown(site, "folder")["capabilities"]
    assert folder.is_dir()
    done(caravan(site, "rm", "folder"))


def test_the_modelfile_of_the_folder_that_one_is_in(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = caravan(site, "create", "m")
    assert (result.exit_code, result.stderr) == (1, "caravan: Modelfile: No such file or directory\n")
    Path("Modelfile").write_text("FROM plain\nPARAMETER mirostat 1")
    result = done(caravan(site, "create", "m"))
    assert result.stderr.startswith("caravan: Modelfile: (line 2): the parameter mirostat is deprecated")
    done(caravan(site, "rm", "m"))


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        ("FROM plain\nBAD x", (), "caravan: -: (line 2): command must be one of"),
        ("FROM a b", (), "caravan: -: (line 1): FROM a b: invalid model name"),
        ("FROM bad.gguf", ("--json",), "caravan: supplied file was not in GGUF format"),
        ("FROM plain\nTEMPLATE {{ if", (), "caravan: template error: "),
        ("FROM plain", ("-q", "bogus"), "caravan: unsupported quantization type BOGUS"),
        ("FROM bad.gguf", (), "caravan: supplied file was not in GGUF format"),
    ],
)
def test_what_cannot_be_created(
    site: FakeSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    more: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.gguf").write_bytes(b"nothing of the kind")
    result = caravan(site, "create", "m", "-f", "-", *more, stdin=text)
    assert result.exit_code == 1
    assert all(
        "status" in json.loads(line) or "error" in json.loads(line) for line in result.stdout.splitlines()
    )
    assert result.stderr.splitlines()[-1].startswith(reason)


def test_a_name_is_looked_at_before_files_are(site: FakeSite, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf())
    (tmp_path / "Modelfile").write_text("FROM w.gguf")
    result = caravan(site, "create", "a b", "-f", str(tmp_path / "Modelfile"))
    assert (result.exit_code, result.stderr) == (1, "caravan: invalid model name: 'a b'\n")


# Import

TENSORS = "its weights are in a blob for each tensor, which Ollama's MLX engine reads and vLLM does not"


class OllamaFolder:
    """A folder as Ollama writes it."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)

    def layer(self, kind: str, data: bytes, **more: str) -> Layer:
        return Layer(kind, self.store.blobs.put(data), len(data), **more)

    def put(self, name: str, *layers: Layer, **config: Any) -> None:
        described = self.layer(media.CONFIG, ImageConfig(model_format="gguf", **config).encode())
        self.store.manifests.write(parse_name(name), Manifest(described, layers))


@pytest.fixture
def ollama(tmp_path: Path) -> OllamaFolder:
    return OllamaFolder(tmp_path / "ollama" / "models")


def adopted(result: Result) -> dict[str, tuple[str, str]]:
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {row["model"]: (row["state"], row["reason"]) for row in found}


def test_a_folder_of_ollama_is_adopted(site: FakeSite, ollama: OllamaFolder, tmp_path: Path) -> None:
    weights = ollama.layer(media.MODEL, gguf(21))
    ollama.put(
        "mine/poet:1b",
        weights,
        ollama.layer(media.TEMPLATE, b"{{ .System }} {{ .Prompt }}"),
        ollama.layer(media.SYSTEM, b"You rhyme."),
        ollama.layer(media.PARAMS, b'{"stop":["<end>"],"temperature":0.5}'),
        ollama.layer(media.MESSAGES, b'[{"role":"user","content":"Hi"}]'),
        ollama.layer(media.LICENSE, b"MIT"),
        ollama.layer(media.LICENSE, b"Apache"),
    )
    ollama.put("old", weights, ollama.layer(media.PROMPT, b"{{ .Prompt }}!"))
    result = done(caravan(site, "import", str(tmp_path / "ollama")))
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["NAME", "STATE", "WHY"],
        ["mine/poet:1b", "adopted"],
        ["old:latest", "adopted"],
    ]
    size = f"({len(gguf(21))} B)"
    shown_lines = ["mine/poet:1b", f"uploading {weights.digest[7:19]} {size}", "old:latest"]
    assert result.stderr.splitlines() == shown_lines, "weights that two models share go once"
    found = shown(site, "mine/poet:1b")
    assert (found["system"], found["license"]) == ("You rhyme.", "MIT\nApache")
    assert found["template"] == "{{ .System }} {{ .Prompt }}"
    assert found["messages"] == [{"role": "user", "content": "Hi"}]
    assert sorted(found["parameters"].split()) == sorted(["stop", '"<end>"', "temperature", "0.5"])
    assert shown(site, "old")["template"] == "{{ .Prompt }}!"

    before = {row["name"]: row["digest"] for row in site.client.get("/api/tags").json()["models"]}
    again = caravan(site, "import", str(ollama.store.root), "--json")
    assert set(adopted(done(again)).values()) == {("there already", "")}
    once_more = caravan(site, "import", str(ollama.store.root), "--json", "--overwrite")
    assert set(adopted(done(once_more)).values()) == {("adopted", "")}
    assert {row["name"]: row["digest"] for row in site.client.get("/api/tags").json()["models"]} == before
    done(caravan(site, "rm", "mine/poet:1b", "old"))


def test_what_cannot_be_adopted_is_told_and_stops_nothing(
    site: FakeSite, ollama: OllamaFolder, tmp_path: Path
) -> None:
    weights = ollama.layer(media.MODEL, gguf(22))
    gone = ollama.layer(media.MODEL, gguf(23))
    cut = ollama.layer(media.MODEL, gguf(24))
    ollama.put("sees", weights, ollama.layer(media.PROJECTOR, gguf(25)))
    ollama.put("cloudy", remote_host="https://ollama.com", remote_model="big")
    ollama.put("tensors", ollama.layer(media.TENSOR, b"x", name="a"))
    ollama.put("drafted", weights, ollama.layer(media.DRAFT, gguf(26)))
    ollama.put("adapted", weights, ollama.layer(media.ADAPTER, gguf(30)))
    ollama.put("built", ollama.layer(media.SERVING, Serving(base="mine").encode()))
    ollama.put("tuned", weights, ollama.layer(media.SERVING, Serving(engine={"dtype": "float32"}).encode()))
    ollama.put("empty", ollama.layer(media.SYSTEM, b"x"))
    ollama.put("gone", gone)
    ollama.put("cut", cut)
    ollama.put("bad", ollama.layer(media.MODEL, b"no GGUF"))
    ollama.put("odd", weights, ollama.layer(media.PARAMS, b"[1]"))
    ollama.put("hub", ollama.layer(media.SERVING, Serving(repository="org/repo", revision="1").encode()))
    ollama.put("plain", weights)
    ollama.store.blobs.path(gone.digest).unlink()
    os.truncate(ollama.store.blobs.path(cut.digest), 10)
    broken = ollama.store.root / "manifests/registry.ollama.ai/library/broken/latest"
    broken.parent.mkdir()
    broken.write_text("{")
    result = caravan(site, "import", str(ollama.store.root), "--json")
    assert result.exit_code == 1
    found = adopted(result)
    assert found.pop("sees:latest") == ("adopted", "without its projector: it reads text only")
    assert found.pop("plain:latest") == ("there already", "")
    reasons = {name: reason for name, (state, reason) in found.items() if state == "not adopted"}
    assert found.keys() == reasons.keys()
    assert reasons == {
        "cloudy:latest": "it runs at another server, of which this is only the name",
        "tensors:latest": TENSORS,
        "drafted:latest": "it has a draft model beside it, which a server does not take",
        "adapted:latest": "its adapter is in GGUF, and vLLM takes those of PEFT",
        "built:latest": "it is built on mine, which another server's configuration has",
        "tuned:latest": "it has engine arguments or parsers, which no request carries",
        "empty:latest": "it has no weights",
        "gone:latest": f"its blob {gone.digest[:19]} is missing",
        "cut:latest": f"its blob {cut.digest[:19]} has 10 of its {cut.size} bytes",
        "bad:latest": "supplied file was not in GGUF format",
        "odd:latest": "its parameters cannot be read",
        "hub:latest": "its weights are at the hub: pull hf.co/org/repo on the server",
        "registry.ollama.ai/library/broken/latest": "it is not JSON",
    }
    done(caravan(site, "rm", "sees"))


def test_a_blob_that_is_not_what_its_name_says(site: FakeSite, ollama: OllamaFolder) -> None:
    layer = ollama.layer(media.MODEL, gguf(27))
    ollama.put("swapped", layer)
    ollama.store.blobs.path(layer.digest).write_bytes(gguf(28))
    assert len(gguf(28)) == layer.size
    result = caravan(site, "import", str(ollama.store.root), "--json")
    [(state, reason)] = adopted(result).values()
    assert state == "not adopted"
    assert reason.startswith(f'digest mismatch, expected "{layer.digest}", got "{digest_of(gguf(28))}"')


def test_some_models_of_a_folder(site: FakeSite, ollama: OllamaFolder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        ollama.put(name, ollama.layer(media.MODEL, gguf(29)))
    folder = str(ollama.store.root)
    assert adopted(done(caravan(site, "import", folder, "ONE", "--json"))) == {"one:latest": ("adopted", "")}
    result = caravan(site, "import", folder, "three")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "caravan: there is no model 'three' in that folder\n"
    result = caravan(site, "import", str(tmp_path))
    assert (
        result.stderr == f"caravan: {tmp_path} is no folder of models: there is no folder 'manifests' in it\n"
    )
    done(caravan(site, "rm", "one"))


# Keys


def test_a_key_is_asked_for_and_held_to_its_scopes(tmp_path: Path) -> None:
    reader, hashed = new_key("reader")
    record = {"id": "reader", "hash": hashed, "scopes": ["inference", "models:read"]}
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [record]}))
    (tmp_path / "w.gguf").write_bytes(gguf())
    (tmp_path / "Modelfile").write_text("FROM w.gguf")
    with fake_site(
        fake_model("plain", "completion"),
        keys_file=file,
        models_dir=tmp_path / "models",
        cache_dir=tmp_path / "cache",
    ) as site:
        create = "create", "m", "-f", str(tmp_path / "Modelfile")
        for command in (("models",), ("rm", "plain"), ("pull", "plain"), create):
            result = caravan(site, *command)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.endswith("give a key that it knows by --key or CARAVAN_API_KEY\n")
        assert "plain:latest" in done(caravan(site, "models", "--key", reader)).stdout
        for command in (("rm", "plain"), create):
            result = caravan(site, *command, "--key", reader)
            assert result.exit_code == 1
            assert "models:write" in result.stderr
            assert "hashing" not in result.stderr, "a refusal comes before the work"


def test_a_prefix_of_the_address_goes_before_every_path() -> None:
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + b'{"models":[]}') as stub:
        result = CliRunner().invoke(_app, ["models", "--host", f"http://127.0.0.1:{stub.port}/a/b/"])
    assert result.exit_code == 0
    assert stub.requests[0].startswith(b"GET /a/b/api/tags HTTP/1.1\r\n")
