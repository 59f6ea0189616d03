"""How vLLM is asked to sleep and to wake, on doubles: no GPU is needed, and nothing of one is proven."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.platforms import current_platform

from app.core.device import GIB
from app.core.errors import EngineFailed, LoadFailed
from app.engine.memory.lora import Room
from app.engine.memory.need import while_asleep
from app.engine.vllm import start as starting
from app.engine.vllm.config import EngineDefaults, engine_args
from app.engine.vllm.process.watchdog import Judge, Look, Verdict
from app.engine.vllm.sleep import Sleep
from tests.unit.garage import SPANNING, model

pytestmark = pytest.mark.filterwarnings("ignore")

M = replace(model("m"), facts=replace(model("m").facts, parameter_count=GIB, quantization="BF16"))


class Llm:
    """`AsyncLLM`, as far as it sleeps. What it is asked for, and the tokens that it makes, are `calls`."""

    def __init__(self, *, sleep_mode: bool = True, nnodes: int = 1) -> None:
        self.calls: list[Any] = []
        self.wakes = True
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(enable_sleep_mode=sleep_mode),
            parallel_config=SimpleNamespace(nnodes=nnodes),
        )

    async def sleep(self, level: int, mode: str) -> None:
        self.calls.append((level, mode))

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        self.calls.append(tags)
        return self.wakes

    async def ask_once(self) -> None:
        self.calls.append("token")


def sleep_of(llm: Llm) -> Sleep:
    made: Any = Sleep
    return made(llm, llm.ask_once)


async def test_the_host_keeps_the_weights_and_a_wake_is_proven_by_a_token() -> None:
    sleeper = sleep_of(llm := Llm())
    await sleeper.sleep()
    assert sleeper.asleep
    assert llm.calls == [(1, "wait")], "level 2 would throw the weights away"
    await sleeper.wake()
    assert not sleeper.asleep
    assert llm.calls[1:] == [None, "token"]


async def test_an_engine_of_which_not_all_is_back_has_failed() -> None:
    sleeper = sleep_of(llm := Llm())
    llm.wakes = False
    await sleeper.sleep()
    with pytest.raises(EngineFailed):
        await sleeper.wake()
    assert sleeper.asleep
    assert "token" not in llm.calls


@pytest.mark.parametrize(
    ("sleep_mode", "nnodes", "can"), [(True, 1, True), (False, 1, False), (True, 2, False)]
)
def test_an_engine_sleeps_that_was_started_so_and_is_on_one_node(
    sleep_mode: bool, nnodes: int, can: bool
) -> None:
    assert sleep_of(Llm(sleep_mode=sleep_mode, nnodes=nnodes)).can is can


def test_one_that_is_asleep_is_neither_probed_nor_hung() -> None:
    judge = Judge(60, Look(0, False))
    asleep = Look(0, False, asleep=True)
    assert {judge.look(asleep, 10) for _ in range(10_000)} == {Verdict.WELL}
    assert [judge.look(Look(0, True), 10) for _ in range(6)][-1] is Verdict.HUNG


def test_sleep_is_an_argument_of_engines_on_gpus_and_an_operator_s_word_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleeps = EngineDefaults(sleeps=True)
    assert not engine_args(M, sleeps).enable_sleep_mode, "a CPU's engine refuses it"
    platform = type(current_platform)
    monkeypatch.setattr(platform, "is_cpu", lambda _: False)
    assert engine_args(M, sleeps).enable_sleep_mode
    assert not engine_args(M, EngineDefaults()).enable_sleep_mode
    never = replace(M, spec=replace(M.spec, engine={"enable_sleep_mode": False}))
    assert not engine_args(never, sleeps).enable_sleep_mode


def with_engine(**engine: Any) -> Any:
    return replace(M, spec=replace(M.spec, engine=engine))


@pytest.mark.parametrize(
    ("engine", "copies"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 4}, 1),
        ({"data_parallel_size": 2}, 2),
        ({"enable_sleep_mode": False}, 0),
        ({"kv_transfer_config": {"kv_connector": "x"}}, 0),
        ({"kv_offloading_size": 64}, 0),
        ({"kv_offloading_size": 64, "enable_sleep_mode": True}, 1),
    ],
)
def test_the_host_is_asked_for_twice_the_weights(engine: dict[str, Any], copies: int) -> None:
    """torch pins each piece in a power of two."""
    host, asleep = while_asleep(with_engine(**engine), Room())
    assert host == 2 * copies * int(2 * GIB * 1.05)
    assert bool(asleep) is bool(copies)


def test_an_engine_over_several_nodes_does_not_sleep() -> None:
    assert while_asleep(SPANNING, Room()) == (0, 0)


# Starts.


class Turns:
    """What a start does, in order; the first `failing` starts fail."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.log: list[str] = []

    async def start(self, _model: Any, args: Any, _interval: int, _turn: Any, fault: str = "") -> str:
        self.log.append("with adapters" if args.enable_lora else "without")
        if self.failing:
            self.failing -= 1
            raise LoadFailed("no room")
        return fault

    async def freed(self) -> None:
        self.log.append("freed")


async def test_a_start_without_adapters_waits_for_the_memory_of_the_one_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM refuses to start where less of the device is free than it is to have."""
    turns = Turns(failing=1)
    monkeypatch.setattr(starting, "_start", turns.start)
    monkeypatch.setattr(starting, "check_weights", lambda _: None)
    fault: Any = await starting.start(M, EngineDefaults(freed=turns.freed), 8)
    assert fault.endswith("with room for adapters: no room")
    assert turns.log == ["with adapters", "freed", "without"]


class Output:
    """`ChildOutput` of an engine that begins its process after `begins_s`."""

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.begun = asyncio.Event()

    def has_begun(self, _count: int) -> bool:
        return self.begun.is_set()


ARGS = SimpleNamespace(_api_process_count=1)


async def test_engines_start_side_by_side_once_their_processes_have_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their environment is one, and what comes after takes minutes."""
    log: list[str] = []
    up = asyncio.Event()

    async def start_in_thread(processes: Any, *_: Any) -> Any:
        log.append(f"begins {processes}")
        await up.wait()
        return SimpleNamespace()

    config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_size_local=1))
    monkeypatch.setattr(starting, "start_in_thread", start_in_thread)
    monkeypatch.setattr(starting, "engine_config", lambda _: (config, False))
    monkeypatch.setattr(starting, "stat_logger", lambda *_: None)
    turn, outputs = asyncio.Lock(), [Output(), Output()]
    run: Any = starting._run  # pyright: ignore[reportPrivateUsage]
    both = [asyncio.create_task(run(M, ARGS, None, output, 1, turn)) for output in outputs]
    async with asyncio.timeout(30):
        while not log:  # noqa: ASYNC110  # a double of what begins processes
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(log) == 1
        outputs[0].begun.set()
        while len(log) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not up.is_set()
        both[1].cancel()
        await asyncio.wait({both[1]})
        assert both[1].cancelled()
        assert not turn.locked()
        up.set()
        await both[0]
