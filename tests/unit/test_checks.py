"""What a model can be asked for, and which of several mistakes is told (docs/reference 6.2 and 7.2)."""

import re
from dataclasses import replace
from typing import Any

import pytest

from app.catalogue.parameters import read_parameters
from app.core.context import Limits
from app.core.errors import Forbidden, InvalidRequest
from app.core.model import Capability, Model
from app.core.request import ChatPrompt, CompletionPrompt, Generation, Message
from app.runtime.checks import check, within_limits
from tests.unit.garage import model
from tests.unit.resolved import resolve

TOOL = {"type": "function", "function": {"name": "add"}}
HELLO = (Message.of("user", "hi"),)
ALL: tuple[Capability, ...] = ("completion", "tools", "thinking", "insert", "vision")


def able(*capabilities: Capability) -> Model:
    base = model("m")
    return replace(base, facts=replace(base.facts, capabilities=capabilities))


def completion(
    prompt: str = "hi", *, think: Any = None, keep_alive_s: float | None = None, **parts: Any
) -> Any:
    asked = CompletionPrompt(prompt, **parts)
    return Generation("M", asked, received_ns=0, think=think, keep_alive_s=keep_alive_s)


def chat(*messages: Message, think: Any = None, keep_alive_s: float | None = None, **parts: Any) -> Any:
    asked = ChatPrompt(messages, **parts)
    return Generation("M", asked, received_ns=0, think=think, keep_alive_s=keep_alive_s)


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize(
    "asked",
    [
        completion(think=True, suffix="x", system="s", template="t", context=(1,)),
        completion(raw=True, context=(), suffix="x"),
        chat(*HELLO, think="high", tools=(TOOL,)),
    ],
)
def test_a_model_that_can_do_all_is_asked_for_all(asked: Generation) -> None:
    check(able(*ALL), asked)
    with pytest.raises(InvalidRequest, match="does not support"):
        check(able("embedding"), asked)


@pytest.mark.parametrize(
    "asked", [completion(think=False), chat(*HELLO, think=False, tools=()), completion("")]
)
def test_a_model_that_can_only_complete_is_enough_for_this(asked: Generation) -> None:
    check(able("completion"), asked)
    with pytest.raises(InvalidRequest, match="does not support"):
        check(able("embedding"), asked)


RAW = "raw mode does not support template, system, or context"
INSERT = "registry.ollama.ai/library/m:latest does not support insert"
TOOLS = "registry.ollama.ai/library/m:latest does not support tools"
THINKING = '"M" does not support thinking'


@pytest.mark.point(71, 72, 84, 85, 121, 140, 141)
@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (completion(raw=True, system="x"), RAW),
        (completion("", raw=True, template="x"), RAW),
        (completion(raw=True, context=(0,)), RAW),
        (completion(think=True), THINKING),
        (completion("", think="low"), THINKING),
        (chat(think="max"), THINKING),
        (completion(suffix="x"), INSERT),
        (chat(*HELLO, tools=(TOOL,)), TOOLS),
    ],
)
def test_what_a_text_model_cannot_do(asked: Generation, text: str) -> None:
    with refused(text):
        check(able("completion"), asked)


@pytest.mark.parametrize("prompt", ["hi", ""])
def test_an_embedding_model_does_not_talk(prompt: str) -> None:
    with refused('"M" does not support generate'):
        check(able("embedding"), completion(prompt))
    with refused('"M" does not support chat'):
        check(able("embedding"), chat(*HELLO))


def test_the_first_mistake_is_the_one_that_is_told() -> None:
    nothing = able("embedding")
    with refused(RAW):
        check(nothing, completion(raw=True, system="x", think=True, suffix="x"))
    with refused(THINKING):
        check(nothing, completion(think=True, suffix="x"))
    with refused('"M" does not support generate'):
        check(nothing, completion(suffix="x"))
    with refused('"M" does not support chat'):
        check(nothing, chat(*HELLO, tools=(TOOL,)))


# The limits of a key.

DEFAULT_CONTEXT = 4096


def limited(model: dict[str, Any], asked: dict[str, Any], **limits: int) -> tuple[int | None, int]:
    """`num_ctx` and `num_predict` of a request whose model has those parameters."""
    sampling = within_limits(resolve(model, asked), read_parameters(asked), Limits(**limits), DEFAULT_CONTEXT)
    return sampling.num_ctx, sampling.num_predict


@pytest.mark.parametrize(
    ("model", "asked", "limits", "expected"),
    [
        ({}, {}, {}, (None, -1)),
        ({"num_ctx": 9, "num_predict": -2}, {}, {}, (9, -2)),
        ({}, {}, {"max_context": 2048}, (2048, -1)),
        ({}, {}, {"max_context": 4096}, (None, -1)),
        ({"num_ctx": 8192}, {}, {"max_context": 5000}, (5000, -1)),
        ({}, {"num_ctx": 2048}, {"max_context": 2048}, (2048, -1)),
        ({"num_ctx": 8192}, {"num_ctx": 16}, {"max_context": 2048}, (16, -1)),
        ({}, {"num_ctx": None}, {"max_context": 2048}, (2048, -1)),
        ({}, {}, {"max_predict": 10}, (None, 10)),
        ({"num_predict": 5}, {}, {"max_predict": 10}, (None, 5)),
        ({"num_predict": 50}, {}, {"max_predict": 10}, (None, 10)),
        ({}, {"num_predict": 10}, {"max_predict": 10}, (None, 10)),
        ({}, {"num_predict": None}, {"max_predict": 10}, (None, 10)),
    ],
)
def test_what_a_client_does_not_name_is_within_the_limits_of_its_key(
    model: dict[str, Any], asked: dict[str, Any], limits: dict[str, int], expected: tuple[int | None, int]
) -> None:
    assert limited(model, asked, **limits) == expected


@pytest.mark.parametrize(
    ("asked", "limits", "text"),
    [
        (
            {"num_ctx": 2049},
            {"max_context": 2048},
            "this API key allows a num_ctx of at most 2048, 2049 was asked for",
        ),
        (
            {"num_predict": 11},
            {"max_predict": 10},
            "this API key allows a num_predict of at most 10, 11 was asked for",
        ),
        (
            {"num_predict": -1},
            {"max_predict": 10},
            "this API key allows a num_predict of at most 10, no limit (-1) was asked for",
        ),
    ],
)
def test_what_a_client_names_over_the_limits_of_its_key_is_refused(
    asked: dict[str, Any], limits: dict[str, int], text: str
) -> None:
    with pytest.raises(Forbidden, match=f"^{re.escape(text)}$"):
        limited({}, asked, **limits)
