"""Which addresses the model may open: those that the user, a search or a page has named.

A page could else have the model send what it knows to an address of its making (`https://evil/?q=...`).
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from urllib.parse import quote, urlsplit

import idna

URL_CHARS = 2048
"""What is longer is taken for no address."""

_KNOWN = 20_000
_SAID = 1_000
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_PORTS = {"http": "80", "https": "443"}

# The full-width forms end an address: in Chinese and Japanese no space follows it.
_STOPS = (
    r"\s<>\"`{}|\\^\x00-\x1f\x7f"
    r"\u3000-\u3002\u300a-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\u201c\u201d\u2026"
)
_URL = re.compile(rf"(?:https?://|(?<![\w.@/-])www\.)[^{_STOPS}]+", re.IGNORECASE)
# A name without a scheme: at least two labels, the last of letters alone, and what may follow.
_NAME = re.compile(
    r"(?<![\w.@/:%+-])(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?::\d{1,5})?(?![\w@-])"
    rf"(?:[/?][^{_STOPS}]*)?",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_TRAILING = frozenset(".,;:!?'*~\u2019\u00bb\u203a")
_BRACKETS = {")": "(", "]": "["}


def urls_in(text: str, most: int) -> list[str]:
    """The first `most` web addresses of `text`, each once, as they stand there; of many repetitions fewer.

    `www.` without a scheme is https. What ends a sentence or closes a bracket around the address, and what
    Markdown puts there, is no part of it.
    """
    found: dict[str, None] = {}
    for match in islice(_URL.finditer(text), 10 * most):
        for part in re.split(r"\]\(|\)\[", match[0]):
            url = _trimmed(part, text[match.start() - 1 : match.start()])
            if url[:4].lower() == "www.":
                url = f"https://{url}"
            if len(url) <= URL_CHARS and normalized(url):
                found[url] = None
            if len(found) >= most:
                return list(found)
    return list(found)


def normalized(url: str) -> str:
    """The form in which addresses are compared; "" for what is none of the web.

    Without the fragment and the default port, scheme and host in lower case, international names as ASCII,
    characters outside of ASCII encoded as UTF-8, `/` for an empty path. The query stays as it is.
    """
    # Python drops some of what it does not expect in an address; others would read it.
    if len(url) > URL_CHARS or any(char <= " " or char == "\x7f" for char in url) or "\\" in url:
        return ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
            return ""
        host = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except (ValueError, UnicodeError):
        return ""
    host = f"[{host}]" if ":" in host else host.lower()
    where = "" if port is None or str(port) == _PORTS[parts.scheme] else f":{port}"
    query = f"?{quote(parts.query, safe=_ASCII)}" if parts.query else ""
    return f"{parts.scheme}://{host}{where}{quote(parts.path, safe=_ASCII) or '/'}{query}"


class Visits:
    """The addresses that a chat has named; any where `is_any`."""

    def __init__(self, *, is_any: bool = False) -> None:
        self._is_any = is_any
        self._known: dict[str, str] = {}

    def add_said(self, text: str) -> None:
        """What the user has written: addresses, and names such as `example.com/docs` under both schemes.

        The first 1,000 of each count. A text of a million characters takes half a second: work for a pool.
        """
        self.add(urls_in(text, _SAID))
        for match in islice(_NAME.finditer(text), _SAID):
            name = _trimmed(match[0], text[match.start() - 1 : match.start()])
            self.add((f"https://{name}", f"http://{name}"))

    def add(self, urls: Iterable[str]) -> None:
        """What a search has found, or the links and the address of a page."""
        for url in urls:
            if len(self._known) >= _KNOWN:
                return
            if key := normalized(url):
                self._known.setdefault(key, url)

    def find(self, url: str) -> str:
        """The address to open for the model's `url`, which may lack the scheme; "" if it may not be opened.

        It is the address as it was named and not as the model writes it: nothing is carried out in spellings.
        """
        for asked in _candidates(url.strip()):
            if key := normalized(asked):
                if self._is_any:
                    return asked
                if key in self._known:
                    return self._known[key]
        return ""


def _candidates(url: str) -> Iterator[str]:
    if url[:8].lower().startswith(("http://", "https://")):
        yield url
    elif not _SCHEME.match(url) or re.match(r"[^/]+:\d+(?:/|$)", url):
        yield f"https://{url}"
        yield f"http://{url}"


def _trimmed(url: str, before: str) -> str:
    """`url` without what belongs to the text around it; `before` is the character in front of it."""
    trailing = _TRAILING | {before} if before == "_" else _TRAILING
    opened = {close: url.count(open_) - url.count(close) for close, open_ in _BRACKETS.items()}
    end = len(url)
    while end:
        last = url[end - 1]
        if last in opened and opened[last] < 0:
            opened[last] += 1
        elif last not in trailing:
            break
        end -= 1
    return url[:end]
