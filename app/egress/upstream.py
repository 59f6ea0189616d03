"""The operator's egress proxy, through which everything goes out where there is one."""

import base64
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the proxy is, over TLS where `is_tls`; `authorization` is the value of a header or ""."""

    host: str
    port: int
    is_tls: bool = False
    authorization: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def read_upstream(url: str) -> Upstream | None:
    """`http[s]://[user:password@]host[:port]`; None for "".

    Raises:
        ValueError: for anything else. The text does not hold the URL, which may hold a password.
    """
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("it is not a URL such as http://proxy:3128") from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise ValueError("it is not a URL such as http://proxy:3128")
    authorization = ""
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    is_tls = parts.scheme == "https"
    return Upstream(host, port or (443 if is_tls else 80), is_tls, authorization)
