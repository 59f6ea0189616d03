"""Which call a result of a tool belongs to, whatever a client sends of both."""

from typing import Any

import pytest

from app.engine.vllm.input.results import for_mistral, paired


def calls(*named: tuple[str, str]) -> dict[str, Any]:
    made = [{"id": key, "function": {"name": name, "arguments": {}}} for key, name in named]
    return {"role": "assistant", "content": "", "reasoning": "Hm.", "tool_calls": made}


def result(**fields: str) -> dict[str, Any]:
    return {"role": "tool", "content": "x", **fields}


@pytest.mark.parametrize(
    ("results", "tools"),
    [
        ([result(), result()], ["a", "b"]),
        ([result(name="b"), result(name="a")], ["b", "a"]),
        ([result(name="b"), result()], ["b", "a"]),
        ([result(name="other"), result()], ["other", "a"]),
        ([result(), result(), result()], ["a", "b", ""]),
    ],
)
def test_results_without_ids_are_those_of_the_tool_or_the_next(results: list[Any], tools: list[str]) -> None:
    _, *found = paired([calls(("", "a"), ("", "b")), *results])
    assert [each["name"] for each in found] == tools
    assert len({each["tool_call_id"] for each in found}) == len(found)


def test_results_with_ids_are_those_of_the_call() -> None:
    _, first, second = paired(
        [calls(("1", "a"), ("2", "b")), result(tool_call_id="2"), result(tool_call_id="1")]
    )
    assert (first["name"], second["name"]) == ("b", "a")


def test_an_id_that_comes_again_is_open_again() -> None:
    messages = [calls(("1", "a")), result(), calls(("1", "a")), result()]
    assert [each["tool_call_id"] for each in paired(messages) if each["role"] == "tool"] == ["1", "1"]


def test_mistrals_ids_have_nine_letters_and_stay_what_fits() -> None:
    call, found, kept, back = for_mistral(
        [calls(("call_1", "a")), result(), calls(("abcdefgh9", "a")), result()], thinks=False
    )
    assert len(found["tool_call_id"]) == 9
    assert call["tool_calls"][0]["id"] == found["tool_call_id"]
    assert kept["tool_calls"][0]["id"] == back["tool_call_id"] == "abcdefgh9"
    assert "reasoning" not in call
    assert "reasoning" in for_mistral([calls(("call_1", "a"))], thinks=True)[0]
