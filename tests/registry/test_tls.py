"""Registries over TLS: whose certificates are good, and what `insecure` changes."""

import asyncio
from pathlib import Path

import pytest

from app.core.errors import FetchFailed, Forbidden, RegistryFailed
from app.core.model import ModelName
from app.egress.guard import Guard
from app.registry.client import Clients, Registry
from app.registry.policy import Policy
from app.registry.progress import SUCCESS
from app.registry.pull import pull
from app.registry.transport import make_client
from tests.egress.names import Names
from tests.egress.site import certificate, serves_with, trusts
from tests.registry.faulty import Faulty, Reply, faulty
from tests.registry.models import Place, digest_of, model_of, place, told

DATA = b"weights" * 1_000
MODEL = model_of(DATA, b"{}")
HOST = "registry.example"


def registry_of(site: Faulty, here: Place, *, insecure: bool, trusted: Path | None = None) -> Registry:
    host = f"{HOST}:{site.port}"
    policy = Policy(registries=(host,), insecure=True)
    guard, names = Guard([f"*.example:{site.port}"]), Names({HOST: "127.0.0.1", "cdn.example": "127.0.0.1"})
    secure = make_client(guard, resolve=names, certificates=trusts(trusted) if trusted else None)
    here.clients = Clients(secure, make_client(guard, verify=False, resolve=names))
    return Registry(here.clients, ModelName("m", host=host), policy, insecure=insecure)


async def test_a_certificate_that_is_good(tmp_path: Path) -> None:
    file = certificate(tmp_path, HOST)
    async with faulty(MODEL, tls=serves_with(file)) as site, place(tmp_path / "s", site.host) as here:
        registry = registry_of(site, here, insecure=False, trusted=file)
        assert (await told(pull(registry, here.store, here.downloads)))[-1] == SUCCESS
        assert here.holds(MODEL)


async def test_a_certificate_of_nobody_known(tmp_path: Path) -> None:
    tls = serves_with(certificate(tmp_path, HOST))
    async with faulty(MODEL, tls=tls) as site, place(tmp_path / "s", site.host) as here:
        with pytest.raises(
            RegistryFailed, match=r'^pull model manifest: Get "https://registry\.example:.*cert'
        ):
            await told(pull(registry_of(site, here, insecure=False), here.store, here.downloads))
        assert site.asked == []


async def test_insecure_takes_any_certificate_where_there_is_no_http(tmp_path: Path) -> None:
    tls = serves_with(certificate(tmp_path, "somebody.else"))
    async with faulty(MODEL, tls=tls) as site, place(tmp_path / "s", site.host) as here:
        registry = registry_of(site, here, insecure=True)
        assert (await told(pull(registry, here.store, here.downloads)))[-1] == SUCCESS


async def test_insecure_means_http_first(tmp_path: Path) -> None:
    async with faulty(MODEL) as site, place(tmp_path / "s", site.host) as here:
        registry = registry_of(site, here, insecure=True)
        assert (await told(pull(registry, here.store, here.downloads)))[-1] == SUCCESS


async def test_a_registry_without_tls_is_named_as_one(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        site = Faulty(MODEL, port=port)
        async with place(tmp_path / "s", site.host) as here:
            registry = registry_of(site, here, insecure=False)
            with pytest.raises(RegistryFailed, match=r"http: server gave HTTP response to HTTPS client$"):
                await told(pull(registry, here.store, here.downloads))


async def test_gos_servers_say_that_they_want_tls(tmp_path: Path) -> None:
    said = Reply(400, b"Client sent an HTTP request to an HTTPS server.\n")
    async with faulty(MODEL, lambda asked: said) as site, place(tmp_path / "s", site.host) as here:
        registry = registry_of(site, here, insecure=True)
        with pytest.raises((RegistryFailed, FetchFailed), match="https://"):
            await told(pull(registry, here.store, here.downloads))


async def test_a_redirect_does_not_leave_tls(tmp_path: Path) -> None:
    file = certificate(tmp_path, HOST)
    async with faulty(MODEL, tls=serves_with(file)) as site, place(tmp_path / "s", site.host) as here:
        to = f"http://cdn.example:{site.port}/x"
        blob = digest_of(DATA)
        site.answer = lambda asked: (
            Reply(307, headers={"Location": to}) if asked.path.endswith(blob) else None
        )
        registry = registry_of(site, here, insecure=False, trusted=file)
        with pytest.raises(RegistryFailed, match=r"registry\.example redirects to cdn\.example without TLS"):
            await told(pull(registry, here.store, here.downloads))


async def test_a_password_does_not_leave_tls(tmp_path: Path) -> None:
    file = certificate(tmp_path, HOST)
    async with faulty(MODEL, tls=serves_with(file)) as site, place(tmp_path / "s", site.host) as here:
        realm = f'Bearer realm="http://{HOST}:{site.port}/token"'
        site.answer = lambda asked: Reply(401, headers={"WWW-Authenticate": realm})
        registry = registry_of(site, here, insecure=False, trusted=file)
        with pytest.raises(RegistryFailed, match="is not https"):
            await told(pull(registry, here.store, here.downloads))


async def test_insecure_that_nobody_allowed(tmp_path: Path) -> None:
    async with faulty(MODEL) as site, place(tmp_path / "s", site.host) as here:
        registry = registry_of(site, here, insecure=True)
        registry.policy = Policy(registries=registry.policy.registries)
        with pytest.raises(Forbidden, match="insecure"):
            await told(pull(registry, here.store, here.downloads))
        assert site.asked == []
