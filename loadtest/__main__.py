"""Load tests from start to report: `python -m loadtest [--target NAME=URL]... [options of locust and ours]`.

Without a target it starts `caravan serve` with the bundled model and tests that, gently. Each target is
tested in turn by a locust of its own; what it found goes to a folder below `--out`, and one report shows all
of them. The exit status is 0 only if all thresholds hold everywhere.
"""

import argparse
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag

from loadtest import report
from loadtest.apis import APIS

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
STOP_S = 120
"""Longest time that answers under way at the end may take."""
GENTLE = (
    "--users=8",
    "--run-time=60",
    "--shape=step",
    "--scale=0.1",
    "--thresholds=errors<=0,ttft.p95<=5000",
)
"""What the bundled model on a few cores is asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to test; an empty `model` is what the options say."""

    name: str
    api: str
    url: str
    model: str

    def arguments(self) -> list[str]:
        given = [f"--host={self.url}", f"--api={self.api}", f"--name={self.name}"]
        return given + ([f"--model={self.model}"] if self.model else [])


def parse_target(text: str) -> Target:
    """`NAME=[API+]URL[#MODEL]`, several APIs with commas; `ValueError` for anything else."""
    name, sign, rest = text.partition("=")
    if not sign or "://" in name:
        name, rest = "server", text
    api, plus, url = rest.partition("+")
    if not plus or any(each not in APIS for each in api.split(",")):
        api, url = "ollama", rest
    url, model = urldefrag(url)
    if not url.startswith(("http://", "https://")) or not name:
        raise ValueError(f"a target is NAME=[API+]URL[#MODEL], not {text!r}")
    return Target(name, api, url.rstrip("/"), model)


@contextmanager
def bundled() -> Generator[Target]:
    """A server of this project with the model that it brings."""
    from harness.server import serving_bundled  # the image of the load tests lacks it

    with serving_bundled() as server:
        yield Target("caravan", "ollama", server.url, "")


def run(target: Target, out: Path, given: Sequence[str]) -> int:
    """Locust's exit status."""
    folder = out / target.name
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
            *(f"--results={folder}", f"--html={folder / 'locust.html'}", f"--csv={folder / 'locust'}"),
            *(f"--stop-timeout={STOP_S}", *target.arguments(), *given),
        ],
        check=False,
    ).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--target", action="append", type=parse_target, default=[], help="NAME=[API,...+]URL[#MODEL]"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/loadtest"), help="folder for results: %(default)s"
    )
    asked, given = parser.parse_known_args(arguments)
    targets: list[Target] = asked.target
    if targets:
        status = max(run(target, asked.out, given) for target in targets)
    else:
        with bundled() as target:
            targets = [target]
            status = run(target, asked.out, [*GENTLE, *given])
    folders = [asked.out / target.name for target in targets]
    if all((folder / "run.json").exists() for folder in folders):
        report.main([*map(str, folders), "--out", str(asked.out / "report.html")])
    return status


if __name__ == "__main__":
    sys.exit(main())
