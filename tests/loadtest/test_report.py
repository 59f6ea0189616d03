"""One report of several runs, side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtest import report, thresholds
from loadtest.plots import plots
from loadtest.samples import Crowd, Run, Sample, load, save

pytestmark = pytest.mark.row("C7")


def made(name: str, ttft_s: float, failed: int = 0, apis: Sequence[str] = ("ollama",)) -> Run:
    """Two users for 10 s, then four for 10 s: 40 answers of 11 tokens and failed ones, APIs in turns."""
    run = Run({"name": name, "host": "http://<host>"})
    for number in range(40 + failed):
        began = 1000 + number / 2
        first = began + ttft_s
        bad = number >= 40
        run.samples.append(
            Sample(
                "chat",
                began,
                0.0 if bad else first,
                first + 1,
                0 if bad else 7,
                0 if bad else 11,
                "<cut>" * bad,
                apis[number % len(apis)],
            )
        )
    run.crowds += [Crowd(1000, 2), Crowd(1010, 4), Crowd(1021, 0)]
    return run


def test_runs_come_back_from_their_folder_as_they_were(tmp_path: Path) -> None:
    run = made("one", 0.25, failed=2)
    save(run, tmp_path / "deep" / "folder")
    assert load(tmp_path / "deep" / "folder") == run


def rows(*runs: Run) -> list[dict[str, str]]:
    head, *found = report.figures(runs)
    return [dict(zip(head, row, strict=True)) for row in found]


def test_kinds_are_rows_and_measures_columns() -> None:
    run = made("one", 0.25)
    run.samples.append(Sample("embed", 1000, 0.0, 1001, 7, 0, "", "ollama"))
    every, chat, embed = rows(run)
    assert [row["requests"] for row in (every, chat, embed)] == ["all", "chat", "embed"]
    assert (every["count"], chat["count"], embed["count"]) == ("41", "40", "1")
    assert "run" not in every
    assert "API" not in rows(made("one", 0.25))[0]
    assert (chat["first token, ms, p50"], embed["first token, ms, p50"]) == ("250", "")


def test_runs_side_by_side() -> None:
    one, two, *chats = rows(made("one", 0.25), made("two", 0.5, failed=2))
    assert [(row["requests"], row["run"]) for row in (one, two, *chats)] == [
        ("all", "one"), ("all", "two"), ("chat", "one"), ("chat", "two"),
    ]  # fmt: skip
    assert [row["count"] for row in chats] == ["40", "42"]
    assert [row["failed"] for row in chats] == ["0", "2"]
    assert [row["first token, ms, p50"] for row in chats] == ["250", "500"]
    assert [row["per output token, ms, p99"] for row in chats] == ["100", "100"]
    assert [row["output tokens"] for row in (one, two)] == ["440", "440"]
    assert [row["tokens/s of all together"] for row in (one, two)] == ["21.2", "20"]


def test_apis_have_rows_of_their_own_where_they_are_several() -> None:
    found = rows(made("one", 0.25, apis=("ollama", "anthropic")))
    assert [(row["requests"], row["API"], row["count"]) for row in found] == [
        ("all", "all", "40"), ("all", "ollama", "20"), ("all", "anthropic", "20"),
        ("chat", "all", "40"), ("chat", "ollama", "20"), ("chat", "anthropic", "20"),
    ]  # fmt: skip


def test_plots_show_every_run_and_its_load() -> None:
    drawn = {
        plot.name: plot.svg for plot in plots([made("one", 0.25), made("two", 0.5), Run({"name": "none"})])
    }
    assert len(drawn) == 6
    for svg in drawn.values():
        assert svg.startswith("<svg")
        assert "one" in svg
        assert "two" in svg
        assert "none</text>" not in svg
    assert "one, p95" in drawn["ttft-users"]
    assert drawn == {plot.name: plot.svg for plot in plots([made("one", 0.25), made("two", 0.5)])}


def test_a_page_with_verdicts_and_failures(tmp_path: Path) -> None:
    run = made("one", 0.25, failed=1)
    run.about["verdicts"] = [
        {"threshold": each.threshold.text, "measured": each.value, "holds": each.holds}
        for each in thresholds.judge(run, thresholds.parse_all("errors<=0,ttft.p95<=300"))
    ]
    save(run, tmp_path / "one")
    save(made("two", 0.5), tmp_path / "two")
    report.main(
        [
            str(tmp_path / "one"),
            str(tmp_path / "two"),
            "--out",
            str(tmp_path / "page.html"),
            "--svg",
            str(tmp_path),
        ]
    )
    page = (tmp_path / "page.html").read_text()
    assert '<td class="missed">missed</td>' in page
    assert 'Load test: <span class="missed">missed</span>' in page
    parts = ("missed</span>", "errors&lt;=0", "<svg", "first token, ms, p50", "&lt;cut&gt;")
    order = [page.index(each) for each in parts]
    assert order == sorted(order), "the verdict, plots, the table, and then what went wrong"
    assert "errors&lt;=0" in page
    assert "&lt;cut&gt;" in page
    assert "<cut>" not in page
    assert len(list(tmp_path.glob("*.svg"))) == 6


def test_a_run_of_nothing_still_has_a_page() -> None:
    assert "<h1>Load test</h1>" in report.html([Run({"name": "none"})])


def test_results_from_before_there_were_apis_are_read(tmp_path: Path) -> None:
    run = made("one", 0.25)
    save(run, tmp_path)
    file = tmp_path / "samples.jsonl"
    lines = [json.dumps(json.loads(line)[:7]) for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    assert {sample.api for sample in load(tmp_path).samples} == {""}


def test_markdown() -> None:
    assert report.markdown([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | ---: |\n| x | 1 |"
