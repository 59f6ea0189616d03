"""`OLLAMA_HOST`'s grammar: where a server listens, and where its clients find it (docs/reference 1.1)."""

import re
from typing import NamedTuple

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434

_PORTS = {"http": 80, "https": 443}
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


class SplitAddress(NamedTuple):
    """The parts of `[scheme://]host[:port][/path]`: `scheme` and `path` are as written, or empty."""

    scheme: str
    host: str
    port: int
    path: str


def split_address(text: str) -> SplitAddress:
    """The parts of an address. An empty host before a port means every interface.

    Raises:
        ValueError: for a port that is no number.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "", text
    host_port, slash, path = rest.partition("/")
    if host_port.startswith("["):
        host, _, port = host_port[1:].partition("]")
        port = port.removeprefix(":")
    elif host_port.count(":") > 1:
        host, port = host_port, ""
    else:
        host, _, port = host_port.partition(":")
    if port and not _WHOLE_NUMBER.fullmatch(port):
        raise ValueError(f"{port!r} is not a port")
    if not host_port:
        host = DEFAULT_HOST
    return SplitAddress(scheme, host, int(port) if port else _PORTS.get(scheme, DEFAULT_PORT), slash + path)
