"""Real adapters in a real engine: base and adapters in one batch, bad ones, and what an engine forgets."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from app.catalogue.adaptercopies import CONFIG, WEIGHTS
from app.catalogue.adapters import AdapterFiles, take_adapter
from app.core.errors import EngineFailed
from app.core.model import Adapter
from app.core.request import ChatPrompt, Message, Sampling
from app.engine.base import Run
from harness.models.build import build_lora
from tests.answers import deltas_of
from tests.real_engine import load, loaded, model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),
]

SENTENCES = {"a": "Ahoy, matey!", "b": "It is 22 degrees in Paris."}
GREETING = "Hello! How can I help you?"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    cache = tmp_path_factory.mktemp("cache")
    folders = {name: build_lora(sentence) for name, sentence in SENTENCES.items()}
    base = model("llama").facts.path
    return {
        name: take_adapter(AdapterFiles(folder / CONFIG, folder / WEIGHTS, name * 64), base, cache)
        for name, folder in folders.items()
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(adapters: dict[str, Adapter]) -> AsyncGenerator[Any]:
    """One for all tests here, with room for two adapters in a batch and four in memory."""
    started = await load(model("llama", max_loras=2, max_cpu_loras=5), adapter_rank=8)
    yield started
    await started.close()


async def ask(engine: Any, adapter: Adapter | None = None, text: str = "Hello") -> str:
    chat = ChatPrompt((Message.of("user", text),))
    prompt = await engine.render(chat, think=None, continue_last=False)
    run = Run(Sampling(temperature=0.0), 40, chat=chat, adapter=adapter)
    return "".join([delta.text async for delta in deltas_of(engine, prompt, run)])


async def started(engine: Any, adapter: Adapter) -> asyncio.Future[str]:
    """An answer of which the first token is there."""
    first = asyncio.Event()

    async def whole() -> str:
        chat = ChatPrompt((Message.of("user", "Hello"),))
        prompt = await engine.render(chat, think=None, continue_last=False)
        texts: list[str] = []
        async for delta in deltas_of(engine, prompt, Run(Sampling(temperature=0.0), 40, adapter=adapter)):
            texts.append(delta.text)
            first.set()
        return "".join(texts)

    running = asyncio.ensure_future(whole())
    await first.wait()
    return running


async def test_base_and_adapters_in_one_batch_are_what_each_is_alone(
    engine: Any, adapters: dict[str, Adapter]
) -> None:
    wanted = {None: GREETING} | SENTENCES
    alone = {name: await ask(engine, adapters.get(name or "")) for name in wanted}
    assert alone == wanted
    for order in ((None, "a", "b"), ("b", "a", None), ("a", None, "a", None, "b"), (None, "a")):
        batch = await asyncio.gather(*(ask(engine, adapters.get(name or "")) for name in order))
        assert batch == [wanted[name] for name in order]


async def test_a_prompt_that_one_has_seen_is_new_to_another(
    engine: Any, adapters: dict[str, Adapter]
) -> None:
    """Cached beginnings of prompts hold what an adapter made of them."""
    text = "Hello " * 200

    async def cached(adapter: Adapter | None) -> int:
        prompt = await engine.tokenize(text)
        deltas = [delta async for delta in deltas_of(engine, prompt, Run(Sampling(), 1, adapter=adapter))]
        return deltas[-1].cached_tokens or 0

    for adapter in (None, adapters["a"], adapters["b"]):
        assert await cached(adapter) == 0
        assert await cached(adapter) > 0


async def test_more_adapters_than_fit_are_served_in_turn(engine: Any, adapters: dict[str, Adapter]) -> None:
    """Two in a batch, four in memory: the rest waits, and is read again."""
    copies = [
        replace(adapters[name], digest=f"{number}{name}" * 32) for number in range(4) for name in SENTENCES
    ]
    for _ in range(2):
        answers = await asyncio.gather(*(ask(engine, copy) for copy in copies), ask(engine))
        assert answers == [*(SENTENCES[copy.digest[1]] for copy in copies), GREETING]
    for copy in copies:
        engine.forget(copy)


async def test_a_bad_adapter_fails_alone(engine: Any, adapters: dict[str, Adapter], tmp_path: Path) -> None:
    """In a request it would end the engine."""
    gone = Adapter(tmp_path / "gone", "c" * 64, 8, 1)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / CONFIG).write_text('{"peft_type": "LORA", "r": 512, "lora_alpha": 1, "target_modules": []}')
    (odd / WEIGHTS).write_bytes((adapters["a"].path / WEIGHTS).read_bytes())
    bad = Adapter(odd, "d" * 64, 8, 1)
    others = asyncio.gather(*(ask(engine, adapters.get(name)) for name in ("", "a", "b")))
    for adapter in (gone, bad, gone):
        with pytest.raises(EngineFailed, match="the adapter of this model cannot be used") as caught:
            await ask(engine, adapter)
        assert str(tmp_path) not in str(caught.value)
    assert await others == [GREETING, *SENTENCES.values()]
    assert await ask(engine) == GREETING


async def test_the_largest_values_that_are_served_reach_nobody_else(
    engine: Any, adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    """What becomes no number would stay in the memory that others get next."""
    from safetensors.numpy import load_file, save_file

    given = load_file(adapters["a"].path / WEIGHTS)
    folder = tmp_path / "large"
    folder.mkdir()
    signs = np.random.default_rng(0)
    save_file(
        {
            name: (1000.0 if "lora_A" in name else 9.9) * signs.choice([-1.0, 1.0], value.shape).astype("f4")
            for name, value in given.items()
        },
        folder / WEIGHTS,
    )
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 1, "target_modules": []}
    (folder / CONFIG).write_text(json.dumps(config))
    base = model("llama").facts.path
    large = take_adapter(AdapterFiles(folder / CONFIG, folder / WEIGHTS, "f" * 64), base, tmp_path)
    for _ in range(3):
        await ask(engine, large)
        answers = await asyncio.gather(*(ask(engine, each) for each in (None, large, adapters["b"], None)))
        assert [answers[0], *answers[2:]] == [GREETING, SENTENCES["b"], GREETING]
    engine.forget(large)


async def test_an_adapter_that_is_forgotten_makes_room_and_its_number_stays_its_own(
    engine: Any, adapters: dict[str, Adapter]
) -> None:
    copy = replace(adapters["a"], digest="e" * 64)
    assert await ask(engine, copy) == SENTENCES["a"]
    running = await started(engine, copy)
    engine.forget(copy)
    assert await running == SENTENCES["a"], "what runs keeps it"
    async with asyncio.timeout(10):
        while len(engine._adapters._calls):  # noqa: ASYNC110 - calls under way, which no event tells of
            await asyncio.sleep(0.01)
    before = set(await engine._llm.list_loras())
    other = replace(adapters["b"], digest="e" * 64)
    assert await ask(engine, other) == SENTENCES["b"]
    new = set(await engine._llm.list_loras()) - before
    assert new
    assert max(new) > max(before)
    engine.forget(other)


async def test_without_adapters_an_engine_has_no_room(adapters: dict[str, Adapter]) -> None:
    async with loaded("llama") as plain:
        assert plain.takes(None)
        assert not plain.takes(adapters["a"])
        assert await ask(plain) == GREETING


async def test_one_that_cannot_be_loaded_with_room_is_loaded_without(adapters: dict[str, Adapter]) -> None:
    from app.core.errors import LoadFailed

    async with loaded("llama", adapter_rank=8, lora_dtype="float99") as plain:
        assert await ask(plain) == GREETING
        with pytest.raises(LoadFailed, match="cannot be loaded with room for adapters"):
            plain.takes(adapters["a"])


async def test_a_death_ends_the_wait_for_an_adapter(adapters: dict[str, Adapter]) -> None:
    from app.core.errors import EngineDied

    async with loaded("llama", adapter_rank=8) as engine:
        watching = asyncio.ensure_future(engine.wait_dead())
        stopped = engine._processes
        for process in stopped._all:
            process.suspend()
        waiting = asyncio.ensure_future(ask(engine, adapters["a"]))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        stopped.kill_all()
        with pytest.raises(EngineDied):
            await asyncio.wait_for(waiting, 20)
        await asyncio.wait_for(watching, 20)
