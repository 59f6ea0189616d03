"""Reads an answer as it comes and notes when its first text did.

Nothing is parsed while an answer is under way, so that one locust process keeps up with many streams.
"""

import re
import time
from dataclasses import dataclass

import gevent.socket
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPParseError

from loadtest.apis.base import BadAnswer

_ERROR_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that came to its end. Times are seconds of `time.perf_counter`; `first_s` is 0 where no line has
    text."""

    body: bytes
    lines: int
    began_s: float
    first_s: float
    ended_s: float


def receive(
    client: HTTPClient, path: str, payload: bytes, headers: dict[str, str], has_text: re.Pattern[bytes]
) -> Answer:
    """POST and read to the end; `BadAnswer` for any status but 200 and for a connection that breaks or is
    silent."""
    began_s = time.perf_counter()
    first_s = 0.0
    lines: list[bytes] = []
    try:
        response = client.request("POST", path, payload, headers)
        readline, search = response.readline, has_text.search
        while not first_s and (line := readline(b"\n")):
            lines.append(line)
            if search(line):
                first_s = time.perf_counter()
        while line := readline(b"\n"):
            lines.append(line)
        ended_s = time.perf_counter()
        rest = response.read()
    except gevent.socket.timeout:
        raise BadAnswer("silent for longer than --timeout") from None
    except (HTTPParseError, OSError) as error:
        cut = "cut in the middle" if lines else "no answer"
        raise BadAnswer(f"{cut}: {error}") from None
    body = b"".join(lines) + rest
    if response.status_code != 200:
        text = body[:_ERROR_SHOWN].decode(errors="replace").strip()
        raise BadAnswer(f"status {response.status_code}: {text}")
    return Answer(body, len(lines), began_s, first_s, ended_s)
