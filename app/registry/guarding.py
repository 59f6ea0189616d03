"""The sessions of huggingface_hub under the address guard.

huggingface_hub makes its own requests; what it may be given is the client that it makes them with. Its second
way of fetching, Xet, opens connections of its own that nobody can check, and is turned off.
"""

import socket
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from app.core.errors import FetchFailed
from app.egress.dialer import MOST_ADDRESSES
from app.egress.guard import Guard
from app.egress.target import is_address, shown
from app.registry.policy import Policy

_NEXT_S = 10.0


def install(guard: Guard, policy: Policy, endpoint: str) -> None:
    """All that huggingface_hub requests in this process from now on passes `guard`. Hosts other than that of
    `endpoint` must also be ones to which policy lets a registry send.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import hf_request_event_hook

    def make() -> httpx2.Client:
        return httpx2.Client(
            transport=GuardedTransport(guard, policy, endpoint),
            # Offline mode and request ids are theirs.
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
            timeout=30,
            trust_env=False,
        )

    constants.HF_HUB_DISABLE_XET = True
    set_client_factory(make)


class GuardedTransport(httpx2.HTTPTransport):
    """Raises: AddressRefused, Forbidden, FetchFailed: from each request."""

    def __init__(self, guard: Guard, policy: Policy, endpoint: str) -> None:
        super().__init__(trust_env=False)
        self._guard, self._policy = guard, policy
        self._own = httpx2.URL(endpoint).host
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=_Backend(guard)
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        target = self._guard.target(str(request.url))
        if target.host != self._own:
            self._policy.check_redirect(target.host)
        return super().handle_request(request)


class _Backend(httpcore2.NetworkBackend):
    """Looks a name up once and connects to an address that was checked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        self._guard.check_host(host, port)
        failure: Exception | None = None
        for address in self._addresses(host, port):
            try:
                return self._inner.connect_tcp(address, port, timeout or _NEXT_S)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or FetchFailed(f"{shown(host)} cannot be opened: the name has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        if is_address(host):
            return [host]
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{shown(host)}: the name has no address") from error
        texts = list(dict.fromkeys(str(address[0]) for *_, address in found))
        return [str(each) for each in self._guard.checked(host, port, texts)][:MOST_ADDRESSES]
