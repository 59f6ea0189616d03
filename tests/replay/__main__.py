"""`python -m tests.replay SEED` tells a history; `--minutes` or `--seeds` looks for one with a fault."""

import argparse
import sys
import time

from tests.replay.history import replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="the history to tell")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to look for faults")
    parser.add_argument("--first", type=int, default=0, help="the seed to begin with")
    options = parser.parse_args()
    if options.seed is not None:
        told = replay(options.seed)
        print(told)
        return int(bool(told.faults))
    return _search(options.first, options.minutes * 60)


def _search(first: int, seconds: float) -> int:
    """Replay seed after seed; the first that fails is told and ends it."""
    begun, told = time.monotonic(), replay(first)
    while not told.faults and time.monotonic() - begun < seconds:
        told = replay(told.plan.seed + 1)
    count, spent_s = told.plan.seed - first + 1, time.monotonic() - begun
    print(f"{count} histories, {60 * count / spent_s:.0f} a minute", file=sys.stderr)
    if told.faults:
        print(f"{told}\npython -m tests.replay {told.plan.seed}")
    return int(bool(told.faults))


if __name__ == "__main__":
    sys.exit(main())
