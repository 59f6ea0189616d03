"""What an engine is started with where there is a GPU: the real classes on a platform that says it is one."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import PlatformEnum, current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.detokenizer import SlowIncrementalDetokenizer
from vllm.v1.metrics.stats import IterationStats, RequestStateStats

from app.core.device import Placement
from app.core.errors import LoadFailed
from app.core.events import Delta
from app.engine.vllm.config import EngineDefaults, engine_args, engine_config
from app.engine.vllm.engine import VllmEngine
from app.engine.vllm.process import environment
from app.engine.vllm.stream.client import TokenOutputs
from app.engine.vllm.stream.deltas import Deltas
from tests.unit.garage import model

pytestmark = pytest.mark.filterwarnings("ignore")

M = model("m")
EMBEDDER = replace(M, facts=replace(M.facts, capabilities=("embedding",)))
CHOSEN = "VLLM_USE_BREAKABLE_CUDAGRAPH"


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = type(current_platform)
    monkeypatch.setattr(platform, "is_cpu", lambda _: False)
    monkeypatch.setattr(platform, "get_device_total_memory", classmethod(lambda *_: 80 << 30))
    monkeypatch.setattr(platform, "get_device_name", classmethod(lambda *_: "NVIDIA H100 80GB HBM3"))


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Has a load end where its configuration would be made, by a look at how that is asked for."""

    def use(look: Callable[[Any], None]) -> None:
        def create(_: AsyncEngineArgs, usage_context: Any = None) -> None:
            look(usage_context)
            raise ValueError("seen")

        monkeypatch.setattr(AsyncEngineArgs, "create_engine_config", create)

    return use


async def load() -> None:
    with pytest.raises(LoadFailed, match="seen"):
        await VllmEngine.load(M, EngineDefaults())


async def test_a_build_for_gpus_without_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it was `NotImplementedError`, from where vLLM asks its platform for the first time."""
    monkeypatch.setattr(type(current_platform), "_enum", PlatformEnum.UNSPECIFIED)
    with pytest.raises(LoadFailed, match="no driver of theirs answers"):
        await VllmEngine.load(M, EngineDefaults())


@pytest.mark.usefixtures("h100")
async def test_the_limits_of_a_batch_are_those_of_the_device(
    configure: Callable[[Callable[[Any], None]], None],
) -> None:
    """Without a usage context they are 2,048 tokens of 128 requests, whatever the device."""
    asked: list[Any] = []
    configure(asked.append)
    await load()
    tokens, requests = AsyncEngineArgs.get_batch_defaults(1)
    assert [(tokens.get(context), requests.get(context)) for context in asked] == [(8192, 1024)]


@pytest.mark.usefixtures("h100")
def test_on_a_gpu_the_context_is_what_finds_room() -> None:
    """A model whose whole context found none was refused."""
    assert engine_args(M, EngineDefaults()).max_model_len == -1
    own = replace(M, spec=replace(M.spec, engine={"max_model_len": 9000}))
    assert engine_args(own, EngineDefaults()).max_model_len == 9000


def test_elsewhere_the_context_is_the_model_s() -> None:
    assert engine_args(M, EngineDefaults()).max_model_len is None
    assert engine_args(EMBEDDER, EngineDefaults()).max_model_len is None


@pytest.mark.usefixtures("h100")
def test_an_engine_takes_of_a_gpu_what_it_was_given() -> None:
    """vLLM would take 0.92 of it, and refuse to start where another engine has some."""
    given = EngineDefaults(placement=Placement((0,), 20 << 30, 80 << 30))
    args = engine_args(M, given)
    assert (args.gpu_memory_utilization, args.device_ids) == (0.25, None)
    wide = engine_args(M, EngineDefaults(placement=Placement((2, 3), 74 << 30, 80 << 30)))
    assert (wide.gpu_memory_utilization, wide.device_ids) == (0.925, [2, 3])
    own = replace(M, spec=replace(M.spec, engine={"gpu_memory_utilization": 0.5, "device_ids": [1]}))
    args = engine_args(own, given)
    assert (args.gpu_memory_utilization, args.device_ids) == (0.5, [1])


@pytest.mark.parametrize(
    ("runner", "is_v2", "speculates", "processor"),
    [
        ("generate", True, False, "logits_v2:GpuOllamaLogits"),
        ("generate", True, True, "logits_v2:GpuOllamaLogits"),
        ("generate", False, False, "logits:OllamaLogits"),
        ("generate", False, True, ""),
        ("pooling", True, False, ""),
    ],
)
def test_the_model_runner_decides_which_processor_makes_the_windowed_options(
    monkeypatch: pytest.MonkeyPatch, runner: str, is_v2: bool, speculates: bool, processor: str
) -> None:
    """On a GPU there was none, so that `repeat_last_n` and `typical_p` were without effect."""
    made = SimpleNamespace(
        model_config=SimpleNamespace(runner_type=runner, logits_processors=["own:Processor"]),
        use_v2_model_runner=is_v2,
        speculative_config=object() if speculates else None,
    )
    monkeypatch.setattr(AsyncEngineArgs, "create_engine_config", lambda *_: made)
    _, windowed = engine_config(engine_args(M, EngineDefaults()))
    assert windowed is bool(processor)
    ours = [f"app.engine.vllm.input.{processor}"] if processor else []
    assert made.model_config.logits_processors == [*ours, "own:Processor"]


def test_on_a_cpu_a_placement_changes_nothing() -> None:
    placed = engine_args(M, EngineDefaults(placement=Placement((0,), 20 << 30, 80 << 30)))
    assert placed == engine_args(M, EngineDefaults())


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of this test's own, without what vLLM reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    monkeypatch.setattr(os, "environ", kept)


def test_an_engine_of_several_front_ends_is_told_of_them() -> None:
    """vLLM's own server tells it of all its processes; this one is a client of the engine too."""
    shared: Any = engine_args(M, EngineDefaults(front_ends=2))
    assert (shared._api_process_count, shared._api_process_rank) == (3, 0)
    alone: Any = engine_args(M, EngineDefaults())
    assert (alone._api_process_count, alone._api_process_rank) == (1, 0)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("spawns", [True, False])
def test_every_platform_has_one_environment(spawns: bool) -> None:
    """A GPU server told vLLM's collector of itself, and forked engines from threads of its own."""
    environment.prepare({"OMP_NUM_THREADS": "2"}, debug=False, spawns=spawns)
    found = os.environ
    assert (found["VLLM_NO_USAGE_STATS"], found["VLLM_LOGGING_LEVEL"]) == ("1", "ERROR")
    assert found["OMP_NUM_THREADS"] == "2"
    assert found.get("VLLM_WORKER_MULTIPROC_METHOD") == ("spawn" if spawns else None)


@pytest.mark.usefixtures("clean")
def test_what_the_operator_has_set_stays() -> None:
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "4"
    environment.prepare({}, debug=True, spawns=True)
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ


@pytest.mark.usefixtures("clean")
def test_what_compilers_make_is_kept_in_the_cache(tmp_path: Path) -> None:
    """It was lost with each container, and made anew for minutes."""
    envs.disable_envs_cache()  # another test's load may have had vLLM keep what there was
    folder = tmp_path / "cache" / "server"
    assert environment.writable(folder)
    assert folder.is_dir()
    caches = environment.compile_caches(folder)
    assert caches == {
        "VLLM_CACHE_ROOT": f"{folder}/vllm",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "CUDA_CACHE_PATH": f"{folder}/cuda",
        "FLASHINFER_WORKSPACE_BASE": f"{folder}/flashinfer",
    }
    os.environ["TRITON_CACHE_DIR"] = "/own"
    environment.prepare(caches, debug=False, spawns=True)
    assert (os.environ["TRITON_CACHE_DIR"], os.environ["CUDA_CACHE_PATH"]) == ("/own", f"{folder}/cuda")
    assert f"{folder}/vllm" == envs.VLLM_CACHE_ROOT


@pytest.mark.parametrize("refused", ["made", "written to"])
def test_a_cache_that_cannot_be_written_to_is_found_out(
    tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    if refused == "made":
        cache.touch()
    else:  # tests may run as root, who may write anywhere
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert not environment.writable(cache / "server")


async def test_no_variable_is_final_before_the_configuration_is_made(
    configure: Callable[[Callable[[Any], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM sets some for some architectures, and went on reading what was there before."""
    monkeypatch.delenv(CHOSEN, raising=False)
    seen: list[bool] = []

    def look(_: Any) -> None:
        before = bool(getattr(envs, CHOSEN))
        os.environ[CHOSEN] = "1"
        seen.extend((before, bool(getattr(envs, CHOSEN))))

    configure(look)
    try:
        for _ in range(2):
            await load()
            assert envs._is_envs_cache_enabled()  # pyright: ignore[reportPrivateUsage]
            assert CHOSEN not in os.environ
        # The second model is not told what was for the first.
        assert seen == [False, True] * 2
    finally:
        envs.disable_envs_cache()


def test_a_tokenizer_in_python_reads_every_token_of_an_output() -> None:
    """With several at once, as speculation has it, the last was read over and over: wrong text."""
    from types import SimpleNamespace

    from transformers import ByT5Tokenizer

    tokenizer: Any = ByT5Tokenizer()
    words = tokenizer.encode("the cat sat", add_special_tokens=False)
    request: Any = SimpleNamespace(
        request_id="r",
        sampling_params=SamplingParams(),
        prompt_token_ids=words[:3],
        prompt_embeds=None,
    )
    given: list[str] = []
    deltas = Deltas("r", lambda _: Delta("", []), None)
    outputs: Any = TokenOutputs(tokenizer, log_stats=True)
    outputs.request_states["r"] = SimpleNamespace(
        queue=deltas,
        detokenizer=SlowIncrementalDetokenizer(tokenizer, request),
        stats=RequestStateStats(),
        is_prefilling=False,
    )
    deltas.push = lambda text, _: given.append(text)  # type: ignore[method-assign]
    for part in (words[3:4], words[4:9], words[9:]):
        outputs.process_outputs([EngineCoreOutput("r", part)], 1.0, IterationStats())
    assert "".join(given) == " cat sat"
    assert outputs.request_states["r"].detokenizer.token_ids == words
