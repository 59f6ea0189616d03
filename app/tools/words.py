"""Text of others, made fit to be shown."""

import re
from urllib.parse import urlsplit

# Controls, marks that turn the direction of writing, and what hides instructions: invisible copies of ASCII,
# invisible operators, and the selectors of variants (240 of them, so one can stand for any byte).
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
# Of the sixteen old selectors one may follow a character; more hide something, half a byte each.
_SELECTORS = re.compile("(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]+")
_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


_HOST = re.compile(r"[a-z0-9_.:-]{1,253}")


def host_of(url: str) -> str:
    """The host of an address for people who may not see content, "" where there is none.

    Whoever asks may write anything where a host stands: `?` for what is no host.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host if _HOST.fullmatch(host) else "?" if host else ""


def printable(text: str) -> str:
    """`text` without what is not shown, its lines ending in a line feed."""
    return _SELECTORS.sub("", _UNSHOWN.sub("", _ENDS.sub("\n", text)))


def one_line(text: str, chars: int) -> str:
    """The first `chars` of `text`, each run of white space a single space."""
    # Of a long text only what can matter is looked at.
    return " ".join(printable(text[: 4 * chars]).split())[:chars]
