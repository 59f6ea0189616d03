"""One registry, spoken to in the Docker Registry v2 dialect of Ollama (docs/reference 12.3)."""

import asyncio
from dataclasses import dataclass

import httpx

from app.core.errors import Forbidden, InvalidRequest, RegistryFailed
from app.core.model import ModelName
from app.registry.challenge import TOKEN_BYTES, Login, read_challenge, read_token, scheme_of
from app.registry.manifest import MANIFEST_BYTES, Document, read_document
from app.registry.policy import Policy
from app.registry.site import DENIED, Refused, Site, check_digest, read_all
from app.store.manifest import MEDIA_TYPE

_PROBE_BYTES = 64 << 10
_NOBODY = Login()


@dataclass(frozen=True, slots=True)
class Clients:
    """How registries are reached; `insecure` checks no certificates and is None where it is not allowed."""

    secure: httpx.AsyncClient
    insecure: httpx.AsyncClient | None = None

    def choose(self, insecure: bool) -> httpx.AsyncClient:
        """Raises: Forbidden: where `insecure` is asked for and not allowed."""
        if not insecure:
            return self.secure
        if self.insecure is None:
            raise Forbidden("this server does not use insecure connections to registries")
        return self.insecure


class Registry:
    """The repository of `name` at its registry, for one pull or push.

    Insecure means http, or TLS with any certificate where the registry speaks no http. Every method may raise
    what `Site.open` does.

    Raises:
        InvalidRequest: for a name whose host is none.
        Forbidden: as `Clients.choose`.
    """

    def __init__(
        self,
        clients: Clients,
        name: ModelName,
        policy: Policy,
        *,
        login: Login = _NOBODY,
        insecure: bool = False,
    ) -> None:
        self.name, self.policy, self.insecure = name, policy, insecure
        self._login = login
        self.site = Site(
            clients.choose(insecure),
            _origin_of(name, "http" if insecure else "https"),
            policy,
            plain=insecure,
            log_in=self._log_in,
        )
        self._probed = not insecure

    @property
    def url(self) -> str:
        """Where the repository is, without a slash at the end."""
        return f"{str(self.site.origin).rstrip('/')}/v2/{self.name.namespace}/{self.name.model}"

    @property
    def manifest_url(self) -> httpx.URL:
        return httpx.URL(f"{self.url}/manifests/{self.name.tag}")

    def blob_url(self, digest: str) -> httpx.URL:
        return httpx.URL(f"{self.url}/blobs/{digest}")

    async def manifest(self) -> Document:
        """The manifest of the tag, checked against the digest that came with it.

        Raises:
            RegistryFailed: with Ollama's text for what is not there or denied (docs/reference 12.1).
        """
        await self._probe()
        headers = {"Accept": MEDIA_TYPE}
        async with self.site.open("GET", self.manifest_url, headers=headers, whole=True) as answer:
            raw = await read_all(answer, MANIFEST_BYTES)
            manifest = await asyncio.to_thread(read_document, raw)
            check_digest(answer, manifest.digest)
        return manifest

    async def put_manifest(self, manifest: Document) -> None:
        headers = {"Content-Type": MEDIA_TYPE}
        async with self.site.open(
            "PUT", self.manifest_url, headers=headers, content=manifest.raw, whole=True
        ) as answer:
            check_digest(answer, manifest.digest)

    async def has(self, digest: str) -> bool:
        """Whether the registry has a blob."""
        await self._probe()
        try:
            async with self.site.open("HEAD", self.blob_url(digest), whole=True):
                return True
        except Refused as error:
            if error.status == 404:
                return False
            raise

    async def _probe(self) -> None:
        if self._probed:
            return
        try:
            async with self.site.ask(self.site.origin.join("/v2/")) as answer:
                # What Go's servers say to http on a port of theirs that speaks TLS.
                refused = answer.status_code == 400
                tls = refused and b"HTTPS server" in await read_all(answer, _PROBE_BYTES)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            tls = True
        if tls:
            self.site.origin = _origin_of(self.name, "https")
        self._probed = True

    async def _log_in(self, header: str) -> str:
        """The value of `Authorization` that a challenge asks for (docs/reference 12.3).

        Raises:
            RegistryFailed: where there is none to be had.
        """
        if scheme_of(header) == "basic" and self._login.basic:
            return self._login.basic
        if scheme_of(header) != "bearer":
            raise RegistryFailed(DENIED)
        challenge = read_challenge(header, self.site.origin)
        headers = {"Authorization": self._login.basic} if self._login.basic else {}
        realm = httpx.URL(challenge.realm)
        url = realm.copy_with(params=[*realm.params.multi_items(), *challenge.params])
        async with self.site.ask(url, headers) as answer:
            if answer.status_code != 200:
                raise RegistryFailed(DENIED)
            return f"Bearer {read_token(await read_all(answer, TOKEN_BYTES))}"


def _origin_of(name: ModelName, scheme: str) -> httpx.URL:
    """Raises: InvalidRequest: for `a:b:c` and the like, which the grammar of names lets pass."""
    try:
        return httpx.URL(f"{scheme}://{name.host}")
    except httpx.InvalidURL as error:
        raise InvalidRequest("invalid model name") from error
