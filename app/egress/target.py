"""A URL as it is fetched: read once, strictly, so that no later reader finds another host in it."""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias, cast
from urllib.parse import quote

import idna

from app.core.brief import brief
from app.core.errors import AddressRefused

MAX_URL_CHARS = 8_192
MAX_HOST_CHARS = 253
PORTS = {"http": 80, "https": 443}

Scheme: TypeAlias = Literal["http", "https"]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What the last label of a host must be for browsers to read the whole of it as an IPv4 address (WHATWG URL).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTS = frozenset("\u3002\uff0e\uff61\u2024\ufe52")
_SAFE = "!$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    `host` is a name in lower-case ASCII, a dotted quad, or an IPv6 address without brackets; `path` begins
    with a slash and holds the query.
    """

    scheme: Scheme
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}"


def read_target(url: str) -> Target:
    """What `url` names, without its fragment.

    Raises:
        AddressRefused: for what is not http or https, and for whatever readers of URLs disagree about:
            userinfo, odd numbers as hosts, percent signs and backslashes in them, control characters.
    """
    if len(url) > MAX_URL_CHARS:
        raise AddressRefused(f"a URL has at most {MAX_URL_CHARS} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zs", "Zl", "Zp") for char in url) or "\\" in url:
        raise AddressRefused(f"{shown(url)} holds white space, a control character or a backslash")
    found = _URL.fullmatch(url)
    if found is None:
        raise AddressRefused(f"{shown(url)} is not a URL such as https://example.com/page")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if scheme not in PORTS:
        raise AddressRefused(f"{shown(url)}: only http and https are opened, not {brief(scheme)}")
    if "@" in authority:
        raise AddressRefused("a URL with a user name or password is not opened")
    host, port = _split(authority, url)
    return Target(
        cast(Scheme, scheme),
        read_host(host),
        _port(port, url) if port else PORTS[scheme],
        quote(path if path.startswith("/") else f"/{path}", safe=_SAFE),
    )


def read_host(text: str) -> str:
    """A host in the one form in which it is compared and connected to; IPv6 addresses come without brackets.

    Raises:
        AddressRefused: for what is neither a name nor an address in its usual form.
    """
    if ":" in text:
        return _ipv6(text)
    if "%" in text:
        raise AddressRefused(f"{shown(text)}: a percent sign in a host is not read")
    # One dot at the end marks a name as complete; certificates and lists have none.
    name = _ascii(text).removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(name)
    if len(name) > MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise AddressRefused(f"{shown(text)} is not the name of a host")
    return name


def is_address(host: str) -> bool:
    """Whether a host as `read_host` returns it is an address: no name ends in a number."""
    return ":" in host or host.rpartition(".")[2].isdecimal()


def shown(text: str) -> str:
    """What is quoted of a URL or host in an error: short, and nothing in it that acts on a terminal."""
    return brief(ascii(text[:50]))


def _split(authority: str, url: str) -> tuple[str, str]:
    """Host and port, the latter "" where none is given."""
    if authority.startswith("["):
        host, closed, rest = authority[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            raise AddressRefused(f"{shown(url)} has no readable host")
        return host, rest[1:]
    host, _, port = authority.partition(":")
    if not host or ":" in port:
        raise AddressRefused(f"{shown(url)} has no readable host")
    return host, port


def _port(text: str, url: str) -> int:
    # `isdecimal` alone takes digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise AddressRefused(f"{shown(url)} has no readable port")
    return int(text)


def _ascii(host: str) -> str:
    """Lower-case ASCII. A name in other letters must be one as it stands (IDNA 2008): nothing is mapped."""
    lower = host.lower()
    if any(char in _DOTS for char in host):
        raise AddressRefused(f"{shown(host)}: a dot of another script in a host is not read")
    if host.isascii() and "xn--" not in lower:
        return lower
    try:
        return idna.encode(lower, uts46=False, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressRefused(f"{shown(host)} is not the name of a host") from error


def _ipv4(name: str) -> str:
    try:
        return str(IPv4Address(name))
    except ValueError as error:
        raise AddressRefused(
            f"{shown(name)}: an IPv4 address has four decimal numbers without leading zeros"
        ) from error


def _ipv6(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("a zone")
        return str(IPv6Address(text))
    except ValueError as error:
        raise AddressRefused(f"{shown(text)} is not an IPv6 address without a zone") from error
