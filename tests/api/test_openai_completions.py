"""`POST /v1/completions` (docs/reference 13.2)."""

import re
from typing import Any

import pytest

from app.core.errors import EngineFailed
from app.core.events import Content, Thinking, TokenLogprob
from app.core.request import Constraint
from app.engine.fake.script import Reply
from tests.api.openai_site import chunks, refused, site

TEXT = "Hello from the scripted engine."


@pytest.mark.point(225)
async def test_a_prompt_is_templated_and_nothing_is_a_load() -> None:
    async with site() as served:
        answer = (await served.complete()).json()
        assert list(answer) == [
            *("id", "object", "created", "model", "system_fingerprint", "choices", "usage", "timings")
        ]
        assert re.fullmatch(r"cmpl-\d+", answer["id"])
        assert answer["object"] == "text_completion"
        assert answer["choices"] == [{"text": TEXT, "index": 0, "finish_reason": "stop"}]
        assert served.engine.asked[-1].prompt.text.startswith("<|im_start|>user\nhi<|im_end|>")
        loaded = await served.client.post("/v1/completions", json={"model": "m"})
        assert (loaded.status_code, loaded.json()["choices"]) == (
            200,
            [{"text": "", "index": 0, "finish_reason": "load"}],
        )
        streamed = chunks(await served.client.post("/v1/completions", json={"model": "m", "stream": True}))
        assert streamed[0]["choices"][0]["finish_reason"] == "load"


@pytest.mark.point(225)
async def test_a_list_of_prompts_has_a_choice_for_each() -> None:
    async with site(lambda prompt, _: Reply((prompt.text.split("\n")[1][:1],))) as served:
        found = (await served.complete(prompt=["a", "b"], n=2)).json()
        texts = [(choice["index"], choice["text"]) for choice in found["choices"]]
        assert texts == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
        assert found["usage"]["completion_tokens"] == 4
        one = (await served.complete(prompt="a")).json()["usage"]["prompt_tokens"]
        assert found["usage"]["prompt_tokens"] == 2 * one
        echoed = (await served.complete(prompt=["a", "b"], echo=True)).json()["choices"]
        assert [choice["text"] for choice in echoed] == ["aa", "bb"]


async def test_token_ids_are_the_prompt_as_they_are() -> None:
    async with site() as served:
        ids = list(served.engine._words.encode("some words"))  # pyright: ignore[reportPrivateUsage]
        await served.complete(prompt=ids)
        assert list(served.engine.asked[-1].prompt.token_ids) == ids
        assert served.run.think is False  # the answer is not read: what the model writes is the text
        found = (await served.complete(prompt=[ids, ids])).json()
        assert [choice["index"] for choice in found["choices"]] == [0, 1]
        assert found["usage"]["prompt_tokens"] == 2 * len(ids)


@pytest.mark.point(226)
async def test_usage_is_zeros_on_every_chunk_and_true_on_the_last() -> None:
    async with site() as served:
        found = chunks(await served.complete(stream=True, stream_options={"include_usage": True}))
        plain = chunks(await served.complete(stream=True))
    *before, last = found
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert all(chunk["usage"] == zero for chunk in before)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 5)
    assert list(plain[0]) == ["id", "object", "created", "choices", "model", "system_fingerprint"]
    assert "".join(chunk["choices"][0]["text"] for chunk in plain) == TEXT
    assert plain[-1]["choices"] == [{"text": "", "index": 0, "finish_reason": "stop"}]


async def test_a_prompt_is_echoed_before_the_first_text_of_a_stream() -> None:
    async with site() as served:
        found = chunks(await served.complete(stream=True, echo=True, n=2))
    for index in (0, 1):
        mine = [chunk["choices"][0]["text"] for chunk in found if chunk["choices"][0]["index"] == index]
        assert "".join(mine) == "hi" + TEXT


async def test_a_suffix_is_filled_in() -> None:
    async with site() as served:
        await served.complete(suffix="end")
        assert served.engine.asked[-1].prompt.text == "<PRE>hi<SUF>end<MID>"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}),
        ({"top_p": 0, "temperature": 0.5, "max_tokens": 4}, {"top_p": 1.0, "temperature": 0.5}),
        ({"stop": ["a", "b"], "seed": 3}, {"stop": ("a", "b"), "seed": 3}),
        ({"presence_penalty": 0.5, "top_k": 5}, {"presence_penalty": 0.5, "top_k": 5}),
    ],
)
async def test_sampling_fields_reach_the_engine(fields: Any, expected: dict[str, Any]) -> None:
    async with site() as served:
        assert (await served.complete(**fields)).status_code == 200
        found = served.run.sampling
    assert {name: getattr(found, name) for name in expected} == expected


async def test_log_probabilities_have_the_form_of_completions() -> None:
    async with site(lambda *_: Reply(("ab", " c"))) as served:
        (choice,) = (await served.complete(logprobs=1)).json()["choices"]
        streamed = chunks(await served.complete(logprobs=0, stream=True))
    assert choice["logprobs"] == {
        "tokens": ["ab", " c"],
        "token_logprobs": [-0.25, -0.25],
        "top_logprobs": [{"ab": -0.25}, {" c": -0.25}],
        "text_offset": [0, 2],
    }
    tops = [chunk["choices"][0].get("logprobs", {}).get("top_logprobs") for chunk in streamed]
    assert tops == [[{"ab": -0.25}], [{" c": -0.25}], None]
    offsets = [chunk["choices"][0].get("logprobs", {}).get("text_offset") for chunk in streamed]
    assert offsets == [[0], [2], None]


async def test_log_probabilities_of_reasoning_are_not_told_either() -> None:
    def scored(token: str) -> list[TokenLogprob]:
        return [TokenLogprob(token, -0.25, token.encode())]

    events = ((Thinking("hm", scored("hm")),), (Content("yes", scored("yes")),))
    async with site(lambda *_: Reply(("a", "b"), events=events)) as served:
        (choice,) = (await served.complete(logprobs=0)).json()["choices"]
        streamed = chunks(await served.complete(logprobs=0, stream=True))
    assert (choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == (["yes"], [0])
    assert [chunk["choices"][0].get("logprobs") for chunk in streamed] == [choice["logprobs"], None]


async def test_a_token_is_told_with_its_alternatives_even_where_it_is_none_of_them() -> None:
    scored = [TokenLogprob("x", -3.0, b"x", [TokenLogprob("a", -0.1, b"a"), TokenLogprob("b", -2.0, b"b")])]
    async with site(lambda *_: Reply(("x",), events=((Content("x", scored),),))) as served:
        (choice,) = (await served.complete(logprobs=1)).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -0.1, "x": -3.0}]


async def test_an_answer_is_kept_to_a_constraint_and_reasoning_is_not_told() -> None:
    events = ((Thinking("hm"),), (Content("yes"),))
    async with site(lambda *_: Reply(("a", "b"), events=events)) as served:
        (choice,) = (await served.complete(guided_choice=["yes", "no"])).json()["choices"]
        assert choice["text"] == "yes"
        found = served.run.constraint
        assert Constraint(choices=found.choices) == Constraint(choices=("yes", "no"))
        await served.complete(response_format={"type": "json_object"})
        assert "any_object" in served.run.constraint.grammar
        streamed = chunks(await served.complete(stream=True))
        assert [chunk["choices"][0]["text"] for chunk in streamed] == ["yes", ""]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": [1, "a"]}, "prompt must be a string, a list of strings, or token ids"),
        ({"prompt": {"a": 1}}, "prompt must be a string, a list of strings, or token ids"),
        ({"prompt": [1], "suffix": "x"}, "suffix is not supported with prompts of token ids"),
        ({"prompt": ["a"] * 129}, "n: at most 128 answers, this request has 129"),
        ({"stop": [1.5]}, "invalid type for 'stop' field: float64"),
        ({"best_of": 2}, "best_of: every answer that is made is given; use n"),
        ({"echo": True, "logprobs": 1}, "echo is not supported with logprobs or prompts of token ids"),
        ({"logprobs": 21}, "top_logprobs must be between 0 and 20"),
        (
            {"model": "plain", "suffix": "x"},
            "registry.ollama.ai/library/plain:latest does not support insert",
        ),
        ({"model": "emb"}, '"emb" does not support generate'),
        ({"prompt": "x" * ((1 << 20) + 1)}, "text: at most 1048576 characters, this request has 1048577"),
        ({"prompt_embeds": "x"}, "prompt_embeds: is not supported by this server"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(fields: Any, text: str) -> None:
    async with site() as served:
        refused(await served.complete(**fields), text)


async def test_a_failure_in_mid_stream_is_told() -> None:
    broken = Reply(("a", "b"), error=EngineFailed("broken"), error_after=1)
    async with site(lambda *_: broken) as served:
        answer = await served.complete(stream=True)
    assert '"message":"broken"' in answer.text
    assert "[DONE]" not in answer.text
