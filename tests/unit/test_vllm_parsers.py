"""Parsers that a model names are known to vLLM before anything is started."""

from dataclasses import replace

import pytest

from app.core.errors import LoadFailed
from app.core.model import Model
from tests.unit.garage import model

pytestmark = pytest.mark.engine


def named(**parsers: str) -> Model:
    made = model("m")
    return replace(made, facts=replace(made.facts, **parsers))


@pytest.mark.parametrize("setting", ["tool_parser", "reasoning_parser"])
def test_a_parser_that_is_unknown_stops_the_load_and_is_named(setting: str) -> None:
    from app.engine.vllm.config import check_parsers

    check_parsers(named())
    check_parsers(named(tool_parser="hermes", reasoning_parser="qwen3"))
    with pytest.raises(LoadFailed, match=rf"m:latest: {setting} 'foo' is unknown; there are: .*qwen3"):
        check_parsers(named(**{setting: "foo"}))
