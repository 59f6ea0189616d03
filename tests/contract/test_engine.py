"""What every engine owes to the runtime, whichever it is."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing

import pytest

from app.core.errors import EngineDied, InvalidRequest
from app.core.events import Delta
from app.core.request import ChatPrompt, Message, Sampling
from app.engine.base import Engine, Prompt, Run
from tests.answers import deltas_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREEDY = Sampling(temperature=0.0)
STORY = "Once upon a time"
GUARD_S = 120
TEXTS = ["Hello world", "  two  spaces\nand lines\n", "grüße, 世界 🦙", "x" * 300, "a<b <|c", "\t", "0 1 2"]


async def run(engine: Engine, prompt: Prompt, how: Run) -> list[Delta]:
    async with asyncio.timeout(GUARD_S), aclosing(deltas_of(engine, prompt, how)) as deltas:
        return [delta async for delta in deltas]


async def story(engine: Engine, max_tokens: int = 64) -> list[Delta]:
    return await run(engine, await engine.tokenize(STORY), Run(GREEDY, max_tokens))


async def at_rest(engine: Engine) -> bool:
    """Wait until nothing runs or waits: an engine in another process may take a moment to say so."""
    async with asyncio.timeout(GUARD_S):
        while any(engine.metrics()[name] for name in ("running", "waiting")):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
    return True


async def test_the_last_delta_has_the_end_and_only_the_last(engine: Engine) -> None:
    prompt = await engine.tokenize(STORY)
    *first, last = await run(engine, prompt, Run(GREEDY, 8))
    assert [delta.finish for delta in first] == [None] * len(first)
    assert last.finish in {"stop", "length"}
    assert last.prompt_tokens == len(prompt.token_ids)
    assert last.timings is not None
    assert last.timings.prompt_eval_ns > 0
    assert last.timings.eval_ns > 0


async def test_cached_tokens_of_a_prompt_are_told_with_its_end(engine: Engine) -> None:
    prompt = await engine.tokenize("count " * 60)
    for _ in range(2):
        *first, last = await run(engine, prompt, how := Run(GREEDY, 2))
        assert {delta.cached_tokens for delta in first} <= {None}
        assert last.cached_tokens == how.usage.cached_tokens
        assert 0 <= how.usage.cached_tokens < len(prompt.token_ids)


async def test_deltas_add_up(engine: Engine) -> None:
    deltas = await story(engine)
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert deltas[-1].output_tokens == len(token_ids)
    text = "".join(delta.text for delta in deltas)
    assert text
    assert (await engine.detokenize(token_ids)).startswith(text)
    assert text == "".join(delta.text for delta in await story(engine))


async def test_deltas_arrive_one_by_one(engine: Engine) -> None:
    assert len(await story(engine)) > 1


@pytest.mark.parametrize("max_tokens", [1, 5])
async def test_max_tokens_ends_with_length(engine: Engine, max_tokens: int) -> None:
    last = (await story(engine, max_tokens))[-1]
    assert (last.finish, last.output_tokens) == ("length", max_tokens)


async def test_a_stop_string_ends_with_stop_and_is_not_in_the_text(engine: Engine) -> None:
    text = "".join(delta.text for delta in await story(engine))
    stop = text[len(text) // 2 :][:4]
    prompt = await engine.tokenize(STORY)
    deltas = await run(engine, prompt, Run(Sampling(temperature=0.0, stop=(stop,)), 64))
    assert "".join(delta.text for delta in deltas) == text[: text.index(stop)]
    assert deltas[-1].finish == "stop"


async def test_logprobs_cover_every_token(engine: Engine) -> None:
    prompt = await engine.tokenize(STORY)
    deltas = await run(engine, prompt, Run(GREEDY, 6, logprobs=3))
    logprobs = [each for delta in deltas for each in delta.logprobs or ()]
    assert len(logprobs) == deltas[-1].output_tokens
    for each in logprobs:
        assert each.logprob <= 0
        assert len(each.top) == 3
        assert [top.logprob for top in each.top] == sorted((top.logprob for top in each.top), reverse=True)
    plain = await run(engine, prompt, Run(GREEDY, 6))
    assert all(delta.logprobs is None for delta in plain)


async def test_closing_frees_the_slot(engine: Engine) -> None:
    prompt = await engine.tokenize(STORY)
    async with asyncio.timeout(GUARD_S):
        deltas = deltas_of(engine, prompt, Run(GREEDY, 64))
        assert (await anext(deltas)).finish is None
        await deltas.aclose()
    assert await at_rest(engine)
    assert (await story(engine, 2))[-1].finish == "length"


async def test_cancelling_frees_the_slot(engine: Engine) -> None:
    prompt = await engine.tokenize(STORY)
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(deltas_of(engine, prompt, Run(GREEDY, 64))) as deltas:
            async for _ in deltas:
                begun.set()

    request = asyncio.create_task(read())
    async with asyncio.timeout(GUARD_S):
        await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await at_rest(engine)


async def test_requests_run_side_by_side_and_do_not_mix(engine: Engine) -> None:
    alone = [delta.text for delta in await story(engine, 16)]
    together = await asyncio.gather(*(story(engine, 16) for _ in range(4)))
    assert ["".join(delta.text for delta in deltas) for deltas in together] == ["".join(alone)] * 4


@pytest.mark.parametrize("text", TEXTS)
async def test_tokens_round_trip(engine: Engine, text: str) -> None:
    prompt = await engine.tokenize(text, special=False)
    assert prompt.text == text
    assert await engine.detokenize(prompt.token_ids) == text
    assert (await engine.tokenize(text, special=False)).token_ids == prompt.token_ids


async def test_rendering_includes_every_message_in_order(engine: Engine) -> None:
    roles = ("system", "user", "assistant", "user")
    chat = ChatPrompt(tuple(Message.of(role, f"message number {at}") for at, role in enumerate(roles)))
    prompt = await engine.render(chat, think=None, continue_last=False)
    places = [prompt.text.index(message.text) for message in chat.messages]
    assert places == sorted(places)
    assert prompt.image_count == 0
    assert (await run(engine, prompt, Run(GREEDY, 1, chat=chat)))[-1].prompt_tokens == len(prompt.token_ids)


async def test_an_open_assistant_message_ends_the_prompt(engine: Engine) -> None:
    chat = ChatPrompt((Message.of("user", "Go on"), Message.of("assistant", "Once upon")))
    prompt = await engine.render(chat, think=None, continue_last=True)
    assert prompt.text.endswith("Once upon")


async def test_the_window_and_the_memory_are_known(engine: Engine) -> None:
    assert engine.window > 64
    assert engine.memory_bytes >= engine.vram_bytes >= 0
    assert engine.memory_bytes > 0


async def test_a_prompt_that_leaves_no_room_is_the_clients_mistake(engine: Engine) -> None:
    prompt = await engine.tokenize("word " * (engine.window + 1))
    with pytest.raises(InvalidRequest):
        await run(engine, prompt, Run(GREEDY, 1))
    assert await at_rest(engine)


@pytest.mark.point(159, 160)
async def test_embeddings_are_unit_vectors_in_order(embedder: Engine) -> None:
    texts = ["a llama", "a caravan", "a llama"]
    found = await embedder.embed(texts, truncate=True, limit=embedder.window, normalize=True)
    first, second, third = found.values
    assert len(first) == len(second) > 1
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-3) for vector in found.values)
    assert math.dist(first, third) < 1e-3 < math.dist(first, second)
    alone = await embedder.embed(texts[1:2], truncate=True, limit=embedder.window, normalize=True)
    assert math.dist(alone.values[0], second) < 1e-2
    assert found.prompt_tokens > alone.prompt_tokens > 0


async def test_no_inputs_no_embeddings(embedder: Engine) -> None:
    found = await embedder.embed([], truncate=True, limit=embedder.window, normalize=True)
    assert (found.values, found.prompt_tokens) == ([], 0)


@pytest.mark.point(164, 165)
async def test_an_input_over_the_limit_is_cut_or_refused(embedder: Engine) -> None:
    limit = 8
    (cut,) = (await embedder.embed(["word " * 50], truncate=True, limit=limit, normalize=True)).values
    assert math.isclose(math.hypot(*cut), 1.0, rel_tol=1e-3)
    with pytest.raises(InvalidRequest, match="the input length exceeds the context length"):
        await embedder.embed(["word " * 50], truncate=False, limit=limit, normalize=True)


async def test_closing_ends_what_runs_with_engine_died_and_is_no_death(
    factory: Callable[[], AbstractAsyncContextManager[Engine]],
) -> None:
    async with asyncio.timeout(GUARD_S), factory() as engine:
        death = asyncio.create_task(engine.wait_dead())
        prompt = await engine.tokenize(STORY)
        deltas = deltas_of(engine, prompt, Run(GREEDY, 64))
        await anext(deltas)
        await engine.close()
        with pytest.raises(EngineDied):
            await drain(deltas)
        with pytest.raises(EngineDied):
            await run(engine, prompt, Run(GREEDY, 4))
        assert not death.done()
        death.cancel()
        await asyncio.wait({death})


async def drain(deltas: AsyncGenerator[Delta, None]) -> None:
    async for _ in deltas:
        pass
