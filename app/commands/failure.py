"""What ends a command of the command line."""


class CommandFailed(Exception):
    """A command cannot do what it was asked for; the text is one sentence for the user."""


class Refused(CommandFailed):
    """The server answered, and did not do it; it may do the next thing. `status` is that of HTTP."""

    def __init__(self, reason: str, status: int = 200) -> None:
        self.status = status
        super().__init__(reason)


class BadFile(CommandFailed):
    """A local file or folder that cannot be used."""


def one_line(text: str, most_chars: int = 500) -> str:
    """A text of somebody else's as part of a sentence: without controls, which a terminal would follow."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * most_chars]).split())
    return shown if len(shown) <= most_chars else f"{shown[:most_chars]}..."
