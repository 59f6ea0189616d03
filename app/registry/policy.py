"""What an operator lets be pulled and pushed, as plain values."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.core.errors import Forbidden
from app.core.model import ModelName

OLLAMA = "registry.ollama.ai"
HUBS = ("hf.co", "huggingface.co")


@dataclass(frozen=True, slots=True)
class Policy:
    """Which models may come and go, and how much of them.

    `registries` are hosts, with the port where it is not 443. `organisations` are patterns of
    `host/namespace` (`hf.co/Qwen`, `registry.ollama.ai/*`); none is any on these hosts. `model_bytes` is the
    largest model, `quota_bytes` what the store may take (`store/room.py` holds to it), both 0 for no limit.
    `push` and `insecure` (http, and TLS whose certificates nobody checks) are allowed or not.

    `redirects` are patterns of hosts to which a registry may send for a blob, by default any: the address
    guard holds for them, they get no credentials, and what they send is held to its digest.
    """

    enabled: bool = True
    push: bool = True
    insecure: bool = False
    registries: tuple[str, ...] = (OLLAMA, *HUBS)
    organisations: tuple[str, ...] = ()
    redirects: tuple[str, ...] = ("*",)
    model_bytes: int = 0
    quota_bytes: int = 0

    def check_pull(self, name: ModelName, *, insecure: bool = False) -> None:
        """Raises: Forbidden: with the reason why `name` may not be pulled."""
        self._check_enabled()
        self._check(name, insecure)

    def check_hub(self, repo: str) -> None:
        """Raises: Forbidden: with the reason why the hub's repository `repo` may not be pulled."""
        namespace, _, model = repo.partition("/")
        used = [host for host in HUBS if host in (each.lower() for each in self.registries)]
        # Both hosts are the same hub; patterns may name either.
        places = [f"{host}/{namespace.lower()}" for host in HUBS]
        if used and self.organisations and any(_fits(place, self.organisations) for place in places):
            self._check_enabled()
            return
        self.check_pull(ModelName(model, namespace=namespace, host=used[0] if used else HUBS[0]))

    def check_push(self, name: ModelName, *, insecure: bool = False) -> None:
        """Raises: Forbidden: with the reason why `name` may not be pushed."""
        if not self.enabled or not self.push:
            raise Forbidden("this server does not push models: pushing is off")
        self._check(name, insecure)

    def _check_enabled(self) -> None:
        if not self.enabled:
            raise Forbidden("this server does not pull models: pulling and pushing are off")

    def _check(self, name: ModelName, insecure: bool) -> None:
        if insecure and not self.insecure:
            raise Forbidden("this server does not use insecure connections to registries")
        host = name.host.lower()
        if host not in (each.lower() for each in self.registries):
            raise Forbidden(f"this server does not use the registry {host}")
        place = f"{host}/{name.namespace.lower()}"
        if self.organisations and not _fits(place, self.organisations):
            raise Forbidden(f"this server does not use models of {place}")

    def check_size(self, size_bytes: int) -> None:
        """Raises: Forbidden: for a model that is larger than any may be."""
        if 0 < self.model_bytes < size_bytes:
            raise Forbidden(
                f"the model has {size_bytes} bytes, and this server takes none over {self.model_bytes}"
            )

    def check_redirect(self, host: str) -> None:
        """Raises: Forbidden: for a host to which no registry may send."""
        if not _fits(host.lower(), self.redirects):
            raise Forbidden(f"this server takes no blobs from {host}, to which the registry sends")


def _fits(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern.lower()) for pattern in patterns)
