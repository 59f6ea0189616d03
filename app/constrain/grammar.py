"""Owns the text of the grammar, in the language of llguidance: https://github.com/guidance-ai/llguidance.

Every lexeme has an end but a string's: white space between tokens and the digits of a number are bounded,
as small models repeat them up to the token limit. No character is escaped that needs no escape, so that a
name cannot come twice in two spellings.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from app.constrain import numbers
from app.constrain.budget import Budget, as_json
from app.constrain.emit_scalar import Emitted
from app.constrain.order import Definition, compile_order
from app.core.request import Json

_CHAR = r'[^"\\\x00-\x1F\x7F]|\\(["\\bfnrt]|u00[01][0-9a-fA-F]|u007[fF])'
_SPACE = r"( |\n{1,2}[ \t]{0,32})?"
_HEAD = rf"""%llguidance {{}}
start: root
any: any_object | any_array | STRING | NUMBER | BOOLEAN | "null"
any_object: OPEN (any_member (NEXT any_member)*)? CLOSE
any_member: STRING IS any
any_array: BEGIN (any (NEXT any)*)? END
STRING: /"({_CHAR})*"/
NUMBER: /{numbers.NUMBER}/
BOOLEAN: /true|false/
OPEN: /\{{{_SPACE}/
CLOSE: /{_SPACE}\}}/
BEGIN: /\[{_SPACE}/
END: /{_SPACE}\]/
NEXT: /,{_SPACE}/
IS: /:[ ]{{0,4}}/
"""
ANY_OBJECT = f"{_HEAD}root: any_object\n"
"""Any JSON object, which is what `format: "json"` asks for."""

_REF = "#/$defs/"


def written(body: dict[str, Json], definitions: Mapping[str, Json], budget: Budget) -> str:
    """The text of the grammar.

    Raises:
        InvalidRequest: where it takes more work than the budget has, or is more than llguidance can take.
    """
    return _Grammar(definitions, budget).text(body)


class _Grammar:
    def __init__(self, definitions: Mapping[str, Json], budget: Budget) -> None:
        self._definitions = {name: f"d{at}" for at, name in enumerate(definitions)}
        self._schemas = definitions
        self._budget = budget
        self._count = 0
        self._lines: list[str] = []
        self._own: list[str] = []
        """The rules of the definition that is being written, each after those that it refers to."""

        self._uses: set[str] = set()
        self._terminals: dict[str, str] = {}

    def text(self, body: dict[str, Json]) -> str:
        root = self._expression(body)
        mine = self._own
        bodies: dict[str, Definition] = {}
        for name, rule in self._definitions.items():
            self._own, self._uses = [], set()
            expression = self._expression(self._schemas[name])
            bodies[rule] = Definition(expression, self._own, self._uses)
        ordered, first = compile_order(bodies, self._budget)
        for rule, definition in bodies.items():
            before = _compiled([*first.get(rule, ()), *definition.rules])
            self._lines.append(f"{rule}: {before}{definition.body}")
        terminals = (f"{name}: {source}" for source, name in self._terminals.items())
        start = f"root: {_compiled([*ordered, *mine])}{root}"
        return _HEAD + "\n".join([start, *self._lines, *terminals]) + "\n"

    def _expression(self, schema: Emitted) -> str:
        assert isinstance(schema, dict), "what nothing can satisfy is pruned before"
        if not schema:
            return "any"
        if "$ref" in schema:
            rule = self._definitions[schema["$ref"].removeprefix(_REF)]
            self._uses.add(rule)
            return rule
        if "anyOf" in schema:
            return self._rule(" | ".join(self._expression(option) for option in schema["anyOf"]))
        if "const" in schema or "enum" in schema:
            return self._values(schema["enum"] if "enum" in schema else [schema["const"]])
        if "set" in schema:
            items = [(self._expression(value), False) for value in schema["set"]]
            return self._rule(f"BEGIN {self._row(items, schema['minItems'], schema['maxItems'])} END")
        return self._typed(schema)

    def _typed(self, schema: dict[str, Json]) -> str:
        match schema["type"]:
            case "null":
                return '"null"'
            case "boolean":
                return "BOOLEAN"
            case "number":
                return self._terminal(" & ".join(f"/{source}/" for source in schema["all"]))
            case "string":
                return self._string(schema)
            case "array":
                return self._array(schema)
            case _:
                return self._object(schema)

    def _values(self, values: Sequence[Json]) -> str:
        return self._terminal(" | ".join(literal(_scalar(value)) for value in values))

    def _string(self, schema: dict[str, Json]) -> str:
        if "allOf" in schema:
            return self._rule(f"%json {json.dumps(schema)}")
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if low == 0 and high is None:
            return "STRING"
        return self._terminal(rf'/"({_CHAR}){{{low},{"" if high is None else high}}}"/')

    def _array(self, schema: dict[str, Json]) -> str:
        prefix = [self._expression(item) for item in schema.get("prefixItems", ())]
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        rest = schema.get("items", False)
        if rest is False:
            tail = ""
        else:
            most = None if high is None else high - len(prefix)
            tail = _rest(self._expression(rest), max(0, low - len(prefix)), most, follows=bool(prefix))
        for at in range(len(prefix) - 1, -1, -1):
            tail = f"{'NEXT ' if at else ''}{prefix[at]} {tail}"
            tail = f"({tail})?" if at >= low else tail
            # A rule for each keeps the text from growing with the square.
            tail = self._rule(tail) if at else tail
        return self._rule(f"BEGIN {tail} END")

    def _object(self, schema: dict[str, Json]) -> str:
        properties: dict[str, Json] = schema.get("properties", {})
        required = set(schema.get("required", ()))
        members = [
            (self._rule(f"{literal(as_json(name))} IS {self._expression(child)}"), name in required)
            for name, child in properties.items()
        ]
        row = self._row(
            members,
            schema.get("minProperties", 0),
            schema.get("maxProperties"),
            self._others(schema, [*properties]),
        )
        return self._rule(f"OPEN {row} CLOSE")

    def _others(self, schema: dict[str, Json], declared: list[str]) -> str | None:
        for pattern, child in schema.get("patternProperties", {}).items():
            key = self._string({"type": "string", "allOf": [{"pattern": pattern}]})
            return self._rule(f"{key} IS {self._expression(child)}")
        child = schema["additionalProperties"]
        if child is False:
            return None
        if "propertyNames" in schema:
            return self._rule(f"{self._string(schema['propertyNames'])} IS {self._expression(child)}")
        if not declared:
            return self._rule(f"STRING IS {self._expression(child)}")
        names = "|".join(_escaped(as_json(name)) for name in declared)
        return self._rule(f"{self._terminal(f'STRING & ~/{names}/')} IS {self._expression(child)}")

    def _row(
        self, members: Sequence[tuple[str, bool]], low: int, high: int | None, others: str | None = None
    ) -> str:
        """Members in their order, those not required left out at will, and `low` to `high` of all.

        Built from the end: a rule for each member, or for each and each number of members before it.
        """
        if others is None and high is not None and high >= len(members):
            high = None
        if low <= sum(required for _, required in members) and high is None:
            return self._free_row(members, others)
        counted = max(low, 1 if high is None else high + 1)
        after: list[str | None] = [_tail(others, used, low, high) for used in range(counted + 1)]
        for at in range(len(members) - 1, -1, -1):
            member, required = members[at]
            before: list[str | None] = []
            for used in range(min(at, counted) + 1):
                following = after[min(used + 1, counted)]
                options = [] if following is None else [f"{'NEXT ' if used else ''}{member} {following}"]
                if not required and (without := after[used]) is not None:
                    options.append(without)
                before.append(self._rule(" | ".join(options)) if options else None)
            after = before
        assert after[0] is not None, "counts that cannot be met are refused before"
        return after[0]

    def _free_row(self, members: Sequence[tuple[str, bool]], others: str | None) -> str:
        """Members that nothing counts: each rule is of a row that has at least one."""
        row = None if others is None else f"{others} (NEXT {others})*"
        may_end = True
        for member, required in reversed(members):
            following = "" if row is None else f" NEXT {row}" if not may_end else f" (NEXT {row})?"
            options = [f"{member}{following}"] + ([row] if row is not None and not required else [])
            row = self._rule(" | ".join(options))
            may_end = may_end and not required
        return "" if row is None else f"({row})?" if may_end else row

    def _rule(self, body: str) -> str:
        name = f"r{self._count}"
        self._count += 1
        self._budget.spend_on_rule(len(body))
        self._own.append(name)
        self._lines.append(f"{name}: {body}")
        return name

    def _terminal(self, source: str) -> str:
        if source not in self._terminals:
            self._budget.spend_on_terminal(source)
        return self._terminals.setdefault(source, f"T{len(self._terminals)}")


def _compiled(rules: Iterable[str]) -> str:
    """Names that are compiled here, and stand for no text."""
    return "".join(f"{rule}~0 " for rule in rules)


def _tail(others: str | None, used: int, low: int, high: int | None) -> str | None:
    """What follows the declared members; None where that makes too few or too many."""
    if high is not None and used > high:
        return None
    if others is None:
        return "" if used >= low else None
    return _rest(others, max(0, low - used), None if high is None else high - used, follows=used > 0)


def _rest(item: str, low: int, high: int | None, *, follows: bool) -> str:
    if high is not None and high <= 0:
        return ""
    if follows:
        return _times(f"(NEXT {item})", low, high)
    more = _times(f"(NEXT {item})", max(0, low - 1), None if high is None else high - 1)
    return f"{item} {more}" if low else f"({item} {more})?"


def _times(item: str, low: int, high: int | None) -> str:
    if high == 0:
        return ""
    if high is None:
        return f"{item}{{{low},}}" if low else f"{item}*"
    return f"{item}{{{low},{high}}}"


def _scalar(value: Json) -> str:
    return as_json(value) if isinstance(value, str) else json.dumps(value)


def literal(text: str) -> str:
    """A text as a grammar has it."""
    return json.dumps(text)


def _escaped(text: str) -> str:
    return re.sub(r"[^\w ]", lambda found: f"\\x{{{ord(found[0]):X}}}", text, flags=re.ASCII)
