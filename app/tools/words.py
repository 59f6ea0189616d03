"""Text of others, made fit to be shown."""

import re

# Controls, marks that turn the direction of writing, and invisible copies of ASCII that hide instructions.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def printable(text: str) -> str:
    """`text` without what is not shown, its lines ending in a line feed."""
    return _UNSHOWN.sub("", _ENDS.sub("\n", text))


def one_line(text: str, chars: int) -> str:
    """The first `chars` of `text`, each run of white space a single space."""
    # Of a long text only what can matter is looked at.
    return " ".join(printable(text[: 4 * chars]).split())[:chars]
