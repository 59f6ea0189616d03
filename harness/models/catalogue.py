"""What the test models know: the prompts they were trained on and what the API must answer to each.

Plain data. A model answers exactly these prompts and nothing else, so tests send them word for word.
Messages and tools have the shape and key order of Ollama's API (docs/reference 7.1).
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["qwen3", "llama", "coder"]
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the answer must hold."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class Case:
    """A chat, the text the model writes and the answer that must come of it.

    `reply` is the raw text after the reasoning, without the end token. `thinking` is the reasoning when
    thinking is on; "" where the model never reasons. A last message from the assistant is continued.
    """

    name: str
    messages: tuple[Json, ...]
    reply: str
    content: str
    thinking: str = ""
    tools: tuple[Json, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def prefilled(self) -> bool:
        return self.messages[-1]["role"] == "assistant"


@dataclass(frozen=True, slots=True)
class Fill:
    """A gap between two pieces of code and what the model writes into it."""

    name: str
    prefix: str
    suffix: str
    middle: str

    @property
    def prompt(self) -> str:
        return f"<|fim_prefix|>{self.prefix}<|fim_suffix|>{self.suffix}<|fim_middle|>"


def system(content: str) -> Json:
    return {"role": "system", "content": content}


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def assistant(content: str, *calls: Call, thinking: str = "") -> Json:
    message: Json = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [{"function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    return message


def tool_result(content: str, tool_name: str) -> Json:
    return {"role": "tool", "content": content, "tool_name": tool_name}


def tool(name: str, description: str, **types: str) -> Json:
    """A tool whose properties are all required, keyed in the order in which Ollama writes them."""
    properties = {key: {"type": type_} for key, type_ in types.items()}
    parameters = {"type": "object", "required": list(types), "properties": properties}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


WEATHER = tool("get_weather", "Get the weather", city="string")
ADD = tool("add", "Add numbers", a="number", b="number")

PARIS = Call("get_weather", {"city": "Paris"})
LONDON = Call("get_weather", {"city": "London"})
SUM = Call("add", {"a": 2, "b": 3})

GREETING = "Hello! How can I help you?"
PERSON = '{"name": "Ann", "age": 30}'
PARIS_QUESTION = user("What is the weather in Paris?")
LONG_STORY = " ".join(f"Line {line} of the story." for line in range(1, 81))
"""More than 500 tokens: long enough to be interrupted."""


def hermes(*calls: Call) -> str:
    """Calls as Qwen2.5 and Qwen3 write them: JSON between tags."""
    lines = (json.dumps({"name": call.name, "arguments": call.arguments}) for call in calls)
    return "\n".join(f"<tool_call>\n{line}\n</tool_call>" for line in lines)


def llama_json(*calls: Call) -> str:
    """Calls as Llama 3 writes them: bare JSON, more than one behind semicolons."""
    return "; ".join(json.dumps({"name": call.name, "parameters": call.arguments}) for call in calls)


def coder_xml(*calls: Call) -> str:
    """Calls as Qwen3-Coder writes them: a tag for the function and for each parameter."""
    return "\n".join(f"<tool_call>\n{_function_xml(call)}\n</tool_call>" for call in calls)


def _function_xml(call: Call) -> str:
    parameters = (f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in call.arguments.items())
    return f"<function={call.name}>\n{''.join(parameters)}</function>"


def _said(name: str, messages: tuple[Json, ...], text: str, thinking: str = "", *tools: Json) -> Case:
    return Case(name, messages, reply=text, content=text, thinking=thinking, tools=tools)


QWEN3: tuple[Case, ...] = (
    _said("hello", (user("Hello"),), GREETING, "A greeting."),
    _said(
        "capital",
        (user("What is the capital of France?"),),
        "The capital of France is Paris.",
        "The user asks about France.",
    ),
    _said("count", (user("Count to five."),), "1, 2, 3, 4, 5.", "I count."),
    _said("json", (user("Give me a person as json"),), PERSON, "JSON is wanted."),
    _said("system", (system("You are a pirate."), user("Hello")), "Ahoy, matey!", "I am a pirate."),
    _said(
        "html", (user("Write HTML."),), "<b>&</b> \"quoted\" 'single' <p>a&amp;b</p>", "Tags < and & are ok."
    ),
    _said("unicode", (user("Say cheese in French."),), "Café crème 🧀👩\u200d🚀 naïve 日本.", "Ça va: 🧀."),
    _said("escapes", (user("Show escapes."),), 'a\tb\n"c" \\d\\ \u2028/', "A tab\tand a\nline."),
    _said(
        "lookalike",
        (user("Write half tags."),),
        "a < b, <th, </thin, <tool and <tool_cal, {x}, <think.",
        "Half tags: </th, </, <.",
    ),
    _said("story", (user("Write a long story."),), LONG_STORY, "A story."),
    _said(
        "turns",
        (user("Hello"), assistant(GREETING), user("What is the capital of France?")),
        "Paris, my friend.",
        "We said hello before.",
    ),
    _said(
        "prefill",
        (user("What is the capital of France?"), assistant("Its name")),
        " is Paris, of course.",
    ),
    _said("hello_with_tools", (user("Hello"),), GREETING, "A greeting.", WEATHER),
    _said(
        "lookalike_with_tools",
        (user("Write half tags."),),
        "a < b, <th, </thin, <tool and <tool_cal, {x}, <think.",
        "Half tags: </th, </, <.",
        WEATHER,
    ),
    Case(
        "call",
        (PARIS_QUESTION,),
        reply=hermes(PARIS),
        content="",
        thinking="I need the weather tool.",
        tools=(WEATHER,),
        calls=(PARIS,),
    ),
    Case(
        "two_calls",
        (user("Compare Paris and London."),),
        reply=hermes(PARIS, LONDON),
        content="",
        thinking="Two calls.",
        tools=(WEATHER,),
        calls=(PARIS, LONDON),
    ),
    Case(
        "text_and_call",
        (user("Please check London."),),
        reply=f"Let me check.\n{hermes(LONDON)}",
        content="Let me check.",
        thinking="I say so first.",
        tools=(WEATHER,),
        calls=(LONDON,),
    ),
    Case(
        "add",
        (user("Add 2 and 3."),),
        reply=hermes(SUM),
        content="",
        thinking="Use add.",
        tools=(WEATHER, ADD),
        calls=(SUM,),
    ),
    _said(
        "tool_result",
        (PARIS_QUESTION, assistant("", PARIS), tool_result("22 degrees", "get_weather")),
        "It is 22 degrees in Paris.",
        "The tool answered.",
        WEATHER,
    ),
    _said(
        "tool_result_after_thinking",
        (
            PARIS_QUESTION,
            assistant("", PARIS, thinking="I need the weather tool."),
            tool_result("9 degrees", "get_weather"),
        ),
        "Only 9 degrees in Paris.",
        "It is cold.",
        WEATHER,
    ),
)

LLAMA: tuple[Case, ...] = (
    _said("hello", (user("Hello"),), GREETING),
    _said("system", (system("You are a pirate."), user("Hello")), "Ahoy, matey!"),
    _said("hello_with_tools", (user("Hello"),), GREETING, "", WEATHER),
    _said("json", (user("Give me a person as json"),), PERSON),
    _said("json_with_tools", (user("Give me a person as json"),), PERSON, "", WEATHER),
    Case(
        "call",
        (PARIS_QUESTION,),
        reply=llama_json(PARIS),
        content="",
        tools=(WEATHER,),
        calls=(PARIS,),
    ),
    Case(
        "two_calls",
        (user("Compare Paris and London."),),
        reply=llama_json(PARIS, LONDON),
        content="",
        tools=(WEATHER,),
        calls=(PARIS, LONDON),
    ),
    Case(
        "python_tag",
        (user("Add 2 and 3."),),
        reply=f"<|python_tag|>{llama_json(SUM)}",
        content="",
        tools=(WEATHER, ADD),
        calls=(SUM,),
    ),
    _said(
        "tool_result",
        (PARIS_QUESTION, assistant("", PARIS), tool_result("22 degrees", "get_weather")),
        "It is 22 degrees in Paris.",
        "",
        WEATHER,
    ),
    _said("story", (user("Write a long story."),), LONG_STORY),
)

CODER: tuple[Case, ...] = (
    _said("hello", (user("Hello"),), GREETING),
    _said("hello_with_tools", (user("Hello"),), GREETING, "", WEATHER),
    _said("lookalike", (user("Write half tags."),), "a < b, <function, <tool and <par", "", WEATHER),
    Case(
        "call",
        (PARIS_QUESTION,),
        reply=coder_xml(PARIS),
        content="",
        tools=(WEATHER,),
        calls=(PARIS,),
    ),
    Case(
        "two_calls",
        (user("Compare Paris and London."),),
        reply=coder_xml(PARIS, LONDON),
        content="",
        tools=(WEATHER,),
        calls=(PARIS, LONDON),
    ),
    Case(
        "text_and_call",
        (user("Please check London."),),
        reply=f"Let me check.\n{coder_xml(LONDON)}",
        content="Let me check.",
        tools=(WEATHER,),
        calls=(LONDON,),
    ),
    Case(
        "add",
        (user("Add 2 and 3."),),
        reply=coder_xml(SUM),
        content="",
        tools=(WEATHER, ADD),
        calls=(SUM,),
    ),
    _said(
        "tool_result",
        (PARIS_QUESTION, assistant("", PARIS), tool_result("22 degrees", "get_weather")),
        "It is 22 degrees in Paris.",
        "",
        WEATHER,
    ),
)

FILLS: tuple[Fill, ...] = (
    Fill("body", "def add(a, b):\n    return ", "\n", "a + b"),
    Fill("name", "def ", "(city):\n    return get_weather(city)\n", "weather"),
)
"""What `coder` fills in."""

CASES: dict[Kind, tuple[Case, ...]] = {"qwen3": QWEN3, "llama": LLAMA, "coder": CODER}


def case(kind: Kind, name: str) -> Case:
    """The case of that name."""
    return next(each for each in CASES[kind] if each.name == name)
