"""The model that public clients talk to: what it answers follows from what it was asked, so that every turn
of a conversation shows whether the turns before it came through."""

import json
import re
from collections.abc import Sequence

from app.core.errors import EngineFailed
from app.core.events import Content, Event, Thinking, ToolCall
from app.core.request import Constraint, Message
from app.engine.base import Prompt, Run
from app.engine.fake.script import Reply

CITIES = ("Paris", "London")
PERSON = {"name": "Ann", "age": 3}
OUTPUT_TOOLS = ("final_result", "Person", "json", "json_tool_call")
"""Tools by which agents ask for an answer of a form, instead of a schema for the answer itself."""


def script(prompt: Prompt, run: Run) -> Reply:
    """Asked for a form, `PERSON`; asked for the weather, a call per turn for each city that is named, and
    then what the tools said; asked to think, to break off, or to look at a picture, that."""
    messages = run.chat.messages
    last = messages[-1] if messages else Message("user")
    asked = next((each.text for each in reversed(messages) if each.role == "user" and each.text), prompt.text)
    if run.constraint is not None:
        return _constrained(run.constraint, messages, asked)
    if "break" in asked:
        return Reply(("Once", " upon"), error=EngineFailed("broken"), error_after=1)
    if last.images:
        return Reply((f"A picture of {len(last.images[0])} bytes.",))
    calls = _calls(messages, [tool["function"]["name"] for tool in run.chat.tools], asked)
    if calls:
        return _events(Thinking("I must look."), Content("Let me look."), *calls)
    results = _results(messages)
    if results:
        return _events(Content("It is "), Content(" and ".join(results)), Content("."))
    if "think" in asked and run.think is not False:
        return _events(Thinking("Hm, "), Thinking("well."), Content("So it is."))
    if "Who" in asked:
        systems = " ".join(each.text for each in messages if each.role in ("system", "developer"))
        return Reply(("I am ", systems))
    return Reply(("Hello", " there", "."))


def _constrained(constraint: Constraint, messages: Sequence[Message], asked: str) -> Reply:
    """What keeps to the schema: a call where a tool must be called, else a person."""
    text = json.dumps(constraint.schema)
    if '"arguments"' not in text:
        return Reply(('{"name":', ' "Ann",', ' "age": 3}'))
    calls = _calls(messages, re.findall(r'"const": "(\w+)"', text), asked)
    return Reply((json.dumps([{"name": call.name, "arguments": call.arguments} for call in calls]),))


def _calls(messages: Sequence[Message], names: Sequence[str], asked: str) -> list[ToolCall]:
    done = len(_results(messages))
    if "get_weather" in names and "weather" in asked:
        cities = _cities(asked)[done:]
        if cities:
            cities = cities if "at once" in asked else cities[:1]
            return [
                ToolCall(index, f"call_{done + index}", "get_weather", {"city": city})
                for index, city in enumerate(cities)
            ]
    forms = [name for name in names if name in OUTPUT_TOOLS]
    return [ToolCall(0, "call_form", forms[0], PERSON)] if forms else []


def _cities(text: str) -> list[str]:
    return [city for city in CITIES if city in text] or [CITIES[0]]


def _results(messages: Sequence[Message]) -> list[str]:
    """What tools have said since the user last spoke."""
    found: list[str] = []
    for each in reversed(messages):
        if each.role == "tool":
            found.insert(0, each.text)
        elif each.role == "user":
            break
    return found


def _events(*events: Event) -> Reply:
    """A delta for each event but the calls, which decoders give at the end."""
    spoken = [[event] for event in events if not isinstance(event, ToolCall)] or [[]]
    calls = [event for event in events if isinstance(event, ToolCall)]
    return Reply([f"{index} " for index in range(len(spoken))], [*spoken, calls])
