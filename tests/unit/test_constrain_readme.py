"""The worked schemas of `app/constrain/README.md` are what the code makes of them."""

import json
import re
from pathlib import Path

import pytest

from app.constrain.budget import Budget
from app.constrain.compile import grammar_for
from app.constrain.emit import Emitter
from app.constrain.grammar import ANY_OBJECT
from app.constrain.normalize import Normalizer
from app.constrain.nulls import without_nulls
from app.constrain.prune import prune

README = (Path(__file__).parents[2] / "app" / "constrain" / "README.md").read_text("utf-8")
WORKED = re.findall(
    r"```json\n([^\n]+)\n```\n\n(?:[^`]|`[^`\n]+`)+?```json\n([^\n]+)\n```\n```\n(.+?)\n```",
    README,
    re.DOTALL,
)
HEAD = ANY_OBJECT.removesuffix("root: any_object\n")


def test_three_schemas_are_worked() -> None:
    assert len(WORKED) == 3


@pytest.mark.parametrize(("sent", "emitted", "grammar"), WORKED)
def test_a_worked_schema(sent: str, emitted: str, grammar: str) -> None:
    schema = json.loads(sent)
    body, definitions = prune(*Emitter(Normalizer(without_nulls(schema), Budget())).root())
    assert json.loads(emitted) in [body, *definitions.values()]
    made = grammar_for(schema)
    assert made.startswith(HEAD)
    assert [line.rstrip() for line in made.removeprefix(HEAD).splitlines()] == grammar.splitlines()
