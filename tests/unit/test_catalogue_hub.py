from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from app.catalogue import hub
from app.catalogue.preparation import prepare
from app.core.errors import LoadFailed
from tests.unit.catalogue_folders import make_folder, spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on disk, with the network off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, repo: str) -> Path:
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    return make_folder(place / "snapshots" / COMMIT)


def test_a_cached_repository_needs_no_network(cache: Path, tmp_path: Path) -> None:
    folder = put(cache, "org/tiny")
    assert hub.fetch("org/tiny") == folder
    models = prepare([spec("org/tiny", "org/tiny"), spec("chat", "org/tiny")], tmp_path / "cache").all()
    assert [model.facts.path for model in models] == [folder, folder]
    assert [model.parent for model in models] == ["", "org/tiny:latest"]


def test_a_repository_without_weights(cache: Path) -> None:
    (put(cache, "org/tiny") / "model.safetensors").unlink()
    with pytest.raises(LoadFailed, match="org/tiny has no weights"):
        hub.fetch("org/tiny")


def test_an_unknown_repository_is_one_clear_line(cache: Path) -> None:
    with pytest.raises(LoadFailed) as error:
        hub.fetch("org/nosuch")
    assert str(error.value) == "org/nosuch is not in the local cache and the hub cannot be reached"


@pytest.mark.parametrize(
    ("source", "repo"),
    [("org/name", True), ("org/name-1.5B_x", True), ("name", False), ("./name", False), ("a/b/c", False)],
)
def test_what_looks_like_a_repository(source: str, repo: bool) -> None:
    assert hub.is_repo(source) is repo


def test_mistrals_own_files_are_fetched() -> None:
    """A tokenizer of sentencepiece has its version for an ending."""
    own = ["consolidated.safetensors", "params.json", "tekken.json", "tokenizer.model.v3"]
    kept = filter_repo_objects(own, allow_patterns=[*hub.SMALL_FILES, *hub.WEIGHTS[1]])
    assert list(kept) == own


def test_a_repository_in_mistrals_own_format_is_served(cache: Path, tmp_path: Path) -> None:
    folder = put(cache, "org/tiny")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    (folder / "params.json").write_text('{"dim": 8, "n_layers": 2, "vision_encoder": {"hidden_size": 8}}')
    (folder / "tekken.json").write_text('{"config": {"version": "v7"}}')
    (model,) = prepare([spec("m", "org/tiny")], tmp_path / "cache").all()
    assert model.facts.capabilities == ("completion", "vision", "tools")
    assert model.facts.engine["load_format"] == "mistral"
