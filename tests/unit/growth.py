"""How much work something is, on a machine that has other work too."""

import time
from collections.abc import Callable


def least_cpu_s(run: Callable[[], object], times: int = 3) -> float:
    """The least CPU time of this process that `run` took in a few tries: other work only adds to it."""
    spent: list[float] = []
    for _ in range(times):
        begun = time.process_time()
        run()
        spent.append(time.process_time() - begun)
    return min(spent)
