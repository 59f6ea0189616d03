"""The catalogue of test models is consistent, and a model is built once per recipe."""

from pathlib import Path

import pytest

from harness.models import build as recipe
from harness.models.catalogue import CASES, FILLS, LONG_STORY, Case, Kind, case

EVERY = [
    pytest.param(kind, each, id=f"{kind}-{each.name}") for kind, cases in CASES.items() for each in cases
]


@pytest.mark.parametrize("kind", CASES)
def test_a_name_means_one_case(kind: Kind) -> None:
    assert [case(kind, each.name) for each in CASES[kind]] == list(CASES[kind])


@pytest.mark.parametrize(("kind", "each"), EVERY)
def test_the_answer_is_in_the_reply(kind: Kind, each: Case) -> None:
    """Markup is all that the API may take away, and only from a reply with calls."""
    assert each.reply.startswith(each.content)
    if not each.calls:
        assert each.content == each.reply
    for call in each.calls:
        assert call.name in {tool["function"]["name"] for tool in each.tools}
        assert all(str(value) in each.reply for value in call.arguments.values())


@pytest.mark.parametrize(("kind", "each"), EVERY)
def test_tools_are_keyed_as_ollama_writes_them(kind: Kind, each: Case) -> None:
    for tool in each.tools:
        assert list(tool) == ["type", "function"]
        assert list(tool["function"]) == ["name", "description", "parameters"]
        assert list(tool["function"]["parameters"]) == ["type", "required", "properties"]


def test_only_a_thinking_model_thinks() -> None:
    assert all(each.thinking for each in CASES["qwen3"] if not each.prefilled)
    assert not any(each.thinking for kind in ("llama", "coder") for each in CASES[kind])


def test_the_story_is_long_enough_to_be_interrupted() -> None:
    assert len(LONG_STORY.split()) >= 400
    assert case("qwen3", "story").content == LONG_STORY


def test_a_fill_is_asked_for_in_the_order_prefix_suffix_middle() -> None:
    fill = FILLS[0]
    assert fill.prompt == f"<|fim_prefix|>{fill.prefix}<|fim_suffix|>{fill.suffix}<|fim_middle|>"


def test_a_built_model_is_not_built_again(tmp_path: Path) -> None:
    built = tmp_path / f"llama-{recipe.fingerprint('llama')}"
    built.mkdir()
    assert recipe.build("llama", tmp_path) == built
    assert list(tmp_path.iterdir()) == [built]


def test_every_kind_has_its_own_fingerprint() -> None:
    assert len({recipe.fingerprint(kind) for kind in recipe.KINDS}) == len(recipe.KINDS)


def test_a_fingerprint_follows_the_transcripts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {kind: recipe.fingerprint(kind) for kind in recipe.KINDS}
    monkeypatch.setitem(CASES, "llama", CASES["llama"][1:])
    assert {kind for kind in recipe.KINDS if recipe.fingerprint(kind) != before[kind]} == {"llama"}


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no test model 'gpt'; there are qwen3, llama, coder, vision"):
        recipe.build("gpt", tmp_path)


def test_a_failed_build_leaves_no_model_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "without a standard library"))
    with pytest.raises(RuntimeError, match="could not build vision") as caught:
        recipe.build("vision", tmp_path)
    assert "encodings" in str(caught.value)
    assert [each for each in tmp_path.iterdir() if each.is_dir()] == []
