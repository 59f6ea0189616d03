"""Text in double quotes as Go's `%q` writes it, which many of Ollama's error texts use."""

_SHORT = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    '"': r"\"",
    "\\": r"\\",
}


_MOST_CHARS = 1024
"""An error's text is cut there anyway."""


def quoted(text: str, *, whole: bool = False) -> str:
    """`text` in quotes, cut unless it is wanted whole: what a client sent may be megabytes."""
    shown = text if whole or len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + "..."
    return '"' + "".join(map(_escaped, shown)) + '"'


def _escaped(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
