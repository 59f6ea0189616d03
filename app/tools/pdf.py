"""The text of a PDF, page by page."""

import io
from typing import Any

import pypdf
from pypdf import errors

from app.tools.extract import Extracted, OutOfTime, ReadLimits, Unreadable, budget, plain

_STREAM_BYTES = 32 << 20
_BOUNDS = pypdf.Configuration(
    maximum_declared_stream_length=_STREAM_BYTES,
    array_based_stream_maximum_output_length=_STREAM_BYTES,
    lzw_maximum_output_length=_STREAM_BYTES,
    run_length_maximum_output_length=_STREAM_BYTES,
    zlib_maximum_output_length=_STREAM_BYTES,
    brotli_maximum_output_length=_STREAM_BYTES,
    stream_decoding_work_maximum_length=4 * _STREAM_BYTES,
)
"""What is undone of a stream, and of all streams; pypdf's own bounds are more than twice as much."""


def read(body: bytes, limits: ReadLimits) -> Extracted:
    """The pages that can be read within the limits; what is left of a damaged page is left out and told.

    Raises:
        Unreadable: where there is no text, or no document.
    """
    pages: list[str] = []
    title, is_whole = "", False
    try:
        with budget(limits.parse_s), pypdf.apply_configuration(_BOUNDS):
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
    except errors.DependencyError:
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
    for number in range(limits.pages + 1):
        try:
            sheet = next(sheets, None)
        except Exception:
            if not number:
                raise Unreadable("the PDF is damaged and cannot be read") from None
            return False
        if sheet is None:
            return is_whole
        if number == limits.pages:
            break
        found = _text(sheet)
        is_whole = is_whole and found is not None
        pages.append(found or "")
        chars += len(pages[-1])
        if chars > limits.chars:
            break
    return False


def _text(sheet: Any) -> str | None:
    """The text of a page; None where it cannot be read."""
    try:
        return str(sheet.extract_text())
    except Exception:
        return None
