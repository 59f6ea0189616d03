"""A server that answers as the steps of the GPU script expect, without an engine; `FAULT` has it be wrong.

`python -m tests.unit.gpu_stub serve --port N [--config FILE]`. It has a child of the name EngineCore, which
it starts anew when that dies, and which ends with it.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.models.catalogue import CASES, GREETING, LONG_STORY

FAULT = os.environ.get("FAULT", "")
SENTENCES: dict[str, str] = json.loads(os.environ.get("SENTENCES", "{}"))
"""Of adapters, as the steps have them, whose imports would take longer than all that a stub does."""
CORE = "import sys; sys.stdin.read()"
STAYS = "import time; time.sleep(60)"


def windowed_text(prompt: str, options: dict[str, Any]) -> str:
    wanted = sorted(
        (name, value) for name, value in options.items() if name not in ("temperature", "num_predict")
    )
    return f"{prompt}: {wanted}{'!' if FAULT == 'windowed' else ''}"


class Stub:
    def __init__(self, models: list[dict[str, Any]]) -> None:
        self.models = models
        self.adapters = {each["name"] for each in models if "adapter" in each}
        self.loaded: list[str] = []
        self.evicted = self.running = self.woken = 0
        self.asleep: set[str] = set()
        self.chats = [0, 0]

    async def answer(self, method: str, path: str, body: dict[str, Any], writer: Any) -> None:
        model = str(body.get("model", ""))
        if path.startswith("/api/") and model:
            self.load(model)
        if path == "/api/generate" and body.get("stream") is not False:
            await self.stay(writer)
        elif path == "/api/generate":
            await asyncio.sleep(0.3 if model == "big" else 0)
            self.send(writer, self.generated(body))
        elif path == "/api/chat" and body.get("stream") is not False:
            lines = [{"message": {"content": "x"}}] * 3
            made = body.get("options", {}).get("num_predict", 3)
            last = {"done": True, "prompt_eval_count": 5, "eval_count": made, "message": {"content": ""}}
            told = [json.dumps(each, separators=(",", ":")) + "\n" for each in (*lines, last)]
            await self.stream(writer, told)
        elif path == "/api/chat":
            self.running += 1
            self.chats[sum(self.chats) % 2 if FAULT != "front_ends" else 0] += 1
            await asyncio.sleep(0.02)
            self.send(writer, self.said(model, body) | {"eval_count": 3})
            self.running -= 1
        elif path == "/v1/chat/completions":
            delta = 'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
            usage = 'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}\n\n'
            await self.stream(writer, [delta] * 3 + [usage, "data: [DONE]\n\n"])
        elif path == "/v1/completions":
            self.send(writer, {"choices": [{"text": "x"}]})
        elif path == "/api/ps":
            sizes = {"size": 2, "size_vram": 1, "context_length": 4096}
            shown = self.loaded[1:] if FAULT == "two_models" else self.loaded
            self.send(writer, {"models": [{"name": name} | sizes for name in shown]})
        elif path == "/metrics":
            self.send(writer, self.metrics(), "text/plain")
        else:
            self.send(writer, {"embeddings": []})

    def load(self, model: str) -> None:
        """With room for as many as there are, or in a swap for one."""
        if model not in self.loaded:
            if len(self.models) == 2 and self.loaded and FAULT != "swap":
                self.asleep |= set(self.loaded)
                self.loaded.clear()
                self.evicted += 1
            self.woken += model in self.asleep
            self.loaded.append(model)

    def generated(self, body: dict[str, Any]) -> dict[str, Any]:
        text = "{}" if body.get("format") else windowed_text(body["prompt"], body["options"])
        shown = [{"token": "t", "logprob": -0.5 if FAULT != "logprobs" else -0.6}]
        return {"response": text, "eval_count": 3} | ({"logprobs": shown} if body.get("logprobs") else {})

    def said(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"]
        if self.adapters:
            text = LONG_STORY if "story" in asked[-1]["content"] else SENTENCES.get(model, GREETING)
            return {"message": {"content": GREETING if FAULT == "lora" and self.running > 1 else text}}
        for case in CASES["qwen3"]:
            if list(case.messages) == asked and list(case.tools) == body.get("tools", []):
                calls = [{"function": {"name": c.name, "arguments": c.arguments}} for c in case.calls]
                content = case.content if FAULT != "answers" or case.name != "count" else "1, 2."
                thinking = {"thinking": case.thinking} if body.get("think") else {}
                return {"message": {"content": content, "tool_calls": calls} | thinking}
        return {"message": {"content": LONG_STORY}}

    def metrics(self) -> str:
        running = self.running + (FAULT == "leavers")
        lines = (
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running {running}",
            "# TYPE vllm:num_requests_waiting gauge",
            "vllm:num_requests_waiting 0",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            "vllm:kv_cache_usage_perc 0",
            "# TYPE caravan_model_unloads counter",
            f'caravan_model_unloads_total{{reason="evicted"}} {self.evicted}',
            "# TYPE caravan_model_wakes counter",
            f"caravan_model_wakes_total {self.woken}",
            "# TYPE caravan_device_memory_bytes gauge",
            f'caravan_device_memory_bytes{{state="promised"}} {1000 * len(self.loaded)}',
            "# TYPE vllm:spec_decode_num_drafts counter",
            "vllm:spec_decode_num_drafts_total 3",
            "# TYPE caravan_front_ends gauge",
            f"caravan_front_ends {os.environ.get('CARAVAN_FRONT_ENDS', 0)}",
            "# TYPE gen_ai_server_request_duration_seconds histogram",
            *(
                f'gen_ai_server_request_duration_seconds_count{{front_end="{number}"}} {count}'
                for number, count in enumerate(self.chats, 1)
                if count
            ),
        )
        return "\n".join(lines) + "\n"

    async def stay(self, writer: Any) -> None:
        """Until the client leaves."""
        self.running += 1
        try:
            self.head(writer, "application/x-ndjson")
            while not writer.is_closing():
                writer.write(b'e\r\n{"response":1}\r\n')
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            self.running -= 1

    async def stream(self, writer: Any, parts: list[str]) -> None:
        self.head(writer, "application/x-ndjson")
        for part in parts:
            writer.write(f"{len(part):x}\r\n{part}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")

    def head(self, writer: Any, kind: str) -> None:
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def send(self, writer: Any, content: Any, kind: str = "application/json") -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            sizes = [each.split(":")[1] for each in headers if each.lower().startswith("content-length")]
            body = await reader.readexactly(int(sizes[0])) if sizes else b""
            method, path, _ = line.split(" ")
            await self.answer(method, path, json.loads(body or b"{}"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def core() -> None:
    program = STAYS if FAULT == "deaths" else CORE
    while True:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, "EngineCore", stdin=asyncio.subprocess.PIPE
        )
        await child.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--port", type=int)
    parser.add_argument("--config")
    given, _ = parser.parse_known_args()
    models = json.loads(Path(given.config).read_text())["models"] if given.config else []
    if FAULT == "start":
        sys.exit("no engine")
    if FAULT == "fp8":
        print("Model loading took 15.27 GiB memory and 1.2 seconds", flush=True)
    asyncio.run(serve(Stub(models), given.port))


async def serve(stub: Stub, port: int) -> None:
    async with await asyncio.start_server(stub.serve, "127.0.0.1", port, backlog=1024):
        await core()


if __name__ == "__main__":
    main()
