"""What the ledger decides while moves are under way on some of the devices."""

from typing import Any

import pytest

from app.core.device import Device, Placement
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.entries import Entries
from app.runtime.entry import Entry
from app.runtime.ledger import Later, Ledger
from app.runtime.policy import Loaded
from app.runtime.residency import Place
from app.runtime.steps import Close, Load
from tests.unit.garage import model
from tests.unit.test_entries import join
from tests.unit.test_memory_histories import Machine

A, B, C, WIDE = model("a"), model("b"), model("c"), model("wide")


def ledger(totals: list[int], max_loaded: int = 0, **sizes: int) -> tuple[Ledger, Machine]:
    counts = {key: 2 if key == "wide" else 1 for key in sizes}
    machine = Machine(totals, sizes, counts)
    return Ledger(machine, max_loaded), machine


def idle(*models: Model) -> list[Loaded]:
    return [Loaded(each.engine_key, 0, 300, 0) for each in models]


def up(books: Ledger, machine: Machine, wanted: Model, *on: int) -> None:
    """The model is decided for, and loaded."""
    assert isinstance(books.decide(wanted, ()), Place)
    machine.alive[wanted.engine_key] = on, machine.sizes[wanted.engine_key]
    books.loaded(wanted, machine.sizes[wanted.engine_key] * len(on))


def test_the_second_of_two_loads_has_the_device_that_is_left() -> None:
    books, _ = ledger([100, 100], a=20, b=20)
    assert books.decide(A, ()) == Place(Placement((0,), 20, 100))
    assert books.decide(B, ()) == Place(Placement((1,), 20, 100)), "though device 0 has room as well"
    assert books.is_full_of_moves


def test_a_load_on_a_device_that_is_in_a_move_waits_for_that_alone() -> None:
    books, machine = ledger([100, 30], a=20, b=40)
    assert isinstance(books.decide(A, ()), Place)
    assert books.decide(B, ()) == Later(frozenset({0}))
    machine.alive["a"] = (0,), 20
    books.loaded(A, 20)
    assert books.decide(B, idle(A)) == Place(Placement((0,), 40, 100))


def test_what_a_move_will_have_freed_counts_so_that_nothing_more_goes_for_it() -> None:
    """Engines in use would be made to leave for room that comes anyway."""
    books, machine = ledger([100, 50], a=60, b=60, c=30)
    up(books, machine, A, 0)
    up(books, machine, C, 1)
    books.gone(C)
    machine.alive["c"] = (0,), 30
    assert isinstance(books.decide(C, idle(A)), Place)
    books.loaded(C, 30)
    books.ends(A)
    books.begin([A])
    busy = [Loaded("c", 1, 300, None)]
    assert books.decide(B, busy) == Later(frozenset({0}))
    del machine.alive["a"]
    books.gone(A)
    assert isinstance(books.decide(B, busy), Place)


def test_metrics_tell_what_is_free_now() -> None:
    books, machine = ledger([100], a=60)
    up(books, machine, A, 0)
    books.ends(A)
    books.begin([A])
    assert books.rows() == [(Device(0, 100, 40), 60)]


def test_an_engine_that_is_being_loaded_is_one_of_those_that_may_be() -> None:
    books, _ = ledger([100, 100], max_loaded=1, a=20, b=20)
    assert isinstance(books.decide(A, ()), Place)
    assert isinstance(books.decide(B, ()), Later)


def test_nothing_is_too_large_while_a_move_may_still_make_room() -> None:
    books, machine = ledger([100, 10], a=60, b=60)
    assert isinstance(books.decide(A, ()), Place)
    assert books.decide(B, ()) == Later(frozenset({0, 1}))
    machine.alive["a"] = (0,), 60


@pytest.mark.parametrize("first", [A, B])
def test_one_that_needs_two_devices_is_not_starved_by_those_that_need_one(first: Model) -> None:
    """One of the two would always be in a move of a model that came later."""
    books, machine = ledger([100, 100], a=20, b=20, c=20, wide=90)
    limits: dict[str, Any] = {"max_queue": 9, "max_queue_tokens": 0, "keyed": False, "default_context": 9}
    entries = Entries(keep_alive_s=300, ledger=books, **limits)
    early = join(entries, first)
    assert entries.next_step() == Load(early)
    wide, late = join(entries, WIDE), join(entries, C)
    assert entries.next_step() is None, "the other device is kept for the wide one"
    end(entries, machine, early)
    assert entries.next_step() == Load(wide)
    assert entries.next_step() is None
    assert late.users == 1


def end(entries: Entries, machine: Machine, entry: Entry) -> None:
    """The load of an entry fails, and its memory is free."""
    entries.ledger.gone(entry.model)
    entries.of(entry.model)
    entries.discard(entry, entry.error)
    assert machine.taken(0) == 0


def test_engines_that_share_devices_are_closed_together_and_others_beside_them() -> None:
    books, machine = ledger([100, 100], a=20, b=20, c=90)
    limits: dict[str, Any] = {"max_queue": 9, "max_queue_tokens": 0, "keyed": False, "default_context": 9}
    entries = Entries(keep_alive_s=300, ledger=books, **limits)
    made: list[Entry] = []
    for wanted, on in ((C, 0), (A, 1), (B, 1)):
        entry = join(entries, wanted)
        assert entries.next_step() == Load(entry)
        size = machine.sizes[wanted.engine_key]
        machine.alive[wanted.engine_key] = (on,), size
        entries.ready(entry, FakeEngine())
        books.loaded(wanted, size)
        made.append(entry)
    for entry in made:
        entries.leave(entry)
        entries.retire(entry)
    assert entries.next_step() == Close([made[0]])
    assert entries.next_step() == Close(made[1:])
