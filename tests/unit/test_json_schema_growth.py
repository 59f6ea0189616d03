"""Every dimension of a schema, driven to its limit, is answered or refused within bounds; no process dies."""

import json
import os
import random
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.constrain.budget import FEW_STEPS, OverBudget
from app.constrain.compile import grammar_for
from app.constrain.prune import prune
from app.core.errors import InvalidRequest
from tests.unit.growth import least_cpu_s
from tests.unit.json_grammar import TOKENS, PreparedGrammar

pytestmark = [pytest.mark.row("A7"), pytest.mark.point(92)]

Schema = dict[str, Any]
MOST_CPU_S = 6
"""Over ten times what is asked of a machine without other work; the child is killed at it."""

MOST_KIB = 150 << 10
ROOT = Path(__file__).parents[2]
INT = {"type": "integer"}
CHOOSER = random.Random(5)


def names(count: int, child: Any, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": {f"p{i}": child(i) if callable(child) else child for i in range(count)},
        **more,
    }


def chain(count: int, link: Any) -> Schema:
    return {"$ref": "#/$defs/d0", "$defs": {f"d{i}": link(i) for i in range(count)}}


def ref(to: int) -> Schema:
    return {"$ref": f"#/$defs/d{to}"}


def nested(depth: int) -> Schema:
    inner = nested(depth - 1) if depth else INT
    return {"anyOf": [{"properties": {"a": inner}}, {"type": "array", "items": inner}]} if depth else INT


def tuples(depth: int) -> Schema:
    return {"items": [tuples(depth - 1), tuples(depth - 1)]} if depth else INT


def between(i: int) -> Schema:
    return {"type": "number", "minimum": CHOOSER.uniform(-1e18, 0), "maximum": CHOOSER.uniform(0, 1e18)}


SETS = {"type": "array", "uniqueItems": True, "items": {"enum": [f"e{i}" for i in range(64)]}, "minItems": 30}
DIMENSIONS: dict[str, Schema] = {
    "items of a tuple": {"type": "array", "prefixItems": [{}] * 4900},
    "items of a tuple that may be left out": {"type": "array", "prefixItems": [{}] * 500},
    "items of a tuple that are required": {"type": "array", "prefixItems": [{}] * 4900, "minItems": 4900},
    "properties": names(4900, True),
    "properties that may be left out": names(500, True),
    "required properties": names(2400, True, required=[f"p{i}" for i in range(2400)]),
    "a chain of definitions": chain(1240, lambda i: {"items": ref(i + 1)} if i < 1239 else INT),
    "a chain of required definitions": chain(
        800, lambda i: {"properties": {"x": ref(i + 1)}, "required": ["x"]} if i < 799 else INT
    ),
    "a circle of definitions": chain(1240, lambda i: {"items": ref((i + 1) % 1240)}),
    "circles in circles": chain(
        700, lambda i: {"properties": {"a": ref((i + 1) % 700), "b": ref(i * 7 % 700)}}
    ),
    "each definition in each": chain(38, lambda _: {"properties": {f"a{j}": ref(j) for j in range(38)}}),
    "sets": names(60, lambda k: {**SETS, "maxItems": 31 + k % 30}),
    "counts": {
        "anyOf": [names(64, True, minProperties=5 + j % 30, maxProperties=33 + j % 31) for j in range(70)]
    },
    "numbers": names(480, between),
    "unions of numbers": {"anyOf": [between(i) for i in range(128)]},
    "unions in one another": nested(9),
    "wide unions": {"anyOf": [{"properties": {f"k{i}_{j}": True for j in range(7)}} for i in range(128)]},
    "unions times unions": {
        "type": "object",
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"x{j}_{i}": INT}} for i in range(2)]}
            for j in range(7)
        ],
    },
    "annotations": names(1600, {"title": "x", "type": "integer"}, maxProperties=0),
    "faults": {"$defs": {f"p{i}": {"title": 1} for i in range(1600)}},
    "old tuples": tuples(10),
    "values": {"enum": [CHOOSER.random() for _ in range(4900)]},
    "long values": {"enum": ["é" * 4000 + str(i) for i in range(60)]},
    "objects to choose from": {"enum": [{f"k{i}": [i]} for i in range(1200)]},
    "patterns": names(400, lambda i: {"pattern": f"^[a-z]{{{i}}}x"}),
    "long patterns": names(60, lambda i: {"pattern": "^" + "abcdefgh" * 480 + str(i)}),
    "groups": {"pattern": "(a" * 190 + ")?" * 190},
    "formats": names(400, lambda i: {"type": "string", "format": "uri", "maxLength": 900 + i}),
    "multiples": names(
        300, lambda i: {"type": "integer", "multipleOf": 7, "minimum": i, "maximum": i + 6900}
    ),
    "lengths": names(480, lambda i: {"type": "string", "minLength": i * 10, "maxLength": 10**6 - i}),
    "counts of items": names(
        480, lambda i: {"type": "array", "items": INT, "minItems": 9 * i, "maxItems": 10**5 - i}
    ),
    "long names": names(
        0, None, properties={"n" * 500 + str(i): INT for i in range(480)}, additionalProperties=True
    ),
}


def _measured(name: str) -> None:
    """In a process of its own: `grammar_for` in a thread as the engine's and the server's are."""
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = "taken"
    try:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(grammar_for, DIMENSIONS[name]).result()
    except InvalidRequest as error:
        said = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([name, said, grown]), flush=True)


def _measure() -> None:
    for name in DIMENSIONS:
        pid = os.fork()
        if not pid:
            _measured(name)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            print(json.dumps([name, f"ended with {status}", 0]), flush=True)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, int]]:
    """What became of each dimension, and the KiB that it took."""
    command = [sys.executable, "-m", "tests.unit.test_json_schema_growth"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (said, grown) for name, said, grown in rows}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_schema_at_its_limit_is_answered_or_refused(
    name: str, outcomes: dict[str, tuple[str, int]]
) -> None:
    said, grown = outcomes[name]
    assert said == "taken" or said.startswith("invalid JSON schema in format: $")
    assert "panic" not in said
    assert grown < MOST_KIB


def test_chains_as_long_as_a_schema_may_be_are_taken(outcomes: dict[str, tuple[str, int]]) -> None:
    taken = {name for name, (said, _) in outcomes.items() if said == "taken"}
    assert taken >= {
        *("items of a tuple that are required", "required properties", "properties that may be left out"),
        *("a chain of definitions", "a circle of definitions", "circles in circles", "values"),
    }


@pytest.mark.parametrize("name", ["properties that may be left out", "items of a tuple that may be left out"])
def test_what_is_taken_is_written_to_its_end(name: str) -> None:
    grammar = PreparedGrammar(DIMENSIONS[name])
    object_text = "{" + ",".join(f'"p{i}":1' for i in range(500)) + "}"
    assert grammar.accepts(object_text if "properties" in name else f"[{','.join('1' * 500)}]")


WIDE = {
    **{
        name: DIMENSIONS[name]
        for name in ("a circle of definitions", "circles in circles", "unions of numbers")
    },
    "optional": names(500, INT),
    "alternatives": {"anyOf": [names(5, INT, required=[f"p{i % 5}"]) for i in range(60)]},
    "arrays": {"anyOf": [{"type": "array", "items": {"type": "string", "maxLength": i}} for i in range(100)]},
    "counted": names(40, INT, minProperties=3, maxProperties=9),
    "distinct": {**SETS, "minItems": 2, "maxItems": 5},
    "objects": {"enum": [{f"k{i}": [i]} for i in range(600)]},
}


@pytest.mark.parametrize("name", WIDE)
def test_a_wide_grammar_has_no_dead_end_and_nothing_to_give_up_on(name: str) -> None:
    grammar = PreparedGrammar(WIDE[name], TOKENS)
    texts = [grammar.sample(random.Random(seed), longest=400) for seed in range(8)]
    whole = [json.loads(text) for text in texts if text is not None]
    assert whole, "no sample came to its end"


REFUSED = {
    "wide unions": "the schema leaves more open at one place of an answer than can be followed",
    "unions times unions": "the schema leaves more open at one place of an answer than can be followed",
    "properties": "an object is supported with up to 500 properties that are not required",
    "items of a tuple": '"prefixItems" is supported for up to 500 beyond "minItems"',
    "sets": "the schema takes more work to read than is allowed",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_matcher_would_give_up_on_is_refused_before_any_token(
    name: str, outcomes: dict[str, tuple[str, int]]
) -> None:
    assert outcomes[name][0] == f"invalid JSON schema in format: $: {REFUSED[name]}"


@pytest.mark.parametrize(
    "pattern", [r"^((.{0,1000}){0,1000})$", r"^(a?){300}a{300}$", r"^(((a{1,100}){1,100}){1,100})$"]
)
def test_a_pattern_that_the_matcher_would_give_up_on_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match=r"takes too much work|leaves more open"):
        grammar_for({"type": "string", "pattern": pattern})


def test_few_steps_are_enough_for_most_schemas_and_no_others_take_more() -> None:
    assert grammar_for(names(20, INT), FEW_STEPS) == grammar_for(names(20, INT))
    for name in ("values", "sets", "patterns", "circles in circles"):
        with pytest.raises(OverBudget):
            grammar_for(DIMENSIONS[name], FEW_STEPS)


if __name__ == "__main__":
    _measure()


def test_pruning_a_chain_costs_its_length() -> None:
    """No step of the budget is spent there, so its time must not grow faster than what was paid for."""

    def spent_s(length: int) -> float:
        links = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}]} for at in range(length)}
        definitions = {**links, f"d{length}": {"type": "null"}}
        return least_cpu_s(lambda: prune({"$ref": "#/$defs/d0"}, definitions))

    assert spent_s(8_000) < 60 * spent_s(500)


def test_a_pattern_of_many_repetitions_is_no_small_work() -> None:
    with pytest.raises(OverBudget):
        grammar_for({"type": "string", "pattern": r"^(.{1,999}\p{L}){1,999}$"}, FEW_STEPS)
