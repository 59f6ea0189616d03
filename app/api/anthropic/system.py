"""The system prompt, and system messages that come later in a conversation.

Agents send both in a way that would make every prompt begin anew, where an engine keeps what it has read of
the last one: Claude Code's system prompt begins with a line for billing that differs in every request, and
its reminders are messages of the role `system` among the others.
"""

from collections.abc import Iterable

from app.api.anthropic.schema import Block
from app.core.request import Json

BETWEEN = "\n\n"
"""What stands between texts that are joined here and came apart."""

_BILLING = "x-anthropic-billing-header:"
_REMINDER, _REMINDER_END = "<system-reminder>", "</system-reminder>"


def system_text(value: Json) -> str:
    """The top-level `system`: text blocks joined with nothing between (docs/reference 15.2)."""
    return without_billing(value) if isinstance(value, str) else joined(value or ())


def joined(blocks: Iterable[Block]) -> str:
    """The text of a system message's blocks; a block of another type has none."""
    return "".join(without_billing(block.text) for block in blocks if block.type == "text")


def without_billing(text: str) -> str:
    """`text` less the line that tells Anthropic's billing of the client, which means nothing to a model."""
    return text.partition("\n")[2] if text.startswith(_BILLING) else text


def reminder(text: str) -> str:
    """A later system message as it stands in a conversation, in the tags that agents tell their models of."""
    return text if _REMINDER in text else f"{_REMINDER}\n{text}\n{_REMINDER_END}"
