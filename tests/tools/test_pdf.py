"""The text of a PDF, and a clear word where there is none."""

import io
import zlib
from collections.abc import Callable

import pypdf
import pytest

from app.tools.extract import Extracted, ReadLimits, Unreadable, extract
from tests.tools.pdfs import of_pages, pdf, words


def read(body: bytes, limits: ReadLimits = ReadLimits(parse_s=3)) -> Extracted:  # noqa: B008
    return extract(body, "application/pdf", "", "https://site.example/a.pdf", limits)


def encrypted(password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(of_pages(words(b"secret text"))))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_title_and_text() -> None:
    found = read(of_pages(words(b"Hello https://site.example/x"), pages=2, title=b"A title"))
    assert found == Extracted(
        "A title",
        "Hello https://site.example/x\n\nHello https://site.example/x",
        ("https://site.example/x",),
    )


def test_pages_and_characters_are_bounded_and_that_is_told() -> None:
    body = of_pages(words(b"0123456789"), pages=3000)
    found = read(body, ReadLimits(pages=3))
    assert (found.text.count("0123456789"), found.is_truncated) == (3, True)
    found = read(body, ReadLimits(chars=25))
    assert (len(found.text), found.is_truncated) == (25, True)


def test_a_password_for_the_owner_alone_hinders_nobody() -> None:
    assert read(encrypted("")).text == "secret text"


def endless() -> bytes:
    return of_pages(b"BT " + b"(a) Tj " * 300_000)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (lambda: encrypted("password"), "encrypted"),
    "cut": (lambda: of_pages(words(b"Hello"))[:100], "damaged"),
    "a head alone": (lambda: b"%PDF-1.4", "damaged"),
    "noise": (lambda: b"%PDF-1.4\n" + b"x" * 1_000_000, "damaged"),
    "no end": (lambda: b"%PDF-1.4\n" + b"1 0 obj " * 100_000, "damaged"),
    "pages in a circle": (
        lambda: pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[2 0 R 2 0 R]>>"]),
        "damaged|no text",
    ),
    "no text": (lambda: of_pages(b""), "no text"),
    "a bomb": (
        lambda: of_pages(zlib.compress(b"BT /F 12 Tf (a) Tj ET " * 3_000_000), head=b"/Filter/FlateDecode"),
        "no text",
    ),
    "a bomb in a bomb": (
        lambda: of_pages(
            zlib.compress(zlib.compress(b" " * 100_000_000)), head=b"/Filter[/FlateDecode/FlateDecode]"
        ),
        "no text",
    ),
    "a page without end": (endless, "too long"),
    "starts of tables": (lambda: b"%PDF-1.4\n" + b"startxref\n" * 200_000, "too long|damaged"),
    "levels": (lambda: of_pages(b"BT " + b"[" * 200_000), "no text|damaged|too long"),
}


# The end of the time may come while something else of the tests runs, which then only warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_told_in_one_line(name: str) -> None:
    make, expected = BAD[name]
    with pytest.raises(Unreadable, match=expected) as refused:
        read(make())
    assert "\n" not in str(refused.value)
