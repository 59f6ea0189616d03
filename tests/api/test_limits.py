"""Every field at its limit costs little, over it is refused, and grows linearly up to it."""

import re
from collections.abc import Generator
from dataclasses import fields

import httpx
import pytest

from app.core.limits import DEFAULTS, InputLimits
from harness.requests.oversize import CASES, ELSEWHERE, Case, rows
from tests.watched import MIB, Seen, Watched, watched

LOOP_S = 0.5
GROWS_BYTES = 256 * MIB
NOISE_S = 0.3
TEXTS = {
    "small_body_bytes": r"request body is too large: the limit is {most} bytes",
    "json_values": r"request body: at most {most} values, this one has \d+ or more",
    "json_containers": r"request body: at most {most} objects and lists, this one has \d+ or more",
    "nesting": r"options: at most {most} levels of nesting, this request has more",
    "body_bytes": r"request body: at most {most} bytes besides pictures, this request has {more}",
    "text_chars": r"text: at most {most} characters, this request has {more}",
    "stop_chars": r"stop: at most {most} characters together, this request has {more}",
    "tool_bytes": r"tools: at most {most} bytes of JSON, this request has {more}",
    "schema_bytes": r"format: at most {most} bytes of JSON, this request has {more}",
    "template_chars": r"template: at most {most} characters, this request has {more}",
    "choice_chars": r"n: at most {most} characters for all answers, this request has {more}",
    "choices": r"n: at most {most} answers, this request has {more}",
    "stop_tokens": r"stop_token_ids: at most {most}, this request has {more}",
    "regex_chars": r"guided_regex: at most {most} characters, this request has {more}",
    "guided_chars": r"guided_choice: at most {most} characters together, this request has {more}",
    "guided_choices": r"guided_choice: at most {most}, this request has {more}",
    "variable_bytes": r"chat_template_kwargs: at most {most} bytes of JSON, this request has {more}",
    "embed_inputs": r"input: at most {most}, this request has {more}",
}
"""What a client is told, for rows that are not called as their field is."""
SCRIPTED = [case for case in CASES if not case.engine]


@pytest.fixture(scope="module")
def server() -> Generator[Watched]:
    with watched() as server:
        yield server


def sent(server: Watched, case: Case, count: int) -> tuple[httpx.Response, Seen]:
    body = case.build(count)
    server.seen()
    return server.client.post(case.path, content=body), server.seen()


def test_every_row_has_its_request() -> None:
    assert {case.row for case in CASES} | set(ELSEWHERE) == rows()
    assert all(row.metadata["answer"] and row.metadata["where"] for row in fields(InputLimits))


@pytest.mark.parametrize("case", SCRIPTED, ids=lambda case: case.row)
def test_a_field_at_its_limit_is_served_and_costs_little(server: Watched, case: Case) -> None:
    """F1, F4, F7, F8, F14, F15, F16: for every row, and with twice as much taking about twice as long."""
    most = getattr(DEFAULTS, case.row)
    _, half = sent(server, case, most // 2)
    answer, seen = sent(server, case, most)
    assert answer.status_code == 200, answer.text[:300]
    assert seen.callback_s < LOOP_S
    assert seen.grown_bytes < GROWS_BYTES
    assert seen.cpu_s < 3 * half.cpu_s + NOISE_S


@pytest.mark.parametrize("case", SCRIPTED, ids=lambda case: case.row)
def test_a_field_over_its_limit_is_refused(server: Watched, case: Case) -> None:
    most = getattr(DEFAULTS, case.row)
    answer, seen = sent(server, case, most + 1)
    text = TEXTS.get(case.row, "{field}: at most {most}, this request has {more}")
    wanted = text.format(field=case.row, most=most, more=most + 1)
    error = answer.json()["error"]
    assert re.fullmatch(wanted, error if isinstance(error, str) else error["message"])
    assert answer.status_code == (413 if case.row == "small_body_bytes" else 400)
    assert seen.callback_s < LOOP_S
