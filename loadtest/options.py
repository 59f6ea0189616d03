"""The options of a load test, on locust's own command line, in its web form or as environment variables."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locust.argument_parser import LocustArgumentParser

from loadtest import mix, thresholds
from loadtest.apis import APIS
from loadtest.lengths import Lengths, distributions
from loadtest.mix import Apis, Mix, parse_apis, parse_mix
from loadtest.questions import Models
from loadtest.shapes import SHAPES
from loadtest.thresholds import Threshold

DEFAULT_RUN_S = 300
_OPTIONS: dict[str, dict[str, Any]] = {
    "api": {
        "default": "ollama",
        "help": f"what the users speak: one of {', '.join(APIS)}, or weights as in ollama=2,anthropic=1",
    },
    "model": {"default": "smollm2:135m", "help": "model that is asked"},
    "embed-model": {"default": "", "help": "model that embeds, if another"},
    "tool-model": {"default": "", "help": "model that is given tools, if another"},
    "key": {"default": "", "help": "API key, sent as Authorization: Bearer", "include_in_web_ui": False},
    "mix": {
        "default": "",
        "help": f"weights of the kinds of request; none means {mix.USUAL}, less what the models cannot do",
    },
    "lengths": {
        "default": "azure-conversation",
        "help": "azure-conversation, azure-code or PROMPT/ANSWER in tokens",
    },
    "scale": {"type": float, "default": 1.0, "help": "times as long as that"},
    "most-prompt": {"type": int, "default": 3072, "help": "longest prompt in tokens"},
    "most-answer": {"type": int, "default": 1024, "help": "longest answer in tokens"},
    "turns": {"type": int, "default": 4, "help": "turns of a chat"},
    "think-time": {
        "type": float,
        "default": 0.0,
        "help": "mean seconds from an answer to the user's next request; 0: none",
    },
    "shape": {"choices": sorted(SHAPES), "default": "soak", "help": "how the number of users goes"},
    "steps": {"type": int, "default": 4, "help": "steps of the stairs; a spike starts from one of them"},
    "timeout": {"type": float, "default": 600.0, "help": "longest silence in an answer, in seconds"},
    "wait": {"type": float, "default": 0.0, "help": "longest time to wait for the server, in seconds"},
    "thresholds": {
        "default": "errors<=0",
        "help": "what decides the exit status; see loadtest/thresholds.py",
    },
    "results": {"default": "", "help": "folder for samples and the outcome; none keeps nothing"},
    "name": {"default": "", "help": "what the report calls this run"},
    "seed": {"type": int, "default": 0, "help": "of lengths and texts"},
}


def add_options(parser: LocustArgumentParser) -> None:
    for name, about in _OPTIONS.items():
        parser.add_argument(f"--{name}", env_var=f"LOADTEST_{name.upper().replace('-', '_')}", **about)


@dataclass(frozen=True, slots=True)
class Plan:
    """The options, read. `mix` is None where it depends on what the models can do."""

    apis: Apis
    models: Models
    headers: dict[str, str]
    mix: Mix | None
    lengths: Lengths
    turns: int
    think_time_s: float
    timeout_s: float
    wait_s: float
    thresholds: list[Threshold]
    results: Path | None
    about: dict[str, Any]
    seed: int


def read_options(options: Namespace) -> Plan:
    """`ValueError` for an option that cannot be used."""
    if options.turns < 1 or options.steps < 1 or options.scale <= 0 or options.think_time < 0:
        raise ValueError("turns and steps must be at least 1, scale above 0 and think-time not negative")
    headers = {"Content-Type": "application/json"}
    if options.key:
        headers["Authorization"] = f"Bearer {options.key}"
    apis, wanted = parse_apis(options.api), parse_mix(options.mix) if options.mix else None
    if wanted:
        apis.check(wanted)
    return Plan(
        apis=apis,
        models=Models(
            options.model, options.embed_model or options.model, options.tool_model or options.model
        ),
        headers=headers,
        mix=wanted,
        lengths=Lengths(
            *distributions(options.lengths), options.scale, options.most_prompt, options.most_answer
        ),
        turns=options.turns,
        think_time_s=options.think_time,
        timeout_s=options.timeout,
        wait_s=options.wait,
        thresholds=thresholds.parse_all(options.thresholds),
        results=Path(options.results) if options.results else None,
        about=_about(options),
        seed=options.seed,
    )


def _about(options: Namespace) -> dict[str, Any]:
    """What a report says of a run: its options but the key."""
    given = {
        name: getattr(options, name.replace("-", "_")) for name in _OPTIONS if name not in ("key", "results")
    }
    run = {"host": options.host, "users": options.num_users, "run_time": options.run_time or DEFAULT_RUN_S}
    return run | given | {"name": options.name or f"{options.api} {options.host}"}
