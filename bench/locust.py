"""How many streamed chunks a second one locust process reads, judges and counts.

Run it with `python -m bench.locust`. The server is Caravan over the fake engine, in a process of its own. It
writes a line a token, either as fast as it can or, as a model would, one every few milliseconds to each user;
then a user that is late shows in the time per output token that locust measured, and in what of the offered
tokens arrived.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.servers import NAME, cpu_seconds, serving
from harness.ports import free_port
from harness.process import wait_ready
from harness.report import machine_lines, write_section
from loadtest.samples import Run, load
from loadtest.thresholds import quantile, throughput, values

MARK = "<!-- bench:locust -->"
SERVE = "{{python}} -m bench.locust --serve {{port}} --delay {delay}"
LEAST = 5000
"""Chunks a second to reach."""
TOKENS = 200
FAST_USERS = 16


def measure(users: int, delay_s: float, seconds: int) -> tuple[Run, dict[str, float]]:
    """A run of one locust process, and the cores that it and the server took meanwhile."""
    port = free_port()
    with TemporaryDirectory() as folder, serving(SERVE.format(delay=delay_s), Path(), {}, port) as server:
        wait_ready(f"http://127.0.0.1:{port}", server)
        command = (
            f"{sys.executable} -m locust -f loadtest/locustfile.py --headless --only-summary --users {users} "
            f"--run-time {seconds} --stop-timeout 30 --host http://127.0.0.1:{port} --model {NAME} "
            f"--mix generate --lengths 32/{TOKENS} --results {folder}"
        )
        served_s, start = cpu_seconds(server), time.monotonic()
        locust = subprocess.Popen(
            shlex.split(command), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
        )
        asked_s = 0.0
        while locust.poll() is None:
            try:
                asked_s = cpu_seconds(psutil.Process(locust.pid))
            except psutil.Error:
                break
            time.sleep(0.5)
        took_s = time.monotonic() - start
        output, _ = locust.communicate()
        if locust.returncode:
            raise RuntimeError(output[-4000:])
        cores = {"locust": asked_s / took_s, "the server": (cpu_seconds(server) - served_s) / took_s}
        return load(Path(folder)), cores


def rows(run: Run, cores: dict[str, float], users: int, delay_s: float) -> dict[str, str]:
    tpot = values(run.samples, "tpot")
    offered = users / delay_s if delay_s else 0.0
    return {
        "users": f"{users}",
        "chunks/s": f"{throughput(run):,.0f}",
        "chunks/s that the engine offers at most": f"{offered:,.0f}" if offered else "as many as are taken",
        "whole answers": f"{len(run.samples):,}",
        "time per output token, median, ms": f"{quantile(tpot, 0.5):.2f}",
        "time per output token, p99, ms": f"{quantile(tpot, 0.99):.2f}",
        "CPU of locust, cores": f"{cores['locust']:.2f}",
        "CPU of the server, cores": f"{cores['the server']:.2f}",
    }


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.locust", description=__doc__)
    parser.add_argument("--users", type=int, default=64, help="users in the paced run")
    parser.add_argument(
        "--delay", type=float, default=0.01, help="seconds from token to token in the paced run"
    )
    parser.add_argument("--seconds", type=int, default=20, help="length of each run")
    parser.add_argument("--markdown", type=Path, default=Path("BENCHMARKS.md"), help="where the table goes")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    plan = options()
    if plan.serve:
        from bench.fake_server import serve

        serve(plan.serve, [" word"] * TOKENS, delay_s=plan.delay, preload=False)
        return
    described = machine_lines()
    paced = measure(plan.users, plan.delay, plan.seconds)
    fast = measure(FAST_USERS, 0.0, plan.seconds)
    left, right = rows(*paced, plan.users, plan.delay), rows(*fast, FAST_USERS, 0.0)
    lines = [f"| | a token every {plan.delay * 1e3:g} ms | as fast as can be |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {value} | {right[name]} |" for name, value in left.items()]
    text = "\n\n".join([described, f"Answers of {TOKENS} tokens, {plan.seconds} s each:", "\n".join(lines)])
    print(text)
    write_section(plan.markdown, text, MARK)
    if max(throughput(paced[0]), throughput(fast[0])) < LEAST:
        sys.exit(f"one locust process reads less than {LEAST:,} chunks/s")


if __name__ == "__main__":
    main()
