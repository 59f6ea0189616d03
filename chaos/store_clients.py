"""Clients that make, copy, pull and delete models over HTTP, and what they know of each name meanwhile."""

import asyncio
import hashlib
import json
import random
import re
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx

PIECE_BYTES = 1 << 20
_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10_000.0},
    "quantization_config": {"quant_method": "awq", "bits": 4, "config_groups": {"a": {"weights": {}}}},
    "vision_config": {"depth": 2, "hidden_size": 8},
}
_TOKENIZER: dict[str, Any] = {
    "added_tokens": [{"id": 2, "content": "<think>"}, {"id": 3, "content": "</think>"}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
}
_TOKENIZER_CONFIG: dict[str, Any] = {
    "eos_token": "b",
    "bos_token": {"content": "a"},
    "model_max_length": 4096,
    "add_bos_token": True,
    "chat_template": [{"name": "default", "template": "{% for m in messages %}{{ m.content }}{% endfor %}"}],
}
Act: TypeAlias = Callable[[str], Coroutine[Any, Any, None]]


_TRIES = 5
_GONE = re.compile(r"open blobs/sha256-[0-9a-f]+: no such file or directory")


class Wrong(Exception):
    """An answer that may not be."""


@dataclass
class Ledger:
    """The system prompts that each model may have now, None where it may be missing.

    One alone is what was acknowledged; there are several while a change is under way, and after one whose
    answer never came.
    """

    possible: dict[str, set[str | None]] = field(default_factory=dict[str, set[str | None]])

    @contextmanager
    def change(self, name: str, to: str | None) -> Generator[None]:
        self.possible[name] = self.possible.get(name, {None}) | {to}
        yield
        self.possible[name] = {to}

    def of(self, name: str) -> set[str | None]:
        return self.possible.get(name, {None})

    def mistakes(self, found: dict[str, str]) -> list[str]:
        """Where a server's models, by name with their system prompts, are not as they may be."""
        wrong = [
            f"{name} is {found.get(name)!r} and may be {sorted(map(str, possible))}"
            for name, possible in self.possible.items()
            if found.get(name) not in possible
        ]
        return wrong + [f"{name} was never made" for name in found if name not in self.possible]


@dataclass
class StoreClient:
    """One client with names of its own, which begin with `prefix`. `pulls` are models of a registry."""

    http: httpx.AsyncClient
    ledger: Ledger
    chance: random.Random
    prefix: str
    pulls: Sequence[str] = ()
    done: int = 0

    async def run(self, operations: int | None = None) -> None:
        """So many operations, or until it is cancelled or the server is gone.

        Raises:
            Wrong: for an answer that is no success.
        """
        while operations is None or self.done < operations:
            await self.act()
            self.done += 1

    async def act(self) -> None:
        acts: list[Act] = [self.create, self.create_of_gguf, self.create_of_folder, self.copy, self.delete]
        if self.pulls:
            name = self.chance.choice(self.pulls)
            await (self.delete(name) if self._there(name) else self.pull(name))
        else:
            await self.chance.choice(acts)(f"{self.prefix}{self.chance.randrange(4)}:latest")

    async def create(self, name: str) -> None:
        await self._create(name, {"from": "plain"})

    async def create_of_gguf(self, name: str) -> None:
        digest = await upload(self.http, gguf(self.chance.randrange(1 << 30), self.chance.randrange(1 << 20)))
        await self._create(name, {"files": {"weights.gguf": digest}})

    async def create_of_folder(self, name: str) -> None:
        data = folder(self.chance)
        for left in range(_TRIES, 0, -1):
            files = {path: await upload(self.http, each) for path, each in data.items()}
            try:
                return await self._create(name, {"files": files})
            except Wrong as wrong:
                # Folders share files: one that another model has taken with it meanwhile is sent again.
                if left == 1 or not _GONE.search(str(wrong)):
                    raise

    async def copy(self, name: str) -> None:
        source = next((each for each in self.ledger.possible if self._there(each)), None)
        if source is None or source == name:
            return await self.create(name)
        (text,) = self.ledger.of(source)
        with self.ledger.change(name, text):
            await self._sent("POST", "/api/copy", source=source, destination=name)

    async def delete(self, name: str) -> None:
        if not self._there(name):
            return await self.create(name)
        with self.ledger.change(name, None):
            await self._sent("DELETE", "/api/delete", model=name)

    async def pull(self, name: str) -> None:
        with self.ledger.change(name, name):
            await lines_of(self.http, "/api/pull", model=name, insecure=True)

    async def _create(self, name: str, of: dict[str, Any]) -> None:
        text = f"{name} {self.chance.random()}"
        with self.ledger.change(name, text):
            await lines_of(self.http, "/api/create", model=name, system=text, **of)

    def _there(self, name: str) -> bool:
        mine = name.startswith(self.prefix) or name in self.pulls
        return mine and None not in self.ledger.of(name) and len(self.ledger.of(name)) == 1

    async def _sent(self, method: str, path: str, **body: Any) -> None:
        answer = await self.http.request(method, path, json=body)
        if answer.status_code != 200:
            raise Wrong(f"{path} {body}: {answer.status_code} {answer.text}")


async def lines_of(http: httpx.AsyncClient, path: str, **body: Any) -> list[Any]:
    """The lines of long work.

    Raises:
        Wrong: where the last one is no success.
    """
    lines: list[Any] = []
    async with http.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            raise Wrong(f"{path} {body}: {answer.status_code} {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            lines.append(json.loads(line))
    if not lines or lines[-1] != {"status": "success"}:
        raise Wrong(f"{path} {body}: {lines[-1:]}")
    return lines


async def upload(http: httpx.AsyncClient, data: bytes) -> str:
    """A blob, in pieces; its digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), PIECE_BYTES):
            yield data[at : at + PIECE_BYTES]
            await asyncio.sleep(0)

    answer = await http.post(f"/api/blobs/{digest}", content=pieces())
    if answer.status_code not in (200, 201):
        raise Wrong(f"/api/blobs: {answer.status_code} {answer.text}")
    return digest


async def models_of(http: httpx.AsyncClient) -> dict[str, str]:
    """The models that a server lists, less the configured `plain`, by name with their system prompts.

    Raises:
        Wrong: where one that is listed cannot be shown.
    """
    tags = await http.get("/api/tags")
    found: dict[str, str] = {}
    for item in tags.json()["models"]:
        if item["name"] == "plain:latest":
            continue
        shown = await http.post("/api/show", json={"model": item["name"]})
        if shown.status_code != 200:
            raise Wrong(f"{item['name']} is listed and cannot be shown: {shown.status_code} {shown.text}")
        found[item["name"]] = shown.json().get("system", "")
    return found


def gguf(marker: int, padding: int = 0) -> bytes:
    """A small GGUF file of one tensor, with `padding` bytes at its end that `marker` decides."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    keys = [("general.architecture", "llama"), ("marker", marker), ("llama.context_length", 2048)]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys))
    for key, value in keys:
        number = struct.pack("<II", 4, value) if isinstance(value, int) else b""
        head += text(key) + (number or struct.pack("<I", 8) + text(str(value)))
    head += text("token_embd.weight") + struct.pack("<IQIQ", 1, 8, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32) + random.Random(marker).randbytes(padding)


def folder(chance: random.Random) -> dict[str, bytes]:
    """The files of a safetensors folder, by name."""
    config = _CONFIG | {"marker": chance.random()}
    size = chance.randrange(1, 1 << 16)
    head = json.dumps({"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    weights = len(head).to_bytes(8, "little") + head + chance.randbytes(4 * size)
    texts = {"config.json": config, "tokenizer.json": _TOKENIZER, "tokenizer_config.json": _TOKENIZER_CONFIG}
    return {name: json.dumps(text).encode() for name, text in texts.items()} | {"model.safetensors": weights}
