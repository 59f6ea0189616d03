"""A real OCI registry of our own on loopback: Debian's docker-registry, over a folder."""

import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from harness.ports import free_port
from scripts.tools import Tool

_START_S = 20.0


@contextmanager
def running_registry(program: Tool, scratch: Path) -> Generator[str]:
    """Its `host:port`, while it runs; what is pushed lies below `scratch`."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(scratch / "registry")}},
        "http": {"addr": address},
    }
    file = scratch / "registry.yaml"
    file.write_text(yaml.safe_dump(config))
    with (scratch / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program.path), "serve", str(file)], env=program.env, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(address):
            assert process.poll() is None, (scratch / "registry.log").read_text()
            assert time.monotonic() < deadline, "docker-registry did not start"
            time.sleep(0.02)  # another process: there is nothing to wait on
        yield address
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
