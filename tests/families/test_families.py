"""What docs/model-families.md says of each family: prompts, parsers, calls, reasoning and schemas."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.catalogue import foreign
from app.constrain.compile import written
from app.core.request import Constraint, Message, PastToolCall, Think
from app.engine.base import Prompt
from scripts.families.rows import FAMILIES, Family
from tests.families.site import TOOL, Site, make_site
from tests.unit.replying import Answer, called

pytestmark = pytest.mark.filterwarnings("ignore")

WRITERS = [family for family in FAMILIES if not family.embeds]
PROMPTED = [family for family in WRITERS if family.kind != "kimi_k3"]
READ = [family for family in PROMPTED if family.is_read]
CALLING = [family for family in READ if family.tool_parser]
THINKING = [family for family in READ if family.reasoning_parser]
CALL = (called("get_weather", city="Paris"),)
JSON = '{"name": "Ann"}'
Open = Callable[[Family], Site]


def rows(families: list[Family]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("family", families, ids=lambda family: family.name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Open:
    made: dict[str, Site] = {}

    def opened(family: Family) -> Site:
        if family.name not in made:
            made[family.name] = make_site(family, tmp_path_factory.mktemp("family") / "model")
        return made[family.name]

    return opened


def thought(family: Family, rest: str, *, think: Think, text: str = "Hm.") -> str:
    """A reply with reasoning where that is wanted, or cannot be turned off."""
    reasoning = family.reasoning
    if reasoning is None or (think is False and (reasoning.switch or False in family.levels)):
        return rest
    return f"{'' if reasoning.opened else reasoning.opens}{text}{reasoning.closes}{rest}"


def test_there_are_enough() -> None:
    assert len(FAMILIES) >= 60
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@rows(list(FAMILIES))
def test_what_the_files_say(site: Open, family: Family) -> None:
    facts = site(family).model.facts
    assert (facts.tool_parser, facts.reasoning_parser) == (family.tool_parser, family.reasoning_parser)
    assert ("embedding" in facts.capabilities) is family.embeds
    assert ("vision" in facts.capabilities) is family.vision
    assert ("tools" in facts.capabilities) is (family.tool_parser is not None)
    assert (facts.thinking.values if facts.thinking else ()) == family.levels


@rows(list(FAMILIES))
def test_its_files_are_taken_from_anybody(site: Open, family: Family) -> None:
    """Pulled and uploaded folders are looked at for what could harm the server, and none of it is usual."""
    foreign.check(site(family).model.facts.path)


@rows(PROMPTED)
async def test_a_chat_becomes_a_prompt(site: Open, family: Family) -> None:
    prompt = await site(family).prompt()
    assert "Weather in Paris?" in prompt.text
    assert len(prompt.token_ids) > 3
    if family.turns is not None:
        assert family.turns.open(family.turns.assistant) in prompt.text


@rows(THINKING)
async def test_thinking_is_turned_on_and_off(site: Open, family: Family) -> None:
    here = site(family)
    on, off = [await here.prompt(think=think) for think in (True, False)]
    switchable = family.levels != (True,)
    assert (on.text != off.text) is switchable
    for think, prompt in ((True, on), (None, await here.prompt()), (False, off)):
        wanted = Answer("" if think is False else "Hm.", "Sunny.")
        if think is False and not switchable:
            continue  # what such a model thinks all the same is its answer's beginning (docs/reference 8)
        run = here.run(think=think, tools=False)
        assert here.answer(_final(family, thought(family, "Sunny.", think=think)), prompt, run) == wanted


@rows(CALLING)
async def test_a_call_goes_there_and_back(site: Open, family: Family) -> None:
    here = site(family)
    prompt = await here.prompt(tools=True)
    assert "get_weather" in prompt.text
    assert "city" in prompt.text
    for think in (None, False):
        if think is False and family.levels == (True,):
            continue
        prompt = await here.prompt(tools=True, think=think)
        reply = thought(family, family.call, think=think)
        shown = "Hm." if family.reasoning_parser and think is None else ""
        assert here.answer(reply, prompt, here.run(think=think, tools=True)) == Answer(shown, "", CALL)


@rows([family for family in PROMPTED if family.tool_parser])
@pytest.mark.parametrize("given", ["", "call_abcdefgh"])
async def test_a_result_goes_back(site: Open, family: Family, given: str) -> None:
    """Clients of Ollama's API name the tool, those of other APIs the call."""
    call = PastToolCall("get_weather", {"city": "Paris"}, id=given)
    result = Message.of("tool", "Sunny.", tool_name="" if given else "get_weather", tool_call_id=given)
    said = Message.of("assistant", "", thinking="I look.", tool_calls=(call,))
    prompt = await site(family).prompt(Message.of("user", "Weather?"), said, result, tools=True)
    assert "Sunny." in prompt.text
    assert prompt.text.count("Paris") > family.example.count("Paris")


@rows(READ)
async def test_a_schema_binds_the_answer_and_not_the_reasoning(site: Open, family: Family) -> None:
    here = site(family)
    prompt = await here.prompt()
    wanted = Constraint({"type": "object"}, grammar=written(Constraint()))
    run = here.run(think=None, tools=False, constraint=wanted)
    parser = here.parser(prompt, run)
    shown = "Hm." if family.reasoning_parser else ""
    if parser is not None and family.kind != "gpt_oss":
        assert parser.reasoning_ended() is (family.reasoning_parser is None)
    reply = _final(family, thought(family, JSON, think=None))
    assert here.answer(reply, prompt, run) == Answer(shown, JSON)


@rows(PROMPTED)
async def test_without_tools_no_tool_is_told_of(site: Open, family: Family) -> None:
    prompt = await site(family).prompt()
    assert TOOL["function"]["name"] not in prompt.text


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("think", [None, False])
def test_kimi_k3_is_read_behind_any_prompt(site: Open, think: Think, tools: bool) -> None:
    """The answer stands between marks of its own, also where neither calls nor reasoning are wanted."""
    family = next(each for each in FAMILIES if each.kind == "kimi_k3")
    here = site(family)
    assert family.reasoning is not None
    text = family.reasoning.opens if think is None else "<|sep|>"
    prompt = Prompt(text, here.tokenizer.encode(text, add_special_tokens=False))
    run = here.run(think=think, tools=tools)
    answer = thought(family, "<|open|>response<|sep|>Sunny.<|close|>response<|sep|>", think=think)
    shown = "Hm." if think is None else ""
    assert here.answer(answer, prompt, run) == Answer(shown, "Sunny.")
    if tools:
        assert here.answer(thought(family, family.call, think=think), prompt, run) == Answer(shown, "", CALL)


def test_a_repository_in_mistrals_own_format_is_one(tmp_path: Path) -> None:
    family = next(each for each in FAMILIES if each.name.startswith("Mistral Nemo"))
    folder = make_site(family, tmp_path / "m").folder
    (folder / "config.json").rename(folder / "params.json")
    (folder / "params.json").write_text('{"dim": 8, "n_layers": 2, "max_seq_len": 4096}')
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    facts = Site(family, folder).model.facts
    assert facts.engine == {"tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "mistral"}
    assert (facts.family, facts.context_length, facts.tool_parser) == ("mistral", 4096, "mistral")


def _final(family: Family, reply: str) -> str:
    """The answer of gpt-oss is in a channel of its own."""
    if family.kind != "gpt_oss":
        return reply
    thinking, closed, answer = reply.rpartition("<|start|>assistant")
    return f"{thinking}{closed}<|channel|>final<|message|>{answer}<|return|>"
