"""Whatever a model answers, in whatever pieces: a stream comes to what a document says, in every API."""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.catalogue.library import Library
from app.core.errors import EngineFailed
from app.core.events import Content, Event, Thinking, ToolCall
from app.core.model import Model
from app.engine.base import Prompt, Run
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from app.main import build_app
from app.settings.server import read_settings
from harness.fake_model import fake_model
from tests.conformance.apis import APIS, TOOL, Api, Said

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
EVENTS = st.builds(Content, TEXT) | st.builds(Thinking, TEXT)
PLANS = st.builds(
    lambda groups, rest: [*groups, rest],
    st.lists(st.lists(EVENTS, max_size=3), min_size=1, max_size=6),
    st.lists(EVENTS | ARGUMENTS, max_size=4),
)
"""Groups of events, and those at the end, among which the calls are, as `Decoder` has it."""
PLAIN = st.lists(TEXT, max_size=8)


class Talks:
    """A server whose model answers with what `reply` is at the time, and a loop to ask it from."""

    def __init__(self) -> None:
        self.reply = Reply([""])
        self._runner = asyncio.Runner()

        def script(_: Prompt, __: Run) -> Reply:
            return self.reply

        async def start(_: Model) -> FakeEngine:
            return FakeEngine(script)

        app = build_app(read_settings(preload=False), Library([fake_model("m")]), start)
        transport = httpx.ASGITransport(app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def ask(self, api: Api, *, stream: bool, **wanted: Any) -> httpx.Response:
        body = api.body("hi", stream=stream, **wanted)
        return self._runner.run(self._client.post(api.path, json=body))

    def said(self, api: Api, *, stream: bool, **wanted: Any) -> Said:
        answer = self.ask(api, stream=stream, **wanted)
        assert answer.status_code == 200, answer.text
        return api.stream(answer.text) if stream else api.whole(answer.json())


@pytest.fixture(scope="module")
def talks() -> Generator[Talks]:
    made = Talks()
    yield made
    made.close()


often = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def planned(plan: Sequence[Sequence[Content | Thinking | dict[str, Any]]]) -> Reply:
    """A reply that is read as these events; a dictionary stands for a call with such arguments."""
    groups: list[list[Event]] = []
    calls = 0
    for group in plan:
        groups.append([])
        for each in group:
            if isinstance(each, dict):
                each = ToolCall(calls, f"call_{calls}", str(TOOL["name"]), each)
                calls += 1
            groups[-1].append(each)
    return Reply([f"w{at} " for at in range(len(groups) - 1)], groups)


@often
@given(PLANS)
@example([[Content("a")], [{"b": "</tool_call>\u2028"}, Content("c"), Thinking("d"), {}]])
@example([[Content("data: x\n\nevent: y\r\n")], [Thinking("\x00\u2029<&>")]])
def test_events_in_any_order(
    talks: Talks, plan: Sequence[Sequence[Content | Thinking | dict[str, Any]]]
) -> None:
    talks.reply = planned(plan)
    events = [each for group in plan for each in group]
    text = "".join(each.text for each in events if isinstance(each, Content))
    thinking = "".join(each.text for each in events if isinstance(each, Thinking))
    calls = [(TOOL["name"], each) for each in events if isinstance(each, Mapping)]
    for api in APIS:
        whole = talks.said(api, stream=False, tool=True, think=True)
        assert talks.said(api, stream=True, tool=True, think=True) == whole, api.name
        assert (whole.text, whole.thinking, whole.calls) == (text, thinking, calls), api.name
        assert whole.end == ("tools" if calls else "stop"), api.name


@often
@given(PLAIN, st.integers(0, 6), st.none() | st.text("ab \u00e9", min_size=1, max_size=2))
@example(["ab", "c"], 0, "bc")
@example(["\ud7ff", ""], 1, None)
@example(["a\x85\x1c\u2028b"], 0, None)
def test_texts_that_are_cut(talks: Talks, texts: list[str], most: int, stop: str | None) -> None:
    talks.reply = Reply(texts)
    found: list[Said] = []
    for api in APIS:
        if stop and api.name == "responses":
            continue  # It has no stop strings.
        whole = talks.said(api, stream=False, most=most, stop=stop)
        assert talks.said(api, stream=True, most=most, stop=stop) == whole, api.name
        found.append(whole)
    assert found == [found[0]] * len(found)


@often
@given(PLAIN, st.integers(0, 3))
def test_failures_at_any_time(talks: Talks, texts: list[str], after: int) -> None:
    """Before the first frame there is a status, after it the stream's end says it."""
    talks.reply = Reply([*texts, "x"], error=EngineFailed("it broke"), error_after=min(after, len(texts)))
    begins = any(texts[: talks.reply.error_after])
    for api in APIS:
        answer = talks.ask(api, stream=False)
        assert (answer.status_code, api.error(answer.json())) == (500, "it broke"), api.name
        streamed = talks.ask(api, stream=True)
        if streamed.status_code == 500:
            assert api.error(streamed.json()) == "it broke"
            assert not begins, api.name
        else:
            said = api.stream(streamed.text)
            assert said.end == "error", api.name
            assert "".join(texts[: talks.reply.error_after]).startswith(said.text)
