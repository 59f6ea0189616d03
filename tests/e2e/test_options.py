"""What the `options` and the `format` of a request do to the answer (docs/reference 4.3 and 5)."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from harness.models.catalogue import GREETING, LONG_STORY
from tests.e2e.ollama_lines import Line, generate, in_engines, lines, text, whole

pytestmark = pytest.mark.engine

FREE = {"temperature": 2, "top_k": 0, "top_p": 1}
"""Nearly anything may come, so that a narrower choice shows."""
ANSWER = {
    "type": "object",
    "properties": {"answer": {"type": "boolean"}, "color": {"enum": ["blue", "red"]}},
    "required": ["answer", "color"],
}


def said(client: httpx.Client, **options: Any) -> str:
    """Six tokens of the plain model."""
    return whole(client, prompt="Tell me about cats.", options={"num_predict": 6, **options})["response"]


@pytest.fixture(scope="module")
def greedy(client: httpx.Client) -> str:
    """What the plain model finds likeliest."""
    return said(client, temperature=0)


def context_length(client: httpx.Client, model: str, **fields: Any) -> int:
    """The window that `/api/ps` shows after a request: models on one engine have one row."""
    assert generate(client, model, **fields).json()["done_reason"] == "load"
    loaded = {row["name"]: row["context_length"] for row in client.get("/api/ps").json()["models"]}
    shared = ("plain:latest", "sys:latest", "msgs:latest")
    return next(loaded[name] for name in (f"{model}:latest", *shared) if name in loaded)


@pytest.mark.point(108, 109, 110, 111, 112, 119)
@pytest.mark.parametrize("prompt", [{"prompt": "hi"}, {"prompt": "hi", "stream": False}, {}])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temperature": "x"}, 'option "temperature" must be of type float32'),
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"seed": 2**70}, 'option "seed" must be of type integer'),
    ],
)
def test_a_value_of_the_wrong_type(
    client: httpx.Client, options: dict[str, Any], error: str, prompt: dict[str, Any]
) -> None:
    answer = generate(client, options=options, **prompt)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.point(118)
def test_the_request_beats_the_model_which_beats_the_default(client: httpx.Client) -> None:
    assert context_length(client, "plain") == 4096
    assert context_length(client, "sys") == 2048
    assert context_length(client, "sys", options={"num_ctx": 1024}) == 1024


@pytest.mark.point(114, 118)
def test_the_stop_strings_of_a_model(client: httpx.Client) -> None:
    """Those of `sys` are a and b; null leaves them as they are."""
    fields = {"prompt": "Say banana.", "raw": True}
    more = {"num_predict": 12, "temperature": 0}
    free = whole(client, "sys", options={**more, "stop": []}, **fields)
    assert set("ab") & set(free["response"])
    for stop in ({}, {"stop": None}):
        found = whole(client, "sys", options={**more, **stop}, **fields)
        assert found["done_reason"] == "stop"
        assert free["response"].startswith(found["response"])
        assert not set("ab") & set(found["response"])


@pytest.mark.point(116, 117)
@pytest.mark.parametrize(("num_ctx", "shown"), [(2, 4), (-1, 4), (512, 512), (2**40, 8192), (None, 4096)])
def test_the_window_is_held_within_bounds(client: httpx.Client, num_ctx: int | None, shown: int) -> None:
    assert context_length(client, "plain", options={"num_ctx": num_ctx}) == shown


@pytest.mark.point(120)
def test_the_likeliest_answer_is_always_the_same(client: httpx.Client, greedy: str) -> None:
    assert said(client, temperature=0, seed=42) == said(client, temperature=0, seed=42) == greedy
    assert said(client, temperature=-1) == greedy


@pytest.mark.parametrize("seed", [1, 0, -2, 2**63 - 1])
def test_a_seed_gives_the_same_answer_again(client: httpx.Client, seed: int) -> None:
    found = said(client, seed=seed, **FREE)
    assert said(client, seed=seed, **FREE) == found
    assert said(client, seed=seed // 2 + 7, **FREE) != found


@pytest.mark.point(114)
def test_null_and_the_default_are_the_same(client: httpx.Client) -> None:
    found = said(client, seed=3)
    assert said(client, seed=3, temperature=None, top_k=None) == found
    assert said(client, seed=3, temperature=0.8, top_k=40, top_p=0.9, min_p=0) == found
    unused = {"repeat_penalty": 1.0, "repeat_last_n": -1, "typical_p": 1.0, "presence_penalty": 0}
    assert said(client, seed=3, **unused) == found


@pytest.mark.point(113)
def test_options_that_mean_nothing_here(client: httpx.Client, greedy: str) -> None:
    unknown = {"bogus": {"x": 1}, "mirostat": 2, "tfs_z": "x", "penalize_newline": True}
    known = {"num_batch": 8, "num_gpu": 0, "main_gpu": 1, "use_mmap": False, "num_thread": 64}
    assert said(client, temperature=0, **unknown, **known, draft_num_predict=2) == greedy


@pytest.mark.point(115)
@pytest.mark.parametrize(
    "only_one",
    [
        {"top_k": 1},
        {"top_k": 1.9},
        {"top_p": 0},
        {"top_p": -1},
        {"min_p": 1},
        {"min_p": 3.5},
        {"temperature": 1e-9},
    ],
)
def test_a_choice_of_one_is_the_likeliest(
    client: httpx.Client, greedy: str, only_one: dict[str, float]
) -> None:
    assert said(client, **(FREE | only_one)) == greedy


@pytest.mark.parametrize(
    "unbounded",
    [{"top_k": -5}, {"top_k": 2**62}, {"top_p": 7.5}, {"min_p": -1}, {"temperature": 1e30}, {"typical_p": 5}],
)
def test_a_bound_out_of_range_does_not_bound(client: httpx.Client, unbounded: dict[str, float]) -> None:
    assert said(client, seed=9, **(FREE | unbounded)) == said(client, seed=9, **FREE)


def test_the_narrowest_typical_choice_leaves_nothing_to_chance(client: httpx.Client) -> None:
    first, second = (said(client, seed=seed, typical_p=1e-6, **FREE) for seed in (1, 2))
    assert first == second


@pytest.mark.point(92)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_keeps_to_a_schema(client: httpx.Client, stream: bool) -> None:
    options = {"num_predict": 80, "temperature": 0}
    answer = generate(client, prompt="Is the sky blue?", format=ANSWER, options=options, stream=stream)
    parts = lines(answer) if stream else [answer.json()]
    jsonschema.validate(json.loads(text(parts)), ANSWER)
    assert parts[-1]["done_reason"] == "stop"


@pytest.mark.point(92)
def test_an_answer_that_is_any_json_object(client: httpx.Client) -> None:
    options = {"num_predict": 60, "temperature": 0}
    prompt = 'Reply with the JSON object {"a": 1} and nothing else.'
    assert json.loads(whole(client, prompt=prompt, format="json", options=options)["response"]) == {"a": 1}


# tool: a model whose answers are known word for word.


def told(client: httpx.Client, prompt: str = "Write a long story.", **options: Any) -> Line:
    """A known answer, without reasoning, with the tokens it is made of."""
    fields: dict[str, Any] = {"think": False, "logprobs": True, "options": {"temperature": 0, **options}}
    return whole(client, "tool", prompt=prompt, **fields)


def tokens(found: Line) -> list[tuple[int, ...]]:
    """Their bytes: parts of a character are no text, and so all the same text."""
    return [tuple(entry["bytes"]) for entry in found["logprobs"]]


@pytest.mark.parametrize("num_predict", [-1, -2, 0, 2**62, None])
def test_without_a_limit_the_model_ends_by_itself(client: httpx.Client, num_predict: int | None) -> None:
    found = told(client, "Hello", num_predict=num_predict)
    assert (found["response"], found["done_reason"]) == (GREETING, "stop")


@pytest.mark.point(73)
@pytest.mark.parametrize("num_predict", [1, 3.9])
def test_a_limit_is_kept(client: httpx.Client, num_predict: float) -> None:
    found = told(client, "Hello", num_predict=num_predict)
    assert (found["eval_count"], found["done_reason"]) == (int(num_predict), "length")
    assert GREETING.startswith(found["response"])


def test_a_penalty_of_none_changes_nothing(client: httpx.Client) -> None:
    story = told(client, num_predict=40)
    assert LONG_STORY.startswith(story["response"])
    repeated = tokens(story)
    assert len(set(repeated)) < len(repeated), "or the next test shows nothing"
    off: dict[str, Any] = {
        "repeat_penalty": 1e6,
        "presence_penalty": 50,
        "frequency_penalty": 50,
        "repeat_last_n": 0,
    }
    assert tokens(told(client, num_predict=40, **off)) == repeated


@pytest.mark.parametrize(
    "penalty", [{"repeat_penalty": 1e38}, {"presence_penalty": 1e38}, {"frequency_penalty": 200}]
)
def test_a_heavy_penalty_lets_no_token_come_twice(client: httpx.Client, penalty: dict[str, Any]) -> None:
    everywhere = tokens(told(client, num_predict=40, repeat_last_n=-1, **penalty))
    assert len(set(everywhere)) == len(everywhere)
    lately = tokens(told(client, num_predict=40, repeat_last_n=3, **penalty))
    assert len(set(lately)) < len(lately)
    assert all(len(set(lately[at : at + 4])) == 4 for at in range(len(lately) - 3))


def test_a_negative_penalty_makes_the_model_repeat_itself(client: httpx.Client) -> None:
    found = tokens(told(client, num_predict=20, presence_penalty=-1e38, repeat_last_n=1))
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"repeat_penalty": 0}},
        {"options": {"repeat_penalty": -1}},
        {"options": {"seed": -(2**70)}},
        {"format": {"type": "nonsense"}},
        {"format": {"$ref": "http://example.com/schema"}},
        {"context": [-1]},
        {"images": ["aGk="]},
    ],
)
def test_a_refused_request_leaves_nothing_in_the_engine(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = generate(client, "tool", prompt="Hello", **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    assert in_engines(client) == 0
