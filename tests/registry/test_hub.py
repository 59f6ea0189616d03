"""Models of the hub, by the real huggingface_hub client, from a stand-in."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from app.core.errors import AddressRefused, Forbidden, RegistryFailed
from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry import guarding
from app.registry.downloads import Downloads
from app.registry.hub import Hub, HubFile, Repository, Result, choose_gguf, chosen_files, is_hub
from app.registry.policy import Policy
from app.registry.progress import Progress
from app.registry.transport import make_client
from app.store.blobs import Blobs
from tests.registry.models import QUICK, digest_of, told
from tests.registry.stand_in import COMMIT, StandIn, stand_in

WEIGHTS = random.Random(2).randbytes(900_000)
FOLDER = {
    "config.json": b'{"model_type":"llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 1_000,
    "onnx/model.onnx": b"onnx" * 1_000,
    "README.md": b"# A model",
}
GGUF = {"README.md": b"#", "m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS * 2, "mmproj-F16.gguf": WEIGHTS}
REPOS = {"org/tensors": FOLDER, "org/ggufs": GGUF, "org/gated": FOLDER}


@pytest.fixture
def hub_server() -> Generator[StandIn]:
    with stand_in(REPOS, gated=frozenset({"org/gated"}), token="hf_abc") as server:
        yield server


@pytest.fixture(autouse=True)
def _sessions(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """huggingface_hub's own sessions are global: other tests get theirs back."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", constants.HF_HUB_DISABLE_XET)
    yield
    set_client_factory(default_client_factory)


@asynccontextmanager
async def hub_of(
    server: StandIn, cache: Path, *allow: str, token: str = "", policy: Policy | None = None
) -> AsyncGenerator[Hub]:
    guard = Guard(allow=[server.host, "127.0.0.1", *allow])
    policy = policy or Policy()
    guarding.install(guard, policy, server.endpoint)
    client = make_client(guard)
    try:
        yield Hub(client, policy, cache, server.endpoint, token)
    finally:
        await client.aclose()


async def test_a_repository_becomes_a_folder_at_its_commit(hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path) as hub:
        found = await hub.look("org/tensors")
        assert found.commit == COMMIT
        result = Result(found)
        lines = await told(hub.pull_folder(found, result))
        assert result.folder is not None
        assert result.folder.name == COMMIT
        assert sorted(file.name for file in result.folder.iterdir()) == [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        assert (result.folder / "model.safetensors").read_bytes() == WEIGHTS
        total = sum(len(FOLDER[name]) for name in ("config.json", "model.safetensors", "tokenizer.json"))
        assert lines[-1] == Progress(f"pulling {COMMIT[:12]}", f"sha1:{COMMIT}", total, total)
        hub_server.asked.clear()
        await told(hub.pull_folder(found, Result(found)))
        assert not any("/resolve/" in path for method, path, _ in hub_server.asked if method == "GET")


async def test_a_gguf_goes_into_the_store(hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path / "cache") as hub:
        found = await hub.look("org/ggufs")
        file = choose_gguf(found, "latest")
        assert file is not None
        assert file == HubFile("m-Q4_K_M.gguf", len(WEIGHTS), digest_of(WEIGHTS)[7:])
        blobs = Blobs(tmp_path / "store")
        lines = await told(hub.pull_gguf(found, file, Downloads(blobs, QUICK)))
        assert blobs.path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS
        assert lines[-1].completed == len(WEIGHTS)
        assert Result(found, file).digest == digest_of(WEIGHTS)


async def test_a_gguf_that_is_another_leaves_nothing(hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path / "cache") as hub:
        found = await hub.look("org/ggufs")
        file = HubFile("m-Q4_K_M.gguf", len(WEIGHTS), digest_of(b"other")[7:])
        blobs = Blobs(tmp_path / "store")
        with pytest.raises(RegistryFailed, match="digest mismatch, file must be downloaded again"):
            await told(hub.pull_gguf(found, file, Downloads(blobs, QUICK)))
        assert blobs.size(digest_of(b"other")) is None


async def test_leaving_a_folder_stops_the_client_within_a_second(tmp_path: Path) -> None:
    with stand_in({"org/tensors": FOLDER | {"model.safetensors": WEIGHTS * 60}}) as server:
        async with hub_of(server, tmp_path) as hub:
            found = await hub.look("org/tensors")
            server.pause = threading.Event()
            async with aclosing(hub.pull_folder(found, Result(found))) as lines:
                async for line in lines:
                    if line.completed > 1_000_000:
                        break
                began = time.monotonic()
            assert time.monotonic() - began < 1
            server.pause.set()
            # The thread of the client ends at its next piece, and has put nothing in its place.
            await asyncio.get_running_loop().shutdown_default_executor()
    assert not any(file.name == "model.safetensors" for _, file in walked(tmp_path))


def walked(root: Path) -> list[tuple[int, Path]]:
    return [(file.stat().st_size, file) for file in root.rglob("*") if file.is_file()]


async def test_a_gated_repository_needs_the_servers_token(hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path) as hub:
        with pytest.raises(RegistryFailed, match="org/gated needs the consent of its makers"):
            await hub.look("org/gated")
    async with hub_of(hub_server, tmp_path, token="hf_abc") as hub:
        assert (await hub.look("org/gated")).commit == COMMIT


async def test_a_token_on_disk_is_not_used(
    hub_server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("hf_abc")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    async with hub_of(hub_server, tmp_path) as hub:
        await hub.look("org/tensors")
    assert {sent for _, _, sent in hub_server.asked} == {""}


async def test_the_token_stays_at_the_hub(tmp_path: Path) -> None:
    with stand_in(REPOS) as cdn, stand_in(REPOS, token="hf_abc", cdn=cdn.endpoint) as server:
        async with hub_of(server, tmp_path / "cache", cdn.host, token="hf_abc") as hub:
            found = await hub.look("org/tensors")
            await told(hub.pull_folder(found, Result(found)))
        assert {sent for _, _, sent in server.asked} == {"Bearer hf_abc"}
        assert cdn.asked
        assert {sent for _, _, sent in cdn.asked} == {""}


@pytest.mark.parametrize("name", ["org/nosuch", "nobody/x"])
async def test_an_unknown_repository(name: str, hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path) as hub:
        with pytest.raises(RegistryFailed, match=r"^pull model manifest: file does not exist$"):
            await hub.look(name)


async def test_a_hub_that_nobody_runs(tmp_path: Path) -> None:
    with stand_in({}) as server:
        pass
    async with hub_of(server, tmp_path) as hub:
        with pytest.raises(RegistryFailed, match=r"^org/x cannot be pulled: "):
            await hub.look("org/x")


async def test_offline_is_told(hub_server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    async with hub_of(hub_server, tmp_path) as hub:
        with pytest.raises(RegistryFailed, match="this server is offline"):
            await hub.look("org/tensors")
        monkeypatch.undo()
        hub.offline = True
        with pytest.raises(RegistryFailed, match="this server is offline"):
            await hub.look("org/tensors")
    assert hub_server.asked == []


class TestGuard:
    async def test_a_private_hub_is_not_asked(self, hub_server: StandIn, tmp_path: Path) -> None:
        guarding.install(Guard(), Policy(), hub_server.endpoint)
        client = make_client(Guard())
        with pytest.raises(AddressRefused):
            await Hub(client, Policy(), tmp_path, hub_server.endpoint).look("org/tensors")
        await client.aclose()
        assert hub_server.asked == []

    @pytest.mark.parametrize(
        "cdn", ["http://169.254.169.254", "http://10.1.2.3", "http://metadata.google.internal"]
    )
    async def test_a_hub_that_sends_to_a_private_address(self, cdn: str, tmp_path: Path) -> None:
        with stand_in(REPOS, cdn=cdn) as server:
            async with hub_of(server, tmp_path / "cache") as hub:
                found = await hub.look("org/tensors")
                with pytest.raises(AddressRefused):
                    await told(hub.pull_folder(found, Result(found)))
                found = await hub.look("org/ggufs")
                file = choose_gguf(found, "latest")
                assert file is not None
                with pytest.raises(AddressRefused):
                    await told(hub.pull_gguf(found, file, Downloads(Blobs(tmp_path / "store"), QUICK)))

    async def test_a_host_that_policy_leaves_out(self, tmp_path: Path) -> None:
        policy = Policy(redirects=("*.hf.co",))
        with stand_in(REPOS, cdn="https://cdn.example.com") as server:
            async with hub_of(server, tmp_path, policy=policy) as hub:
                found = await hub.look("org/tensors")
                with pytest.raises(Forbidden, match=r"no blobs from cdn\.example\.com"):
                    await told(hub.pull_folder(found, Result(found)))

    def test_xet_is_off(self, hub_server: StandIn) -> None:
        guarding.install(Guard(), Policy(), hub_server.endpoint)
        assert constants.HF_HUB_DISABLE_XET


async def test_what_is_too_large_is_not_begun(hub_server: StandIn, tmp_path: Path) -> None:
    async with hub_of(hub_server, tmp_path, policy=Policy(model_bytes=1_000)) as hub:
        found = await hub.look("org/tensors")
        with pytest.raises(Forbidden, match="takes none over 1000"):
            await told(hub.pull_folder(found, Result(found)))


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "text"),
        [
            (Policy(enabled=False), "pulling and pushing are off"),
            (Policy(registries=("registry.ollama.ai",)), "does not use the registry hf.co"),
            (Policy(organisations=("hf.co/Qwen",)), "does not use models of hf.co/org"),
            (Policy(enabled=False, organisations=("hf.co/org",)), "pulling and pushing are off"),
        ],
    )
    async def test_what_is_not_asked_for(
        self, policy: Policy, text: str, hub_server: StandIn, tmp_path: Path
    ) -> None:
        async with hub_of(hub_server, tmp_path, policy=policy) as hub:
            with pytest.raises(Forbidden, match=text):
                await hub.look("org/tensors")
        assert hub_server.asked == []

    @pytest.mark.parametrize(
        "policy",
        [
            Policy(registries=("HuggingFace.co",)),
            Policy(organisations=("huggingface.co/org",)),
            Policy(organisations=("hf.co/O*",)),
        ],
    )
    def test_both_names_of_the_hub_are_one(self, policy: Policy) -> None:
        policy.check_hub("org/tensors")
        with pytest.raises(Forbidden, match=r"the registry hf\.co"):
            replace(policy, registries=("registry.example",)).check_hub("org/tensors")


class TestChoice:
    @staticmethod
    def repository(*paths: str) -> Repository:
        return Repository("o/r", COMMIT, tuple(HubFile(path, len(path), "0" * 64) for path in paths))

    @pytest.mark.parametrize(
        ("tag", "chosen"),
        [
            ("latest", "m-Q4_K_M.gguf"),
            ("q4_k_m", "m-Q4_K_M.gguf"),
            ("Q4_K_S", "m-Q4_K_S.gguf"),
            ("Q8_0", "m.Q8_0.gguf"),
            ("F16", "F16/m-F16.gguf"),
            ("m-q4_k_s.gguf", "m-Q4_K_S.gguf"),
            ("m-Q4_K_S", "m-Q4_K_S.gguf"),
        ],
    )
    def test_of_a_gguf(self, tag: str, chosen: str) -> None:
        found = self.repository(
            "mmproj-Q8_0.gguf",
            "m-Q4_K_S.gguf",
            "m-Q4_K_M.gguf",
            "m.Q8_0.gguf",
            "F16/m-F16.gguf",
            "x.imatrix.gguf",
        )
        file = choose_gguf(found, tag)
        assert file is not None
        assert file.path == chosen

    def test_of_the_smallest_where_no_usual_one_is_there(self) -> None:
        file = choose_gguf(self.repository("m-longer-Q6_K.gguf", "m-Q5_K.gguf"), "latest")
        assert file is not None
        assert file.path == "m-Q5_K.gguf"

    @pytest.mark.parametrize(
        ("tag", "text"),
        [
            ("Q3_K", "o/r has no GGUF file or quantisation Q3_K"),
            ("4_K_M", "o/r has no GGUF file or quantisation 4_K_M"),
            ("Q8_0", "is one part of a GGUF file in several"),
        ],
    )
    def test_of_what_is_not_there(self, tag: str, text: str) -> None:
        found = self.repository("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
        with pytest.raises(RegistryFailed, match=text):
            choose_gguf(found, tag)

    def test_of_none(self) -> None:
        assert choose_gguf(self.repository("model.safetensors", "mmproj.gguf"), "latest") is None

    def test_pickles_are_not_pulled(self) -> None:
        with pytest.raises(RegistryFailed, match="no GGUF file and no safetensors"):
            chosen_files(self.repository("config.json", "pytorch_model.bin", "model.pt"))
        files = chosen_files(self.repository("config.json", "1_Dense/pytorch_model.bin", "model.safetensors"))
        assert [file.path for file in files] == ["config.json", "model.safetensors"]


def test_which_names_are_the_hubs() -> None:
    assert is_hub(ModelName("r", host="hf.co"))
    assert is_hub(ModelName("r", host="HuggingFace.co"))
    assert not is_hub(ModelName("r", host="hf.co.evil.example"))
