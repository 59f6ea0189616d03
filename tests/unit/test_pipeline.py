"""One request through the real pipeline and manager, on a scripted engine; and over HTTP where it fails."""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from app.api.format import read_format
from app.catalogue.library import Library
from app.catalogue.parameters import read_parameters
from app.core.context import RequestContext
from app.core.errors import (
    ConstraintFailed,
    EngineDied,
    EngineFailed,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
)
from app.core.events import Content, Done, Event, Started, Thinking, ToolCall
from app.core.model import Model
from app.core.pool import Pool
from app.core.request import (
    ChatPrompt,
    CompletionPrompt,
    Deferred,
    Embedding,
    Generation,
    Load,
    Message,
    Render,
    Unload,
)
from app.engine.base import Engine, Vectors
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import HELLO, Reply
from app.main import build_app
from app.runtime.manager import Manager
from app.runtime.pipeline import Pipeline
from app.settings.server import Settings
from tests.api.live import serving
from tests.unit.garage import model

M = model("m")
WINDOW = 256
TEXT = "".join(HELLO.deltas)


class Site:
    """A pipeline with one model, what it runs on, and how often its engine was started."""

    def __init__(self, engine: FakeEngine, served: Model) -> None:
        self.engine = engine
        self.starts = 0
        self.manager = Manager(
            self._start,
            keep_alive_s=300,
            load_timeout_s=math.inf,
            max_queue=8,
            default_context=WINDOW,
        )
        self.pipeline = Pipeline(Library([served]), self.manager, pool=Pool())

    async def _start(self, _: Model) -> Engine:
        self.starts += 1
        return self.engine

    async def run(self, asked: Generation) -> list[Event]:
        events: list[Event] = []
        async for item in self.pipeline.run(asked, RequestContext()):
            events += item
        assert isinstance(events[0], Started)
        return events[1:]

    async def load(self, asked: Generation) -> None:
        await self.pipeline.load(Load(asked), RequestContext())

    def unload(self, name: str = "m") -> None:
        self.pipeline.unload(Unload(name), RequestContext())

    @property
    def busy(self) -> tuple[int, float]:
        return self.manager.in_use, self.engine.metrics()["running"]


@asynccontextmanager
async def site(engine: FakeEngine | None = None, served: Model = M) -> AsyncGenerator[Site, None]:
    """Nothing may be left running at the end."""
    made = Site(engine or FakeEngine(window=WINDOW), served)
    yield made
    assert made.busy == (0, 0)
    await made.manager.close()


def asked(prompt: str = "Hi", *, name: str = "m", options: Any = None, **fields: Any) -> Generation:
    parts = {key: fields.pop(key) for key in ("raw", "context", "system") if key in fields}
    if "format" in fields:
        fields["constraint"] = Deferred(read_format, fields.pop("format"))
    sampling = Deferred(read_parameters, options or {})
    completion = CompletionPrompt(prompt, **parts)
    return Generation(name, completion, received_ns=time.monotonic_ns(), sampling=sampling, **fields)


def chat(*messages: Message, **fields: Any) -> Generation:
    return Generation("m", ChatPrompt(messages), received_ns=time.monotonic_ns(), **fields)


def done(events: Sequence[Event]) -> Done:
    last = events[-1]
    assert isinstance(last, Done)
    return last


def able(**facts: Any) -> Model:
    return replace(M, facts=replace(M.facts, **facts))


async def test_an_answer_is_its_text_and_then_its_counts() -> None:
    async with site() as made:
        *text, last = await made.run(asked())
        assert text == [Content(delta) for delta in HELLO.deltas]
        end = done([last])
        prompt = made.engine.asked[-1].prompt
        assert (end.reason, end.output_tokens) == ("stop", 5)
        assert end.prompt_tokens == len(prompt.token_ids) > 0
        spent = end.load_ns + end.timings.prompt_eval_ns + end.timings.eval_ns
        assert 0 < end.load_ns < spent <= end.total_ns
        assert (await made.engine.detokenize(end.context or ())) == prompt.text + TEXT


async def test_a_loaded_model_still_takes_some_time_to_load() -> None:
    async with site() as made:
        ends = [done(await made.run(asked())) for _ in range(2)]
        assert made.starts == 1
        assert all(end.load_ns > 0 for end in ends)


@pytest.mark.point(70)
async def test_only_a_templated_completion_has_a_context() -> None:
    async with site() as made:
        assert done(await made.run(asked(raw=True))).context is None
        assert done(await made.run(chat(Message.of("user", "Hi")))).context is None
        assert done(await made.run(asked())).context


async def test_the_context_ends_before_a_stop_string() -> None:
    async with site() as made:
        events = await made.run(asked(options={"stop": ["scripted"]}))
        prompt = made.engine.asked[-1].prompt
        context = done(events).context or []
        assert (await made.engine.detokenize(context)) == f"{prompt.text}Hello from the "


async def test_the_context_of_one_answer_begins_the_next_prompt() -> None:
    async with site() as made:
        first = done(await made.run(asked("One")))
        second = done(await made.run(asked("Two", context=tuple(first.context or ()))))
        text = made.engine.asked[-1].prompt.text
        assert text.startswith(f"{made.engine.asked[0].prompt.text}{TEXT}")
        assert text.endswith("Two<|im_end|>\n<|im_start|>assistant\n")
        assert second.prompt_tokens == len((await made.engine.tokenize(text)).token_ids)


@pytest.mark.point(61, 62, 93)
async def test_an_empty_prompt_loads_and_looks_at_no_format() -> None:
    async with site() as made:
        await made.load(asked("", format="xml"))
        assert (made.starts, len(made.engine.asked)) == (1, 0)


@pytest.mark.point(63, 97)
async def test_an_unload_looks_at_nothing_but_the_name() -> None:
    async with site() as made:
        for _ in range(2):
            made.unload()
            assert made.manager.loaded() == []
            if not made.starts:
                await made.load(asked(""))
        assert made.starts == 1


@pytest.mark.point(106)
async def test_an_answer_that_keeps_nothing_alive_is_whole_and_then_unloaded() -> None:
    async with site() as made:
        events = await made.run(asked(keep_alive_s=0.0))
        assert "".join(event.text for event in events if isinstance(event, Content)) == TEXT
        assert made.manager.loaded() == []


@pytest.mark.point(64, 97, 108, 119)
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (asked(name="nosuch", options={"num_ctx": "x"}), ModelNotFound),
        (asked(options={"num_ctx": "x"}), InvalidRequest),
        (asked("", options={"num_ctx": "x"}), InvalidRequest),
        (asked(think=True, options={"num_ctx": "x"}), InvalidRequest),
    ],
)
async def test_what_can_be_refused_without_an_engine_starts_none(
    wrong: Generation, error: type[Exception]
) -> None:
    async with site() as made:
        with pytest.raises(error):
            await made.run(wrong)
        with pytest.raises(error):
            await made.load(wrong)
        assert made.starts == 0


async def test_an_unload_of_no_model() -> None:
    async with site() as made:
        with pytest.raises(ModelNotFound):
            made.unload("nosuch")


@pytest.mark.point(89)
async def test_the_order_of_the_checks() -> None:
    """Capabilities, options, load, format: each is looked at only when the ones before are right."""
    async with site() as made:
        bad: dict[str, Any] = {"options": {"stop": "x"}, "format": "xml"}
        with pytest.raises(InvalidRequest, match="does not support thinking"):
            await made.run(asked(think=True, **bad))
        with pytest.raises(InvalidRequest, match="must be of type array"):
            await made.run(asked(**bad))
        with pytest.raises(InvalidRequest, match="invalid format"):
            await made.run(asked(format="xml"))
        assert (made.starts, len(made.engine.asked)) == (1, 0)


@pytest.mark.point(77)
async def test_the_prompt_can_be_looked_at_without_an_answer() -> None:
    async with site() as made:
        wanted = Render(asked("look", raw=True, format="xml"))
        found = await made.pipeline.render(wanted, RequestContext())
        assert (found.text, found.image_count) == ("look", 0)
        assert not made.engine.asked


@pytest.mark.point(73)
@pytest.mark.parametrize(
    ("options", "max_tokens"),
    [
        ({"num_predict": 3}, 3),
        ({"num_predict": 0}, WINDOW - 4),
        ({"num_predict": -1}, WINDOW - 4),
        ({"num_predict": -2}, WINDOW - 4),
        ({"num_predict": 2**62}, WINDOW - 4),
        ({"num_ctx": 10}, 6),
        ({"num_ctx": 10, "num_predict": 7}, 6),
        ({"num_ctx": 2**62}, WINDOW - 4),
        ({}, WINDOW - 4),
    ],
)
async def test_the_answer_has_what_the_window_leaves(options: dict[str, int], max_tokens: int) -> None:
    async with site() as made:
        await made.run(asked("a b c d", raw=True, options=options))
        assert made.engine.asked[-1].run.max_tokens == max_tokens


async def test_the_options_of_model_and_request_reach_the_engine() -> None:
    served = replace(M, sampling=read_parameters({"top_k": 7, "temperature": 0.5}))
    async with site(served=served) as made:
        await made.run(asked(options={"temperature": 0.1}, logprobs=True, top_logprobs=3))
        run = made.engine.asked[-1].run
        assert (run.sampling.top_k, run.sampling.temperature, run.logprobs) == (7, 0.1, 3)
        await made.run(asked(top_logprobs=3))
        assert made.engine.asked[-1].run.logprobs is None


@pytest.mark.point(94)
async def test_closing_the_events_frees_the_engine() -> None:
    async with site(FakeEngine(default=Reply(("more ",) * 100), window=WINDOW)) as made:
        async with aclosing(made.pipeline.run(asked(), RequestContext())) as events:
            assert (await anext(events))[1:] == (Content("more "),)
            assert made.busy == (1, 1)
        assert made.busy == (0, 0)


@pytest.mark.point(94)
async def test_a_client_that_leaves_before_the_first_token_frees_the_engine() -> None:
    reached = asyncio.Event()

    async def hold(_: int) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with site(FakeEngine(gate=hold, window=WINDOW)) as made:
        waiting = asyncio.create_task(made.run(asked()))
        await reached.wait()
        assert made.busy == (1, 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert made.busy == (0, 0)


@pytest.mark.point(95, 96)
@pytest.mark.parametrize("after", [0, 2])
async def test_a_failure_ends_the_events(after: int) -> None:
    reply = Reply(("a ", "b ", "c "), error=EngineFailed("broken"), error_after=after)
    async with site(FakeEngine(default=reply, window=WINDOW)) as made:
        seen: list[Any] = []
        events = made.pipeline.run(asked(), RequestContext())
        for _ in range(after):
            seen += await anext(events)
        started = [event for event in seen if isinstance(event, Started)]
        assert len(started) == (1 if after else 0)
        with pytest.raises(EngineFailed, match="broken"):
            await anext(events)
        assert seen[1:] == [Content("a "), Content("b ")][:after]
        assert made.manager.down == []


async def test_a_reply_that_calls_a_tool() -> None:
    events = [Thinking("hm"), ToolCall(0, "id", "add", {"a": 1})]
    reply = Reply(("hm", "call"), events=([events[0]], [], [events[1]]))
    served = able(capabilities=("completion", "tools"))
    async with site(FakeEngine(default=reply, window=WINDOW), served) as made:
        *first, last = await made.run(chat(Message.of("user", "Add")))
        assert first == events
        assert (done([last]).reason, done([last]).called_tools) == ("stop", True)


async def test_embeddings_are_shortened_to_unit_length() -> None:
    async with site(served=able(capabilities=("embedding",))) as made:
        found = await made.pipeline.embed(
            Embedding("m", ("a b", "c"), time.monotonic_ns(), dimensions=3), RequestContext()
        )
        assert [len(vector) for vector in found.vectors] == [3, 3]
        assert [math.hypot(*vector) for vector in found.vectors] == pytest.approx([1.0, 1.0])
        assert (found.prompt_tokens, found.load_ns > 0) == (3, True)
        assert found.load_ns <= found.total_ns


@pytest.mark.parametrize("ends", ["left", "failed"])
async def test_an_embed_request_is_charged_once_its_inputs_are_tokenised(ends: str) -> None:
    """F12: three times 1,500 texts that their client left cost a key nothing."""
    tokenised = asyncio.Event()

    class Slow(FakeEngine):
        async def embed(self, inputs: Sequence[str], **others: Any) -> Vectors:
            await super().embed(inputs, **others)
            tokenised.set()
            if ends == "failed":
                raise EngineFailed("broken")
            return await asyncio.get_running_loop().create_future()

    ctx = RequestContext()
    async with site(Slow(window=WINDOW), able(capabilities=("embedding",))) as made:
        inputs = ("a b", "c")
        running = asyncio.ensure_future(made.pipeline.embed(Embedding("m", inputs, time.monotonic_ns()), ctx))
        async with asyncio.timeout(10):
            await tokenised.wait()
        running.cancel()
        with pytest.raises((asyncio.CancelledError, EngineFailed)):
            await running
    assert ctx.work.prompt_tokens == 3


# Over HTTP: the same in the words of the API.


def app_with(start: Any) -> Any:
    return build_app(Settings(preload=False), Library([M]), start)


def failing_app(error: EngineFailed, after: int) -> Any:
    async def start(_: Model) -> Engine:
        return FakeEngine(default=Reply(("a ", "b ", "c "), error=error, error_after=after), window=WINDOW)

    return app_with(start)


@pytest.mark.point(95)
@pytest.mark.parametrize("error", [EngineFailed("broken <"), EngineDied("the engine is gone")])
def test_a_failure_after_output_is_the_last_line(error: EngineFailed) -> None:
    with serving(failing_app(error, 2)) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/api/generate", json={"model": "m", "prompt": "Hi"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    *rows, last, end = answer.content.split(b"\n")
    assert [json.loads(row)["response"] for row in rows] == ["a ", "b "]
    assert last == b'{"error":"' + str(error).replace("<", r"\u003c").encode() + b'"}'
    assert end == b""


@pytest.mark.point(96)
@pytest.mark.parametrize(("stream", "content_type"), [(True, ""), (False, "; charset=utf-8")])
def test_a_failure_before_output_has_its_own_status(stream: bool, content_type: str) -> None:
    with serving(failing_app(EngineFailed("broken"), 0)) as port:
        body = {"model": "m", "prompt": "Hi", "stream": stream}
        answer = httpx.post(f"http://127.0.0.1:{port}/api/generate", json=body)
    assert (answer.status_code, answer.content) == (500, b'{"error":"broken"}')
    assert answer.headers["content-type"] == f"application/json{content_type}"


@pytest.mark.point(96)
def test_a_whole_answer_that_fails_late_is_only_the_failure() -> None:
    with serving(failing_app(EngineFailed("broken"), 2)) as port:
        body = {"model": "m", "prompt": "Hi", "stream": False}
        answer = httpx.post(f"http://127.0.0.1:{port}/api/generate", json=body)
    assert (answer.status_code, answer.content) == (500, b'{"error":"broken"}')


@pytest.mark.point(96)
def test_a_model_that_cannot_be_loaded_says_why() -> None:
    async def start(_: Model) -> Engine:
        raise LoadFailed("out of memory")

    with serving(app_with(start)) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/api/generate", json={"model": "m", "prompt": "Hi"})
    assert (answer.status_code, answer.json()) == (500, {"error": "out of memory"})


@pytest.mark.point(107)
@pytest.mark.parametrize(("value", "least_s", "most_s"), [("-1", 3e9, 1e10), ("20m", 1190, 1200)])
def test_the_environment_sets_how_long_models_stay(
    monkeypatch: pytest.MonkeyPatch, value: str, least_s: float, most_s: float
) -> None:
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", value)

    async def start(_: Model) -> Engine:
        return FakeEngine(window=WINDOW)

    with serving(app_with(start)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.post("/api/generate", json={"model": "m"}).json()["done_reason"] == "load"
        (row,) = client.get("/api/ps").json()["models"]
    left = datetime.fromisoformat(row["expires_at"]) - datetime.now(UTC)
    assert least_s < left.total_seconds() <= most_s


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("reply", "options", "whole"),
    [
        (Reply(('{"a"', ":1}")), {}, True),
        (Reply(('{"a"', ":")), {}, False),
        (Reply(()), {}, False),
        (Reply(('{"a"', ":1", "0}")), {"num_predict": 2}, True),
        (Reply(('{"a"', ":1}")), {"stop": ["1"]}, True),
    ],
    ids=["whole", "cut off", "nothing", "length", "stop string"],
)
async def test_a_constrained_answer_that_ends_by_itself_is_whole(
    reply: Reply, options: dict[str, Any], whole: bool
) -> None:
    """A matcher that fails lets the model write nothing but its end, which is no answer's own."""
    async with site(FakeEngine(default=reply, window=WINDOW)) as made:
        answer = made.run(asked(format=SCHEMA, options=options))
        if whole:
            assert done(await answer).reason
        else:
            with pytest.raises(ConstraintFailed, match="could not be kept to the format"):
                await answer


async def test_a_schema_is_refused_before_the_engine_is_asked() -> None:
    async with site() as made:
        with pytest.raises(InvalidRequest, match=r"\$.properties.a: \"contains\" is not supported"):
            await made.run(asked(format={"properties": {"a": {"contains": {}}}}))
        assert not made.engine.asked
