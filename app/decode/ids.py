"""Ids of tool calls whose format has none."""

import secrets
import string

_ALPHABET = string.ascii_lowercase + string.digits


def call_id() -> str:
    """`call_` and 8 characters of `[a-z0-9]` (docs/reference 8.2)."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
