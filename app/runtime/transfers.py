"""Pulling and pushing: where a name leads, and the list of models that follows (docs/registries.md)."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from app.catalogue.library import Library
from app.core.errors import LoadFailed, RegistryFailed
from app.core.model import ModelName
from app.egress.guard import Guard
from app.egress.upstream import read_upstream
from app.registry import guarding
from app.registry.challenge import Login
from app.registry.client import Clients, Registry
from app.registry.downloads import Downloads
from app.registry.hub import ENDPOINT, Hub, Repository, Result, choose_gguf, chosen_files, is_hub
from app.registry.library import Entry, find
from app.registry.policy import Policy
from app.registry.progress import SUCCESS, Progress
from app.registry.pull import Lacking, MayUse, every, nothing, pull
from app.registry.push import push
from app.registry.transport import make_client
from app.store import manifest as media
from app.store.config import ImageConfig, Serving
from app.store.digests import file_name
from app.store.manifest import Layer, Manifest
from app.store.store import Store

HUB = "hub"
"""What the hub's cache is called where the room of the store is reserved (`store/room.py`)."""


def hub_cache() -> Path:
    from huggingface_hub import constants  # takes a while to import, and few servers need it

    return Path(constants.HF_HUB_CACHE)


class Transfers:
    """Models that come from other servers and go there. Nothing is opened before it is used.

    `allow` and `deny` are entries of the address guard, `proxy` is the egress proxy.
    """

    def __init__(
        self,
        store: Store,
        library: Library,
        policy: Policy,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        proxy: str = "",
        hub_token: str = "",
        hub_endpoint: str = ENDPOINT,
    ) -> None:
        self.policy = policy
        self.store = store
        self._library = library
        self._upstream = read_upstream(proxy)
        self._guard = Guard(allow, deny, proxied=self._upstream is not None)
        self._downloads = Downloads(store.blobs)
        self._hub_token, self.hub_endpoint = hub_token, hub_endpoint
        self._clients: Clients | None = None
        self._hub: Hub | None = None

    async def pull(
        self,
        name: ModelName,
        *,
        insecure: bool,
        login: Login,
        lacking: Lacking = nothing,
        may_use: MayUse = every,
    ) -> AsyncGenerator[Progress]:
        """Bring a model here and list it; `lacking` and `may_use` as in `pull.pull`.

        Raises:
            Forbidden: where the policy does not let it come, or configuration owns the name.
            RegistryFailed, AddressRefused, StoreFailed: where it does not come, or cannot be served.
        """
        self._library.check_new(name)
        entry = find(name)
        if entry is not None or is_hub(name):
            lines = self._pull_of_hub(name, entry)
        else:
            registry = Registry(self._opened(), name, self.policy, login=login, insecure=insecure)
            lines = pull(
                registry,
                self.store,
                self._downloads,
                lacking=lacking,
                may_use=may_use,
                check=self._check,
            )
        async with aclosing(lines):
            async for line in lines:
                if line == SUCCESS:
                    await self._library.reload()
                yield line

    async def push(self, name: ModelName, *, insecure: bool, login: Login) -> AsyncGenerator[Progress]:
        """Bring a model of the store there.

        Raises:
            Forbidden, RegistryFailed, AddressRefused: as `push.push`.
        """
        registry = Registry(self._opened(), name, self.policy, login=login, insecure=insecure)
        async with aclosing(push(registry, self.store)) as lines:
            async for line in lines:
                yield line

    async def aclose(self) -> None:
        if self._clients is not None:
            await self._clients.secure.aclose()
            if self._clients.insecure is not None:
                await self._clients.insecure.aclose()

    async def _pull_of_hub(self, name: ModelName, entry: Entry | None) -> AsyncGenerator[Progress]:
        repo = entry.repo if entry else f"{name.namespace}/{name.model}"
        self.policy.check_hub(repo)
        yield Progress("pulling manifest")
        hub = self._opened_hub()
        found = await hub.look(repo, (entry.revision if entry else "") or "main")
        file = None if entry else choose_gguf(found, name.tag)
        if file is None and not entry and name.tag.lower() != "latest":
            raise RegistryFailed(f"{repo} has no GGUF file or quantisation {name.tag}")
        with self.store.hold() as hold:
            if file is not None:
                layer = Layer(media.MODEL, f"sha256:{file.sha256}", file.size)
                await asyncio.to_thread(hold.add, layer.digest)
                sizes = {file_name(layer.digest): file.size}
                await asyncio.to_thread(hold.reserve, sizes, self.policy.quota_bytes)
                async with aclosing(hub.pull_gguf(found, file, self._downloads)) as lines:
                    async for line in lines:
                        yield line
                config = ImageConfig(model_format="gguf")
            else:
                sizes = {f"{HUB}/models--{repo.replace('/', '--')}": sum(f.size for f in chosen_files(found))}
                await asyncio.to_thread(hold.reserve, sizes, self.policy.quota_bytes)
                async with aclosing(hub.pull_folder(found, Result(found))) as lines:
                    async for line in lines:
                        yield line
                layer = await self._put(media.SERVING, _serving(found, entry).encode())
                config = ImageConfig(model_format="safetensors")
            manifest = Manifest(await self._put(media.CONFIG, config.encode()), (layer,))
            await self._check(name, manifest)
            yield Progress("writing manifest")
            await asyncio.to_thread(self.store.manifests.write, name, manifest)
        yield SUCCESS

    async def _check(self, name: ModelName, manifest: Manifest) -> None:
        """Whoever pulls reads this, and of what is left out of the list nothing but the log tells."""
        try:
            await self._library.check(name, manifest)
        except LoadFailed as error:
            raise RegistryFailed(f"the model cannot be served here: {error}") from error

    async def _put(self, media_type: str, data: bytes) -> Layer:
        return Layer(media_type, await asyncio.to_thread(self.store.blobs.put, data), len(data))

    def _opened(self) -> Clients:
        if self._clients is None:
            secure = make_client(self._guard, upstream=self._upstream)
            insecure = (
                make_client(self._guard, verify=False, upstream=self._upstream)
                if self.policy.insecure
                else None
            )
            self._clients = Clients(secure, insecure)
        return self._clients

    def _opened_hub(self) -> Hub:
        from huggingface_hub import constants

        if self._hub is None:
            guarding.install(self._guard, self.policy, self.hub_endpoint)
            self._hub = Hub(
                self._opened().secure,
                self.policy,
                hub_cache(),
                self.hub_endpoint,
                self._hub_token,
                offline=constants.HF_HUB_OFFLINE,
            )
        return self._hub


def _serving(found: Repository, entry: Entry | None) -> Serving:
    serving = Serving(repository=found.repo, revision=found.commit)
    if entry is None:
        return serving
    return replace(
        serving,
        engine=entry.engine,
        tool_parser=entry.tool_parser or None,
        reasoning_parser=entry.reasoning_parser or None,
    )


def policy_of(entries: Sequence[str], *, enabled: bool, insecure: bool, quota_bytes: int) -> Policy:
    """The policy of a list of hosts and `host/organisation`."""
    hosts = tuple(dict.fromkeys(entry.partition("/")[0].lower() for entry in entries))
    narrow = any("/" in entry for entry in entries)
    organisations = tuple(entry if "/" in entry else f"{entry}/*" for entry in entries) if narrow else ()
    return Policy(
        enabled=enabled,
        push=enabled,
        insecure=insecure,
        registries=hosts,
        organisations=organisations,
        quota_bytes=quota_bytes,
    )
