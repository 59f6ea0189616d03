"""What an IP address is: reachable by everybody, or of a kind that is not to be opened for a client.

The table repeats much of what `ipaddress` knows, since its answer differs between releases of Python and it
takes for global what is none of a client's business: translations, relays and metadata services.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

PRIVATE = frozenset({"a private", "a loopback", "a shared (carrier-grade NAT)"})
"""Kinds that naming a host opens; others take an entry of their network: names can point anywhere."""

_KINDS: tuple[tuple[str, str], ...] = (
    # Cloud metadata: AWS, Google, Azure, DigitalOcean, Oracle and OpenStack share the first.
    ("169.254.169.254/32", "a metadata"),
    ("169.254.170.0/24", "a metadata"),  # Amazon ECS and EKS
    ("100.100.100.200/32", "a metadata"),  # Alibaba
    ("168.63.129.16/32", "a metadata"),  # Azure, and a global address
    ("192.0.0.192/32", "a metadata"),  # Oracle
    ("fd00:ec2::/32", "a metadata"),  # AWS
    ("fd20:ce::254/128", "a metadata"),  # Google
    # RFC 6890 and IANA's registries of special purpose addresses.
    ("0.0.0.0/8", "an unspecified"),
    ("10.0.0.0/8", "a private"),
    ("100.64.0.0/10", "a shared (carrier-grade NAT)"),
    ("127.0.0.0/8", "a loopback"),
    ("169.254.0.0/16", "a link-local"),
    ("172.16.0.0/12", "a private"),
    ("192.0.0.0/24", "a reserved"),
    ("192.0.2.0/24", "a documentation"),
    ("192.88.99.0/24", "a translated"),
    ("192.168.0.0/16", "a private"),
    ("198.18.0.0/15", "a benchmark"),
    ("198.51.100.0/24", "a documentation"),
    ("203.0.113.0/24", "a documentation"),
    ("224.0.0.0/4", "a multicast"),
    ("240.0.0.0/4", "a reserved"),
    ("::/128", "an unspecified"),
    ("::1/128", "a loopback"),
    ("::/96", "a translated"),
    ("::ffff:0:0/96", "a translated"),
    ("::ffff:0:0:0/96", "a translated"),
    ("64:ff9b::/96", "a translated"),
    ("64:ff9b:1::/48", "a translated"),
    ("100::/64", "a reserved"),
    ("2001::/32", "a translated"),
    ("2001::/23", "a reserved"),
    ("2001:db8::/32", "a documentation"),
    ("2002::/16", "a translated"),
    ("3fff::/20", "a documentation"),
    ("5f00::/16", "a reserved"),
    ("fc00::/7", "a private"),
    ("fe80::/10", "a link-local"),
    ("fec0::/10", "a private"),
    ("ff00::/8", "a multicast"),
)
_TABLE = tuple((ip_network(network), kind) for network, kind in _KINDS)
_UNICAST = IPv6Network("2000::/3")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_LAST_32_BITS = tuple(
    IPv6Network(each)
    for each in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)


def read(text: str) -> Address:
    """Raises: ValueError: for what is no address; one with a zone counts as none."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ip_address(text)


def kind_of(address: Address) -> str:
    """The kind of an address that is not to be opened, with its article; "" for one that anybody reaches."""
    for network, kind in _TABLE:
        if address.version == network.version and address in network:
            return kind
    if isinstance(address, IPv6Address):
        if _is_isatap(address):
            return "a translated"
        if address not in _UNICAST:
            return "a reserved"
    return "" if address.is_global else "a reserved"


def carried(address: Address) -> IPv4Address | None:
    """The IPv4 address to which an IPv6 address may lead, as a gateway or tunnel of its kind reads it."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return None
    bits = int(address)
    if address in _TEREDO:
        return IPv4Address(~bits & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address(bits >> 80 & 0xFFFFFFFF)
    if _is_isatap(address) or any(address in network for network in _LAST_32_BITS):
        return IPv4Address(bits & 0xFFFFFFFF)
    return None


def _is_isatap(address: IPv6Address) -> bool:
    return int(address) >> 32 & 0xFFFFFFFF in _ISATAP
