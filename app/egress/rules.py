"""The operator's lists of what may be opened all the same, and of what may not."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from app.core.errors import AddressRefused
from app.egress.addresses import Address, Network, read
from app.egress.target import PORTS, read_host


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a list: a `name`, all names below a `suffix` (".example.com"), or a `network`.

    `port` 0 is none in particular.
    """

    name: str = ""
    suffix: str = ""
    network: Network | None = None
    port: int = 0

    def names(self, host: str) -> bool:
        return host == self.name if self.name else bool(self.suffix) and host.endswith(self.suffix)

    def holds(self, address: Address) -> bool:
        network = self.network
        return network is not None and network.version == address.version and address in network

    def opens(self, port: int) -> bool:
        """Whether it allows that port: its own, or else those of the web."""
        return port == self.port if self.port else port in PORTS.values()

    def closes(self, port: int) -> bool:
        """Whether it denies that port: its own, or else any."""
        return self.port in (0, port)


def read_rules(entries: Iterable[str]) -> tuple[Rule, ...]:
    """Each entry is a host, `*.suffix`, an address or a network, and may end in `:port`; IPv6 with a port
    stands in brackets.

    Raises:
        ValueError: naming the entry that is none of these.
    """
    return tuple(_rule(entry) for entry in entries)


def _rule(entry: str) -> Rule:
    text = entry.strip().lower()
    host, port = _split(text)
    if port and not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{entry!r}: {port!r} is not a port")
    number = int(port or 0)
    try:
        if "/" in host:
            return Rule(network=ip_network(host), port=number)
        if host.startswith("*."):
            return Rule(suffix=f".{read_host(host[2:])}", port=number)
        name = read_host(host)
    except (ValueError, AddressRefused) as error:
        raise ValueError(
            f"{entry!r} is not a host, *.suffix, address or network, with or without :port ({error})"
        ) from error
    try:
        return Rule(network=ip_network(read(name)), port=number)
    except ValueError:
        return Rule(name=name, port=number)


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError(f"{text!r} has no closing bracket before its port")
        return host, port[1:]
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port
