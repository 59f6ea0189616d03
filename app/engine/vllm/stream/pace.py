"""How many tokens of an answer are sent at once: one, and more where lines would take all of a core."""

import math

HOLD_S = 0.05
"""The longest time that text is held for more to come."""

_LINES_PER_S = 8_000
"""What one process sends well within a core: encoding and sending a line is most of a token's cost, and a
slow core does 13,000 of them at its end."""
_MOST_TOKENS = 16
_WINDOW_S = 0.25


class Pace:
    """Tokens in a line, by what an engine makes: a client sees lines of one token while there are few.

    A `fixed` number stands; 0 goes by load.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.interval = fixed or 1
        """Tokens that a line waits for, `HOLD_S` at most."""
        self._fixed = fixed > 0
        self._since_s = -math.inf
        self._tokens = 0

    def count(self, tokens: int, now_s: float) -> None:
        """The tokens of one step of the engine, at any clock that goes on."""
        if self._fixed:
            return
        passed_s = now_s - self._since_s
        if passed_s < _WINDOW_S:
            self._tokens += tokens
            return
        lines_per_s = self._tokens / passed_s
        self.interval = min(max(1, math.ceil(lines_per_s / _LINES_PER_S)), _MOST_TOKENS)
        self._since_s, self._tokens = now_s, tokens
