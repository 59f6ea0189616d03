"""`caravan worker`: what vLLM's headless path is called with, beside what the leader's engine is made of."""

import os
import signal
import socket
from argparse import Namespace
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vllm
import yaml
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli import serve

from app import worker
from app.core.errors import LoadFailed
from app.engine.vllm import headless
from app.engine.vllm.config import EngineDefaults, engine_args
from app.prepare import engine_terms, prepare
from app.runtime.lifecycle import GaveUp
from app.settings.environment import BadSetting
from app.settings.server import read_settings
from tests.unit.catalogue_folders import make_folder
from tests.unit.garage import SPANNING

pytestmark = pytest.mark.filterwarnings("ignore")

ENGINE = {
    "nnodes": 2,
    "node_rank": 0,
    "master_addr": "10.0.0.1",
    "tensor_parallel_size": 2,
    "device_ids": [1],
}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Generator[list[AsyncEngineArgs]]:
    """The arguments that vLLM's headless path makes of what it is given."""
    found: list[AsyncEngineArgs] = []

    def look(given: Namespace) -> None:
        assert (given.headless, given.api_server_count, given.reasoning_parser_plugin) == (True, 0, "")
        found.append(vllm.AsyncEngineArgs.from_cli_args(given))

    monkeypatch.setattr(serve, "run_headless", look)
    monkeypatch.setattr(worker.environment, "prepare", lambda *_, **__: None)
    before = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Settings of models, each a tiny folder of its own."""

    def settings(*engines: dict[str, Any], **more: Any) -> Any:
        models = [
            {"name": f"m{number}", "source": str(make_folder(tmp_path / f"m{number}")), "engine": engine}
            for number, engine in enumerate(engines)
        ]
        config = tmp_path / "caravan.yaml"
        config.write_text(yaml.safe_dump({"models": models, "cache_dir": str(tmp_path / "cache")} | more))
        monkeypatch.setenv("CARAVAN_CONFIG", str(config))
        return read_settings()

    return settings


def test_a_worker_has_the_arguments_of_its_leader(
    called: list[AsyncEngineArgs], configured: Callable[..., Any]
) -> None:
    """It had vLLM's defaults: ranks of one group would have run batches of different shapes."""
    settings = configured(ENGINE, {}, num_parallel=48)
    with pytest.raises(
        GaveUp, match="m0:latest: a rank of this node has ended, and all its nodes are to be started anew"
    ):
        worker.run(settings, 1)
    [args] = called
    leader = engine_args(prepare(settings).all()[0], EngineDefaults(**engine_terms(settings)))
    differ = {each.name for each in fields(leader) if getattr(args, each.name) != getattr(leader, each.name)}
    assert differ <= {"node_rank", "reasoning_parser_plugin"}
    assert (args.node_rank, args.nnodes, args.master_addr) == (1, 2, "10.0.0.1")
    assert (args.max_num_seqs, args.device_ids) == (48, [1])
    assert args.served_model_name == ["m0:latest"]


@pytest.mark.parametrize(
    "more",
    [
        {"device_ids": [0, 1], "logits_processors": ["a:B", "c:D"]},
        {"disable_log_stats": False, "enable_expert_parallel": True, "enable_prefix_caching": False},
        {"max_model_len": -1, "gpu_memory_utilization": 0.5, "quantization": None},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"compilation_config": {"mode": 0}, "limit_mm_per_prompt": {"image": 2}},
        {"structured_outputs_config": {"disable_any_whitespace": True}},
        {"served_model_name": ["one", "two words"], "hf_overrides": {"a": [1, None]}},
    ],
    ids=lambda more: " ".join(more),
)
def test_a_value_of_any_kind_is_that_of_the_leader(
    called: list[AsyncEngineArgs], configured: Callable[..., Any], more: dict[str, Any]
) -> None:
    """Written as words of a command line, lists came apart and what is false was refused."""
    settings = configured(ENGINE | more)
    with pytest.raises(GaveUp):
        worker.run(settings, 1)
    leader = engine_args(prepare(settings).all()[0], EngineDefaults(**engine_terms(settings)))
    for name in more:
        assert getattr(called[0], name) == getattr(leader, name)
        assert type(getattr(called[0], name)) is type(getattr(leader, name))


def test_a_rank_elsewhere_samples_with_the_same_processors(
    called: list[AsyncEngineArgs], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(
        model_config=SimpleNamespace(runner_type="generate", logits_processors=None),
        use_v2_model_runner=True,
        speculative_config=None,
    )
    monkeypatch.setattr(AsyncEngineArgs, "create_engine_config", lambda *_: made)
    headless.run(SPANNING, EngineDefaults(), 1)
    assert called[0].create_engine_config(None, True) is made  # type: ignore[comparison-overlap]
    assert made.model_config.logits_processors == ["app.engine.vllm.input.logits_v2:GpuOllamaLogits"]
    assert vllm.AsyncEngineArgs is AsyncEngineArgs, "put back"


@pytest.mark.parametrize("signalled", [False, True], ids=["leader", "operator"])
def test_a_node_ends_with_its_leader(
    called: list[AsyncEngineArgs],
    configured: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    signalled: bool,
) -> None:
    """Its ranks would wait for ever, and the leader that comes after for others. Told to stop, it stops."""

    def wait(_: Namespace) -> None:
        def end(*_: Any) -> None:
            raise SystemExit

        signal.signal(signal.SIGTERM, end)
        joined = stack.enter_context(leader.accept()[0])
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        joined.close()
        signal.pause()

    monkeypatch.setattr(serve, "run_headless", wait)
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as leader:
        group = {"master_addr": "127.0.0.1", "master_port": leader.getsockname()[1]}
        with pytest.raises(SystemExit if signalled else GaveUp) as caught:
            worker.run(configured(ENGINE | group), 1)
    assert ("the leader has ended" in str(caught.value)) is not signalled


def test_what_vllm_makes_no_configuration_of_is_one_line(
    called: list[AsyncEngineArgs], configured: Callable[..., Any]
) -> None:
    """As the leader says it; a further node showed a traceback."""
    settings = configured(ENGINE | {"tensor_parallel_size": 3})
    with pytest.raises(GaveUp):
        worker.run(settings, 1)
    with pytest.raises(LoadFailed, match=r"^failed to load model m0:latest: .*must evenly divide"):
        called[0].create_engine_config(None, True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("engines", "rank", "reason"),
    [
        ([{}], 1, "0 have an engine argument nnodes"),
        ([ENGINE, replace(SPANNING.spec, engine={"nnodes": 3}).engine], 1, "2 have an engine argument"),
        ([ENGINE], 2, "m0:latest has the nodes 0 to 1"),
        ([ENGINE], 0, "0 is the leader"),
    ],
)
@pytest.mark.usefixtures("called")
def test_settings_without_a_place_for_a_worker_are_refused(
    configured: Callable[..., Any], engines: list[dict[str, Any]], rank: int, reason: str
) -> None:
    with pytest.raises(BadSetting, match=reason):
        worker.run(configured(*engines), rank)
