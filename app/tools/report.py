"""What a model is to read of a tool's work: text of others, marked as theirs and cut to what has room."""

from dataclasses import replace

from app.tools.base import Outcome
from app.tools.page import Page
from app.tools.untrusted import Marks, frame, frame_results


def told(outcome: Outcome, most_chars: int, marks: Marks) -> str:
    """What was found, of its own text about `most_chars` characters; our own line where nothing was.

    Takes tens of milliseconds for long pages: work for a pool.
    """
    if outcome.pages:
        part = max(0, most_chars // len(outcome.pages))
        return "\n\n".join(frame(_cut(page, part), marks) for page in outcome.pages)
    if outcome.results:
        part = max(0, most_chars // len(outcome.results))
        results = [replace(each, content=each.content[:part]) for each in outcome.results]
        return frame_results(outcome.query, results, marks)
    return marks.broken(outcome.text)  # it may quote an address


def _cut(page: Page, most_chars: int) -> Page:
    if len(page.text) <= most_chars:
        return page
    return replace(page, text=page.text[:most_chars], is_truncated=True)
