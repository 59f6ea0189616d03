"""A load test of the bundled model with locust, as `make loadtest` does it but longer.

Run it with `python -m bench.load`. The server and its users share the cores of one machine. The table, the
verdict and the plots go to BENCHMARKS.md.
"""

import argparse
import sys
from pathlib import Path

from harness.report import machine_lines, write_section
from loadtest.__main__ import bundled, run
from loadtest.plots import plots
from loadtest.report import figures, markdown, verdicts
from loadtest.samples import load

MARK = "<!-- bench:load -->"
IMAGES = Path("docs/images")
SHOWN = ("ttft-time", "throughput-time", "ttft-users", "tpot-users")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--users", type=int, default=16, help="on the last step")
    parser.add_argument("--seconds", type=int, default=240, help="length of the run")
    parser.add_argument("--out", type=Path, default=Path("build/loadtest"), help="folder for results")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    return parser.parse_args()


def main() -> None:
    plan = options()
    described = machine_lines()
    given = ["--shape=step", "--scale=0.25", f"--users={plan.users}", f"--run-time={plan.seconds}"]
    given.append("--thresholds=errors<=0,ttft.p95<=10000,tpot.p95<=1000")
    with bundled() as target:
        status = run(target, plan.out, given)
    found = load(plan.out / target.name)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for plot in plots([found]):
        if plot.name in SHOWN:
            (IMAGES / f"loadtest-{plot.name}.svg").write_text(plot.svg, "utf-8")
    text = "\n\n".join(
        [
            described,
            f"`python -m loadtest {' '.join(given)}` on the bundled model:",
            markdown(figures([found])),
            markdown(verdicts([found])),
            *(f"![{name}](docs/images/loadtest-{name}.svg)" for name in SHOWN),
        ]
    )
    print(text)
    write_section(plan.markdown, text, MARK)
    sys.exit(status)


if __name__ == "__main__":
    main()
