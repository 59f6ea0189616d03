"""Models that are pulled and pushed over HTTP, from and to a real registry (docs/reference 12)."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from ollama import AsyncClient, ResponseError
from typer.testing import CliRunner, Result

from app.cli import _app  # pyright: ignore[reportPrivateUsage]  # the program as it is installed
from app.core.model import ModelName
from app.store.config import Serving, parse_serving
from app.store.manifest import ADAPTER, MESSAGES, SERVING, TEMPLATE
from harness.fake_model import fake_model
from harness.oci_registry import running_registry
from tests.api.managed import Site, digest_of, gguf, managed
from tests.e2e.fake_site import fake_site
from tests.programs import program
from tests.registry.faulty import Reply, faulty
from tests.registry.models import model_of
from tests.registry.stand_in import COMMIT, stand_in
from tests.unit.catalogue_folders import make_folder


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running_registry(program("docker-registry"), tmp_path_factory.mktemp("oci")) as address:
        yield address


def reaching(host: str, **more: Any) -> dict[str, Any]:
    """Settings of a server that may speak to a registry on loopback."""
    return {
        "registry_allow": [host],
        "registry_insecure": True,
        "fetch_allow": [host, "127.0.0.1"],
        **more,
    }


async def pushed(site: Site, name: str, **body: Any) -> list[Any]:
    await site.made(model=name, files={"w.gguf": await site.uploaded(gguf())}, **body)
    return await site.lines("/api/push", model=name, insecure=True)


@pytest.mark.point(201, 202, 204)
async def test_a_model_goes_there_and_comes_back(host: str, tmp_path: Path) -> None:
    name = f"{host}/library/tiny:latest"
    async with managed(tmp_path / "a", **reaching(host)) as site:
        statuses = [line["status"] for line in await pushed(site, name, system="Short.")]
        assert statuses[0] == "retrieving manifest"
        assert statuses[-2:] == ["pushing manifest", "success"]
        lines = await site.lines("/api/pull", model=name, insecure=True)
        here = [line for line in lines if "digest" in line]
        stored = site.store.manifests.find(ModelName("tiny", host=host))
        assert stored is not None
        assert here == [
            {
                "status": f"pulling {layer.digest[7:19]}",
                "digest": layer.digest,
                "total": layer.size,
                "completed": layer.size,
            }
            for layer in stored.manifest.blobs
        ]
    async with managed(tmp_path / "b", **reaching(host)) as site:
        lines = await site.lines("/api/pull", model=name, insecure=True)
        statuses = [line["status"] for line in lines]
        assert statuses[0] == "pulling manifest"
        assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        assert await site.names() == [name, "plain:latest"]
        assert (await site.shown(name))["system"] == "Short."
        assert (await site.answer(name)).status_code == 200
        answer = await site.send("/api/pull", model=name, insecure=True, stream=False)
        assert (answer.status_code, answer.json()) == (200, {"status": "success"})
        assert answer.headers["content-type"] == "application/json"


def test_the_command_line_pulls(host: str, tmp_path: Path) -> None:
    name = f"{host}/library/told:latest"
    (tmp_path / "w.gguf").write_bytes(gguf(3))
    (tmp_path / "Modelfile").write_text("FROM w.gguf\nSYSTEM Short.")
    model, settings = fake_model("plain", "completion"), reaching(host, cache_dir=tmp_path / "cache")

    def caravan(port: int, *arguments: str) -> Result:
        return CliRunner().invoke(_app, arguments, env={"CARAVAN_HOST": f"127.0.0.1:{port}"})

    with fake_site(model, models_dir=tmp_path / "a", **settings) as there:
        made = caravan(there.port, "create", name, "-f", str(tmp_path / "Modelfile"))
        assert made.exit_code == 0, made.output
        there.client.post("/api/push", json={"model": name, "insecure": True}).raise_for_status()
    with fake_site(model, models_dir=tmp_path / "b", **settings) as here:
        assert caravan(here.port, "pull", name).exit_code == 1, "the server was not asked for http"
        pulled = caravan(here.port, "pull", name, "--insecure")
        assert pulled.exit_code == 0, pulled.output
        assert pulled.stderr.splitlines()[0] == "pulling manifest"
        assert pulled.stderr.splitlines()[-1] == "success"
        again = caravan(here.port, "pull", name, "--insecure").stderr.splitlines()
        assert f"pulling {digest_of(gguf(3))[7:19]} ({len(gguf(3))} B)" in again
        assert name in caravan(here.port, "models").stdout


@pytest.mark.point(203)
async def test_a_tag_that_changed(host: str, tmp_path: Path) -> None:
    name = f"{host}/library/moves:latest"
    async with (
        managed(tmp_path / "a", **reaching(host)) as there,
        managed(tmp_path / "b", **reaching(host)) as here,
    ):
        for system in ("One.", "Two."):
            await pushed(there, name, system=system)
            lines = await here.lines("/api/pull", model=name, insecure=True)
        assert [line["status"] for line in lines][-3:] == [
            "writing manifest",
            "removing unused layers",
            "success",
        ]
        assert (await here.shown(name))["system"] == "Two."


MISSING = "pull model manifest: file does not exist"


@pytest.mark.point(205, 206)
async def test_an_unknown_name(host: str, tmp_path: Path) -> None:
    name = f"{host}/library/nosuch"
    async with managed(tmp_path, **reaching(host)) as site:
        lines = await site.lines("/api/pull", model=name, insecure=True)
        assert lines == [{"status": "pulling manifest"}, {"error": MISSING}]
        answer = await site.send("/api/pull", model=name, insecure=True, stream=False)
        assert (answer.status_code, answer.json()) == (500, {"error": MISSING})
        lines = await site.lines(
            "/api/create", model="m", insecure=True, **{"from": f"{host}/library/nosuch"}
        )
        assert lines[0] == {"status": "pulling manifest"}
        assert "error" in lines[-1]


@pytest.mark.point(207)
async def test_a_registry_that_wants_a_newer_version(tmp_path: Path) -> None:
    model = model_of(gguf(), b"{}")
    async with (
        faulty(
            model, lambda asked: Reply(412, b"newer") if "/manifests/" in asked.path else None
        ) as registry,
        managed(tmp_path, **reaching(registry.host)) as site,
    ):
        lines = await site.lines("/api/pull", model=f"{registry.host}/library/m", insecure=True)
        assert lines[-1] == {"error": "pull model manifest: 412: newer"}


@pytest.mark.parametrize(
    ("serving", "error"),
    [
        (
            Serving(base="plain"),
            "the manifest cannot be used: its model runs on a configured one",
        ),
        (
            Serving("org/name", engine={"trust_remote_code": True}),
            "the manifest cannot be used: the engine arg",
        ),
        (Serving(engine={"model": "/etc"}), "the manifest cannot be used: the engine argument 'model'"),
        (Serving("org/name"), "this server does not use the registry hf.co"),
    ],
)
async def test_what_a_manifest_of_others_may_not_say(tmp_path: Path, serving: Serving, error: str) -> None:
    model = model_of(serving.encode(), b"{}", media_type=SERVING)
    async with faulty(model) as registry, managed(tmp_path, **reaching(registry.host)) as site:
        name = f"{registry.host}/library/m"
        lines = await site.lines("/api/pull", model=name, insecure=True)
        assert lines[-1]["error"].startswith(error)
        assert await site.names() == ["plain:latest"]
        answer = await site.send("/api/create", model="m", **{"from": name}, stream=False)
        assert answer.status_code in (403, 500)
        assert await site.names() == ["plain:latest"]


@pytest.mark.parametrize(
    ("media_type", "data", "error"),
    [
        (MESSAGES, b"[" + b"{}," * 10_000 + b"{}]", "messages: at most 10000, this model has 10001"),
        (TEMPLATE, b"x" * (1 << 20), "template: at most "),
        (ADAPTER, b"GGUF", "its adapter is in GGUF, and vLLM takes those of PEFT"),
    ],
)
async def test_a_model_that_would_not_be_served_is_told_to_whoever_pulls_it(
    tmp_path: Path, media_type: str, data: bytes, error: str
) -> None:
    """It was left out of the list, after `success`, and only the log said why."""
    model = model_of(gguf(), data, b"{}")
    weights, layer = (digest_of(each) for each in (gguf(), data))
    document = json.loads(model.raw)
    assert [each["digest"] for each in document["layers"]] == [weights, layer]
    document["layers"][1]["mediaType"] = media_type
    model = replace(model, raw=json.dumps(document).encode())
    async with faulty(model) as registry, managed(tmp_path, **reaching(registry.host)) as site:
        name = f"{registry.host}/library/m"
        lines = await site.lines("/api/pull", model=name, insecure=True)
        assert lines[-1].keys() == {"error"}
        assert lines[-1]["error"].startswith(f"the model cannot be served here: {error}")
        assert "writing manifest" not in [line.get("status") for line in lines]
        assert site.store.manifests.list().models == ()
        answer = await site.send("/api/pull", model=name, insecure=True, stream=False)
        assert (answer.status_code, answer.json()) == (500, lines[-1])
        assert await site.names() == ["plain:latest"]


async def test_what_came_with_a_bad_digest_is_not_served(tmp_path: Path) -> None:
    model = model_of(gguf(), b"{}")
    async with (
        faulty(model, lambda asked: Reply(200, gguf(1)) if model.largest in asked.path else None) as registry,
        managed(tmp_path, **reaching(registry.host)) as site,
    ):
        lines = await site.lines("/api/pull", model=f"{registry.host}/library/m", insecure=True)
        assert lines[-1]["error"].startswith("digest mismatch, file must be downloaded again")
        assert await site.names() == ["plain:latest"]


@pytest.mark.point(209)
async def test_what_is_not_pushed(host: str, tmp_path: Path) -> None:
    async with managed(tmp_path, **reaching(host)) as site:
        answer = await site.send("/api/push")
        assert (answer.status_code, answer.json()) == (400, {"error": "model is required"})
        answer = await site.send("/api/push", model="a b")
        assert (answer.status_code, answer.json()) == (500, {"error": "unqualified name: a b"})
        lines = await site.lines("/api/push", model=f"{host}/library/none", insecure=True)
        assert [line.get("status") for line in lines[:2]] == [
            "retrieving manifest",
            "couldn't retrieve manifest",
        ]
        assert lines[2]["error"].startswith("open manifests/")
        answer = await site.send("/api/push", model="plain")
        assert answer.status_code == 403


async def test_what_the_operator_does_not_let_come(host: str, tmp_path: Path) -> None:
    name = f"{host}/library/tiny"
    for path in ("/api/pull", "/api/push"):
        for settings, reason in (
            ({"pull": False}, "are off"),
            ({"registry_allow": ["registry.ollama.ai"]}, f"this server does not use the registry {host}"),
            ({"registry_insecure": False}, "this server does not use insecure connections to registries"),
            ({"registry_allow": [f"{host}/me"]}, f"this server does not use models of {host}/library"),
        ):
            async with managed(tmp_path, **reaching(host) | settings) as site:
                answer = await site.send(path, model=name, insecure=True)
                assert answer.status_code == 403, answer.text
                if path == "/api/pull" or "are off" not in reason:
                    assert reason in answer.json()["error"]
    closed: dict[str, Any] = {**reaching(host), "fetch_allow": []}
    async with managed(tmp_path, **closed) as site:
        lines = await site.lines("/api/pull", model=name, insecure=True)
        assert "error" in lines[-1]
    async with managed(tmp_path, **reaching(host, models_max_bytes=10)) as site:
        lines = await site.lines("/api/pull", model=name, insecure=True)
        assert "may have at most 10 together" in lines[-1]["error"]


async def test_pulling_a_configured_model_changes_nothing_also_where_pulling_is_off(tmp_path: Path) -> None:
    async with managed(tmp_path, pull=False) as site:
        lines = await site.lines("/api/pull", model="PLAIN")
        assert lines == [{"status": "pulling manifest"}, {"status": "success"}]


async def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real huggingface_hub client, from a stand-in: the commit is in the manifest."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", constants.HF_HUB_DISABLE_XET)
    folder = make_folder(tmp_path / "folder")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    try:
        with stand_in({"org/tiny": files}) as hub:
            allowed: dict[str, Any] = {
                "fetch_allow": [hub.host, "127.0.0.1"],
                "registry_allow": ["hf.co/org"],
            }
            async with managed(tmp_path, **allowed) as site:
                site.transfers.hub_endpoint = hub.endpoint
                lines = await site.lines("/api/pull", model="hf.co/org/tiny")
                assert [lines[0]["status"], lines[-1]["status"]] == ["pulling manifest", "success"]
                assert await site.names() == ["hf.co/org/tiny:latest", "plain:latest"]
                assert (await site.answer("hf.co/org/tiny")).status_code == 200
                await site.made(model="mine", **{"from": "hf.co/org/tiny"}, system="Short.")
                assert (await site.answer("mine")).status_code == 200
                assert len(site.loads) == 1
                stored = site.store.manifests.find(ModelName("mine"))
                assert stored is not None
                layer = stored.manifest.last(SERVING)
                assert layer is not None
                assert parse_serving(site.store.blobs.read(layer.digest, 1 << 20)).revision == COMMIT
                lines = await site.lines("/api/pull", model="hf.co/org/none")
                assert lines[-1] == {"error": MISSING}
                assert (await site.send("/api/pull", model="hf.co/other/tiny")).status_code == 403
    finally:
        set_client_factory(default_client_factory)


async def test_the_official_client(host: str, tmp_path: Path) -> None:
    """`ollama` on PyPI, unmodified: create, show, copy, list, push, delete, pull."""
    name = f"{host}/library/official:latest"
    file = tmp_path / "w.gguf"
    file.write_bytes(gguf(7))
    async with managed(tmp_path, fake_model("plain", "completion"), **reaching(host)) as site:
        client = AsyncClient(host="http://127.0.0.1")
        client._client = site.client  # type: ignore[assignment]  # pyright: ignore
        digest = await client.create_blob(file)
        assert digest == digest_of(gguf(7))
        await client.create(model="mine", files={"w.gguf": digest}, system="You are official.")
        statuses = [
            part.status
            async for part in await client.create(model=name, from_="mine", license="MIT", stream=True)
        ]
        assert statuses[-1] == "success"
        assert (await client.show(name)).modelfile
        assert (await client.copy("mine", "other")).status == "success"
        listed = {model.model for model in (await client.list()).models}
        assert listed == {"plain:latest", "mine:latest", "other:latest", name}
        answer = await client.chat("mine", messages=[{"role": "user", "content": "Hi"}])
        assert answer.message.content is not None
        assert (await client.push(name, insecure=True)).status == "success"
        for each in ("mine", "other", name):
            assert (await client.delete(each)).status == "success"
        with pytest.raises(ResponseError, match="model 'mine' not found"):
            await client.delete("mine")
        assert (await client.pull(name, insecure=True)).status == "success"
        assert (await client.show(name)).details is not None
        assert len(site.loads) == 1
