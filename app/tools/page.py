"""A page as a model gets to see it, however it was opened."""

from dataclasses import dataclass

from app.core.events import SearchResult

__all__ = ["Page", "SearchResult"]


@dataclass(frozen=True, slots=True)
class Page:
    """What was read at an address.

    `url` is where redirects ended. `text` is Markdown or plain text, cut where `is_truncated`; `links` are
    absolute addresses in the order of the page, each once. `received_bytes` came over the network, as sent.
    `screenshot` is a PNG, empty where none was made.
    """

    url: str
    status: int
    media_type: str
    title: str
    text: str
    links: tuple[str, ...] = ()
    is_truncated: bool = False
    received_bytes: int = 0
    screenshot: bytes = b""
