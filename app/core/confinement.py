"""What a process that reads a file from anywhere may still do: it binds itself, before it opens the file.

Whoever takes it over by a fault of a parser finds no secret in its environment or memory, no network, a bound
of memory, time and files, and a kernel that ends it with its parent.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _EVERY_THREAD = 1, 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001
_X32 = 0x40000000
_ARCHITECTURES: Mapping[str, tuple[int, int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, 317, (41, 101, 310, 311, 425)),
    "aarch64": (0xC00000B7, 277, (198, 117, 270, 271, 425)),
}
"""By machine: the kernel's number of it, that of `seccomp`, and those that are refused: `socket`, `ptrace`,
`process_vm_readv`, `process_vm_writev`, `io_uring_setup`."""

KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""Of the server's environment: where programs and libraries are."""


def environment_of(given: Mapping[str, str], home: str, threads: int) -> dict[str, str]:
    """The whole environment of such a process; `home` is where it looks for caches and tokens."""
    kept = {name: given[name] for name in KEPT_VARIABLES if name in given}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "LC_ALL": "C.UTF-8",
        "HOME": home,
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        # Each thread's own pool of memory takes 64 MiB of address space, used or not.
        "MALLOC_ARENA_MAX": "2",
    }


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; `parent` is that process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it has ended before


def bind(*, memory_bytes: int, file_bytes: int, processor_s: int) -> None:
    """From now on: so much more address space, so much in one file, so much time, and no network.

    Call it when all that is imported is there, which maps gigabytes.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_CPU, processor_s)
    if (mapped := _mapped_bytes()) is not None:
        _lower(resource.RLIMIT_AS, mapped + memory_bytes)
    refuse_network()


def refuse_network() -> bool:
    """Refuse this process new sockets and other processes' memory; False where the kernel has no such filter.

    A namespace without network would do as well, but no container lets a process make one.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    architecture, seccomp, refused = known
    program = _filter(architecture, refused)
    code = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    number = ctypes.c_ulong
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, number(1), number(0), number(0), number(0)):
        return False
    return libc.syscall(number(seccomp), number(_SET_MODE_FILTER), number(_EVERY_THREAD), head) == 0


def _filter(architecture: int, refused: Sequence[int]) -> list[bytes]:
    """A program for the kernel's filter of system calls: what is `refused` fails with EPERM."""

    def step(code: int, value: int, when: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, when, otherwise, value)

    last = len(refused) + 1  # steps from the first comparison of a number to the refusal
    return [
        step(_LOAD, 4),
        step(_EQUAL, architecture, 0, last + 2),
        step(_LOAD, 0),
        step(_AT_LEAST, _X32, last, 0),
        *(step(_EQUAL, number, last - 1 - at, 0) for at, number in enumerate(refused)),
        step(_RETURN, _ALLOW),
        step(_RETURN, _REFUSE),
    ]


def _lower(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _mapped_bytes() -> int | None:
    try:
        with open("/proc/self/statm") as told:
            return int(told.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None
