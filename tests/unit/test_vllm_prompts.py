"""How prompts are made of what clients choose the size of; Mistral's own tokenizer. No engine is started."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import EngineFailed, InvalidRequest
from app.core.limits import InputLimits
from app.core.pool import Pool
from app.core.request import ChatPrompt, Message
from app.engine.vllm.input.prompts import Prompts, batches
from app.engine.vllm.input.window import in_window
from app.engine.vllm.stream.logprobs import TokenBytes
from tests.unit.catalogue_folders import QWEN, make_folder
from tests.unit.garage import model
from tests.unit.growth import least_cpu_s
from tests.unit.rendering import of_folder, renderer_config
from tests.unit.test_messages import picture

pytestmark = pytest.mark.filterwarnings("ignore")

SEES = replace(model("m"), facts=replace(model("m").facts, capabilities=("completion", "vision")))


class Tokenizer:
    """One token a word; remembers in which threads it was at work."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def encode(self, text: str, **_: Any) -> list[int]:
        self.threads.append(threading.current_thread().name)
        return [1] * len(text.split())

    def decode(self, token_ids: Sequence[int]) -> str:
        self.threads.append(threading.current_thread().name)
        return "w " * len(token_ids)

    def num_special_tokens_to_add(self, _pair: bool) -> int:
        return 0

    def __len__(self) -> int:
        return 10


class Renderer:
    """Writes each message's content; remembers in which thread."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer()
        self.pictures: list[Any] = []

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    def render_messages(self, conversation: Any, _params: Any) -> Any:
        for message in conversation:
            if isinstance(message["content"], list):
                self.pictures += message["content"][:-1]
        return conversation, {"prompt": " ".join(str(each["content"]) for each in conversation)}

    def tokenize_prompt(self, prompt: Any, _params: Any) -> Any:
        return {**prompt, "prompt_token_ids": self.tokenizer.encode(prompt["prompt"])}

    async def process_for_engine_async(self, prompt: Any, _arrival: float) -> Any:
        return prompt


def made(limits: InputLimits | None = None) -> tuple[Prompts, Renderer]:
    renderer: Any = Renderer()
    return Prompts(SEES, renderer, Pool("prompts"), limits or InputLimits()), renderer


async def rendered(prompts: Prompts, *messages: Message, tools: Any = ()) -> Any:
    return await prompts.render(ChatPrompt(messages, tools), think=None, continue_last=False)


@pytest.mark.parametrize(
    "messages",
    [
        [Message.of("user", "long " * 1000)],
        [Message.of("user", "")] * 1000,
        [Message.of("assistant", "", thinking="long " * 1000)],
        [Message.of("user", "Hi", images=(picture("PNG"),))],
    ],
    ids=["long", "many", "thinking", "picture"],
)
async def test_what_is_large_is_made_beside_the_event_loop(messages: list[Message]) -> None:
    """F1: empty messages were few characters, and so many that the loop stood for ten seconds."""
    prompts, renderer = made()
    await rendered(prompts, *messages)
    assert {*renderer.tokenizer.threads} == {"prompts"}


async def test_what_is_small_does_not_wait_for_what_is_large() -> None:
    prompts, renderer = made()
    assert (await rendered(prompts, Message.of("user", "Hi there"))).token_ids == [1, 1]
    assert {*renderer.tokenizer.threads} == {threading.main_thread().name}


async def test_a_template_that_may_be_a_clients_is_rendered_beside_the_event_loop() -> None:
    prompts, renderer = made()
    chat = ChatPrompt((Message.of("user", "Hi there"),))
    await prompts.render(chat, think=None, continue_last=False, chat_template="{{ messages }}{# J #}")
    assert {*renderer.tokenizer.threads} == {"prompts"}


async def test_pictures_are_measured_before_any_is_decoded() -> None:
    """F5."""
    asked = Message.of("user", "Hi", images=(picture("PNG", (30, 20)),) * 3)
    prompts, renderer = made(InputLimits(image_pixels=1799))
    for work in (rendered(prompts, asked), prompts.tokenize("Hi", images=asked.images)):
        with pytest.raises(InvalidRequest) as refused:
            await work
        assert str(refused.value) == "images: at most 1799 pixels, this request has 1800"
    assert not renderer.pictures
    prompts, renderer = made(InputLimits(image_pixels=1800))
    await rendered(prompts, asked)
    assert len(renderer.pictures) == 3


async def test_a_picture_far_longer_than_wide_reaches_no_processor() -> None:
    """F24."""
    asked = Message.of("user", "Hi", (picture("PNG", (1, 201)),))
    prompts, renderer = made()
    for work in (rendered(prompts, asked), prompts.tokenize("Hi", images=asked.images)):
        with pytest.raises(InvalidRequest, match="at most 200 times as long as wide"):
            await work
    assert not renderer.pictures


async def test_an_id_that_is_no_token_is_refused() -> None:
    prompts, _ = made()
    with pytest.raises(InvalidRequest, match="not in the model's vocabulary"):
        await prompts.detokenize([1] * 100_000 + [10])


# Texts to embed.


@given(sizes=st.lists(st.integers(0, 300), max_size=30), most=st.integers(1, 500))
def test_batches_are_all_texts_in_their_order(sizes: list[int], most: int) -> None:
    texts = [str(at).ljust(size) for at, size in enumerate(sizes)]
    found = [*batches(texts, most)]
    assert [text for batch in found for text in batch] == texts
    assert all(len(batch) == 1 or sum(len(text) + 64 for text in batch) <= most for batch in found)


async def test_many_texts_are_tokenised_beside_the_event_loop_with_pauses() -> None:
    """F8: 60,000 inputs of a letter stopped the loop for ten seconds."""
    prompts, renderer = made()
    assert await prompts.fitted(["a b"] * 5000, truncate=True, limit=9) == [[1, 1]] * 5000
    assert {*renderer.tokenizer.threads} == {"prompts"}
    with pytest.raises(InvalidRequest, match="exceeds the context length"):
        await prompts.fitted(["a b"] * 5000 + ["a b c"], truncate=False, limit=2)


async def test_a_window_of_jobs_keeps_their_order_and_its_width() -> None:
    """F8: one request took every place of the engine."""
    running, most = 0, 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(item % 3):
            await asyncio.sleep(0)
        running -= 1
        return -item

    assert await in_window(work, range(100), 4) == [-item for item in range(100)]
    assert (running, most) == (0, 4)
    assert await in_window(work, [], 4) == []


async def test_a_failure_ends_the_other_jobs_of_a_window() -> None:
    begun: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        await asyncio.sleep(0)
        if item == 5:
            raise EngineFailed("broken")
        return item

    with pytest.raises(EngineFailed, match="broken"):
        await in_window(work, range(1000), 3)
    assert len(begun) < 12


# Mistral's own tokenizer, which comes with its library.


def mistral(folder: Path) -> Prompts:
    from vllm.renderers.mistral import MistralRenderer
    from vllm.tokenizers.mistral import MistralTokenizer

    _copied(folder, "tekken.json")
    renderer: Any = MistralRenderer(renderer_config(), MistralTokenizer.from_pretrained(str(folder)))
    return Prompts(model("m"), renderer, Pool(), InputLimits())


def of_files(folder: Path, template: str, **foreign: bool) -> tuple[Prompts, Any]:
    """The prompts of a model by vLLM's renderer for repositories, and its tokenizer."""
    from vllm.renderers.hf import HfRenderer
    from vllm.tokenizers import get_tokenizer

    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"}
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": words,
        },
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"},
    }
    make_folder(folder, template=template, files=files)
    more = {"max_model_len": 4096, "encoder_config": None, "get_vocab_size": lambda: 3}
    config = renderer_config(**of_folder(folder, "llama"), **more)
    read: Any = get_tokenizer(str(folder))
    renderer: Any = HfRenderer(config, read)
    return Prompts(replace(model("m"), **foreign), renderer, Pool("prompts"), InputLimits()), read


@pytest.mark.parametrize("foreign_files", [False, True])
async def test_what_is_foreign_is_rendered_and_tokenised_in_a_process_of_its_own(
    tmp_path: Path, foreign_files: bool
) -> None:
    """M22, M23: with the same outcome."""
    plain, tokenizer = of_files(tmp_path / "plain", QWEN)
    prompts, _ = of_files(tmp_path / "m", QWEN, foreign_files=foreign_files, foreign_template=True)
    said = (Message.of("user", "a"), Message.of("assistant", "b a"))
    for chat, continue_last in (
        (ChatPrompt(said), True),
        (ChatPrompt(said[:1], ({"type": "function", "function": {"name": "f"}},)), False),
    ):
        told: dict[str, Any] = {
            "think": None,
            "continue_last": continue_last,
            "variables": {"enable_thinking": False},
        }
        usual = await plain.render(chat, **told)
        found = await prompts.render(chat, **told, confined=True)
        assert (found.text, found.token_ids, found.continues) == (
            usual.text,
            usual.token_ids,
            usual.continues,
        )
        assert {**found.payload} == {**usual.payload, "arrival_time": found.payload["arrival_time"]}
    assert not plain.processes, "configured models pay nothing"
    assert prompts.processes == 1
    assert (await prompts.tokenize("a b")).token_ids == tokenizer.encode("a b")
    for limit in (1, 2):
        usual = await plain.fitted(["a b", "b"], truncate=True, limit=limit)
        assert await prompts.fitted(["a b", "b"], truncate=True, limit=limit) == usual
    with pytest.raises(InvalidRequest, match="exceeds the context length"):
        await prompts.fitted(["a b"], truncate=False, limit=1)
    await prompts.aclose()
    assert not prompts.processes


async def test_nothing_of_a_foreign_template_is_worked_out_in_the_server(tmp_path: Path) -> None:
    """M22: its constants were, while it was compiled."""
    prompts, _ = of_files(tmp_path, "{{ 9**(9**9) }}", foreign_files=True, foreign_template=True)
    with pytest.raises(
        InvalidRequest, match=r"^the chat template refused the messages: it takes longer than 2\.0 s"
    ):
        await prompts.render(
            ChatPrompt((Message.of("user", "a"),)), think=None, continue_last=False, confined=True
        )
    await prompts.aclose()


async def test_each_request_may_have_a_template_of_its_own(tmp_path: Path) -> None:
    """What lets models that differ in a Jinja template share an engine."""
    prompts, _ = of_files(tmp_path / "m", "{% for m in messages %}a{% endfor %}")
    chat = ChatPrompt((Message.of("user", "Hi"),), ({"type": "function", "function": {"name": "f"}},))
    for template, text in (("", "a"), ("{% if tools %}b{% endif %}{{ thinking }}", "bFalse"), ("", "a")):
        prompt = await prompts.render(
            chat, think=None, continue_last=False, chat_template=template, variables={"thinking": False}
        )
        assert prompt.text == text


async def test_control_tokens_of_mistral_are_tokens_and_no_text(tmp_path: Path) -> None:
    """Rendered as text they went in as a dozen plain tokens, without the one that a prompt begins with."""
    prompts = mistral(tmp_path)
    prompt = await rendered(prompts, Message.of("user", "Hello"))
    assert list(prompt.token_ids) == [1, 3, 22177, 4]
    assert prompt.text


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model.v1"])
def test_every_token_of_mistral_has_its_bytes(tmp_path: Path, name: str) -> None:
    """A model with such a tokenizer did not load: what reads other vocabularies refuses it."""
    from vllm.tokenizers.mistral import MistralTokenizer

    _copied(tmp_path, name)
    tokenizer: Any = MistralTokenizer.from_pretrained(str(tmp_path))
    read = TokenBytes(tokenizer)
    read.read()
    text = "H\u00e9llo \u4e16 \U0001f30d"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(read.of, ids)).strip() == text.encode()
    assert read.of(1) == b"<s>"


def _copied(folder: Path, name: str) -> None:
    spec = find_spec("mistral_common")
    assert spec is not None
    assert spec.origin is not None
    source = {"tekken.json": "tekken_240911.json"}.get(name, name)
    shutil.copy(Path(spec.origin).parent / "data" / source, folder / name)


def test_work_on_texts_grows_no_faster_than_they_do() -> None:
    """F8."""

    def read(count: int) -> None:
        prompts, _ = made()
        asyncio.run(prompts.fitted(["a"] * count, truncate=True, limit=9))

    once, twice = (least_cpu_s(partial(read, count)) for count in (20_000, 40_000))
    assert twice < 3 * once + 0.05
