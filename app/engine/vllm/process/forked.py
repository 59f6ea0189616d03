"""How the fork server behaves as a process. Only the fork server imports this.

What holds for every engine process is in `death_pipe.py`. The fork server itself imports for seconds, in
which it looks at no pipe, and Ctrl+C in a terminal reaches it.
"""

import ctypes
import logging
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_FORK_SERVER = os.getpid()


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; for the fork server and its own children.

    A core is of no use without the fork server, through which alone this server hears of its end.
    """
    if _FORK_SERVER in (os.getpid(), os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# vLLM sets it in the server when it first loads a model; inherited by a fork server that replaces a dead one,
# it would have every worker import everything again.
os.environ.pop("VLLM_WORKER_MULTIPROC_METHOD", None)  # noqa: TID251
# torch would warn at every start on CPU that there is no Triton.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
end_with_parent()
os.register_at_fork(after_in_child=end_with_parent)
