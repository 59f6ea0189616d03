"""HTML as Markdown."""

import re
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from urllib.parse import urldefrag, urljoin

import trafilatura
from lxml import etree, html  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without types

from app.tools.extract import LINK_CHARS, TITLE_CHARS, Extracted, OutOfTime, ReadLimits, budget, cut, plain
from app.tools.words import one_line, printable

_ELEMENTS = 20_000
"""What has more elements is not given to the extractor, whose time grows faster than a page."""

_ENOUGH_CHARS = 250
"""What the extractor finds is taken for the page if it has so much, or half of what can be seen."""

_UNSEEN = frozenset(("script", "style", "template", "head", "svg", "math", "iframe", "object", "datalist"))
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "dd", "details", "dialog", "div", "dl", "dt"),
        *("fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"),
        *("hr", "li", "main", "nav", "ol", "option", "p", "pre", "section", "summary", "table", "tbody"),
        *("tfoot", "thead", "tr", "ul"),
    )
)
_MARKS = {f"h{level}": "#" * level + " " for level in range(1, 7)} | {"li": "- ", "td": "| ", "th": "| "}
_HIDDEN = re.compile(r"(?:display\s{0,4}:\s{0,4}none|visibility\s{0,4}:\s{0,4}hidden)", re.IGNORECASE)
_STYLE_CHARS = 4096


def read(text: str, url: str, limits: ReadLimits) -> Extracted:
    """The page's main text, or all that can be seen of it where the extractor finds none or takes too long.

    Elements that a person would not see are left out, as instructions to models hide there, unless nothing
    else is left.
    """
    tree, is_whole = _parsed(text)
    if tree is None:
        return plain("", _stripped(text), limits, is_truncated=bool(text.strip()))
    title = _title(tree)
    links = tuple(_links(tree, url, limits.links))
    hidden = _hidden(tree)
    seen, was_left = _visible(tree, hidden, limits.chars)
    found = _main_text(tree, bool(hidden), url, limits)
    if len(found) < _ENOUGH_CHARS and 2 * len(found) < len(seen):
        found, is_whole = seen, is_whole and not was_left
    if not found and hidden:
        found, was_left = _visible(tree, set(), limits.chars)
        is_whole = is_whole and not was_left
    if not found and not is_whole:
        found = _stripped(text)
    shown, was_cut = cut(printable(found), limits.chars)
    return Extracted(title, shown, links, was_cut or not is_whole)


def _parsed(text: str) -> tuple[html.HtmlElement | None, bool]:
    """The tree of a page, and whether it is all of it: the parser ends at 256 levels."""
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False)
    try:
        # Bytes, since of text that declares an encoding the parser wants none.
        tree = html.document_fromstring(text.encode("utf-8", "replace").replace(b"\0", b""), parser=parser)
    except (etree.LxmlError, ValueError, AssertionError):
        return None, False
    fatal = any(error.level == etree.ErrorLevels.FATAL for error in parser.error_log)
    return tree, not fatal


def _title(tree: html.HtmlElement) -> str:
    for path in (".//head/title", ".//title", ".//h1"):
        element = tree.find(path)
        if element is not None and (title := one_line("".join(element.itertext()), TITLE_CHARS)):
            return title
    return ""


def _links(tree: html.HtmlElement, url: str, most: int) -> Iterator[str]:
    base = url
    if (element := tree.find(".//base[@href]")) is not None:
        base = _joined(url, element.get("href", "")) or url
    seen: set[str] = set()
    for element in tree.iter("a", "area"):
        link = _joined(base, element.get("href") or "")
        if link and link not in seen:
            seen.add(link)
            yield link
            if len(seen) >= most:
                return


def _joined(base: str, href: str) -> str:
    """An absolute web address without fragment; "" for what is none."""
    href = href.strip()
    if not href or len(href) > LINK_CHARS or href.startswith("#"):
        return ""
    try:
        link = urldefrag(urljoin(base, href)).url
    except ValueError:
        return ""
    return link if link.startswith(("http://", "https://")) and len(link) <= LINK_CHARS else ""


def _hidden(tree: html.HtmlElement) -> set[html.HtmlElement]:
    return {
        element
        for element in tree.iter(etree.Element)
        if "hidden" in element.attrib
        or ((style := element.get("style")) and _HIDDEN.search(style[:_STYLE_CHARS]))
    }


def _main_text(tree: html.HtmlElement, has_hidden: bool, url: str, limits: ReadLimits) -> str:
    """What the extractor makes of the page; "" where it finds nothing or is not asked."""
    if sum(1 for _ in islice(tree.iter(), _ELEMENTS + 1)) > _ELEMENTS:
        return ""
    try:
        with budget(limits.parse_s):
            copy = deepcopy(tree)
            for element in _hidden(copy) if has_hidden else ():
                if element.getparent() is not None:
                    element.drop_tree()
            found = trafilatura.extract(
                copy,
                url=url,
                output_format="markdown",
                include_comments=False,
                include_links=True,
                include_tables=True,
                favor_recall=True,
            )
    except (OutOfTime, Exception):  # whatever a page leads it to, all that can be seen is still there
        return ""
    return found or ""


def _visible(tree: html.HtmlElement, hidden: set[html.HtmlElement], chars: int) -> tuple[str, bool]:
    """The text of the page with its headings, items and cells marked, and whether some of it was left out.

    Ends soon after `chars` characters, white space between elements not counted.
    """
    pieces: list[str] = []
    size, was_left = 0, False
    steps = etree.iterwalk(tree, events=("start", "end"))
    for event, element in steps:
        name = element.tag if isinstance(element.tag, str) else ""
        if event == "start":
            if name in _UNSEEN or element in hidden:
                steps.skip_subtree()
                continue
            text = ("\n" if name in _BLOCKS or name == "br" else "") + _MARKS.get(name, "")
            text += _spaced(element.text)
        else:
            text = ("\n" if name in _BLOCKS else " " if name in _MARKS else "") + _spaced(element.tail)
        if text:
            pieces.append(text)
            size += 0 if text.isspace() else len(text)
            if size > 2 * chars:
                was_left = True
                break
    lines = (" ".join(line.split()) for line in "".join(pieces).split("\n"))
    return "\n".join(line for line in lines if line.strip("-#| ")), was_left


def _spaced(text: str | None) -> str:
    return text.replace("\n", " ").replace("\r", " ") if text else ""


def _stripped(text: str) -> str:
    """`text` without its tags, for markup that no tree can be made of. Looks at each character once."""
    pieces: list[str] = []
    at = 0
    while (start := text.find("<", at)) >= 0:
        pieces.append(text[at:start])
        end = text.find(">", start)
        if end < 0:
            break
        at = end + 1
    else:
        pieces.append(text[at:])
    return "\n".join(line for piece in pieces if (line := " ".join(piece.split())))
