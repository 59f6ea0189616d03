"""Which `Host` headers a server bound to loopback answers: the guard of docs/reference 1.4.

A page that rebinds its own DNS name to 127.0.0.1 still sends that name, and is refused for it.
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import psutil

PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")

_BRACKETED = re.compile(r"\[(.*)\](?::\d*)?")


def host_of(header: str) -> str:
    """A `Host` header without its port and its brackets, in lower case."""
    header = header.lower()
    if found := _BRACKETED.fullmatch(header):
        return found[1]
    host, _, port = header.partition(":")
    return header if ":" in port else host


def is_local_name(host: str) -> bool:
    return host in ("", "localhost", socket.gethostname().lower()) or host.endswith(LOCAL_SUFFIXES)


def is_local_address(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return (
        address.is_loopback
        or address.is_unspecified
        or any(address in network for network in PRIVATE)
        or _without_zone(address) in _own_addresses()
    )


def _own_addresses() -> set[str]:
    interfaces = psutil.net_if_addrs().values()
    return {_without_zone(address.address) for interface in interfaces for address in interface}


def _without_zone(address: IPv4Address | IPv6Address | str) -> str:
    return str(address).partition("%")[0]
