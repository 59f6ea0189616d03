"""Sizes and times in the words in which Ollama's command line shows them."""

from datetime import UTC, datetime

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_YEAR_H = 24 * 365
_SPANS = (
    ("hours", 1, 48),
    ("days", 24, 14 * 24),
    ("weeks", 7 * 24, 60 * 24),
    ("months", 30 * 24, 2 * _YEAR_H),
)
"""A unit, its hours, and the hours below which it is used."""

_FOREVER_YEARS = 20


def size_text(size: int) -> str:
    """Bytes by powers of a thousand, with one digit behind the point below ten: `271 MB`, `4.7 GB`."""
    for unit, factor in _UNITS:
        if size >= factor:
            is_whole = size >= 10 * factor or size % factor == 0
            return f"{size // factor if is_whole else f'{size / factor:.1f}'} {unit}"
    return f"{size} B"


def since_text(moment: datetime, now: datetime) -> str:
    """`3 days ago`, `4 minutes from now`; `Forever` for what is over twenty years ahead."""
    seconds = (now - moment.astimezone(UTC)).total_seconds()
    if -seconds / 3600 / _YEAR_H >= _FOREVER_YEARS + 1:
        return "Forever"
    return f"{span_text(abs(seconds))} {'from now' if seconds < 0 else 'ago'}"


def span_text(seconds: float) -> str:
    """A span of time in its largest unit of which there are at least two: `47 hours`, but `2 days`."""
    whole, minutes, hours = int(seconds), int(seconds / 60), int(seconds / 3600 + 0.5)
    if whole < 60:
        return "Less than a second" if whole < 1 else _plural(whole, "second")
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    for unit, length, most in _SPANS:
        if hours < most:
            return f"{hours // length} {unit}"
    return f"{int(seconds / 3600) // _YEAR_H} years"


def _plural(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
