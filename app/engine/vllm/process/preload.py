"""What the fork server imports before it is needed. Only the fork server imports this.

Importing makes a million objects that stay: the collector would walk them again and again, for a quarter of
the time, and once more in each engine process, which would copy them by that.
"""

import gc
from importlib import import_module

_MODULES = (
    "app.engine.vllm.process.forked",
    "app.engine.vllm.process.binding",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "app.engine.vllm.input.logits",
    "app.engine.vllm.process.eager",
    # What a constrained answer needs; imported on first use it takes seconds, while all other answers wait.
    "xgrammar",
    "llguidance.hf",
    "llguidance.torch",
    "app.engine.vllm.process.stderr",
)

gc.disable()
for _name in _MODULES:
    import_module(_name)
gc.freeze()
gc.enable()
