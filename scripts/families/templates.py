"""Chat templates of the structure that families have, made by hand: turns, tools, reasoning."""

from dataclasses import dataclass

ROLE = "ROLE"


@dataclass(frozen=True, slots=True)
class Turns:
    """How a message begins (`ROLE` stands for its role) and ends, and what a conversation begins with.

    `assistant` is the role's name there, `tool` that of results.
    """

    opens: str
    closes: str
    begins: str = ""
    assistant: str = "assistant"
    tool: str = "tool"

    def open(self, role: str) -> str:
        return self.opens.replace(ROLE, role)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The marks of reasoning. `switch` is the variable that turns it off, by writing `off` into the prompt.

    `opened` says that the prompt itself opens it. `levels` are names that the template tells apart.
    `note` is a text that such templates have and the parser is known by.
    """

    opens: str = "<think>"
    closes: str = "</think>"
    switch: str = ""
    off: str = ""
    opened: bool = False
    levels: tuple[str, ...] = ()
    note: str = ""


def quoted(text: str) -> str:
    """A text as a constant of Jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{{ '" + escaped + "' }}" if text else ""


def jinja(turns: Turns, example: str = "", reasoning: Reasoning | None = None) -> str:
    """A template with these turns; `example` is what it tells of calls, "" where it takes no tools."""
    tools = ""
    if example:
        tools = (
            "{% if tools %}"
            + quoted(turns.open("system") + "Tools: ")
            + "{{ tools | tojson }}"
            + quoted(f"\nCall one like this: {example}" + turns.closes)
            + "{% endif %}"
        )
    past = ""
    if reasoning is not None:
        past = (
            "{% if m.reasoning_content %}"
            + quoted(reasoning.opens)
            + "{{ m.reasoning_content }}"
            + quoted(reasoning.closes)
            + "{% endif %}"
        )
    calls = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}" if example else ""
    return "".join((
        quoted(turns.begins),
        tools,
        "{% for m in messages %}",
        "{% if m.role == 'assistant' %}",
        quoted(turns.open(turns.assistant)) + past + "{{ m.content }}" + calls,
        "{% elif m.role == 'tool' %}",
        quoted(turns.open(turns.tool)) + "{{ m.content }}",
        "{% else %}",
        "{{ " + _role(turns) + " }}{{ m.content }}",
        "{% endif %}",
        quoted(turns.closes),
        "{% endfor %}",
        "{% if add_generation_prompt %}",
        quoted(turns.open(turns.assistant)) + _begun(reasoning),
        "{% endif %}",
    ))  # fmt: skip


def _role(turns: Turns) -> str:
    before, named, after = turns.opens.partition(ROLE)
    pieces = [f"'{_plain(before)}'", *(["m.role", f"'{_plain(after)}'"] if named else [])]
    return " ~ ".join(pieces)


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")


def _begun(reasoning: Reasoning | None) -> str:
    """What of the reply the prompt holds, by the switch."""
    if reasoning is None:
        return ""
    opened = quoted(reasoning.opens + "\n") if reasoning.opened else ""
    named = "".join(
        f"{{% if reasoning_effort == '{level}' %}}" + quoted(f"[{level}]") + "{% endif %}"
        for level in reasoning.levels
    )
    note = "{% if false %}" + quoted(reasoning.note + reasoning.opens + reasoning.closes) + "{% endif %}"
    if not reasoning.switch:
        return note + opened
    off = quoted(reasoning.off) or quoted(" ")
    return (
        f"{note}{named}{{% if {reasoning.switch} is defined and not {reasoning.switch} %}}{off}"
        f"{{% else %}}{opened}{{% endif %}}"
    )
