"""`caravan worker`: the ranks of a model that spans nodes, on a node that is not its leader's."""

import logging
import signal
import sys

from app.core.model import Model
from app.engine.vllm.process import environment
from app.prepare import engine_terms, prepare
from app.runtime.lifecycle import GaveUp
from app.settings.environment import BadSetting
from app.settings.server import Settings
from app.telemetry import logs

_log = logging.getLogger("caravan")


def run(settings: Settings, node_rank: int) -> None:
    """Run the ranks of this node until told to stop. The settings are those of the leader.

    Raises:
        BadSetting: the settings have no model that spans nodes, several, or one of fewer nodes.
        AppError: for a model that cannot be prepared, or arguments that vLLM does not have.
        GaveUp: a rank of this node or the leader has ended; all nodes are to be started anew.
        SystemExit: on SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until vLLM has a handler of its own
    logs.start(settings.log_format, debug=settings.debug)
    logging.getLogger("vllm").setLevel(logging.INFO if settings.debug else logging.ERROR)
    folder = settings.server_dir
    caches = environment.compile_caches(folder) if environment.writable(folder) else {}
    environment.prepare(caches, debug=settings.debug, spawns=True)
    library = prepare(settings)
    model = _spanning(library.all(), node_rank)
    _log.info("node %d of the %d of %s", node_rank, model.nodes, model.name)
    # It imports vLLM, which reads its environment then.
    from app.engine.vllm import headless
    from app.engine.vllm.config import EngineDefaults

    defaults, rank = EngineDefaults(**engine_terms(settings)), library.adapter_rank(model)
    ended = headless.run(model, defaults, node_rank, adapter_rank=rank)
    raise GaveUp(f"{model.name}: {ended}, and all its nodes are to be started anew")


def _spanning(models: list[Model], node_rank: int) -> Model:
    found = {model.engine_key: model for model in models if model.nodes > 1}
    if len(found) != 1:
        raise BadSetting(f"models: {len(found)} have an engine argument nnodes above 1, a worker is of one")
    [model] = found.values()
    if not 0 < node_rank < model.nodes:
        raise BadSetting(
            f"--node-rank: {model.name} has the nodes 0 to {model.nodes - 1}, and 0 is the leader"
        )
    return model
