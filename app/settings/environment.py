"""Environment variables as settings read them; this package alone does."""

from collections.abc import Mapping


class BadSetting(Exception):
    """A setting that cannot be used; the text is one line that says where it was set."""


def trimmed(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Ollama strips spaces and quotes around its variables; what is empty then counts as not set."""
    texts = {name: (value or "").strip().strip("\"'").strip() for name, value in variables.items()}
    return {name: text for name, text in texts.items() if text}
