"""The ranks of an engine on a further node: vLLM's headless path, with the leader's arguments."""

from argparse import Namespace
from dataclasses import fields, replace

import vllm
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli import serve
from vllm.usage.usage_lib import UsageContext

from app.core.errors import LoadFailed
from app.core.model import Model
from app.engine.vllm.config import EngineDefaults, add_ollama_logits, engine_args
from app.engine.vllm.process.failures import raised


class _NodeArgs(AsyncEngineArgs):
    """A rank samples with what the leader's configuration has, which is not sent to other nodes."""

    def create_engine_config(
        self, usage_context: UsageContext | None = None, headless: bool = False
    ) -> VllmConfig:
        try:
            config = super().create_engine_config(usage_context, headless)
        except ValueError as error:
            [name, *_] = self.served_model_name or [self.model]
            raise LoadFailed(f"failed to load model {name}: {raised(error)}") from error
        add_ollama_logits(config)
        return config


def run(model: Model, defaults: EngineDefaults, node_rank: int, *, adapter_rank: int = 0) -> None:
    """Run the ranks of node `node_rank` (1 to `model.nodes` - 1) until one of them ends.

    Raises:
        LoadFailed: for an argument that vLLM does not have, or with which it makes no configuration.
        SystemExit: on SIGTERM and SIGINT, whose handlers vLLM sets.
    """
    engine = {**model.spec.engine, "node_rank": node_rank}
    args = engine_args(replace(model, spec=replace(model.spec, engine=engine)), defaults, adapter_rank)
    given = {field.name: getattr(args, field.name) for field in fields(args)}
    given["reasoning_parser_plugin"] = given.get("reasoning_parser_plugin") or ""
    # vLLM makes its arguments from those of a command line, by the class of this name.
    before, vllm.AsyncEngineArgs = vllm.AsyncEngineArgs, _NodeArgs
    try:
        serve.run_headless(Namespace(**given, headless=True, api_server_count=0))
    finally:
        vllm.AsyncEngineArgs = before
