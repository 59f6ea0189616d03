"""Each step of the GPU script, as on a GPU and as in a dry run, with servers that have no engine."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import slices
from bench.front_ends import sides
from gpu import context, load, shapes, steps
from gpu.check import STEPS, kept_rows, one
from gpu.steps import BEGINNINGS, WINDOWED
from tests.unit.gpu_stub import windowed_text

STUB = "tests.unit.gpu_stub"
DEVICE = {"name": "a GPU", "driver": "580.1", "total": 143771.0, "used": 100.0}
REFERENCE = {
    "logprobs": [["t", -0.5]],
    "windowed": {
        f"{name}, {prompt}": windowed_text(prompt, options)
        for name, options in WINDOWED.items()
        for prompt in BEGINNINGS
    },
}
FOUND = {
    "first_token": ("first_token_s", "wrong", "logprobs_apart", "log"),
    "versions": ("versions", "devices", "fork after json"),
    "throughput": (
        "Caravan ready after, s",
        "Caravan, 1 streams",
        "vLLM, 3 streams",
        "the client's share of a core, 3 streams",
    ),
    "windowed": ("texts", "tokens/s without", "tokens/s with", "utilisation"),
    "two_models": ("ps", "used"),
    "sleep": ("sleep_1_s", "same_answer", "reload_s", "same_answer_after_2"),
    "asleep": ("seconds", "used_mib", "texts", "woken", "host_bytes"),
    "swap": ("seconds", "evicted", "drift_mib"),
    "cold_start": ("cold", "warm"),
    "deaths": ("answers_again_s", "processes_gone_s", "memory_back_s"),
    "lora": ("alone", "apart", "tokens/s without", "tokens/s with", "tokens/s with, beside adapters"),
    "leavers": ("clients", "quiet_s"),
    "fp8": ("weights_gib", "phases", "cases", "wrong"),
    "speculation": ("wrong", "drafts"),
    "batch_limits": ("Caravan, 256 streams",),
    "front_ends": ("serving_s", "wrong", "requests_by_front_end", "two_to_one", "cores"),
}
"""What somebody with a GPU wants to read of each."""
ON_GPUS_ALONE = {
    "versions": ("fork after json",),
    "sleep": FOUND["sleep"],
    "fp8": FOUND["fp8"],
    "windowed": ("utilisation",),
    "deaths": ("memory_back_s",),
}
SKIPPED = {True: set[str](), False: {"versions", "sleep", "fp8"}}

Take = Callable[..., dict[str, Any]]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """What a step has written in the end."""
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps(REFERENCE))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("gpu.check.REFERENCE", reference)
    monkeypatch.setattr(context, "PROGRAM", STUB)
    for name, side in (("OURS", load.OURS), ("THEIRS", load.THEIRS)):
        stub = side.__class__(side.name, f"{{python}} -m {STUB} serve --port {{port}}", *_rest(side))
        monkeypatch.setattr(load, name, stub)
    for module in (context, load, steps):
        monkeypatch.setattr(module, "devices", lambda: [DEVICE])
    monkeypatch.setattr(steps, "utilisation", lambda: int(os.environ["FAULT"] != "idle") * 50)
    monkeypatch.setattr(context, "build", lambda kind, _: tmp_path / kind)
    monkeypatch.setattr(context, "embedding_model", lambda _: tmp_path / "embedder")
    monkeypatch.setattr(steps, "build_lora", lambda *_: tmp_path / "lora")
    monkeypatch.setattr(steps, "until", lambda look, _: context.until(look, 2))
    monkeypatch.setattr(steps, "PRELOADS", ("json",))
    monkeypatch.setattr(shapes, "QWEN3_8B", shapes.SMALL)
    monkeypatch.setattr(load, "_CLIENTS", (1, 3))
    monkeypatch.setattr(load, "FULL", load.SMALL)
    monkeypatch.setattr(load, "build", lambda kind, _: tmp_path / kind)
    monkeypatch.setattr(load, "sides", stub_sides)
    monkeypatch.setattr(load, "_SECONDS", 0.4)
    monkeypatch.setattr(slices, "SLICE_S", 0.15)

    def taken(step: str, *, on_gpu: bool = True, fault: str = "") -> dict[str, Any]:
        os.environ |= {"FAULT": fault, "SENTENCES": json.dumps(steps.SENTENCES)}
        out = tmp_path / f"{step}.json"
        one(
            argparse.Namespace(
                step=step, out=out, cache=tmp_path, scratch=tmp_path / "all", dry_run=not on_gpu
            )
        )
        return json.loads(out.read_text())

    return taken


def stub_sides(counts: Sequence[int], *, vllm: bool) -> list[Any]:
    command = f"{{python}} -m {STUB} serve --port {{port}}"
    return [replace(each, command=command) for each in sides(counts, vllm=vllm)]


def _rest(side: Any) -> tuple[Any, ...]:
    return side.ready, side.path, side.body, side.counts


@pytest.mark.parametrize("on_gpu", [True, False], ids=["on a GPU", "in a dry run"])
@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_each_step_goes_through_and_finds_what_it_is_for(take: Take, step: str, on_gpu: bool) -> None:
    told = take(step, on_gpu=on_gpu)
    assert told["state"] == ("skipped" if step in SKIPPED[on_gpu] else "ok"), told
    wanted = set(FOUND[step]) - (set() if on_gpu else {*ON_GPUS_ALONE.get(step, ()), "Caravan, 256 streams"})
    if not on_gpu:
        wanted = {name.replace("3 streams", "4 streams") for name in wanted}
    assert wanted <= told["found"].keys()
    if told["state"] == "skipped":
        assert told["reason"]


@pytest.mark.parametrize(
    ("step", "fault", "reason"),
    [
        ("first_token", "answers", "2 answers are not the CPU's"),
        ("first_token", "logprobs", "AssertionError"),
        ("windowed", "windowed", "not the tokens of the CPU"),
        ("two_models", "two_models", "one was unloaded for another"),
        ("swap", "swap", "AssertionError"),
        ("asleep", "swap", "AssertionError"),
        ("front_ends", "front_ends", "not both were asked"),
        ("deaths", "deaths", "TimeoutError"),
        ("lora", "lora", "answers of a batch are not those of one alone"),
        ("leavers", "leavers", "TimeoutError"),
        ("windowed", "idle", "the watchdog would not see"),
        ("fp8", "fp8", "not 8-bit weights"),
        ("speculation", "answers", "AssertionError"),
        ("cold_start", "start", "NotStarted"),
    ],
)
def test_a_step_fails_where_what_it_proves_is_not_so(take: Take, step: str, fault: str, reason: str) -> None:
    told = take(step, fault=fault)
    assert told["state"] == "failed"
    assert reason in told["reason"]


def test_what_was_predicted_of_a_model_is_read_while_it_loads(take: Take) -> None:
    """Once it is there it has been measured."""
    found = take("cold_start")["found"]
    assert [found[name]["predicted_bytes"] for name in ("cold", "warm")] == [1000, 1000]


def test_all_of_a_first_answer_is_kept_though_others_are_wrong(take: Take) -> None:
    """Of a GPU whose arithmetic is not the CPU's everything is to be known, not that it stopped there."""
    found = take("first_token", fault="answers")["found"]
    assert list(found["wrong"]) == ["count, think True", "count, think False"]
    assert {"first_token_s", "logprobs", "schema"} <= found.keys()


@pytest.mark.parametrize(
    ("total_mib", "cache_mib"),
    [(143771, 40120), (81559, 12125), (183359, 40960)],
    ids=["H200", "H100", "B200"],
)
def test_two_large_engines_share_a_device(total_mib: float, cache_mib: int) -> None:
    assert load.cache_of_half(total_mib) >> 20 == cache_mib


def test_where_they_do_not_fit_the_step_is_skipped(monkeypatch: pytest.MonkeyPatch, take: Take) -> None:
    monkeypatch.setattr(load, "devices", lambda: [DEVICE | {"total": 24564.0}])
    told = take("throughput")
    assert (told["state"], "60 GB" in told["reason"]) == ("skipped", True)


def test_the_phases_of_a_start_are_read_from_the_logs_of_both() -> None:
    log = (
        "20:59:58 INFO loading big:latest (qwen3, 8.2B parameters, BF16, up to 40960 tokens of context)\n"
        "(EngineCore pid=9) INFO 11-29 21:00:09 [core.py:134] Initializing a V1 LLM engine (v0.32.0) with\n"
        "(EngineCore pid=9) INFO 11-29 21:00:11 [model_runner.py:425] Model loading took 15.27 GiB memory "
        "and 1.234567 seconds\n"
        "(EngineCore pid=9) INFO 11-29 21:00:31 [monitor.py:20] torch.compile took 18.50 s in total\n"
        "(EngineCore pid=9) INFO 11-29 21:00:44 [model_runner.py:1128] Graph capturing finished in 9 secs\n"
        "(EngineCore pid=9) INFO 11-29 21:00:45 [core.py:403] init engine (profile, create kv cache, warmup "
        "model) took 33.90 s\n"
        "21:00:45 INFO context length of big:latest: 40960 tokens\n"
    )
    assert context.phases(log) == {
        "weights_gib": 15.27,
        "weights_s": 1.234567,
        "compile_s": 18.5,
        "graphs_s": 9.0,
        "engine_s": 33.9,
        "context": 40960.0,
        "engine imported at, s": 11.0,
        "weights there at, s": 13.0,
        "engine ready at, s": 47.0,
    }
    assert context.phases("") == {}


def test_the_rows_of_an_earlier_run_stay(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    assert kept_rows(results, {"swap"}) == []
    results.write_text(json.dumps({"steps": [{"step": "swap"}, {"step": "sleep"}]}))
    assert kept_rows(results, {"swap"}) == [{"step": "sleep"}]
