"""The servers that one call of `python -m loadtest` tests in turn."""

import pytest

from loadtest.__main__ import Target, parse_target

pytestmark = pytest.mark.row("C7")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://a:1", Target("server", "ollama", "http://a:1", "")),
        ("ours=https://a/base/", Target("ours", "ollama", "https://a/base", "")),
        ("v=openai+http://a:8000#qwen3:8b", Target("v", "openai", "http://a:8000", "qwen3:8b")),
        ("o=ollama+http://a#m", Target("o", "ollama", "http://a", "m")),
        ("a=openai,anthropic+http://a", Target("a", "openai,anthropic", "http://a", "")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "a", "a=b", "=http://a", "a=grpc+http://a", "a=ftp://a", "a=openai,x+http://a"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ValueError, match="a target is"):
        parse_target(text)
