"""Grammars are made once for what is asked for again, and only for what is the same."""

import pytest

from app.core.errors import InvalidRequest
from app.core.pool import Pool
from app.core.request import Constraint
from app.runtime import grammars
from app.runtime.grammars import Grammars

A = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
B = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Constraint]:
    found = list[Constraint]()
    written = grammars.written

    def counting(wanted: Constraint, *steps: int) -> str:
        found.append(wanted)
        return written(wanted, *steps)

    monkeypatch.setattr(grammars, "written", counting)
    return found


async def test_the_same_schema_is_compiled_once_and_one_in_another_order_anew(made: list[Constraint]) -> None:
    of = Grammars(Pool()).of
    assert await of(Constraint(A)) == await of(Constraint(dict(A)))
    assert await of(Constraint(B)) != await of(Constraint(A))
    assert len(made) == 2


async def test_what_is_kept_is_bounded(made: list[Constraint], monkeypatch: pytest.MonkeyPatch) -> None:
    one = Grammars(Pool())
    size = len(await one.of(Constraint(A)))
    monkeypatch.setattr(grammars, "_KEPT_CHARS", 4 * size)
    schemas = [{**A, "required": [name]} for name in ("a", "b", "c", "d", "e", "f")]
    for schema in schemas:
        await one.of(Constraint(schema))
    assert one._chars <= 4 * size  # pyright: ignore[reportPrivateUsage]
    assert one._chars == sum(map(len, one._kept.values()))  # pyright: ignore[reportPrivateUsage]


async def test_what_is_refused_is_refused_again() -> None:
    of = Grammars(Pool()).of
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await of(Constraint({"type": 5}))
