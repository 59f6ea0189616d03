"""The text of a PDF, page by page."""

import io
from typing import Any

import pypdf
from pypdf import filters

from app.tools.extract import Extracted, OutOfTime, ReadLimits, Unreadable, budget, plain

_STREAM_BYTES = 32 << 20
_CONTENT_BYTES = 4 << 20
# What pypdf undoes of one stream, at 75 MB by default.
for _limit in (
    "ZLIB_MAX_OUTPUT_LENGTH",
    "LZW_MAX_OUTPUT_LENGTH",
    "RUN_LENGTH_MAX_OUTPUT_LENGTH",
    "JBIG2_MAX_OUTPUT_LENGTH",
    "MAX_ARRAY_BASED_STREAM_OUTPUT_LENGTH",
    "MAX_DECLARED_STREAM_LENGTH",
):
    setattr(filters, _limit, _STREAM_BYTES)


def read(body: bytes, limits: ReadLimits) -> Extracted:
    """The pages that can be read within the limits; what is left of a damaged page is left out and told.

    Raises:
        Unreadable: where there is no text, or no document.
    """
    pages: list[str] = []
    title, is_whole = "", False
    try:
        with budget(limits.parse_s):
            document = _opened(body)
            title = _title(document)
            is_whole = _collect(document, pages, limits)
    except OutOfTime:
        if not pages:
            raise Unreadable("the PDF takes too long to read") from None
    text = "\n\n".join(pages).strip()
    if not text:
        raise Unreadable("the PDF holds no text that can be read; it may be of scanned pages")
    return plain(title, text, limits, is_truncated=not is_whole)


def _opened(body: bytes) -> pypdf.PdfReader:
    try:
        document = pypdf.PdfReader(
            io.BytesIO(body), root_object_recovery_limit=1000, xref_stream_maximum_entries=200_000
        )
        # Many are encrypted with an empty password, for what may be done with them.
        if document.is_encrypted and not document.decrypt(""):
            raise Unreadable("the PDF is encrypted")
    except Unreadable:
        raise
    except pypdf.errors.DependencyError:
        raise Unreadable("the PDF is encrypted") from None
    except Exception as error:  # pypdf raises whatever its input leads it to
        raise Unreadable("the PDF is damaged and cannot be read") from error
    return document


def _title(document: pypdf.PdfReader) -> str:
    try:
        return str((document.metadata or {}).get("/Title") or "")
    except Exception:
        return ""


def _collect(document: pypdf.PdfReader, pages: list[str], limits: ReadLimits) -> bool:
    """Append the text of each page; whether that was all of them."""
    chars, is_whole = 0, True
    sheets = iter(document.pages)
    for number in range(limits.pages):
        try:
            text = next(sheets, None)
            if text is None:
                return is_whole
            found = _text(text)
        except Exception:
            if not number:
                raise Unreadable("the PDF is damaged and cannot be read") from None
            return False
        is_whole = is_whole and found is not None
        pages.append(found or "")
        chars += len(pages[-1])
        if chars > limits.chars:
            return False
    return is_whole and next(sheets, None) is None


def _text(sheet: Any) -> str | None:
    """The text of a page; None where it cannot be read."""
    try:
        return str(sheet.extract_text())
    except Exception:
        return None
