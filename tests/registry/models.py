"""Models as registries have them, and the stores they come from and go to."""

import hashlib
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry.client import Clients, Registry
from app.registry.download import Tuning
from app.registry.downloads import Downloads
from app.registry.policy import Policy
from app.registry.progress import Progress
from app.registry.pull import pull
from app.registry.transport import make_client
from app.store.manifest import MEDIA_TYPE
from app.store.store import Store

QUICK = Tuning(parts=4, least_bytes=64 << 10, most_bytes=1 << 20, tries=3, backoff_s=0.01, patience_s=5)
LAYER = "application/vnd.ollama.image"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Model:
    """`blobs` by digest; `raw` is the manifest that lists them, the last as its config."""

    raw: bytes
    blobs: dict[str, bytes]

    @property
    def largest(self) -> str:
        return max(self.blobs, key=lambda digest: len(self.blobs[digest]))


def model_of(*contents: bytes, media_type: str = f"{LAYER}.model") -> Model:
    blobs = {digest_of(data): data for data in contents}
    *layers, config = (
        {"mediaType": media_type, "digest": digest_of(data), "size": len(data)} for data in contents
    )
    document = {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": config, "layers": layers}
    config["mediaType"] = "application/vnd.docker.container.image.v1+json"
    return Model(json.dumps(document).encode(), blobs)


class Place:
    """A store with what pulls into it, and the clients for a registry on loopback; no answer of it may pause
    for `stall_s`."""

    def __init__(
        self, root: Path, host: str, tuning: Tuning = QUICK, policy: Policy | None = None, stall_s: float = 1
    ) -> None:
        self.host = host
        self.store = Store(root)
        self.blobs = self.store.blobs
        self.downloads = Downloads(self.blobs, tuning)
        self.policy = policy or Policy(registries=(host,), insecure=True)
        guard = Guard(allow=["127.0.0.1", host])
        self.clients = Clients(
            make_client(guard, stall_s=stall_s), make_client(guard, verify=False, stall_s=stall_s)
        )

    def put(self, name: ModelName, model: Model) -> None:
        for data in model.blobs.values():
            self.blobs.put(data)
        self.store.manifests.write(name, model.raw)

    def registry(self, name: ModelName) -> Registry:
        return Registry(self.clients, name, self.policy, insecure=True)

    def pull(self, name: ModelName) -> AsyncGenerator[Progress]:
        return pull(self.registry(name), self.store, self.downloads)

    def holds(self, model: Model) -> bool:
        return all(self.blobs.path(digest).read_bytes() == data for digest, data in model.blobs.items())

    def names(self) -> list[str]:
        return [str(each.name) for each in self.store.manifests.list().models]

    def has(self, digest: str) -> bool:
        return self.blobs.size(digest) is not None

    def left(self) -> list[Path]:
        """What lies in the scratch folder."""
        return sorted((self.store.root / ".caravan" / "scratch").glob("*"))

    async def close(self) -> None:
        await self.clients.secure.aclose()
        assert self.clients.insecure is not None
        await self.clients.insecure.aclose()


@asynccontextmanager
async def place(
    root: Path, host: str, tuning: Tuning = QUICK, policy: Policy | None = None, stall_s: float = 1
) -> AsyncGenerator[Place]:
    here = Place(root, host, tuning, policy, stall_s)
    try:
        yield here
    finally:
        await here.close()


async def told(lines: AsyncGenerator[Progress]) -> list[Progress]:
    return [line async for line in lines]


def statuses(lines: Sequence[Progress]) -> list[str]:
    """Each status once where it repeats."""
    kept = [line.status for line in lines]
    return [status for at, status in enumerate(kept) if at == 0 or kept[at - 1] != status]
