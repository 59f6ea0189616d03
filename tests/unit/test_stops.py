"""Stop strings in a text that comes piece by piece."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from app.engine.stops import Stops

LETTERS = st.text("ab<|é", max_size=12)
"""Few letters, so that stop strings begin, break off, overlap and nest all the time."""

STOPS = st.lists(st.text("ab<|é", min_size=1, max_size=6), max_size=8)


def first_end(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first stop string to be complete begins, and which it is."""
    ends = [(text.find(stop) + len(stop), order) for order, stop in enumerate(stops) if stop in text]
    if not ends:
        return None
    end, order = min(ends)
    return end - len(stops[order]), stops[order]


def beginning(text: str, stops: Sequence[str]) -> str:
    """The longest end of `text` that a stop string begins with."""
    ends = (text[at:] for at in range(len(text)))
    return next((end for end in ends if any(stop.startswith(end) and stop != end for stop in stops)), "")


@given(STOPS, st.lists(LETTERS, max_size=12))
@example(["aab", "ba"], ["aa", "ba"])
@example(["lo", "hello"], ["hel", "lo"])
@example(["aaab", "aa<"], ["aaa", "aaa", "<"])
def test_only_what_may_become_a_stop_string_is_held_back(stops: list[str], pieces: list[str]) -> None:
    state, sent, text = Stops(stops), "", ""
    for piece in pieces:
        text += piece
        sent += state.push(piece)
        if found := first_end(text, stops):
            assert (sent, state.found) == (text[: found[0]], found[1])
            assert state.push("more") == state.rest() == ""
            return
        assert state.found is None
        assert sent + beginning(text, stops) == text
    assert sent + state.rest() == text


@given(STOPS, st.text("ab<|é", max_size=60), st.data())
def test_how_the_text_is_cut_changes_nothing(stops: list[str], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    whole, pieces = Stops(stops), Stops(stops)
    told = whole.push(text) + whole.rest()
    bounds = list(zip((0, *cuts), (*cuts, len(text)), strict=True))
    assert "".join(pieces.push(text[start:end]) for start, end in bounds) + pieces.rest() == told
    assert pieces.found == whole.found


class _Counted(str):
    """A piece that counts how often one of its characters is looked at."""

    looks = 0

    def __getitem__(self, key: object) -> str:
        type(self).looks += isinstance(key, int)
        return super().__getitem__(key)  # type: ignore[index]


def test_work_grows_with_the_new_text_alone() -> None:
    """Neither with what was written before, nor with what is held back: F8's kind."""
    state = Stops([f"{'a' * length}b" for length in range(1, 200)])
    looks: list[int] = []
    for _ in range(400):
        _Counted.looks = 0
        state.push(_Counted("aaaa"))
        looks.append(_Counted.looks)
    assert max(looks) <= 4 * 199
