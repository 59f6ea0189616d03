"""What is cited is there, in the repository; and a citation of what is not is found, wherever it stands."""

from pathlib import Path

import pytest

from scripts import citations
from scripts.checklist import OTHER_DEPARTURES, POINTS
from scripts.citations import ROOT, Targets, anchors, files, problems, prose_of

REFERENCE, ROW, POINT, SECTION = "docs/" + "reference", "ro" + "w", "poi" + "nt", "sec" + "tion"
DOCUMENT, GONE = "docs/" + "a.md", "docs/" + "gone.md"
"""Words of citations, taken apart so that those below are none."""
RULE = '"""A rule."""\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two sections, a point, a row and a finding."""
    for folder in ("app", "docs/reference/ollama"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / citations.ROWS).write_text('| <a id="A1"></a>A1 | a |\n')
    (tmp_path / citations.FINDINGS).write_text("| F1 | a |\n")
    (tmp_path / citations.SECTIONS / "chat.md").write_text('<a id="7"></a>\n\n# 7. a\n\n<a id="7.2"></a>\n')
    (tmp_path / citations.CHECKLIST).write_text('1. <a id="point-1"></a>a\n')
    return tmp_path


def found(root: Path, file: str, text: str) -> list[str]:
    (root / file).write_text(text)
    return [str(each) for each in problems(root)]


def test_everything_that_is_cited_here_is_there() -> None:
    assert [str(each) for each in problems()] == []


def test_every_point_and_section_that_tests_name_is_in_the_reference() -> None:
    targets = Targets(ROOT)
    assert list(map(int, targets.points)) == list(POINTS)
    named = {each for sections, _ in OTHER_DEPARTURES for each in sections.split(", ")}
    assert named <= set(targets.sections)
    assert {str(number) for number in range(1, 25)} <= set(targets.sections)


def test_the_files_that_are_read_are_all_kinds_of_text() -> None:
    read = set(files(ROOT))
    for file in (
        "README.md",
        "app/main.py",
        "deploy/docker/Dockerfile",
        "deploy/helm/caravan/files/route.lua",
    ):
        assert Path(file) in read
    assert {
        folder for folder in citations.FOLDERS if not any(file.parts[0] == folder for file in read)
    } == set()


@pytest.mark.parametrize(
    "text",
    [
        f"{REFERENCE} 7.2",
        f"{REFERENCE} 7, 7.2 and 7",
        f"{REFERENCE} 7 to 7.2.",
        f"{REFERENCE}\n7.2",
        f"{ROW} A1",
        f"{ROW}s A1, A1",
        f"{POINT} 1",
        "F1: it was slow",
        "the dtype `F16`",
        "docs/security.md",
    ],
)
def test_what_is_there_may_be_cited(text: str, root: Path) -> None:
    assert found(root, "app/a.py", f'"""{text}"""\n') == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (f"{REFERENCE} 7.3", "section 7.3"),
        (f"{REFERENCE} 7, 7.2 and 9", "section 9"),
        (f"{REFERENCE} 7 to 8.", "section 8"),
        (f"{REFERENCE}\n7.3", "section 7.3"),
        (f"{ROW} A2", "row A2"),
        (f"{ROW}s A1, C7", "row C7"),
        (f"{POINT} 2", "point 2"),
        (f"{POINT}s 1 to 3", "point 3"),
        ("F2: it was slow", "finding F2"),
        (GONE, GONE),
    ],
)
def test_what_is_not_there_is_found(text: str, missing: str, root: Path) -> None:
    assert found(root, "app/a.py", f'{RULE}\n"""{text}"""\n') == [f"app/a.py:3: there is no {missing}"]


def test_a_citation_may_go_on_in_the_next_line_of_a_comment(root: Path) -> None:
    assert found(root, "app/a.py", f"x = 1  # as {REFERENCE}\n# 7.9 says\n") == [
        "app/a.py:1: there is no section 7.9"
    ]


def test_marks_of_rows_are_citations(root: Path) -> None:
    text = f'@pytest.mark.{ROW}("A1", "C7")\ndef test_x(): pass\n'
    assert found(root, "app/a.py", text) == ["app/a.py:1: there is no row C7"]


def test_numbers_in_code_are_no_citations(root: Path) -> None:
    assert found(root, "app/a.py", f'x = "{POINT} 9", "of F32, up to"  # a comment\n') == []


def test_other_texts_are_read_too(root: Path) -> None:
    assert found(root, "app/a.yaml", f"a: 1\n# {REFERENCE} 8\n") == ["app/a.yaml:2: there is no section 8"]


def test_the_notes_that_the_reference_stands_for_are_cited_no_more(root: Path) -> None:
    text = f'"""ollama{"-api"} 7.2"""\n'
    assert found(root, "app/a.py", text) == ["app/a.py:1: cite docs/reference"]


@pytest.mark.parametrize(
    "text",
    [
        "[7.2](reference/ollama/chat.md#7.2), [A1](reference/requirements.md#A1)",
        "[a](#a-heading), [b](#a-heading-1), [code](#with-code-and-1)",
        "[folder](reference/ollama), ![plot](security.md), [far](https://example.com/x#y)",
        f"`{REFERENCE} 9.9` and `[a](b.md)` are code",
        "```\n[a](b.md)\n# no heading\n```",
    ],
)
def test_links_that_lead_somewhere(text: str, root: Path) -> None:
    headings = "# A heading\n\n## A heading\n\n## With `code` and 1.\n"
    assert found(root, DOCUMENT, f"{headings}\n{text}\n") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[a](gone.md)", "there is no gone.md"),
        ("[a](/docs/security.md)", "there is no /docs/security.md"),
        ("[a](reference/ollama/chat.md#9)", "there is no #9 in reference/ollama/chat.md"),
        ("[a](#none)", "there is no #none in a.md"),
        ("[`a`, [b]](gone.md)", "there is no gone.md"),
        (f"as {ROW} A1 says", "'row A1' is no link"),
        (f"as {POINT} 1 says", "'point 1' is no link"),
        (f"as {REFERENCE} 7.2 says", "'docs/reference 7.2' is no link"),
        (f"as {SECTION} 7.2 says", "'section 7.2' is no link"),
    ],
)
def test_links_that_lead_nowhere_and_citations_that_are_none(text: str, what: str, root: Path) -> None:
    assert found(root, DOCUMENT, f"# A\n\n{text}\n") == [f"{DOCUMENT}:3: {what}"]


def test_prose_stays_where_it_stands() -> None:
    code = 'def f():\n    """Döc\n    string."""\n    return "text"  # why\n'
    assert prose_of(code) == f'{" " * 8}\n    """Döc\n    string."""\n{" " * 19}# why\n'


def test_anchors_are_named_as_github_names_them() -> None:
    text = '# Where we depart\n\n## `POST /api/x`, [linked](y.md)\n\n<a id="7.2"></a>\n\n## Since 0.33.0\n'
    assert anchors(text) == {"where-we-depart", "post-apix-linked", "7.2", "since-0330"}


def test_the_command_says_where_and_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(citations, "problems", lambda: problems(root))
    assert citations.main() == 0
    (root / "app/a.py").write_text(f"# {ROW} B1\n")
    assert citations.main() == 1
    assert capsys.readouterr().out == "app/a.py:1: there is no row B1\n"
