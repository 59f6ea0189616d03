"""What the manager's state decides, without an event loop."""

import math
from typing import Any

import pytest

from app.core.context import ANYBODY
from app.core.errors import LoadFailed, Overloaded
from app.core.model import Model
from app.engine.fake.engine import FakeEngine
from app.runtime.entries import Entries
from app.runtime.entry import Entry, State
from app.runtime.ledger import Ledger
from app.runtime.memory import Unlimited
from app.runtime.steps import Close, Drop, Evict, Load
from tests.unit.garage import A2, A, B, C


def entries(max_loaded: int = 1, **options: Any) -> Entries:
    defaults: dict[str, Any] = {"keep_alive_s": 300.0, "max_queue": 8, "max_queue_tokens": 0}
    defaults |= {"keyed": False, "default_context": 4096, "ledger": Ledger(Unlimited(), max_loaded)}
    return Entries(**(defaults | options))


def join(books: Entries, model: Model, keep_alive_s: float | None = None) -> Entry:
    return books.join(model, keep_alive_s, None, ANYBODY)


def loaded(books: Entries, model: Model) -> Entry:
    """The entry of a model that is loaded, with one user."""
    entry = join(books, model)
    assert books.next_step() == Load(entry)
    books.ready(entry, FakeEngine())
    books.ledger.loaded(model, 0)
    return entry


def test_requests_for_one_engine_share_a_load() -> None:
    books = entries()
    assert join(books, A) is join(books, A2)
    assert isinstance(books.next_step(), Load)
    assert books.next_step() is None
    assert books.users == 2


def test_an_engine_in_use_is_not_evicted() -> None:
    books = entries()
    first = loaded(books, A)
    join(books, B)
    assert books.next_step() is None
    books.leave(first)
    assert books.next_step() == Evict([first])


def test_what_is_doomed_is_closed_before_anything_is_loaded() -> None:
    books = entries(max_loaded=0)
    first = loaded(books, A)
    join(books, B)
    books.retire(first)
    assert books.next_step() == Close([first])
    assert books.next_step() is None
    books.ledger.gone(first.model)
    assert isinstance(books.next_step(), Load)
    assert books.of(A) is None


def test_nothing_is_evicted_for_an_entry_that_nobody_waits_for() -> None:
    books = entries()
    books.leave(loaded(books, A))
    kept = books.preloaded(B)
    books.keep(kept)
    books.enqueue(kept)
    assert books.next_step() == Drop(kept)
    books.discard(kept, LoadFailed("gone"))
    assert books.next_step() is None
    assert books.within(State.READY) == [books.of(A)]


def test_one_too_many_is_refused_and_not_counted() -> None:
    books = entries(max_queue=2)
    for model in (A, B):
        join(books, model)
        books.waiting += 1
    with pytest.raises(Overloaded):
        join(books, C)
    assert (books.users, books.of(C)) == (2, None)


def test_a_claim_is_that_of_a_model_where_callers_are_keyed() -> None:
    books = entries(keyed=True)
    entry = join(books, A, math.inf)
    join(books, A2, 20)
    assert not books.release(entry, A)
    assert entry.keep_alive_s == 20
    assert books.release(entry, A2)
    assert (entry.keep_alive_s, entry.leaves) == (0, "asked")
