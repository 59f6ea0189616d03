"""One report of several runs, side by side."""

from pathlib import Path

import pytest

from loadtest import report, thresholds
from loadtest.plots import plots
from loadtest.samples import Crowd, Run, Sample, load, save

pytestmark = pytest.mark.row("C7")


def made(name: str, ttft_s: float, failed: int = 0) -> Run:
    """Two users for 10 s, then four for 10 s: 40 answers of 11 tokens, and failed ones."""
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
            )
        )
    run.crowds += [Crowd(1000, 2), Crowd(1010, 4), Crowd(1021, 0)]
    return run


def test_runs_come_back_from_their_folder_as_they_were(tmp_path: Path) -> None:
    run = made("one", 0.25, failed=2)
    save(run, tmp_path / "deep" / "folder")
    assert load(tmp_path / "deep" / "folder") == run


def test_figures_side_by_side() -> None:
    table = {row[0]: row[1:] for row in report.figures([made("one", 0.25), made("two", 0.5, failed=2)])}
    assert table[""] == ["one", "two"]
    assert table["chat: requests"] == ["40", "42"]
    assert table["chat: failed"] == ["0", "2"]
    assert table["chat: time to first token, ms, p50"] == ["250", "500"]
    assert table["chat: time per output token, ms, p99"] == ["100", "100"]
    assert table["all: output tokens"] == ["440", "440"]
    assert table["output tokens/s of all together"] == ["21.2", "20"]
    assert not any(name.startswith("embed") for name in table)


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
    assert "errors&lt;=0" in page
    assert "&lt;cut&gt;" in page
    assert "<cut>" not in page
    assert len(list(tmp_path.glob("*.svg"))) == 6


def test_a_run_of_nothing_still_has_a_page() -> None:
    assert "<h1>" in report.html([Run({"name": "none"})])


def test_markdown() -> None:
    assert report.markdown([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | ---: |\n| x | 1 |"
