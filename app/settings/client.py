"""Where the command line finds its server, and with which key it goes there."""

import os
import re
from dataclasses import dataclass, field

from app.settings.address import DEFAULT_HOST, split_address
from app.settings.environment import BadSetting, trimmed

HOSTS = ("CARAVAN_HOST", "OLLAMA_HOST")
KEYS = ("CARAVAN_API_KEY", "OLLAMA_API_KEY")

_ANY = {"": DEFAULT_HOST, "0.0.0.0": DEFAULT_HOST, "::": "::1"}
"""What a server listens on stands for the machine that it is on."""

_NO_URL = re.compile(r"[\s?#@\\]")
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Target:
    """A server: its base URL without a slash at the end, and the key for it, empty for none."""

    url: str
    key: str = field(default="", repr=False)


def read_target(host: str | None = None, key: str | None = None) -> Target:
    """What the command line says, else the variables of `HOSTS` and `KEYS`, else the server on this machine.

    A server reads `CARAVAN_HOST` and `OLLAMA_HOST` as the address to listen on: one value serves both.

    Raises:
        BadSetting: naming the option or variable.
    """
    where, address = _given("--host", host, HOSTS)
    which, secret = _given("--key", key, KEYS)
    if secret and not _KEY.fullmatch(secret):
        raise BadSetting(f"{which}: it holds characters that no key has")
    try:
        return Target(read_url(address), secret)
    except ValueError as error:
        raise BadSetting(f"{where}: {error}") from error


def read_url(address: str) -> str:
    """The base URL of an address as Ollama's client reads it (docs/reference 1.1); empty is the default.

    Raises:
        ValueError: for what is none.
    """
    if "@" in address:  # what stands before it may be a key, which belongs in no message
        raise ValueError("an address has no user and no password; the key is --key or CARAVAN_API_KEY")
    if _NO_URL.search(address):
        raise ValueError(f"{address!r} is not an address such as https://caravan.example:11434")
    if address.lower() == "ollama.com":
        return "https://ollama.com:443"
    scheme, host, port, path = split_address(address)
    scheme = scheme.lower() or "http"
    if scheme not in ("http", "https"):
        raise ValueError(f"{scheme}:// is neither http:// nor https://")
    if not 0 < port <= 65535:
        raise ValueError(f"{port} is not a port")
    host = _ANY.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{path.rstrip('/')}"


def _given(option: str, value: str | None, names: tuple[str, ...]) -> tuple[str, str]:
    """Where the value comes from, and the value."""
    found = trimmed({option: value, **{name: os.environ.get(name) for name in names}})
    source = next((name for name in (option, *names) if name in found), option)
    return source, found.get(source) or ""
