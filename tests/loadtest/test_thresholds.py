"""What decides whether a run passed."""

import pytest

from loadtest import thresholds
from loadtest.samples import Run, Sample

pytestmark = pytest.mark.row("C7")


def sample(
    kind: str = "chat", ttft_s: float = 0.1, tokens: int = 11, tpot_s: float = 0.01, error: str = ""
) -> Sample:
    first = 1000 + ttft_s
    if error:
        return Sample(kind, 1000.0, 0.0, first, 0, 0, error)
    return Sample(kind, 1000.0, first, first + tpot_s * (tokens - 1), 5, tokens, "")


RUN = Run(samples=[sample(ttft_s=0.001 * number) for number in range(1, 101)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ttft.p95<=95", 95),
        ("ttft.p50<=1", 50),
        ("ttft.mean<=1", 50.5),
        ("ttft.max>=1", 100),
        ("ttft.p99.5<=1", 100),
        ("chat:ttft.p1<=1", 1),
        ("tpot.p99<=80", 10),
        ("total.max<=1", 200),
        ("speed.p50>=1", 11 / 0.151),
        ("errors<=0.01", 0),
        ("requests>=100", 100),
        ("embed:requests>=1", 0),
        ("throughput >= 100", 1100 / 0.2),
    ],
)
def test_what_is_measured(text: str, value: float) -> None:
    assert thresholds.parse(text).measured(RUN) == pytest.approx(value, rel=1e-6)


def test_failures_have_no_times_and_count_as_errors() -> None:
    run = Run(samples=[*RUN.samples, *(sample(ttft_s=50, error="cut") for _ in range(25))])
    held = {each.threshold.text: each.holds for each in thresholds.judge(run, thresholds.parse_all(
        "errors<=0.2, errors<=0.19, ttft.max<=100.1, total.max<=200.1"
    ))}  # fmt: skip
    assert held == {
        "errors<=0.2": True,
        "errors<=0.19": False,
        "ttft.max<=100.1": True,
        "total.max<=200.1": True,
    }


def test_nothing_measured_is_not_good_enough() -> None:
    assert not any(
        each.holds
        for each in thresholds.judge(
            Run(), thresholds.parse_all("errors<=1,ttft.p95<=9e9".replace("9e9", "900"))
        )
    )
    embeds = Run(samples=[Sample("embed", 1.0, 0.0, 2.0, 5, 0, "")])
    (verdict,) = thresholds.judge(embeds, [thresholds.parse("ttft.p95<=100")])
    assert (verdict.value, verdict.holds) == (None, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ttft<=5",
        "errors.p95<=1",
        "speed.p500>=1",
        "ttft.p95<5",
        "joke.p95<=5",
        "tea:ttft.p95<=5",
        "ttft.p95<=x",
    ],
)
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(ValueError, match=r"threshold is|no metric|requests are|statistic"):
        thresholds.parse(text)


def test_the_table_names_what_was_missed() -> None:
    text = thresholds.table(
        thresholds.judge(RUN, thresholds.parse_all("errors<=0,ttft.p95<=50,embed:ttft.max<=1"))
    )
    assert text.splitlines()[1:] == [
        "errors<=0          0         ok",
        "ttft.p95<=50       95        MISSED",
        "embed:ttft.max<=1  nothing   MISSED",
    ]
