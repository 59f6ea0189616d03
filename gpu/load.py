"""The steps with a model of 8 billion parameters (its shape; no weights), and with several front ends."""

import asyncio
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from app.engine.vllm.process.environment import compile_caches
from bench.asking import (
    Measured,
    Side,
    Workload,
    ollama_body,
    ollama_counts,
    openai_body,
    openai_counts,
    wave,
)
from bench.compare import CARAVAN, VLLM, prompts
from bench.front_ends import many_files, measure, sides
from bench.servers import NAME, serving
from bench.slices import Taker, take_turns
from gpu.context import MIB, Context, Server, Skipped, devices, until, used_mib
from gpu.steps import wrong_answers
from harness.models.build import build
from harness.models.catalogue import CASES
from harness.ports import free_port
from harness.process import wait_ready

OURS = Side("Caravan", CARAVAN, "/readyz", "/api/chat", ollama_body, ollama_counts)
THEIRS = Side("vLLM", VLLM, "/health", "/v1/chat/completions", openai_body, openai_counts)
_CLIENTS = (1, 32, 128, 256, 512)
_TOKENS = 128
"""Of a reply. What is under way at the end of a measurement is waited for and not counted."""
_SECONDS = 6.0
_HALF = 0.45
_OF_ONE_BYTES = 24 << 30
"""Of an engine beside its cache: weights, and what a batch of 8,192 tokens and its graphs take."""
_LEAST_CACHE_BYTES, _MOST_CACHE_BYTES = 2 << 30, 40 << 30
FULL = Namespace(pace=100_000.0, streams=[256, 1024], seconds=2.0)
SMALL = Namespace(pace=2_000.0, streams=[16], seconds=1.0)
"""What is asked of several front ends, on the machine of a GPU and in a dry run."""
_CONNECTIONS = 16
"""As the kernel shares them out, both front ends have some."""
_SERVING_S = 60.0
FP8 = "fp8_per_tensor"
_MOST_FP8_GIB = 11.0
"""Of 8 billion parameters, embeddings in 16 bits; all in 16 bits are 15.3."""


def cold_start(context: Context) -> None:
    """A start with empty caches by its phases, one with full ones, and the bytes beside those predicted."""
    caches = compile_caches(Path(tempfile.mkdtemp(prefix="caches-")))
    model = {"name": "big", "source": str(context.shaped()), "engine": context.shaped_engine()}
    for name in ("cold", "warm"):
        before = used_mib()
        with context.server(model, **caches) as server, ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            ask = partial(server.ask, model="big", prompt="Once", options={"num_predict": 1})
            asked = pool.submit(ask, "/api/generate")
            predicted = _promised(server, asked)
            asked.result()
            gauges = {key: value for key, value in server.gauges().items() if "device_memory" in key}
            row = server.client.get("/api/ps").json()["models"][0]
            found = {
                "port_s": round(server.ready_s, 2),
                "load_s": round(time.monotonic() - began, 2),
                "predicted_bytes": predicted,
                "phases": server.phases(),
                "used_mib": used_mib() - before,
                "ps": {"size": row["size"], "size_vram": row["size_vram"], "context": row["context_length"]},
                "gauges": gauges,
            }
            context.find.tell(**{name: found})


def _promised(server: Server, asked: Future[Any]) -> float:
    """The bytes that the ledger holds for what is being loaded, before it has been measured."""
    while not asked.done():
        if promised := server.gauges().get("caravan_device_memory_bytes promised", 0.0):
            return promised
        time.sleep(0.1)  # another process: there is nothing to wait on
    return 0.0


def throughput(context: Context) -> None:
    """Caravan and vLLM's own server on one engine configuration, in turns: tokens/s, CPU of the front end."""
    clients = _CLIENTS if context.on_gpu else (1, 4)
    engine = context.shaped_engine(max_model_len=4096)
    if context.on_gpu:
        engine |= {"gpu_memory_utilization": _HALF, "max_num_seqs": 1024, "max_num_batched_tokens": 8192}
        engine["kv_cache_memory_bytes"] = cache_of_half(devices()[0]["total"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_in_turns(context, (OURS, THEIRS), _load(context, engine), clients))


def cache_of_half(total_mib: float) -> int:
    """Bytes for keys and values, where two engines of 8 billion parameters are on one device.

    With the size given, vLLM does not look at how much memory is free while it starts; so both may start at
    the same time, which saves a minute.
    """
    left = int(_HALF * total_mib) * MIB - _OF_ONE_BYTES
    if left < _LEAST_CACHE_BYTES:
        raise Skipped("two engines of 8 billion parameters need a device of 60 GB")
    return min(left, _MOST_CACHE_BYTES)


def _load(context: Context, engine: dict[str, Any]) -> Workload:
    return Workload("8B", context.shaped(), prompts, _TOKENS if context.on_gpu else 32, engine, 0.005)


async def _in_turns(context: Context, sides: Sequence[Side], load: Workload, clients: Sequence[int]) -> None:
    with ExitStack() as running:
        started: list[tuple[Side, psutil.Process, int]] = []
        for side in sides:
            port = free_port()
            process = running.enter_context(serving(side.command, load.model, load.engine, port))
            started.append((side, process, port))
        began = time.monotonic()
        for side, process, port in started:
            await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}{side.ready}", process)
            context.find.tell(**{f"{side.name} ready after, s": round(time.monotonic() - began, 1)})
            await wave(side, process, port, 4, load.prompts(4, 10**6), 8)
        takers = [Taker(*each) for each in started]
        for number in clients:
            used, began = _own_cpu_s(), time.monotonic()
            for taker, found in await take_turns(takers, load, number, _SECONDS, number * 10_000):
                context.find.tell(**{f"{taker.side.name}, {number} streams": _figures(found)})
            share = (_own_cpu_s() - used) / (time.monotonic() - began)
            # Near 1 it is the client that was measured.
            context.find.tell(**{f"the client's share of a core, {number} streams": round(share, 2)})


def _own_cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _figures(found: Measured) -> dict[str, float]:
    """Of the slices that count; without a token in any there are none."""
    if not found.tokens:
        return {}
    figures = {name: round(value, 4) for name, value in found.figures().items()}
    return figures | {"front-end us/token": round(found.cpu_seconds / found.tokens * 1e6, 1)}


def batch_limits(context: Context) -> None:
    """Caravan at 256 streams with the limits of a batch that no device chose (128 requests, 2,048 tokens)."""
    engine = context.shaped_engine(max_model_len=4096, max_num_seqs=128, max_num_batched_tokens=2048)
    clients = (256,) if context.on_gpu else (4,)
    asyncio.run(_in_turns(context, (OURS,), _load(context, engine), clients))


def sleep(context: Context) -> None:
    """vLLM's two levels of sleep: times, memory that is kept, and the answer after the first."""
    context.need_gpu("sleep")
    engine = context.shaped_engine(max_model_len=4096, enable_sleep_mode=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = f"env VLLM_SERVER_DEV_MODE=1 {THEIRS.command}"
    with serving(command, context.shaped(), engine, port) as process:
        wait_ready(f"{url}{THEIRS.ready}", process)
        context.find.tell(awake_mib=used_mib())
        before = _completion(url)
        context.find.tell(sleep_1_s=_post(f"{url}/sleep?level=1"), asleep_1_mib=used_mib())
        context.find.tell(wake_1_s=_post(f"{url}/wake_up"), same_answer=_completion(url) == before)
        context.find.tell(sleep_2_s=_post(f"{url}/sleep?level=2"), asleep_2_mib=used_mib())
        context.find.tell(wake_2_weights_s=_post(f"{url}/wake_up?tags=weights"))
        context.find.tell(reload_s=_post(f"{url}/collective_rpc", {"method": "reload_weights"}))
        context.find.tell(wake_2_cache_s=_post(f"{url}/wake_up?tags=kv_cache"))
        context.find.tell(same_answer_after_2=_completion(url) == before)


def _post(url: str, body: Any = None) -> float:
    began = time.monotonic()
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 200, f"{url}: {answer.status_code} {answer.text[:300]}"
    return round(time.monotonic() - began, 2)


def _completion(url: str) -> str:
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]


def fp8(context: Context) -> None:
    """Weights that are made 8-bit ones at a load, as of a GGUF file or by `quantize`: answers and bytes."""
    context.need_gpu("FP8 made at a load")
    large = {"name": "big", "source": str(context.shaped())}
    engine = context.shaped_engine(max_model_len=4096, quantization=FP8)
    with context.server(large | {"engine": engine}) as server:
        server.ask("/api/generate", model="big", prompt="Once", options={"num_predict": 4})
        told = server.phases()
        context.find.tell(weights_gib=told.get("weights_gib"), phases=told)
        assert told.get("weights_gib", 0.0) < _MOST_FP8_GIB, "not 8-bit weights"
    with context.server(context.tiny("a", quantization=FP8)) as server:
        wrong = wrong_answers(server, "a", True)
        context.find.tell(cases=len(CASES["qwen3"]), wrong=wrong)
        assert len(wrong) < len(CASES["qwen3"]), "no answer is as it was trained"


def front_ends(context: Context) -> None:
    """Two front ends over one engine answer as one process does; then what two send more than one by the
    clock, with a double in place of the engine, since none is as fast as two front ends."""
    with context.server(context.tiny("a"), CARAVAN_FRONT_ENDS="2") as server:
        context.find.tell(serving_s=until(lambda: server.gauges().get("caravan_front_ends") == 2, _SERVING_S))
        case = next(each for each in CASES["qwen3"] if not each.tools)
        asked = {"model": "a", "messages": list(case.messages), "think": False, "options": {"temperature": 0}}
        server.ask("/api/chat", **asked)
        wrong = [said for _ in range(_CONNECTIONS) if (said := _anew(server, asked)) != case.content]
        by = _requests_by_front_end(server)
        context.find.tell(wrong=wrong, requests_by_front_end=by)
        assert not wrong, f"{len(wrong)} answers are not those of one process"
        assert len(by) == 2, "not both were asked"
    many_files()
    plan = FULL if context.on_gpu else SMALL
    model = build("llama", context.cache)
    sent: list[float] = []
    for side in sides((1, 2), vllm=False):
        found = measure(side, model, plan)
        context.find.tell(**{f"{side.name}, {count} streams": each for count, each in found.items()})
        assert not any(each["errors"] for each in found.values()), "streams that ended wrongly"
        sent.append(max(each["tokens/s"] for each in found.values()))
    context.find.tell(two_to_one=round(sent[1] / sent[0], 2), cores=os.cpu_count())


def _anew(server: Server, asked: dict[str, Any]) -> str:
    """What a connection of its own is told, which comes to any of the front ends."""
    answer = httpx.post(f"{server.url}/api/chat", json={"stream": False} | asked, timeout=60)
    return answer.json().get("message", {}).get("content", answer.text)


def _requests_by_front_end(server: Server) -> dict[str, float]:
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "gen_ai_server_request_duration_seconds_count" and sample.labels.get("front_end"):
            label = sample.labels["front_end"]
            found[label] = found.get(label, 0.0) + sample.value
    return found
