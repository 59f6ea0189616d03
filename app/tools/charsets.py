"""Which characters the bytes of a page are. Every label may be wrong, so nothing here raises."""

import codecs
import re

import charset_normalizer

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"""<meta[^>]{1,256}?charset\s{0,8}=\s{0,8}["']?\s{0,8}([\w.:-]{1,40})""", re.IGNORECASE)
_META_BYTES = 2048
_GUESS_BYTES = 16 << 10

# Python has codecs that are no character sets, and some take quadratic time (idna, punycode): only these
# are used.
_WESTERN = ("ascii", "us-ascii", "iso-8859-1", "iso8859-1", "latin1", "latin-1", "windows-1252", "cp1252")
_NAMES = dict.fromkeys(_WESTERN, "cp1252") | {
    "utf8": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "shift-jis": "cp932",
    "shift_jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "iso-8859-9": "cp1254",
    "tis-620": "cp874",
    "iso-8859-11": "cp874",
    "utf-16": "utf-16-le",
    "unicode": "utf-16-le",
    "x-mac-cyrillic": "mac-cyrillic",
    "macintosh": "mac-roman",
}
_CODECS = frozenset(
    (
        *("utf-8", "utf-16-be", "big5", "big5-hkscs", "euc-jp", "iso-2022-jp", "koi8-r", "koi8-u"),
        *(f"iso-8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
        *(f"cp{page}" for page in (866, 874, 932, 949, *range(1250, 1259))),
        *_NAMES.values(),
    )
)


def decode(body: bytes, label: str, *, is_html: bool) -> str:
    """`body` as text: by its byte order mark, the header's `label`, a `meta` element of HTML, or what fits.

    A label is read as browsers read it (latin1 is windows-1252). What cannot be decoded is U+FFFD.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    if name := _known(label):
        return body.decode(name, "replace")
    if is_html and (found := _META.search(body[:_META_BYTES])):
        name = _known(found[1].decode("ascii", "ignore"))
        # A `meta` that could be read byte by byte is not UTF-16, whatever it says.
        if name and not name.startswith("utf-16"):
            return body.decode(name, "replace")
    return _guessed(body)


def _known(label: str) -> str:
    """The codec that a label stands for, "" where there is none."""
    name = label.strip().strip("\"'").lower()
    name = _NAMES.get(name, name.replace("windows-", "cp", 1) if name.startswith("windows-") else name)
    return name if name in _CODECS else ""


def _guessed(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        # A body that was cut may end within a character.
        if error.start >= len(body) - 3:
            return body[: error.start].decode("utf-8")
    best = charset_normalizer.from_bytes(body[:_GUESS_BYTES]).best()
    name = _known(best.encoding.replace("_", "-")) if best else ""
    return body.decode(name or "cp1252", "replace")
