"""The steps with a model of 8 billion parameters (its shape; no weights): starts, throughput, sleep."""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

import httpx

from app.settings.server import Settings
from bench.asking import Side, Workload, ollama_body, ollama_counts, openai_body, openai_counts, wave
from bench.compare import CARAVAN, VLLM, prompts
from bench.servers import NAME, serving
from bench.slices import Taker, take_turns
from gpu.context import Context, Skipped, used_mib
from harness.ports import free_port
from harness.process import wait_ready

OURS = Side("Caravan", CARAVAN, "/readyz", "/api/chat", ollama_body, ollama_counts)
THEIRS = Side("vLLM", VLLM, "/health", "/v1/chat/completions", openai_body, openai_counts)
_TOKENS = 256


def cold_start(context: Context) -> None:
    """A start with empty caches by its phases, one with full ones, and the bytes beside those predicted."""
    caches = {
        "VLLM_CACHE_ROOT": str(context.scratch / "vllm"),
        "TRITON_CACHE_DIR": str(context.scratch / "triton"),
    }
    model = {"name": "big", "source": str(context.shaped()), "engine": context.shaped_engine()}
    for name in ("cold", "warm"):
        before = used_mib()
        with context.server(model, **caches) as server:
            began = time.monotonic()
            server.ask("/api/generate", model="big", prompt="Once", options={"num_predict": 1})
            gauges = {key: value for key, value in server.gauges().items() if "device_memory" in key}
            row = httpx.get(f"{server.url}/api/ps", timeout=10).json()["models"][0]
            found = {
                "port_s": round(server.ready_s, 2),
                "load_s": round(time.monotonic() - began, 2),
                "phases": server.phases(),
                "used_mib": used_mib() - before,
                "ps": {"size": row["size"], "size_vram": row["size_vram"], "context": row["context_length"]},
                "gauges": gauges,
            }
            context.find.tell(**{name: found})


def throughput(context: Context) -> None:
    """Caravan and vLLM's own server on one engine configuration, in turns: tokens/s, CPU of the front end."""
    clients, seconds = ((1, 32, 128, 256, 512), 6.0) if context.on_gpu else ((1, 4), 6.0)
    engine = context.shaped_engine(max_model_len=4096)
    if context.on_gpu:
        engine |= {"gpu_memory_utilization": 0.45, "max_num_seqs": 1024, "max_num_batched_tokens": 8192}
    load = Workload("8B", context.shaped(), prompts, _TOKENS if context.on_gpu else 32, engine, 0.005)
    asyncio.run(_in_turns(context, load, clients, seconds))


async def _in_turns(context: Context, load: Workload, clients: tuple[int, ...], seconds: float) -> None:
    with ExitStack() as running:
        takers: list[Taker] = []
        for side in (OURS, THEIRS):  # one after the other: a start measures the memory that is free
            port = free_port()
            process = running.enter_context(serving(side.command, load.model, load.engine, port))
            await asyncio.to_thread(wait_ready, f"http://127.0.0.1:{port}{side.ready}", process)
            await wave(side, process, port, 4, load.prompts(4, 10**6), 8)
            takers.append(Taker(side, process, port))
        for number in clients:
            for taker, found in await take_turns(takers, load, number, seconds, number * 10_000):
                context.find.tell(**{f"{taker.side.name}, {number} streams": _figures(found)})


def _figures(found: Any) -> dict[str, float]:
    """Of the slices that count; without a token in any there are none."""
    if not found.tokens:
        return {}
    figures = {name: round(value, 4) for name, value in found.figures().items()}
    return figures | {"front-end us/token": round(found.cpu_seconds / found.tokens * 1e6, 1)}


def batch_limits(context: Context) -> None:
    """Caravan at 256 streams with the limits of a batch that no device chose (128 requests, 2,048 tokens)."""
    engine = context.shaped_engine(max_model_len=4096, max_num_seqs=128, max_num_batched_tokens=2048)
    number = 256 if context.on_gpu else 4
    port = free_port()
    with serving(OURS.command, context.shaped(), engine, port) as process:
        wait_ready(f"http://127.0.0.1:{port}{OURS.ready}", process)
        asked = prompts(2 * number, 0)
        found = asyncio.run(wave(OURS, process, port, number, asked, _TOKENS if context.on_gpu else 16))
        context.find.tell(**{f"Caravan, {number} streams": _figures(found)})


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


def _post(url: str, body: Any = None) -> float:
    began = time.monotonic()
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 200, f"{url}: {answer.status_code} {answer.text[:300]}"
    return round(time.monotonic() - began, 2)


def _completion(url: str) -> str:
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]


def front_ends(_: Context) -> None:
    """Tokens/s of one and of two front-end processes over one engine."""
    if "front_ends" not in Settings.model_fields:
        raise Skipped("this version has one front-end process")
    raise Skipped("the step is not written yet")
