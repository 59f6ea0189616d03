"""What stands in for a conversion in tests: it does what the file's name says, bound as the real one is."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from app.core.confinement import bind, end_with_parent


def told(text: object) -> None:
    print(json.dumps({"error": str(text)}), flush=True)


def reason_of(work: Callable[[], object]) -> str:
    try:
        return f"done {work()!r}"[:50]
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}".strip()


def write(target: Path, size: int) -> None:
    with (target / "file").open("wb") as stream:
        stream.write(bytes(size))
        stream.flush()


def noise() -> None:
    for line in ('{"', '{"phase": 1}', '{"fraction": "x", "phase": "a"}', "[" * 100, "", "\x00\xff" * 10):
        print(line, flush=True)
    sys.stdout.write('{"' + "x" * (4 << 20))
    print('\n{"phase": "writing", "fraction": 1.0}', flush=True)


def network() -> None:
    tried = (socket.socket, lambda: socket.socket(socket.AF_UNIX), lambda: socket.socketpair()[0].close())
    told([reason_of(each) for each in tried])


def program() -> None:
    code = "import socket; socket.socket()"
    told(subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode)


def spin() -> None:
    while True:
        pass


def wait() -> None:
    print(json.dumps({"phase": str(os.getpid()), "fraction": 0.0}), flush=True)
    signal.pause()


def main(source: Path, target: Path, parent: int, memory: int, most: int, seconds: int) -> None:
    end_with_parent(parent)
    bind(memory_bytes=memory, file_bytes=most, processor_s=seconds)
    work: dict[str, Callable[[], object]] = {
        "environment": lambda: told(json.dumps({**os.environ, "cwd": str(Path.cwd())})),
        "network": network,
        "program": program,
        "memory": lambda: told(reason_of(lambda: len(bytes(memory)))),
        "file": lambda: told(reason_of(lambda: write(target, most + 1))),
        "core": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "spin": spin,
        "wait": wait,
        "path": lambda: told(f"no such file: {source} in {source.parent} for {target}/x"),
        "silent": lambda: sys.exit(3),
        "noise": noise,
    }
    work[source.stem]()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
