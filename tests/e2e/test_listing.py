"""Tags, ps, show and status: points 170 to 183, with what they say held against files and processes."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from safetensors import safe_open

from harness.server import LiveServer
from tests.e2e.fake_site import fake_site
from tests.e2e.ollama_lines import JSON

pytestmark = pytest.mark.engine

CAPABILITIES = {
    "emb:latest": {"embedding"},
    "fim:latest": {"completion", "tools", "insert"},
    "llama:latest": {"completion", "tools"},
    "msgs:latest": {"completion"},
    "plain:latest": {"completion"},
    "sys:latest": {"completion"},
    "tool:latest": {"completion", "tools", "thinking"},
}
DETAILS = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]
FROM_FOLDER = ("emb", "fim", "llama", "tool")
"""The models that are served straight from a folder of safetensors."""


def tags(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in client.get("/api/tags").json()["models"]}


def show(client: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/show", json={"model": model, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == JSON
    return answer.json()


def ps(client: httpx.Client) -> list[dict[str, Any]]:
    return client.get("/api/ps").json()["models"]


def row(client: httpx.Client, name: str) -> dict[str, Any]:
    return next(each for each in ps(client) if each["name"] == name)


def load(client: httpx.Client, model: str, **fields: Any) -> datetime:
    """The time at which the model was asked for."""
    now = datetime.now(UTC)
    answer = client.post("/api/generate", json={"model": model, **fields})
    assert answer.json()["done_reason"] == "load", answer.text
    return now


def folder(client: httpx.Client, model: str) -> Path:
    """The folder on disk that a model says it is made FROM."""
    found = re.search(r"^FROM (.+)$", show(client, model)["modelfile"], re.MULTILINE)
    assert found is not None
    return Path(found[1])


@pytest.mark.point(170)
def test_an_empty_store() -> None:
    with fake_site() as site:
        for path in ("/api/tags", "/api/ps"):
            assert site.client.get(path).text == '{"models":[]}'
        assert site.client.get("/v1/models").json() == {"object": "list", "data": None}


@pytest.mark.point(171, 174)
def test_tags(client: httpx.Client) -> None:
    answer = client.get("/api/tags")
    assert answer.headers["content-type"] == JSON
    items = answer.json()["models"]
    assert {item["name"] for item in items} == set(CAPABILITIES)
    for item in items:
        assert list(item) == [
            "name",
            "model",
            "modified_at",
            "size",
            "digest",
            "details",
            "capabilities",
        ]
        assert item["model"] == item["name"]
        assert list(item["details"]) == [*DETAILS, "context_length", "embedding_length"]
        assert set(item["capabilities"]) == CAPABILITIES[item["name"]]


@pytest.mark.point(172)
def test_digests(client: httpx.Client) -> None:
    found = {name: item["digest"] for name, item in tags(client).items()}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in found.values())
    assert len(set(found.values())) == len(found)
    assert found == {name: item["digest"] for name, item in tags(client).items()}


@pytest.mark.point(173)
def test_the_newest_comes_first(client: httpx.Client) -> None:
    times = [datetime.fromisoformat(item["modified_at"]) for item in tags(client).values()]
    assert [time.replace(microsecond=0) for time in times] == sorted(
        (time.replace(microsecond=0) for time in times), reverse=True
    )
    assert all(time.tzinfo is not None and time <= datetime.now(UTC) for time in times)


@pytest.mark.parametrize("model", FROM_FOLDER)
def test_sizes_and_times_are_those_of_the_files(client: httpx.Client, model: str) -> None:
    item = tags(client)[f"{model}:latest"]
    files = [path.stat() for path in folder(client, model).rglob("*") if path.is_file()]
    assert item["size"] == sum(file.st_size for file in files)
    newest = max(file.st_mtime for file in files)
    assert datetime.fromisoformat(item["modified_at"]).timestamp() == pytest.approx(newest, abs=1e-5)


@pytest.mark.parametrize("model", FROM_FOLDER)
def test_numbers_are_those_of_weights_and_configuration(client: httpx.Client, model: str) -> None:
    path = folder(client, model)
    config = json.loads((path / "config.json").read_text())
    with safe_open(path / "model.safetensors", framework="np") as weights:
        slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118  # it is no mapping
        shapes = [each.get_shape() for each in slices if each.get_dtype().startswith("F")]
    count = sum(_product(shape) for shape in shapes)
    shown = show(client, model)
    info, details = shown["model_info"], shown["details"]
    family = info["general.architecture"]
    assert family == details["family"] == config["model_type"]
    assert info["general.parameter_count"] == count
    assert info[f"{family}.embedding_length"] == config["hidden_size"]
    assert info[f"{family}.block_count"] == config["num_hidden_layers"]
    assert info[f"{family}.attention.head_count"] == config["num_attention_heads"]
    assert info[f"{family}.context_length"] == _context_length(path, config)
    item = tags(client)[f"{model}:latest"]["details"]
    assert item["context_length"] == _context_length(path, config)
    assert item["embedding_length"] == config["hidden_size"]
    unit = {"K": 1e3, "M": 1e6}[item["parameter_size"][-1]]
    assert float(item["parameter_size"][:-1]) * unit == pytest.approx(count, rel=0.01)
    assert (item["format"], item["quantization_level"]) == ("safetensors", "F32")


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _context_length(path: Path, config: dict[str, Any]) -> int:
    """What the configuration allows; a sentence model reads less than its positions would."""
    sentence = path / "sentence_bert_config.json"
    if sentence.exists():
        return json.loads(sentence.read_text())["max_seq_length"]
    return config["max_position_embeddings"]


def test_a_gguf_file_is_described_as_it_is(client: httpx.Client) -> None:
    from app.catalogue.bundled import installed

    gguf = installed()
    assert gguf is not None
    item = tags(client)["plain:latest"]
    assert item["size"] == gguf.stat().st_size
    assert item["details"]["parameter_size"] == "134.52M"
    assert (item["details"]["format"], item["details"]["quantization_level"]) == ("gguf", "Q4_1")
    assert (item["details"]["context_length"], item["details"]["embedding_length"]) == (8192, 576)
    tensors = show(client, "plain")["tensors"]
    assert sum(_product(tensor["shape"]) for tensor in tensors) == 134_515_008


def test_a_model_on_another_says_so(client: httpx.Client) -> None:
    parents = {name: item["details"]["parent_model"] for name, item in tags(client).items()}
    assert parents == {
        **dict.fromkeys(CAPABILITIES, ""),
        "sys:latest": "plain:latest",
        "msgs:latest": "plain:latest",
    }


@pytest.mark.point(175)
@pytest.mark.unloads
def test_ps(client: httpx.Client) -> None:
    for each in ps(client):
        client.post("/api/generate", json={"model": each["name"], "keep_alive": 0})
    load(client, "tool", keep_alive="1m")
    asked = load(client, "plain", keep_alive="20m")
    rows = ps(client)
    assert [each["name"] for each in rows] == ["plain:latest", "tool:latest"]
    known = tags(client)
    for each in rows:
        assert list(each) == [
            "name",
            "model",
            "size",
            "digest",
            "details",
            "expires_at",
            "size_vram",
            "context_length",
        ]
        assert each["model"] == each["name"]
        assert each["digest"] == known[each["name"]]["digest"]
        assert list(each["details"]) == DETAILS
        assert each["details"]["family"] == known[each["name"]]["details"]["family"]
        assert each["context_length"] == 4096
        assert 0 <= each["size_vram"] <= each["size"]
    left = [(datetime.fromisoformat(each["expires_at"]) - asked).total_seconds() for each in rows]
    assert left == [pytest.approx(1200, abs=30), pytest.approx(60, abs=30)]
    load(client, "plain", keep_alive="5m")


def test_ps_tells_the_memory_of_the_engines(client: httpx.Client, server: LiveServer) -> None:
    load(client, "tool")
    rows = ps(client)
    assert all(each["size"] > 100 << 20 for each in rows)
    resident = sum(process.memory_info().rss for process in _engine_processes(server))
    assert sum(each["size"] - each["size_vram"] for each in rows) == pytest.approx(resident, rel=0.1)


def _engine_processes(server: LiveServer) -> Iterator[psutil.Process]:
    port = httpx.URL(server.url).port
    [pid] = {
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr[1] == port and found.pid
    }
    for process in psutil.Process(pid).children(recursive=True):
        if process.name().startswith("VLLM"):
            yield process


@pytest.mark.parametrize(("num_ctx", "shown"), [(100, 100), (2, 4), (1 << 20, 4096)])
@pytest.mark.point(116, 117)
def test_ps_tells_the_window(client: httpx.Client, num_ctx: int, shown: int) -> None:
    load(client, "tool", options={"num_ctx": num_ctx})
    assert row(client, "tool:latest")["context_length"] == shown


@pytest.mark.point(103, 104)
def test_expires_at_follows_keep_alive(client: httpx.Client) -> None:
    for keep_alive, seconds in ((600, 600), ("90s", 90), ("1h30m", 5400), (1e9, 1e9)):
        asked = load(client, "tool", keep_alive=keep_alive)
        expires = datetime.fromisoformat(row(client, "tool:latest")["expires_at"])
        assert (expires - asked).total_seconds() == pytest.approx(seconds, abs=10)
    load(client, "tool", keep_alive=-1)
    assert datetime.fromisoformat(row(client, "tool:latest")["expires_at"]).year > 2100
    load(client, "tool", keep_alive="5m")


@pytest.mark.point(176)
def test_show_takes_name_for_model(client: httpx.Client) -> None:
    expected = show(client, "tool")
    for body in ({"name": "tool"}, {"model": "", "name": "tool"}, {"model": "tool", "name": "nosuch"}):
        assert client.post("/api/show", json=body).json() == expected


@pytest.mark.point(177, 182)
def test_show(client: httpx.Client) -> None:
    known = tags(client)
    for name, item in known.items():
        shown = show(client, name)
        assert "license" in shown or name != "sys:latest"
        assert list(shown["details"]) == DETAILS
        assert shown["details"] == {key: item["details"][key] for key in DETAILS}
        assert shown["model_info"]["general.architecture"] == item["details"]["family"]
        assert set(shown["capabilities"]) == CAPABILITIES[name]
        assert shown["modified_at"] == item["modified_at"]
        assert {"general.name", "tokenizer.chat_template"}.isdisjoint(shown["model_info"])


@pytest.mark.point(178)
@pytest.mark.parametrize("model", ["plain", "tool"])
def test_long_lists_are_for_the_verbose(client: httpx.Client, model: str) -> None:
    brief, verbose = (show(client, model, verbose=flag) for flag in (False, True))
    family = brief["model_info"]["general.architecture"]
    assert brief["model_info"]["tokenizer.ggml.tokens"] is None
    tokens = verbose["model_info"]["tokenizer.ggml.tokens"]
    assert len(tokens) == verbose["model_info"][f"{family}.vocab_size"]
    assert all(isinstance(token, str) for token in tokens)
    lists = {key for key, value in verbose["model_info"].items() if isinstance(value, list)}
    assert {key for key, value in brief["model_info"].items() if value is None} == lists
    assert all(set(tensor) == {"name", "type", "shape"} for tensor in verbose["tensors"])


@pytest.mark.point(179, 180)
def test_show_of_a_model_with_settings(client: httpx.Client) -> None:
    shown = show(client, "sys")
    assert shown["license"] == "L1\nL2"
    assert shown["system"] == "SYS"
    assert set(shown["parameters"].splitlines()) == {
        "num_ctx                        2048",
        'stop                           "a"',
        'stop                           "b"',
        "temperature                    0.5",
    }
    head, commands = shown["modelfile"].split("\n\n")
    assert head.splitlines() == [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        "# FROM sys:latest",
    ]
    assert Path(commands.splitlines()[0].removeprefix("FROM ")).exists()
    assert {"SYSTEM SYS", "PARAMETER stop a", "PARAMETER temperature 0.5", "LICENSE L2"} <= set(
        commands.splitlines()
    )


@pytest.mark.point(179)
def test_show_of_a_model_with_messages(client: httpx.Client) -> None:
    shown = show(client, "msgs")
    assert shown["system"] == "MSYS"
    assert shown["messages"] == [
        {"role": "user", "content": "U0"},
        {"role": "assistant", "content": "A0"},
    ]
    assert "MESSAGE user U0\nMESSAGE assistant A0\n" in shown["modelfile"]
    assert "license" not in shown
    assert "parameters" not in shown


@pytest.mark.point(181)
def test_show_with_overrides(client: httpx.Client) -> None:
    shown = show(client, "sys", system="OVR", options={"temperature": 0.25, "top_k": 7})
    assert shown["system"] == "OVR"
    assert {"SYSTEM OVR", "PARAMETER temperature 0.25", "PARAMETER top_k 7"} <= set(
        shown["modelfile"].splitlines()
    )
    assert "SYSTEM SYS" not in shown["modelfile"]
    assert show(client, "sys")["system"] == "SYS"


def test_the_template_is_the_one_in_use(client: httpx.Client) -> None:
    template = (folder(client, "tool") / "chat_template.jinja").read_text()
    assert show(client, "tool")["template"] == template
    assert show(client, "emb")["template"] == "{{ .Prompt }}"


@pytest.mark.point(183)
def test_status(client: httpx.Client) -> None:
    assert client.get("/api/status").text == '{"cloud":{"disabled":true,"source":"config"}}'
