"""Decides what may be opened for a client. It looks nothing up and opens nothing.

A URL passes three checks: as it is written (`target`), by the name or address of its host (`check_host`), and
by every address that the name has (`checked`). Whoever connects does so to an address that `checked` returned
and looks nothing up again.
"""

from collections.abc import Iterable, Sequence

from app.core.errors import AddressRefused
from app.egress.addresses import PRIVATE, Address, carried, kind_of, read
from app.egress.rules import Rule, read_rules
from app.egress.target import PORTS, Target, is_address, read_target, shown

_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.com",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.oraclecloud.com",
        "metadata.latitude.sh",
        "metadata.service.softlayer.com",
        "api.service.softlayer.com",
        "instance-data",
        "instance-data.ec2.internal",
        "rancher-metadata",
        "vmware-metadata",
    }
)
_LOCAL_SUFFIXES = (
    ".localhost",
    ".localdomain",
    ".local",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
    # Of clusters and their service discovery: behind an egress proxy nobody here sees where they lead.
    ".svc",
    ".cluster",
    ".consul",
    ".docker",
    ".kube",
    ".containers",
)


class Guard:
    """`allow` and `deny` are entries as `read_rules` takes them; what is denied stays so.

    Allowing a host by name opens it where its addresses are private, loopback or shared. Any other address
    that is not public (link-local, metadata, multicast, reserved, translated) takes an entry of its network:
    names can be made to point anywhere. `proxied` says that a proxy of the operator resolves names.

    Raises:
        ValueError: naming the entry that cannot be read.
    """

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = (), *, proxied: bool = False) -> None:
        self._allow, self._deny = read_rules(allow), read_rules(deny)
        self._proxied = proxied

    @property
    def proxied(self) -> bool:
        return self._proxied

    def target(self, url: str) -> Target:
        """Where `url` leads, as far as that can be said without looking its host up.

        Raises:
            AddressRefused: where it may not be opened.
        """
        target = read_target(url)
        self.check_host(target.host, target.port)
        return target

    def check_host(self, host: str, port: int) -> None:
        """Refuse a host, as `read_host` returns it, that may not be opened whatever it resolves to.

        Raises:
            AddressRefused
        """
        if any(rule.names(host) and rule.closes(port) for rule in self._deny):
            raise _refused(host, "it is denied here")
        if ":" in host and self._proxied:
            raise _refused(host, "the egress proxy is given names and IPv4 addresses only")
        if is_address(host):
            self.checked(host, port, [host])
            return
        if self._allows_name(host, port):
            return
        if host in _METADATA_NAMES:
            raise _refused(host, "it is a metadata service")
        networks = [] if self._proxied else [rule for rule in self._allow if rule.network is not None]
        if _is_local(host) and not networks:
            raise _refused(host, "it is not a public name")
        if port not in PORTS.values() and not any(rule.opens(port) for rule in networks):
            raise _refused(host, f"port {port} is not open to it")

    def checked(self, host: str, port: int, addresses: Sequence[str]) -> tuple[Address, ...]:
        """The addresses of `host`, all of which may be connected to.

        Raises:
            AddressRefused: if one of them may not: a name that has public and private addresses is a trick
                or a mistake.
        """
        found = tuple(self._address(host, text) for text in addresses)
        for address in found:
            self._check_address(host, port, address)
        return found

    def _address(self, host: str, text: str) -> Address:
        try:
            return read(text)
        except ValueError as error:
            raise _refused(host, "it has an address with a zone") from error

    def _check_address(self, host: str, port: int, address: Address) -> None:
        inner = carried(address)
        ways = (address,) if inner is None else (address, inner)
        if any(rule.holds(way) and rule.closes(port) for rule in self._deny for way in ways):
            raise _refused(host, "its address is denied here")
        by_name = self._allows_name(host, port)
        for way in ways:
            by_network = any(rule.holds(way) and rule.opens(port) for rule in self._allow)
            kind = kind_of(way)
            if kind and not by_network and not (by_name and kind in PRIVATE):
                raise _refused(host, f"it has {kind} address")
        if port not in PORTS.values() and not by_name and not self._allows(address, port):
            raise _refused(host, f"port {port} is not open to it")

    def _allows(self, address: Address, port: int) -> bool:
        return any(rule.holds(address) and rule.opens(port) for rule in self._allow)

    def _allows_name(self, host: str, port: int) -> bool:
        return any(_allows_name(rule, host, port) for rule in self._allow)


def _allows_name(rule: Rule, host: str, port: int) -> bool:
    return rule.names(host) and rule.opens(port)


def _is_local(host: str) -> bool:
    return "." not in host or host.endswith(_LOCAL_SUFFIXES)


def _refused(host: str, reason: str) -> AddressRefused:
    return AddressRefused(f"{shown(host)} may not be opened: {reason}")
