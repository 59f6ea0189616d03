"""Failures are forgiven only while something was done to the server, and what has grown is told."""

from typing import Any

from chaos.answers import Answer, Outcome, Verdict
from chaos.requests import Request
from chaos.tally import Tally, Window, shown
from chaos.vitals import Vitals, growth

CHAT = Request("chat", "/api/chat")
KILL = Window("kill", 10.0, 20.0, told_s=2.0)


def failed(began: float, ended: float) -> Tally:
    tally = Tally()
    tally.add(CHAT, Answer(500, began=began, ended=ended), Verdict(Outcome.FAILED, "500 it died"))
    return tally


def test_a_failure_within_a_window_is_explained() -> None:
    assert failed(9.0, 11.0).problems([KILL]) == []
    assert failed(15.0, 19.0).problems([KILL]) == []
    assert failed(19.9, 25.0).problems([KILL]) == []


def test_a_failure_out_of_every_window_is_not() -> None:
    for began, ended in ((1.0, 9.9), (20.1, 21.0)):
        assert failed(began, ended).problems([KILL]) == [
            f"failed without a cause: chat: 500 it died, {ended - began:.1f} s after it was sent"
        ]


def test_a_failure_that_is_told_late() -> None:
    assert failed(9.0, 12.1).problems([KILL]) == ["told too late: chat: 500 it died, 3.1 s after it was sent"]
    assert failed(9.0, 12.1).problems([Window("no promise", 10.0, 20.0)]) == []


def test_the_table_counts_every_outcome() -> None:
    tally = failed(0.0, 1.0)
    tally.add(CHAT, Answer(), Verdict(Outcome.WHOLE))
    tally.add(CHAT, Answer(), Verdict(Outcome.LOST, "nothing came"))
    assert tally.table().splitlines()[2:] == [
        "| chat | 3 | 1 | 1 | 0 | 1 |",
        "| **all** | 3 | 1 | 1 | 0 | 1 |",
    ]
    assert "lost: chat: nothing came, 0.0 s after it was sent" in tally.problems([])


def test_many_problems_are_cut_short() -> None:
    assert shown(["x"] * 50).splitlines()[-1] == "- and 10 more"


def test_growth() -> None:
    def vitals(server: float, **more: Any) -> Vitals:
        return Vitals(
            {"server": server}, **{"descriptors": 10, "threads": 5, "processes": 4, "tasks": 3} | more
        )

    grown = growth(vitals(100), vitals(106, tasks=6))
    assert round(grown["memory of the server, MiB"], 4) == 0.06
    assert grown["asyncio tasks of the server"] == 1
    assert grown["open descriptors of the server"] == 0
