"""What the engine owes beyond the contract: that nothing of it outlives its use, however that ends."""

import asyncio
import gc
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import psutil
import pytest
from opentelemetry.trace import get_current_span
from transformers import PreTrainedTokenizerBase

from app.core.errors import EngineDied, InvalidRequest, LoadFailed
from app.core.request import ChatPrompt, Message, Sampling
from app.engine.base import Run
from app.runtime.manager import Manager
from tests.answers import deltas_of
from tests.real_engine import load, loaded, model, start_fork_server

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),
]

GONE_S = 20.0
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(autouse=True)
def only_ours(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave a process."""
    start_fork_server()
    before = processes()
    yield
    assert psutil.wait_procs(processes() - before, GONE_S)[1] == []
    # zmq warns of the contexts that vLLM leaves to the collector, which no later test shall hear of.
    caplog.get_records("call").clear()
    gc.collect()


def processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


async def eventually(look: Callable[[], Any], within_s: float = GONE_S) -> None:
    async with asyncio.timeout(within_s):
        while not look():  # noqa: ASYNC110 - another process changes it, and no event tells
            await asyncio.sleep(0.01)


async def tokens(engine: Any, count: int, sampling: Sampling = GREEDY) -> int:
    prompt = await engine.tokenize("Once upon a time")
    async with aclosing(deltas_of(engine, prompt, Run(sampling, count))) as deltas:
        return [delta async for delta in deltas][-1].output_tokens


def tokenizers() -> int:
    """Of any engine, dead or alive."""
    gc.unfreeze()
    gc.collect()
    return sum(isinstance(each, PreTrainedTokenizerBase) for each in gc.get_objects())


def generated(engine: Any) -> float:
    return sum(
        sample.value
        for family in engine.registry.collect()
        for sample in family.samples
        if sample.name == "vllm:generation_tokens_total"
    )


async def test_two_engines_keep_their_own_metrics() -> None:
    """Each has generated one token before: the warm-up's."""
    async with loaded("tool") as first:
        await tokens(first, 8)
        await eventually(lambda: generated(first) == 9)
        async with loaded("llama") as second:
            await tokens(first, 8)
            made = await tokens(second, 4)
            await eventually(lambda: (generated(first), generated(second)) == (17, 1 + made))
        await tokens(first, 8)
        await eventually(lambda: generated(first) == 25)


async def test_a_worker_keeps_to_the_cores_that_vllm_chose_for_it() -> None:
    """It is forked with OpenMP loaded, which reads its variables no more."""
    others = processes()
    async with loaded("tool") as engine:
        manager = importlib.import_module("vllm.utils.ompmultiprocessing").OMPProcessManager
        chosen = manager(engine._llm.vllm_config).cpu_lists
        (worker,) = (process for process in processes() - others if "Worker" in process.name())
        cores = {frozenset(os.sched_getaffinity(thread.id)) for thread in worker.threads()}
        assert cores == {frozenset(chosen[0] if chosen else os.sched_getaffinity(0))}


async def test_a_trace_costs_the_tokens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine core would send the headers back with each; and the span is made when others have theirs."""
    made: list[tuple[int, int]] = []
    came: list[Any] = []
    async with loaded("tool") as engine:
        tracing = importlib.import_module("app.engine.vllm.stream.tracing")

        def instrument(_: str, start: int, end: int, __: Any, *, context: Any, **___: Any) -> None:
            made.append((get_current_span(context).get_span_context().trace_id, end - start))

        monkeypatch.setattr(tracing, "instrument_manual", instrument)
        outputs = engine._llm.output_processor
        tracing.trace_requests(engine._llm)
        process = outputs.process_outputs

        def see(given: Any, *rest: Any) -> Any:
            came.extend(output.trace_headers for output in given)
            return process(given, *rest)

        monkeypatch.setattr(outputs, "process_outputs", see)
        prompt = await engine.tokenize("Once upon a time")
        run = Run(GREEDY, 8, trace={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
        begun = time.perf_counter_ns()
        async with aclosing(deltas_of(engine, prompt, run)) as deltas:
            assert [delta async for delta in deltas][-1].output_tokens == 8
        took = time.perf_counter_ns() - begun
        assert came == [None] * 8
        assert made == []
    ((trace_id, duration),) = made
    assert trace_id == int("ab" * 16, 16)
    assert 0 < duration <= took


async def test_an_unload_lets_the_tokenizer_go() -> None:
    """vLLM's caches keep those of 128 calls: 40 MiB were left of each load of a usual vocabulary."""
    before = tokenizers()
    async with loaded("llama") as engine:
        chat = ChatPrompt((Message.of("user", "Hello"),))
        assert (await engine.render(chat, think=None, continue_last=False)).token_ids
        assert tokenizers() > before
    del engine
    assert tokenizers() == before


async def test_what_cannot_be_sent_to_the_engine_takes_no_slot() -> None:
    async with loaded("tool") as engine:
        assert (
            await tokens(engine, 4, Sampling(seed=2**70, temperature=1e300, top_p=0.0, presence_penalty=99))
            == 4
        )
        with pytest.raises(InvalidRequest):
            await tokens(engine, 4, Sampling(repeat_penalty=0.0))
        with pytest.raises(InvalidRequest):
            await engine.detokenize([10**9])
        await eventually(lambda: not any(engine.metrics().values()))
        assert await tokens(engine, 4) == 4


async def test_those_that_wait_are_served_by_priority_then_in_order() -> None:
    """One request at a time, so that whoever ends first was let in first."""
    async with loaded("tool", max_num_seqs=1) as engine:
        assert engine.slots == 1
        prompt = await engine.tokenize("Once upon a time")
        served: list[int] = []

        async def ask(name: int, priority: int) -> None:
            run = Run(GREEDY, 4, priority=priority)
            async with aclosing(deltas_of(engine, prompt, run)) as deltas:
                assert [delta async for delta in deltas][-1].output_tokens == 4
            served.append(name)

        async with asyncio.TaskGroup() as waiting:  # noqa: SIM117 - what waits outlives what it waits for
            async with aclosing(deltas_of(engine, prompt, Run(GREEDY, 1000))) as held:
                await anext(held)
                for name, priority in enumerate((5, 0, -5, 5, 0, -5)):
                    waiting.create_task(ask(name, priority))
                    await eventually(lambda count=name + 1: engine.metrics()["waiting"] == count)
                assert served == []
        assert served == [2, 5, 1, 4, 0, 3]


@pytest.mark.parametrize("started", [False, True], ids=["at once", "when it has a process"])
async def test_a_cancelled_load_leaves_nothing(started: bool) -> None:
    before = processes()
    loading = asyncio.create_task(load(model("tool")))
    await eventually(lambda: len(processes() - before) >= started)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await eventually(lambda: processes() == before)


async def test_two_loads_side_by_side_are_two_engines_and_one_that_is_cancelled_takes_nothing_along() -> None:
    """As on devices that have none in common. Which processes are whose was told by which were new."""
    turn, before = asyncio.Lock(), processes()
    first, second, third = (
        asyncio.create_task(load(model(name), turn=turn)) for name in ("tool", "emb", "llama")
    )
    await eventually(lambda: len(processes() - before) >= 3)
    third.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third
    engines = [await first, await second]
    try:
        assert await engines[0].tokenize("a")
        assert (await engines[1].embed(["a"], truncate=True, limit=64, normalize=True)).values
    finally:
        for engine in engines:
            await engine.close()
    await eventually(lambda: processes() == before)


async def test_a_load_that_takes_too_long_leaves_nothing_and_may_be_tried_again() -> None:
    before = processes()
    limits = {"keep_alive_s": 300.0, "max_queue": 9}
    impatient = Manager(lambda wanted: load(wanted), load_timeout_s=0.3, **limits)  # type: ignore[arg-type]
    with pytest.raises(LoadFailed, match="timed out waiting for the model to load"):
        async with impatient.lease(model("tool"), keep_alive_s=None, num_ctx=None):
            pass
    await eventually(lambda: processes() == before)
    await impatient.close()
    async with loaded("tool") as engine:
        assert await tokens(engine, 2) == 2


async def test_a_model_that_the_engine_refuses_says_why_and_leaves_nothing() -> None:
    with pytest.raises(LoadFailed, match=r"^failed to load model tool:latest: .*max_model_len.*greater than"):
        await load(model("tool", max_model_len=10**9))
    with pytest.raises(LoadFailed, match=r"^failed to load model tool:latest: No available memory for"):
        await load(model("tool", kv_cache_memory_bytes=1000))


async def test_closing_an_engine_that_hangs_takes_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM would wait as long as it is told to."""
    async with loaded("tool") as engine:
        monkeypatch.setattr(
            importlib.import_module("vllm.envs"), "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", 3600, raising=False
        )
        prompt = await engine.tokenize("Once upon a time")
        async with aclosing(deltas_of(engine, prompt, Run(GREEDY, 1000))) as deltas:
            await anext(deltas)
            for process in processes():
                if "VLLM" in process.name():
                    process.suspend()
            async with asyncio.timeout(GONE_S):
                await engine.close()
            with pytest.raises(EngineDied):
                async for _ in deltas:
                    pass


async def test_a_death_is_told_to_whoever_watches_and_whoever_waits() -> None:
    async with loaded("tool") as engine:
        before = asyncio.create_task(engine.wait_dead())
        prompt = await engine.tokenize("Once upon a time")
        async with aclosing(deltas_of(engine, prompt, Run(GREEDY, 1000))) as deltas:
            await anext(deltas)
            for process in processes():
                if "EngineCore" in process.name():
                    process.kill()
            with pytest.raises(EngineDied):
                async for _ in deltas:
                    pass
        async with asyncio.timeout(1):
            await before
            await engine.wait_dead()
        with pytest.raises(EngineDied):
            await tokens(engine, 1)
