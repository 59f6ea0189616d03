"""Pull of a model from a registry on loopback beside `curl` and `sha256sum` of the same blobs.

    python -m bench.pull [--megabytes 1024] [--rounds 5] [--cache DIR]

Both write to the same disk, in turn and each as often, after a first round that fills the registry's page
cache. The figure is the time of curl and sha256sum over that of the pull: 1 is as fast.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry.client import Clients, Registry
from app.registry.downloads import Downloads
from app.registry.policy import Policy
from app.registry.pull import pull
from app.registry.push import push
from app.registry.transport import make_client
from app.store.manifest import CONFIG, MODEL, Layer, Manifest
from app.store.store import Store
from harness.oci_registry import running_registry
from harness.report import machine_lines, write_section
from scripts.tools import CACHE, tool

MARK = "<!-- bench:pull -->"
MIB = 1 << 20


def fill(store: Store, name: ModelName, megabytes: int) -> Manifest:
    """A model of one large layer and a config."""
    with store.hold() as hold:
        block = os.urandom(MIB)
        weights = store.blobs.put((at.to_bytes(8, "big") + block[8:] for at in range(megabytes)), hold)
        config = store.blobs.put(b"{}", hold)
        manifest = Manifest(Layer(CONFIG, config, 2), (Layer(MODEL, weights, megabytes * MIB),))
        store.manifests.write(name, manifest)
    return manifest


async def pulled_s(clients: Clients, name: ModelName, policy: Policy, root: Path) -> float:
    store = Store(root)
    began = time.monotonic()
    async for _ in pull(Registry(clients, name, policy, insecure=True), store, Downloads(store.blobs)):
        pass
    return time.monotonic() - began


def curled_s(name: ModelName, manifest: Manifest, root: Path) -> float:
    root.mkdir()
    began = time.monotonic()
    for layer in manifest.blobs:
        url = f"http://{name.host}/v2/{name.namespace}/{name.model}/blobs/{layer.digest}"
        file = root / layer.digest
        subprocess.run(["curl", "--silent", "--fail", "--noproxy", "*", "--output", file, url], check=True)
        told = subprocess.run(["sha256sum", file], check=True, capture_output=True, text=True).stdout
        assert told.startswith(layer.digest.removeprefix("sha256:")), told
    return time.monotonic() - began


async def measure(megabytes: int, rounds: int, cache: Path, scratch: Path) -> list[tuple[float, float]]:
    """Seconds of curl and of the pull, round by round."""
    with running_registry(tool("docker-registry", cache), scratch) as host:
        name = ModelName("bench", "latest", "library", host)
        policy = Policy(registries=(host,), insecure=True)
        guard = Guard(allow=[host, "127.0.0.1"])
        clients = Clients(make_client(guard), make_client(guard, verify=False))
        store = Store(scratch / "source")
        manifest = fill(store, name, megabytes)
        async for _ in push(Registry(clients, name, policy, insecure=True), store):
            pass
        found: list[tuple[float, float]] = []
        for turn in range(rounds + 1):
            curled = curled_s(name, manifest, scratch / f"curl-{turn}")
            ours = await pulled_s(clients, name, policy, scratch / f"pull-{turn}")
            if turn:
                found.append((curled, ours))
            for kind in ("curl", "pull"):
                shutil.rmtree(scratch / f"{kind}-{turn}")
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.pull", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk that is measured")
    asked = parser.parse_args(arguments)
    described = machine_lines()
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        found = asyncio.run(measure(asked.megabytes, asked.rounds, asked.cache, Path(scratch)))
    ratio = statistics.median(curled / ours for curled, ours in found)
    lines = [
        f"| {asked.megabytes} MiB | curl + sha256sum, s | pull, s | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for at, (curled, ours) in enumerate(found, 1):
        lines.append(f"| round {at} | {curled:.2f} | {ours:.2f} | {curled / ours:.2f} |")
    told = "\n\n".join([described, "\n".join(lines), f"Median ratio: {ratio:.2f}."])
    print(told)
    write_section(asked.markdown, told, MARK)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
