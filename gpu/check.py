"""What only a GPU can prove, in less than ten minutes: `python -m gpu.check`, or `make gpu-check`.

Each step is a process with a deadline, and the file of results is written after each (docs/gpu.md tells
what a step proves). Without a first token in two minutes it stops. What did not fit into the time is run by
`--only STEP ...`, which keeps the other rows of the file. A dry run goes the same way on a CPU, with small
models and short durations; what needs a GPU is skipped and says so. `--write-reference` keeps what a CPU
answers, to which a GPU's answers are held.
"""

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from app.engine.vllm.process.environment import compile_caches
from gpu.driver import FIRST_S, TOTAL_S, Findings, Plan, Row, Step, run

REFERENCE = Path(__file__).with_name("reference.json")
"""What the test models answer on a CPU."""
STEPS = (
    Step("first_token", 110, "answers are the CPU's, by the model runner of GPUs", essential="first_token_s"),
    Step("versions", 50, "an engine's process may be forked from one that has imported vLLM, or not"),
    Step("throughput", 210, "tokens/s and front-end CPU beside vLLM's own server"),
    Step("windowed", 80, "repeat_last_n and typical_p choose the CPU's tokens, and what they cost"),
    Step("two_models", 80, "two chat models and an embedder share a device; what /api/ps tells"),
    Step("sleep", 90, "times of sleep and wake, and what stays taken"),
    Step("asleep", 45, "models take turns asleep: what a wake takes, and the same answers after it"),
    Step("swap", 90, "models that do not fit together take turns"),
    Step("cold_start", 130, "phases of a start with and without caches, bytes beside those predicted"),
    Step("deaths", 50, "an engine is replaced, and a server killed leaves nothing"),
    Step("lora", 60, "base and adapters in one batch answer as each alone; what room for adapters costs"),
    Step("leavers", 40, "clients that leave take nothing with them"),
    Step("fp8", 90, "weights become 8-bit ones at a load"),
    Step("speculation", 50, "speculation changes no answer"),
    Step("batch_limits", 60, "what the limits of a batch are worth"),
    Step("front_ends", 150, "two front ends answer as one process, and what they send more than it"),
)
"""What is worth most comes first, for the minutes may end before the steps do: their limits come to more."""
_LEFT_MIB, _SETTLE_S = 256.0, 20.0
"""What a driver may keep of an engine that has ended, and how long it may take to have the rest back."""
_SLOW = 4
"""A dry run's deadlines, as a multiple: it is not about times, and machines without a GPU are slow."""


def functions() -> dict[str, Callable[[Any], None]]:
    """What each step does. It imports the benchmarks, which the driver does without."""
    from gpu import load, steps

    names = ("cold_start", "throughput", "batch_limits", "sleep", "fp8", "front_ends")
    return steps.STEPS | {name: getattr(load, name) for name in names}


def one(arguments: argparse.Namespace) -> None:
    """Run a step in this process, and say in its file how it ended."""
    from gpu.context import Context, Skipped

    find = Findings(arguments.out)
    reference = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    context = Context(not arguments.dry_run, arguments.cache, arguments.scratch, reference, find)
    # The digests of files that several steps serve are kept there: one is as large as 8 billion parameters.
    os.environ["CARAVAN_CACHE_DIR"] = str(context.scratch / "caravan")
    # Both servers' compilers: what one step has had compiled the next one finds.
    os.environ |= compile_caches(context.scratch / "compiled")
    try:
        functions()[arguments.step](context)
    except Skipped as error:
        find.end("skipped", str(error))
    except Exception as error:
        traceback.print_exc()
        find.end("failed", f"{type(error).__name__}: {error}"[:1000])
    else:
        find.end("ok")


def every(arguments: argparse.Namespace) -> list[Row]:
    """Run the steps that are asked for, each in a process."""
    from gpu.context import devices, until, used_mib
    from gpu.steps import SENTENCES
    from harness.models.build import build, build_lora
    from harness.report import machine

    chosen = [step for step in STEPS if not arguments.only or step.name in arguments.only]
    slow, limits = (_SLOW, (3600.0, 3600.0)) if arguments.dry_run else (1, (TOTAL_S, FIRST_S))
    for kind in ("qwen3", "llama"):  # trained before the minutes begin, where they are not there yet
        build(kind, arguments.cache)
    for sentence in SENTENCES.values():
        build_lora(sentence, arguments.cache)
    before_mib = used_mib()

    def settle() -> str:
        """Wait until the devices are as empty as they were at first."""
        try:
            until(lambda: used_mib() <= before_mib + _LEFT_MIB, _SETTLE_S)
        except TimeoutError:
            return f"{used_mib() - before_mib:.0f} MiB were taken when it began"
        return ""

    with tempfile.TemporaryDirectory() as folder:
        scratch = (arguments.scratch or Path(folder) / "all").absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            [Step(each.name, each.limit_s * slow, each.proves, each.essential) for each in chosen],
            lambda step, file: [
                *(sys.executable, "-m", "gpu.check", "--step", step.name, "--out", str(file)),
                *("--cache", str(arguments.cache), "--scratch", str(scratch)),
                *(["--dry-run"] if arguments.dry_run else []),
            ],
            arguments.results,
            Path(folder),
            *limits,
            told=lambda row: print(f"{row.step}: {row.state}, {row.seconds} s {row.reason}", flush=True),
            settle=settle,
            kept=kept_rows(arguments.results, {each.name for each in chosen}),
        )
        return run(plan, {"dry_run": arguments.dry_run, "machine": machine(), "devices": devices()})


def kept_rows(results: Path, chosen: Collection[str]) -> list[dict[str, Any]]:
    """The rows of an earlier run that this one does not write anew."""
    if not results.exists():
        return []
    return [row for row in json.loads(results.read_text())["steps"] if row["step"] not in chosen]


def keep_reference(rows: list[Row]) -> None:
    found = {row.step: row.found for row in rows}
    kept = {"logprobs": found["first_token"]["logprobs"], "windowed": found["windowed"]["texts"]}
    REFERENCE.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU: small models, short durations")
    names = [step.name for step in STEPS]
    parser.add_argument(
        "--only",
        nargs="+",
        default=(),
        choices=names,
        metavar="STEP",
        help=f"these alone: {', '.join(names)}",
    )
    parser.add_argument("--results", type=Path, default=Path("gpu-results.json"))
    parser.add_argument("--cache", type=Path, default=Path(".cache") / "models", help="test models")
    parser.add_argument("--scratch", type=Path, help="keeps what compilers make for a next run")
    parser.add_argument("--write-reference", action="store_true", help="keep a dry run's answers")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.cache = arguments.cache.absolute()
    if arguments.step:
        one(arguments)
        return
    rows = every(arguments)
    if arguments.write_reference:
        keep_reference(rows)
    if bad := [row.step for row in rows if row.state not in ("ok", "skipped")]:
        sys.exit(f"not ok: {', '.join(bad)}; {arguments.results} has what they wrote")


if __name__ == "__main__":
    main()
