"""What happened in a history, and what was wrong with it."""

from collections.abc import Callable


class Journal:
    """Lines with the time; those of faults are kept apart as well. `turn` counts those of the event loop."""

    def __init__(self, now: Callable[[], float], turn: Callable[[], int]) -> None:
        self.now = now
        self.turn = turn
        self.lines: list[str] = []
        self.faults: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(f"{self.now():10.3f}  {text}")

    def fault(self, text: str) -> None:
        """Note what must not be, once."""
        if text not in self.faults:
            self.faults.append(text)
            self.note(f"FAULT {text}")

    def expect(self, fine: bool, text: str) -> None:
        if not fine:
            self.fault(text)
