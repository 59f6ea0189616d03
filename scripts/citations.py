"""Finds what is cited and is not there: sections of docs/reference, rows of the requirements, points of the
checklist, findings of docs/security.md, files of docs/, and what links between the documents name.

`python -m scripts.citations` prints each as file:line and exits 1 if there is any. How to cite is told in
docs/reference/README.md.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECTIONS, ROWS = Path("docs/reference/ollama"), Path("docs/reference/requirements.md")
CHECKLIST, POINT = SECTIONS / "checklist.md", "point-"
FINDINGS = Path("docs/security.md")
FOLDERS = ("app", "bench", "chaos", "deploy", "docs", "gpu", "loadtest", "scripts", "tests")
_NOT_OURS = frozenset({"node_modules", "__pycache__", ".venv", ".cache", "__snapshots__", "crds"})
_TEXTS = frozenset({".md", ".py", ".yaml", ".tpl", ".lua", ".sh", ".mjs", ".ts", ".txt", ".toml"})
_NAMES = frozenset({"Dockerfile"})

_GAP = r"(?:\s|#)+"
"""Between words of a citation that may go on in the next line, also of a comment."""


def _cited(word: str, each: str) -> re.Pattern[str]:
    """`word` and one id or several: `1, 2 and 3`, `1 to 3`."""
    return re.compile(rf"{word}{_GAP}(?P<ids>{each}(?:(?:,|{_GAP}and|{_GAP}to){_GAP}{each})*)")


_SECTION = _cited("docs/reference", r"\d+(?:\.\d+)?")
_POINT = _cited(r"\bpoints?", r"\d+")
_ROW = _cited(r"\brows?", r"[A-Z]\d+")
_ROW_MARK = re.compile(r"pytest\.mark\.row\((?P<ids>[^)]*)\)")
_FINDING = re.compile(r"(?<![\w`])(?P<ids>F\d{1,2})\b(?!`)")
_DOCUMENT = re.compile(r"(?<![\w./-])docs/[\w./-]+\.(?:md|svg)\b")
_NAMELESS = re.compile(r"\bollama-api\b|\bsections?\s+\d+(?:\.\d+)?")
_ID = re.compile(r"[A-Z]?\d+(?:\.\d+)?")

_FENCE = re.compile(r"^(?P<fence>```|~~~).*?^(?P=fence)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<to>[^()\s]+)\)")
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#*)?$", re.MULTILINE)
_FINDING_ROW = re.compile(r"^\| (F\d+) \|", re.MULTILINE)


class Problem(NamedTuple):
    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Targets:
    """What can be cited below `root`."""

    root: Path

    @cached_property
    def sections(self) -> Mapping[str, Path]:
        """The file of each section."""
        return {
            anchor: file.relative_to(self.root)
            for file in sorted((self.root / SECTIONS).glob("*.md"))
            for anchor in _ANCHOR.findall(file.read_text("utf-8"))
            if not anchor.startswith(POINT)
        }

    @cached_property
    def points(self) -> Sequence[str]:
        found = _ANCHOR.findall((self.root / CHECKLIST).read_text("utf-8"))
        return [anchor.removeprefix(POINT) for anchor in found if anchor.startswith(POINT)]

    @cached_property
    def rows(self) -> frozenset[str]:
        return frozenset(_ANCHOR.findall((self.root / ROWS).read_text("utf-8")))

    @cached_property
    def findings(self) -> frozenset[str]:
        return frozenset(_FINDING_ROW.findall((self.root / FINDINGS).read_text("utf-8")))


def problems(root: Path = ROOT) -> list[Problem]:
    """What points nowhere in the files below `root`, in their order."""
    targets = Targets(root)
    found: list[Problem] = []
    for file in files(root):
        text = (root / file).read_text("utf-8")
        wrong = _in_markdown(text, file, root) if file.suffix == ".md" else _in_text(text, file, targets)
        found += (Problem(file, text.count("\n", 0, at) + 1, what) for at, what in sorted(wrong))
    return found


def files(root: Path) -> list[Path]:
    """Every text of ours, relative to `root`."""
    inside = (file for folder in FOLDERS for file in (root / folder).rglob("*"))
    texts = (
        file.relative_to(root)
        for file in (*root.glob("*.md"), *inside)
        if (file.suffix in _TEXTS or file.name in _NAMES) and file.is_file()
    )
    return sorted(file for file in texts if not _NOT_OURS.intersection(file.parts))


def _in_text(text: str, file: Path, targets: Targets) -> Iterator[tuple[int, str]]:
    yield from _unknown(_SECTION, text, targets.sections, "section")
    yield from _unknown(_ROW, text, targets.rows, "row")
    yield from _unknown(_ROW_MARK, text, targets.rows, "row")
    for match in re.finditer(r"\bollama-api\b", text):
        yield match.start(), "cite docs/reference"
    for match in _DOCUMENT.finditer(text):
        if not (targets.root / match.group()).is_file():
            yield match.start(), f"there is no {match.group()}"
    if file.suffix == ".py" and (_POINT.search(text) or _FINDING.search(text)):
        prose = prose_of(text)
        yield from _unknown(_POINT, prose, targets.points, "point")
        yield from _unknown(_FINDING, prose, targets.findings, "finding")


def _unknown(
    pattern: re.Pattern[str], text: str, known: Container[str], kind: str
) -> Iterator[tuple[int, str]]:
    for match in pattern.finditer(text):
        for each in _ID.findall(match["ids"]):
            if each not in known:
                yield match.start(), f"there is no {kind} {each}"


def prose_of(code: str) -> str:
    """Docstrings and comments of `code`, each where it stands, and blanks for the rest."""
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    kept: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            start = starts[token.start[0] - 1] + token.start[1]
            kept.append((start, start + len(token.string)))
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                # Whole lines: columns of the tree count bytes.
                kept.append((starts[node.lineno - 1], starts[node.end_lineno or node.lineno]))
            case _:
                pass
    blank = [each if each == "\n" else " " for each in code]
    for start, end in kept:
        blank[start:end] = code[start:end]
    return "".join(blank)


def _in_markdown(text: str, file: Path, root: Path) -> Iterator[tuple[int, str]]:
    prose = _blanked(_blanked(text, _FENCE), _SPAN)
    for match in _LINK.finditer(prose):
        if what := _broken(match["to"], file, root):
            yield match.start(), what
    words = _blanked(prose, _LINK)
    for pattern in (_SECTION, _POINT, _ROW, _NAMELESS):
        for match in pattern.finditer(words):
            yield match.start(), f"{match.group()!r} is no link"


def _broken(link: str, file: Path, root: Path) -> str:
    """What is wrong with a link in `file`, if anything."""
    if re.match(r"[a-z]+:", link):
        return ""
    path, _, anchor = link.partition("#")
    target = (root / file.parent / path).resolve() if path else root / file
    if path.startswith("/") or not target.exists():
        return f"there is no {path}"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text("utf-8"))):
        return f"there is no #{anchor} in {path or file.name}"
    return ""


@cache
def anchors(markdown: str) -> frozenset[str]:
    """What a link may name in a document: its own anchors, and its headings as GitHub names them."""
    times: Counter[str] = Counter()
    found = set(_ANCHOR.findall(markdown))
    for heading in _HEADING.findall(_blanked(markdown, _FENCE)):
        slug = _slug(heading)
        found.add(f"{slug}-{times[slug]}" if times[slug] else slug)
        times[slug] += 1
    return frozenset(found)


def _slug(heading: str) -> str:
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")


def _blanked(text: str, pattern: re.Pattern[str]) -> str:
    """`text` with blanks where `pattern` was; lines stay where they are."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def main() -> int:
    found = problems()
    for each in found:
        print(each)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
