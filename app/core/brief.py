"""What is told of an error: short, and without what only this process knows."""

import re

ERROR_BYTES = 1024
"""The most that an error's text may take, which often quotes what the client sent."""

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{6,}")
"""What Python writes of an object that has no better words for itself."""


def brief(text: str, limit_bytes: int = ERROR_BYTES) -> str:
    """`text` without addresses; of a long one both ends, since what is wrong is often said at the end."""
    if len(text) <= 4 * limit_bytes:
        text = _ADDRESS.sub("", text)
        if len(_bytes(text)) <= limit_bytes:
            return text
    mark = f" ... [cut from {len(text)} characters] ... "
    room_bytes = max(0, limit_bytes - len(mark))
    ends = (text[: 2 * limit_bytes], text[-2 * limit_bytes :])
    head, tail = (_bytes(_ADDRESS.sub("", end)) for end in ends)
    back_bytes = room_bytes // 3
    front = head[: room_bytes - back_bytes].decode(errors="ignore")
    return front + mark + tail[len(tail) - back_bytes :].decode(errors="ignore")


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # half a character cannot be encoded
