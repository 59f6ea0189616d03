"""Calls that a request enforces: their schema, the reader, and a pipeline that puts them together."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from app.catalogue.library import Library
from app.constrain.calls import calls_schema
from app.constrain.compile import grammar_for, written
from app.constrain.matcher import accepts, matcher_of
from app.constrain.texts import is_whole
from app.core.context import RequestContext
from app.core.errors import ConstraintFailed, InvalidRequest
from app.core.events import Content, Delta, Event, Thinking, ToolCall
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import ChatPrompt, Constraint, Deferred, Generation, Message, ToolChoice
from app.decode.forced import ForcedCalls, OneCall
from app.engine.base import Engine, Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply, ScriptedDecoder
from app.runtime.manager import Manager
from app.runtime.pipeline import Pipeline
from harness.fake_model import fake_model

NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer", "minimum": 3}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
    "$defs": {"node": {"$ref": "#"}},
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def allows(schema: Any, value: Any) -> bool:
    return accepts(matcher_of(LLMatcher.grammar_from_lark(grammar_for(schema))), json.dumps(value).encode())


@pytest.mark.parametrize(
    ("calls", "most", "fine"),
    [
        ([call("weather", city="x")], None, True),
        ([call("weather", city="x"), call("list", value=3)], None, True),
        ([call("list", value=3, next={"value": 4})], 1, True),
        ([call("list", value=3, next={"value": 2})], 1, False),
        ([call("weather", city="x"), call("list", value=3)], 1, False),
        ([], None, False),
        ([call("weather", city=1)], None, False),
        ([call("weather")], None, False),
        ([call("other")], None, False),
        ({}, None, False),
    ],
)
def test_the_schema_of_calls_keeps_to_each_tools_own(calls: Any, most: int | None, fine: bool) -> None:
    schema = calls_schema([("weather", CITY), ("list", NODE)], most=most)
    assert allows(schema, calls) is fine


def test_annotations_cost_nothing_and_names_like_theirs_stay() -> None:
    """A hundred tools with long descriptions can be chosen from."""
    described = {
        "type": "string",
        "description": "words " * 50,
        "title": "t",
        "examples": ["a"],
        "default": "b",
    }
    named = {"description": described, "title": described, "$ref": described}
    schema = {"type": "object", "description": "d", "properties": named, "required": ["description"]}
    wanted = calls_schema([(f"f{at}", schema) for at in range(100)])
    assert allows(wanted, [call("f7", description="x")])
    assert not allows(wanted, [call("f7", title="x")])


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {"a": {"type": "integer"}}}])
def test_arguments_are_an_object_whatever_the_schema_leaves_open(parameters: Any) -> None:
    schema = calls_schema([("f", parameters)])
    assert allows(schema, [call("f", a=1)])
    assert not allows(schema, [{"name": "f", "arguments": [1]}])


def read(text: str, *, step: int = 3) -> list[Event]:
    decoder = ForcedCalls(None, make_id=lambda: "id")
    events: list[Event] = []
    for at in range(0, len(text), step):
        events += decoder.feed(Delta(text[at : at + step], [at]))
    return events + decoder.flush()


def test_the_reader_takes_the_calls_out_of_their_json() -> None:
    text = json.dumps([call("a", x=[1, {"y": "]"}]), call("b")])
    assert read(text) == [ToolCall(0, "id", "a", {"x": [1, {"y": "]"}]}), ToolCall(1, "id", "b", {})]


@pytest.mark.parametrize("text", ['[{"name":"a","arg', "[1]", '{"name":1}', '[{"name":"a","arguments":[]}]'])
def test_what_is_no_json_of_calls_stays_content(text: str) -> None:
    assert read(text) == [Content(text)]


def test_what_an_inner_reader_takes_for_reasoning_stays_that() -> None:
    inner = ScriptedDecoder(([Thinking("hm")], [Content('[{"name":"a",')], [Content('"arguments":{}}]')]), 2)
    decoder = ForcedCalls(inner, make_id=lambda: "id")
    events = [*decoder.feed(Delta("x", [1])), *decoder.feed(Delta("y", [2])), *decoder.flush()]
    assert events == [Thinking("hm"), ToolCall(0, "id", "a", {})]


def test_of_several_calls_the_first_comes_out() -> None:
    inner = ScriptedDecoder(([Content("x"), ToolCall(0, "i", "a", {}), ToolCall(1, "j", "b", {})],), 0)
    assert OneCall(inner).flush() == [Content("x"), ToolCall(0, "i", "a", {})]


# Texts


@pytest.mark.parametrize(
    ("wanted", "fine", "wrong"),
    [
        (Constraint(choices=("yes", 'no "way"', "ja\n")), 'no "way"', "no"),
        (Constraint(regex=r"^\d{3}-[a-z]+$"), "123-ab", "x123-ab"),
        (Constraint(regex=r"a|b"), "b", "ab"),
        (Constraint(regex=r"\$5"), "$5", "5"),
    ],
)
def test_a_text_constraint_allows_what_it_says_and_nothing_else(
    wanted: Constraint, fine: str, wrong: str
) -> None:
    grammar = written(wanted)
    matcher = matcher_of(LLMatcher.grammar_from_lark(grammar))
    assert accepts(matcher, fine.encode())
    assert not accepts(matcher, wrong.encode())
    made = Constraint(grammar=grammar, regex=wanted.regex, choices=wanted.choices)
    assert is_whole(made, fine)
    assert not is_whole(made, wrong)


@pytest.mark.parametrize("regex", ["(", "a(?=b)", "[", "x{9999999999}"])
def test_a_regex_that_cannot_be_honoured_is_refused_with_the_reason(regex: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid regex: "):
        written(Constraint(regex=regex))


# The pipeline


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


class Site:
    def __init__(self, text: str) -> None:
        self.engine = FakeEngine(default=Reply(tuple(text)))
        manager = Manager(self._start, keep_alive_s=9, load_timeout_s=9, max_queue=8, default_context=2048)
        self.pipeline = Pipeline(Library([fake_model("m")]), manager, pool=Pool())

    async def _start(self, _: Model) -> Engine:
        return self.engine

    async def ask(self, choice: ToolChoice, **fields: Any) -> list[Event]:
        prompt = ChatPrompt((Message.of("user", "hi"),), fields.pop("tools", (TOOL,)))
        schemas = fields.pop("schemas", {"weather": CITY})
        asked = Generation("m", prompt, 0, tool_choice=choice, schemas=schemas, **fields)
        found: list[Event] = []
        async for events in self.pipeline.run(asked, RequestContext()):
            found += events
        return found


CALLS = json.dumps([call("weather", city="Rome")])


async def test_required_keeps_the_answer_to_calls_and_reads_them() -> None:
    site = Site(CALLS)
    events = await site.ask(ToolChoice("required"), constraint=Deferred(lambda _: Constraint()))
    assert [event.arguments for event in events if isinstance(event, ToolCall)] == [{"city": "Rome"}]
    run = site.engine.asked[0].run
    assert run.constraint is not None
    assert run.constraint.schema is not None
    assert "tool0" in run.constraint.schema["$defs"]
    assert not run.chat.tools
    assert "Tools:" in site.engine.asked[0].prompt.text


async def test_calls_that_do_not_come_are_a_failure_and_no_empty_answer() -> None:
    with pytest.raises(ConstraintFailed):
        await Site("no call").ask(ToolChoice("required"))


async def test_an_answer_that_ends_within_its_reasoning_is_no_answer_without_calls() -> None:
    site = Site("")
    site.engine = FakeEngine(default=Reply(("hm",), events=([Thinking("hm")],)))
    with pytest.raises(ConstraintFailed, match="the model ended its answer within its reasoning"):
        await site.ask(ToolChoice("required"))


async def test_none_leaves_the_tools_out() -> None:
    site = Site("hi")
    await site.ask(ToolChoice("none"))
    assert "Tools:" not in site.engine.asked[0].prompt.text
    assert not site.engine.asked[0].run.chat.tools


@pytest.mark.parametrize(
    ("choice", "tools", "text"),
    [
        (ToolChoice("required"), (), "tool_choice: there are no tools to choose from"),
        (ToolChoice("required", "x"), (TOOL,), 'tool_choice: there is no tool "x"'),
    ],
)
async def test_a_choice_of_nothing_is_refused(choice: ToolChoice, tools: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        await Site("hi").ask(choice, tools=tools)


async def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason() -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}
    with pytest.raises(InvalidRequest, match="tool_choice: the parameters of the tools cannot be enforced"):
        await Site(CALLS).ask(ToolChoice("required"), schemas={"weather": bad})


def scripted(_: Prompt, run: Run) -> Reply:
    calls = [ToolCall(0, "i", "a", {}), ToolCall(1, "j", "b", {})]
    return Reply(("x",), events=((), calls))


async def test_without_parallel_calls_one_comes_out() -> None:
    site = Site("")
    site.engine = FakeEngine(scripted)
    events = await site.ask(ToolChoice(), parallel_tool_calls=False)
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["a"]


async def test_the_last_tokens_of_a_prompt_are_kept_and_variables_reach_the_template() -> None:
    site = Site("x")
    await site.ask(ToolChoice(), prompt_tokens=2, template_variables={"style": "short"})
    assert len(site.engine.asked[0].prompt.token_ids) == 2
    assert site.engine.renderings[0].variables == {"style": "short"}


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "a b", "add_generation_prompt"])
async def test_a_variable_stands_for_nothing_of_the_servers(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no variable of a template"):
        await Site("x").ask(ToolChoice(), template_variables={name: 1})


@pytest.mark.parametrize(("continues", "expected"), [(None, True), (True, True), (False, False)])
async def test_who_continues_the_last_message_is_said(continues: bool | None, expected: bool) -> None:
    site = Site("x")
    prompt = ChatPrompt((Message.of("user", "hi"), Message.of("assistant", "well")))
    async for _ in site.pipeline.run(Generation("m", prompt, 0, continues=continues), RequestContext()):
        pass
    assert site.engine.renderings[0].continue_last is expected


async def test_nothing_to_continue_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="could be continued"):
        await Site("x").ask(ToolChoice(), continues=True)
