"""Which levels of thinking a chat template tells apart."""

import pytest

from app.catalogue.thinking import thinking_levels
from app.core.model import ThinkingLevels

QWEN = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}"


@pytest.mark.parametrize(
    ("template", "values", "default"),
    [
        (QWEN, (False, True), True),
        ("{% if thinking %}<think>{% endif %}", (False, True), True),
        ("<think>", (True,), True),
        (
            "{% if reasoning_effort == 'low' %}a{% elif 'high' == reasoning_effort %}b{% endif %}",
            ("low", "high"),
            "high",
        ),
        (
            "{% set effort = reasoning_effort | default('high') | lower %}"
            "{% if effort not in ['max', 'high', 'low', 'medium'] %}?{% endif %}",
            ("low", "medium", "high", "max"),
            "high",
        ),
        (
            "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'low' %}{% endif %}"
            "{% if reasoning_effort in ('low', 'medium', 'xhigh', 'brisk') %}a{% endif %}",
            ("low", "medium", "xhigh", "brisk"),
            "low",
        ),
        (
            "{% set e = reasoning_effort if reasoning_effort is defined and reasoning_effort else 'none' %}"
            "{% if e not in ['none', 'high'] %}{{ raise_exception('?') }}{% endif %}",
            (False, "high"),
            False,
        ),
        (
            QWEN + "{% if reasoning_effort == 'low' %}a{% elif reasoning_effort == 'xhigh' %}b"
            "{% elif reasoning_effort == 'medium' %}c{% endif %}",
            (False, "low", "medium", "xhigh"),
            "medium",
        ),
        ("{% if enable_thinking and { %}", (False, True), True),
    ],
)
def test_levels_are_those_that_the_template_tells_apart(
    template: str, values: tuple[bool | str, ...], default: bool | str
) -> None:
    assert thinking_levels(template, "qwen3") == ThinkingLevels(values, default)


def test_what_prints_any_level_has_none_that_are_known() -> None:
    printed = "Reasoning: {{ reasoning_effort }}"
    assert thinking_levels(printed, "qwen3") is None
    assert thinking_levels(printed, "openai_gptoss") == ThinkingLevels(("low", "medium", "high"), "medium")


def test_a_model_that_cannot_think_has_none() -> None:
    assert thinking_levels(QWEN, None) is thinking_levels("", "mistral") is None
