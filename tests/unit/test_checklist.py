import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.ollama.codec import to_chat
from app.catalogue.library import Library
from app.core.events import ToolCall
from app.core.model import Capability, Model, ModelName, ModelSpec
from app.core.request import ChatPrompt, Generation, Load
from app.engine.base import Engine
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.settings.server import read_settings
from scripts import compat
from scripts.checklist import DEPARTURES, POINTS, departures, in_scope, ranges
from scripts.generate import proofs
from tests.unit.garage import A

TESTS = Path(__file__).parents[1]
TOOLS: tuple[Capability, ...] = ("completion", "tools")


def report(*, exit_status: int = 0, **outcomes: str) -> dict[str, Any]:
    """A report in which every point in scope passed, but for `p<number>=outcome`."""
    points: dict[str, Any] = {}
    for point in in_scope():
        outcome = outcomes.get(f"p{point.number}", "passed")
        tests = {} if outcome == "none" else {f"tests/unit/test_x.py::test_{point.number}[a]": outcome}
        points[str(point.number)] = {"passed": outcome == "passed", "tests": tests}
    return {"exit_status": exit_status, "points": points}


def status_of(document: dict[str, Any], number: int) -> str:
    return next(row.status for row in compat.rows(document) if row.point.number == number)


async def ask(method: str, path: str, body: Any = None, *models: Model, **settings: Any) -> httpx.Response:
    """From a server of `models` in which every engine calls one tool."""
    call = Reply(("Now.",), events=((), (ToolCall(0, "call_1", "now", {}),)))

    async def start(_: Model) -> Engine:
        return FakeEngine(default=call)

    app = build_app(read_settings(**settings), Library(models), start)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return await client.request(method, path, json=body)


def test_the_points_are_those_of_the_reference() -> None:
    assert list(POINTS) == list(range(1, 238))
    assert [point.number for point in in_scope()] == [*range(1, 238)]
    assert all(point.title for point in in_scope())


def test_only_points_in_scope_depart() -> None:
    assert set(DEPARTURES) <= {point.number for point in in_scope()}


def test_every_departure_is_pinned_by_a_test() -> None:
    assert set(DEPARTURES) - set(proofs(TESTS)) == set()


def test_departures_for_one_reason_are_one_row() -> None:
    rows = dict(departures())
    assert "points 80, 89-90, 108-112, 119" in rows
    assert "point 145" in rows
    assert "section 17" in rows


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([1], "1"), ([3, 1, 2], "1-3"), ([1, 3, 4, 9], "1, 3-4, 9"), ([1, 2, 5, 6], "1-2, 5-6")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.point(138)
@pytest.mark.row("B2")
@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([{"role": "user", "content": "U"}], ["system", "user"]),
        ([{"role": "System", "content": "S"}, {"role": "user", "content": "U"}], ["system", "user"]),
        (
            [{"role": "user", "content": "U"}, {"role": "system", "content": "S"}],
            ["system", "user", "system"],
        ),
        ([], []),
    ],
)
def test_a_system_field_is_the_prompt_of_a_chat_that_begins_with_none(
    messages: list[dict[str, str]], roles: list[str]
) -> None:
    body = json.dumps({"model": "m", "system": "TOP", "messages": messages}).encode()
    request = to_chat(body, 0).request
    generation = request.wanted if isinstance(request, Load) else request
    assert isinstance(generation, Generation)
    asked = generation.prompt
    assert isinstance(asked, ChatPrompt)
    assert [message.role for message in asked.messages] == roles
    own = not messages or messages[0]["role"] == "System"
    assert [message.text for message in asked.messages].count("TOP") == (0 if own else 1)


@pytest.mark.point(145)
@pytest.mark.row("A8")
@pytest.mark.parametrize(
    ("settings", "reason"), [({}, "tool_calls"), ({"tool_calls_done_reason": "stop"}, "stop")]
)
async def test_the_reason_after_a_tool_call_is_a_setting(settings: dict[str, str], reason: str) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    body = {"model": "tool", "messages": [{"role": "user", "content": "?"}], "tools": [tool], "stream": False}
    model = replace(A, spec=ModelSpec(ModelName("tool"), "x"), facts=replace(A.facts, capabilities=TOOLS))
    answer = (await ask("POST", "/api/chat", body, model, **settings)).json()
    assert answer["done_reason"] == reason
    assert answer["message"]["tool_calls"][0]["id"] == "call_1"


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    """Where a run of pytest with our plugin can be tried."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nmarkers = point\n")
    return pytester


def test_a_report_says_which_points_the_tests_proved(run: pytest.Pytester) -> None:
    run.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.point(1)

        @pytest.mark.point(2)
        @pytest.mark.parametrize("good", [True, False])
        def test_half(good):
            assert good

        @pytest.mark.point(3, 4)
        def test_good(): pass

        @pytest.mark.point(4, 5)
        @pytest.mark.skip
        def test_skipped(): pass

        @pytest.fixture
        def broken():
            yield
            raise ValueError

        @pytest.mark.point(6)
        def test_broken_afterwards(broken): pass
        """
    )
    run.runpytest_inprocess("-p", "tests.points", "--points-report", "report.json")
    found = json.loads((run.path / "report.json").read_text())
    assert found["exit_status"] == pytest.ExitCode.TESTS_FAILED
    passed = {number: point["passed"] for number, point in found["points"].items()}
    assert passed == {"1": False, "2": False, "3": True, "4": True, "5": False, "6": False}
    assert [name.partition("::")[2] for name in found["points"]["2"]["tests"]] == [
        "test_half[True]",
        "test_half[False]",
    ]
    assert status_of(found, 2) == status_of(found, 6) == "failed"
    assert status_of(found, 5) == status_of(found, 7) == "unproven"


@pytest.mark.parametrize("number", ["0", "238", "'1'"])
def test_a_number_that_is_no_point_in_scope_stops_the_run(number: str, run: pytest.Pytester) -> None:
    run.makepyfile(f"import pytest\n@pytest.mark.point({number})\ndef test_x(): pass\n")
    result = run.runpytest_inprocess("-p", "tests.points")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_x: the checklist has no point {number} in scope*"])


def test_a_point_is_passed_or_departed_or_the_run_failed() -> None:
    good = report()
    assert (status_of(good, 1), status_of(good, 80), status_of(good, 237)) == (
        "passed",
        "departed",
        "passed",
    )
    assert compat.succeeded(good, compat.rows(good))
    for bad in (report(p1="failed"), report(p1="none"), report(p80="none"), report(exit_status=1)):
        assert not compat.succeeded(bad, compat.rows(bad))


def test_the_table_tells_why_and_by_which_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report(p2="none")))
    assert compat.main(["--report", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "test_80" in printed
    assert "[a]" not in printed
    assert DEPARTURES[80] in printed
    assert "Transport: 29 passed, 2 departed (12, 18), 1 unproven (2)" in printed
    assert "keep_alive: 10 passed" in printed
    assert "Official command line: 1 passed" in printed


def test_no_report_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compat.main(["--report", str(tmp_path / "none.json")]) == 1
    assert "the tests did not run" in capsys.readouterr().err


def test_everything_else_is_passed_on_to_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "REPORT", tmp_path / "report.json")
    assert compat.main(["-q", "-k", "no_such_test_anywhere", str(TESTS / "unit" / "test_names.py")]) == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == {"exit_status": pytest.ExitCode.NO_TESTS_COLLECTED, "points": {}}
