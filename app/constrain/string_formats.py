"""Owns the formats of strings that are enforced, each as a pattern of this module's own.

llguidance's formats are not used: its date knows a 29 February in every year, and it refuses names that it
does not know.
"""

_YEAR = r"(\d{3}[1-9]|\d{2}[1-9]\d|\d[1-9]\d{2}|[1-9]\d{3})"
_LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_CLOCK = r"(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S)"
_CALENDAR = r"(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"  # half of what is allowed, and fast to compile
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"({_BYTE}\.){{3}}{_BYTE}"
_H16 = r"[0-9A-Fa-f]{1,4}"
_LS32 = rf"({_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(
    [rf"({_H16}:){{6}}{_LS32}", rf"::({_H16}:){{5}}{_LS32}"]
    + [rf"(({_H16}:){{0,{6 - n}}}{_H16})?::({_H16}:){{{n}}}{_LS32}" for n in range(4, 0, -1)]
    + [
        rf"(({_H16}:){{0,4}}{_H16})?::{_LS32}",
        rf"(({_H16}:){{0,5}}{_H16})?::{_H16}",
        rf"(({_H16}:){{0,6}}{_H16})?::",
    ]
)
_ENCODED = r"%[0-9A-Fa-f]{2}"
_SUB = r"A-Za-z0-9._~!$&'()*+,;=\-"
_PCHAR = rf"([{_SUB}:@]|{_ENCODED})"
_TAIL = rf"(\?([{_SUB}:@/?]|{_ENCODED})*)?(#([{_SUB}:@/?]|{_ENCODED})*)?"
_AUTHORITY = rf"(([{_SUB}:]|{_ENCODED})*@)?([{_SUB}]|{_ENCODED})*(:\d*)?"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*:(//{_AUTHORITY}(/{_PCHAR}*)*|/?({_PCHAR}+(/{_PCHAR}*)*)?){_TAIL}"
_RELATIVE = (
    rf"(//{_AUTHORITY}(/{_PCHAR}*)*|/({_PCHAR}+(/{_PCHAR}*)*)?|([{_SUB}@]|{_ENCODED})+(/{_PCHAR}*)*)?{_TAIL}"
)
_POINTER = r"(/([!#-.0-\[\]-}]|~[01])*)*"
_VARIABLE = rf"([A-Za-z0-9_]|{_ENCODED})+(\.([A-Za-z0-9_]|{_ENCODED})+)*(:[1-9]\d{{0,3}}|\*)?"
_EXPRESSION = rf"\{{[+#./;?&=,!@|]?{_VARIABLE}(,{_VARIABLE})*\}}"

_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "duration": rf"P({_CALENDAR}(T{_CLOCK})?|T{_CLOCK}|\d+W)",
    "email": rf"{_ATEXT}(\.{_ATEXT})*@({_LABEL}\.)+[A-Za-z]{{2,24}}",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "uri": _URI,
    "uri-reference": rf"({_URI}|{_RELATIVE})",
    "uri-template": rf"([A-Za-z0-9._~!#$&()*+,;=:@/?\[\]-]|{_ENCODED}|{_EXPRESSION})*",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(0|[1-9]\d*)(#|{_POINTER})",
}

_WITHOUT_LOOK_AROUND = {
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^([A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$"
    ),
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
}
"""What Zod writes for an e-mail address and pydantic for a decimal, and the same languages said otherwise."""


def regular(pattern: str) -> str:
    """The pattern without look-around, where it is one that is known to need none."""
    return _WITHOUT_LOOK_AROUND.get(pattern, pattern)


def enforced(name: str) -> bool:
    """Whether the format is enforced; any other is an annotation, as JSON Schema has it."""
    return name in _FORMATS


def pattern(name: str) -> str:
    return f"^({_FORMATS[name]})$"
