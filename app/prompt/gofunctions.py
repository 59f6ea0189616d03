"""The functions of Go templates, and how much one rendering may do.

A template can come with a request. What it repeats, calls, builds and prints is therefore counted, and
its processor time is: none of it can hold the server up or fill its memory.
"""

import re
import time
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from gotpl import BudgetExceededError, ExecutionBudget
from gotpl.runtime.callables import PreparedFunctionRegistry
from gotpl.runtime.policy import ExecutionBudgetState
from gotpl.runtime.sync_vm import (
    _builtin_functions,  # pyright: ignore[reportPrivateUsage]  # Go's own functions have no public name
)
from gotpl.runtime.values import INVALID

from app.prompt.govalues import shown, to_json, to_typescript

NAMES = frozenset({"json", "currentDate", "yesterdayDate", "toTypeScriptType"})
"""What a template may call besides Go's own functions."""

SHOW = "show"
"""The last step of every action that prints. No template can name it itself."""

_LIMITS = ExecutionBudget(
    max_output_chars=16_000_000,
    max_iterations=200_000,
    max_template_depth=100,
    max_function_calls=1_000_000,
)
_MAX_TEMPLATE_CALLS = 100_000
_MAX_CHARS = 64_000_000
_MAX_SECONDS = 2.0
_MAX_FORMAT = 1_000
_WIDE = re.compile(r"%[^a-zA-Z%]*?(\*|\d{3})")

Function = Callable[..., Any]


class Meter(ExecutionBudgetState):
    """What one rendering has used of what it may."""

    def __init__(self) -> None:
        super().__init__(_LIMITS)
        self._chars = 0
        self._template_calls = 0
        self._deadline = time.thread_time() + _MAX_SECONDS

    def consume_iteration(self) -> None:
        super().consume_iteration()
        self._check_time()

    def consume_function_call(self) -> None:
        super().consume_function_call()
        self._check_time()

    def check_template_depth(self, depth: int) -> None:
        super().check_template_depth(depth)
        self._template_calls = self._consume("template call", self._template_calls, 1, _MAX_TEMPLATE_CALLS)
        self._check_time()

    def charge(self, *values: Any) -> None:
        """Count the text a function takes or makes: a variable can keep what is never printed."""
        self.charge_chars(sum(len(value) for value in values if isinstance(value, str)))

    def charge_chars(self, chars: int) -> None:
        self._chars = self._consume("text", self._chars, chars, _MAX_CHARS)

    def _check_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise BudgetExceededError("it takes too long")


def functions(meter: Meter) -> PreparedFunctionRegistry:
    """Everything a template may call, counted by `meter`."""
    go = _builtin_functions("go")
    table: dict[str, Function] = {name: _counted(meter, function) for name, function in go.items()}
    for name in ("print", "println", "html", "js", "urlquery"):
        table[name] = _counted(meter, _of_shown(go[name]))
    equal = _equal(go["eq"])
    table["eq"] = _counted(meter, equal)
    table["ne"] = _counted(meter, lambda first, second: not equal(first, second))
    table["printf"] = _counted(meter, _printf(meter, go))
    table["json"] = _counted(meter, to_json)
    table["toTypeScriptType"] = to_typescript
    table["currentDate"] = lambda *_format: date.today().isoformat()
    table["yesterdayDate"] = lambda *_format: (date.today() - timedelta(days=1)).isoformat()
    table[SHOW] = shown
    return PreparedFunctionRegistry(table, dict.fromkeys(table))


def _counted(meter: Meter, function: Function) -> Function:
    def counted(*arguments: Any) -> Any:
        meter.charge(*arguments)
        result = function(*arguments)
        meter.charge(result)
        return None if result is INVALID else result

    return counted


def _of_shown(function: Function) -> Function:
    return lambda *arguments: function(*map(shown, arguments))


def _equal(go_equal: Function) -> Function:
    """Go's `eq`, in which what is missing equals nothing but what is missing."""

    def equal(first: Any, *others: Any) -> bool:
        if first is None:
            return None in others
        present = [other for other in others if other is not None]
        return go_equal(first, *present) if present or not others else False

    return equal


def _printf(meter: Meter, go: Mapping[str, Function]) -> Function:
    """Go's `printf`, refusing formats that make much text out of little."""

    def printf(text: Any, *arguments: Any) -> Any:
        if isinstance(text, str) and (len(text) > _MAX_FORMAT or _WIDE.search(text)):
            raise BudgetExceededError("printf format is too long or too wide")
        values = [
            value if isinstance(value, str | int | float) else go["print"](value)
            for value in map(shown, arguments)
        ]
        longest = max((len(value) for value in values if isinstance(value, str)), default=0)
        meter.charge_chars(str(text).count("%") * longest)
        return go["printf"](text, *values)

    return printf
