"""vLLM's own server with what Caravan's engine has of a model, and what either answers."""

import json
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.catalogue.names import parse_name
from app.catalogue.preparation import prepare
from app.core.model import Model, ModelSpec
from bench.compare import VLLM
from bench.servers import flags
from harness.ports import free_port
from harness.process import offline, running, wait_ready
from harness.server import models
from tests.differential.requests import Asked

_ANSWER_S = 120.0
_ONE_THREAD = "env OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind "
"""For vLLM's engine: the models are tiny, and two threads wait for each other wherever a core is busy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, less what every HTTP answer has."""

    status: int
    content_type: str
    body: str


@contextmanager
def vllm_server(name: str, scratch: Path) -> Generator[httpx.Client]:
    """A client of vLLM's server, which has that model of the test server, and no other."""
    port, model = free_port(), _prepared(name, scratch)
    facts = model.facts
    engine: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": 64 << 20,
        **model.spec.engine,
    }
    if "embedding" not in facts.capabilities:
        engine |= {"enable_prompt_tokens_details": True}
    if facts.tool_parser:
        engine |= {"enable_auto_tool_choice": True, "tool_call_parser": facts.tool_parser}
    if facts.reasoning_parser:
        engine |= {"reasoning_parser": facts.reasoning_parser}
    command = (_ONE_THREAD + VLLM).format(
        python=sys.executable, port=port, model=facts.path, name=name, flags=flags(engine)
    )
    with running(shlex.split(command), scratch / f"vllm-{name}.log", offline()) as process:
        wait_ready(f"http://127.0.0.1:{port}/health", process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_ANSWER_S) as client:
            yield client


def _prepared(name: str, scratch: Path) -> Model:
    """As Caravan has it: converted where it must be."""
    (given,) = (each for each in models() if each["name"] == name)
    spec = ModelSpec(parse_name(name), given["source"], engine=given.get("engine", {}))
    return prepare([spec], scratch).all()[0]


def ask(client: httpx.Client, asked: Asked) -> Answer:
    body = asked.body
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {} if content is None else {"content-type": "application/json"}
    answer = client.request(asked.method, asked.path, content=content, headers=headers)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    return Answer(answer.status_code, kind, answer.text)
