import asyncio
import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.catalogue.library import Library, Retry
from app.catalogue.preparation import prepare
from app.catalogue.stored import Reading, StoredModels
from app.core.errors import Forbidden, InvalidRequest, LoadFailed, ModelNotFound
from app.core.model import ENGINE_FIELDS
from app.core.request import Message
from app.store.store import Store
from tests.unit.catalogue_folders import QWEN, QWEN_TOKENS, make_folder, spec


@pytest.fixture
def library(tmp_path: Path) -> Library:
    folder = make_folder(tmp_path / "weights", template=QWEN, tokens=QWEN_TOKENS)
    specs = [spec("Plain", folder), spec("a/b:8b", folder), spec("emb", folder)]
    return prepare(specs, tmp_path / "cache")


@pytest.mark.point(55, 56, 57)
@pytest.mark.parametrize("name", ["plain", "PLAIN:LATEST", "  plain  ", "plain:local", "library/Plain"])
def test_names_are_found_in_any_case_and_dress(library: Library, name: str) -> None:
    assert str(library.find(name).name) == "Plain:latest"


def test_every_part_of_a_name_counts(library: Library) -> None:
    assert str(library.find("A/B:8B").name) == "a/b:8b"
    with pytest.raises(ModelNotFound):
        library.find("b:8b")


@pytest.mark.point(58)
def test_one_route_minds_the_case(library: Library) -> None:
    assert library.find("emb", case_sensitive=True)
    with pytest.raises(ModelNotFound):
        library.find("EMB", case_sensitive=True)


@pytest.mark.point(48, 49)
@pytest.mark.parametrize("name", ["nosuch", " nosuch:x ", "", "   "])
def test_an_unknown_name_is_repeated_as_it_was_sent(library: Library, name: str) -> None:
    with pytest.raises(ModelNotFound) as error:
        library.find(name)
    assert error.value.name == name


@pytest.mark.point(50, 51)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nosuch", "nosuch:latest"),
        ("a/b/nosuch", "a/b/nosuch:latest"),
        ("PLAIN:x", "Plain:x"),
        ("library/nosuch:local", "nosuch:latest"),
    ],
)
def test_describing_routes_show_the_tag(library: Library, name: str, shown: str) -> None:
    with pytest.raises(ModelNotFound) as error:
        library.find(name, details=True)
    assert error.value.name == shown


@pytest.mark.point(52, 54)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/b/c/d", "invalid model name"),
        ("a b", "invalid model name"),
        ("m:", "invalid model name"),
        ("x:local:cloud", 'use either :local or :cloud, not both: "x:local:cloud"'),
    ],
)
def test_names_that_cannot_be(library: Library, name: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        library.find(name)
    assert str(error.value) == message


def test_the_cloud_is_off(library: Library) -> None:
    with pytest.raises(Forbidden, match="cloud is disabled: remote model is unavailable"):
        library.find("plain:cloud")
    with pytest.raises(Forbidden, match="remote model details are unavailable"):
        library.find("plain:8b-cloud", details=True)


def test_all_keeps_the_order(library: Library) -> None:
    assert [str(model.name) for model in library.all()] == ["Plain:latest", "a/b:8b", "emb:latest"]


def test_one_engine_for_the_same_weights_and_settings(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "w", template=QWEN, tokens=QWEN_TOKENS)
    specs = [
        spec("a", folder, engine={"max_model_len": 9, "seed": 1}),
        spec("b", folder, engine={"seed": 1, "max_model_len": 9}, system="hi"),
        spec("c", folder, engine={"seed": 2}),
        spec("d", folder, tool_parser="none"),
        spec("e", folder, chat_template="{{ messages }}"),
        spec("f", make_folder(tmp_path / "w2")),
    ]
    keys = [model.engine_key for model in prepare(specs, tmp_path / "cache").all()]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    assert keys == [model.engine_key for model in prepare(specs, tmp_path / "other").all()]


def test_a_model_built_on_another(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "w", template=QWEN, tokens=QWEN_TOKENS)
    base, hi = {"seed": 1, "temperature": 0.1}, Message.of("user", "hi")
    specs = [
        spec(
            "poet",
            "chat",
            parameters={"temperature": 0.9},
            messages=(hi,),
            license=("B",),
        ),
        spec("chat", "Base:latest", system="be kind", template="{{ .Prompt }}{{ .Suffix }}"),
        spec("base", folder, system="be brief", parameters=base, license=("A",), engine={"seed": 1}),
    ]
    library = prepare(specs, tmp_path / "cache")
    poet, chat, root = library.all()
    assert [poet.parent, chat.parent, root.parent] == ["chat:latest", "base:latest", ""]
    assert poet.engine_key == chat.engine_key == root.engine_key
    # Whichever of them is asked for first loads the engine of all.
    assert poet.spec.engine == chat.spec.engine == root.spec.engine != {}
    assert len({poet.facts.digest, chat.facts.digest, root.facts.digest}) == 3
    assert (chat.spec.system, root.spec.system, poet.spec.system) == ("be kind", "be brief", "be kind")
    assert poet.spec.parameters == {"seed": 1, "temperature": 0.9}
    assert (poet.spec.license, poet.spec.messages) == (("A", "B"), (hi,))
    assert chat.facts.capabilities == ("completion", "insert")
    assert root.facts.capabilities == ("completion", "tools", "thinking")
    for model in (poet, chat, root):
        assert model.on_engine().facts.capabilities == root.facts.capabilities, "whichever is loaded first"


async def test_an_engine_is_loaded_as_its_weights_are(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "w", template=QWEN, tokens=QWEN_TOKENS)
    specs = [spec("base", folder), spec("chat", "base", template="{{ .Prompt }}")]
    library = prepare(specs, tmp_path / "cache")
    loaded = await library.materialized(library.find("chat"))
    assert not library.find("chat").can("tools")
    assert loaded.can("tools")
    assert str(loaded.name) == "chat:latest"


def test_a_model_built_on_another_has_its_jinja_template(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "w", template="{{ x }}")
    specs = [spec("base", folder, chat_template=QWEN), spec("chat", "base", system="be kind")]
    base, chat = prepare(specs, tmp_path / "cache").all()
    assert base.spec.chat_template == chat.spec.chat_template == QWEN


def test_a_model_built_on_another_loads_its_engine_as_that_one_would(tmp_path: Path) -> None:
    """Whichever is asked for first: the engine, and so what it is started with, is that of all of them."""
    own = {"engine": {"dtype": "float32"}, "chat_template": "{{ tools }}", "tool_parser": "hermes"}
    specs = [
        spec("base", make_folder(tmp_path / "w"), **own, reasoning_parser="none"),
        spec("alias", "base"),
        spec("again", "alias", system="be kind"),
    ]
    base, *others = prepare(specs, tmp_path / "cache").all()
    assert {each.engine_key for each in others} == {base.engine_key}
    for field in ENGINE_FIELDS:
        assert [getattr(each.spec, field) for each in others] == [getattr(base.spec, field)] * 2


@pytest.mark.parametrize(
    "own",
    [
        {"system": "be kind"},
        {"template": "{{ .Prompt }}"},
        {"parameters": {"temperature": 0.5, "seed": 1 << 63}},
        {"messages": (("user", "hi"),)},
        {"license": ("MIT",)},
    ],
)
def test_a_model_with_something_of_its_own_has_a_digest_of_its_own(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    """The same on every server and after every start, whatever the order of the parameters."""
    folder = make_folder(tmp_path / "w")
    turned = {
        key: dict(reversed(value.items())) if key == "parameters" else value for key, value in own.items()
    }
    specs = [
        spec("root", folder),
        spec("copy", "root"),
        spec("own", "root", **own),
        spec("same", "copy", **turned),
    ]
    root, copy, mine, same = prepare(specs, tmp_path / "cache").all()
    assert root.facts.digest == copy.facts.digest != mine.facts.digest == same.facts.digest
    assert re.fullmatch("[0-9a-f]{64}", mine.facts.digest)
    again = prepare(specs, tmp_path / "other").all()
    assert [model.facts.digest for model in again] == [
        model.facts.digest for model in (root, copy, mine, same)
    ]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": "b", "b": "c", "c": "a"}, "in a circle: a:latest -> b:latest -> c:latest -> a:latest"),
        ({"a": "A"}, "in a circle: a:latest -> a:latest"),
        ({"a": "nosuch"}, "'nosuch' is neither a folder"),
        ({"a": "no such"}, "'no such' is neither a folder"),
        ({"a": "./nosuch"}, r"there is no folder \./nosuch"),
        ({"a": "/nosuch/x.gguf"}, "cannot read /nosuch/x.gguf: No such file"),
    ],
)
def test_sources_that_lead_nowhere(tmp_path: Path, sources: dict[str, str], message: str) -> None:
    specs = [spec(name, source) for name, source in sources.items()]
    with pytest.raises(LoadFailed, match=message):
        prepare(specs, tmp_path)


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="two models are named 'm:latest'"):
        prepare([spec("m", "x"), spec("M", "y")], tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"engine": {"seed": 1}}, {"chat_template": "x"}, {"tool_parser": "none"}, {"reasoning_parser": "x"}],
)
def test_settings_of_an_engine_belong_to_its_own_model(tmp_path: Path, fields: dict[str, Any]) -> None:
    specs = [spec("base", make_folder(tmp_path / "w")), spec("chat", "base", **fields)]
    with pytest.raises(LoadFailed, match=f"{next(iter(fields))} can be set only there"):
        prepare(specs, tmp_path / "cache")


def test_a_folder_may_have_the_name_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    [model] = prepare([spec("tiny", "tiny")], tmp_path / "cache").all()
    assert model.facts.path == tmp_path / "tiny"


def test_progress_names_the_model_and_the_phase(tmp_path: Path) -> None:
    heard = list[tuple[str, str, float]]()
    prepare(
        [spec("m", make_folder(tmp_path / "w"))],
        tmp_path / "cache",
        lambda name, phase, fraction: heard.append((name, phase, fraction)),
    )
    assert {(name, phase) for name, phase, _fraction in heard} == {("m:latest", "hashing")}
    assert heard[-1][2] == 1.0


async def test_a_store_that_changes_all_the_time_does_not_put_off_what_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = StoredModels(Store(tmp_path / "models"), tmp_path / "cache")
    seconds, looks = count(), list[bool]()
    enough = asyncio.Event()

    def read(_configured: object, *, again: bool = False) -> Reading:
        looks.append(again)
        if len(looks) > 50:
            enough.set()
        return Reading((), {"m": "it cannot be read"}, "before")

    monkeypatch.setattr(stored, "read", read)
    monkeypatch.setattr(stored, "signature", lambda: "another")
    monkeypatch.setattr("app.catalogue.library._INTERVAL_S", 0)
    monkeypatch.setattr("app.catalogue.library.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    library = Library([])
    library.open(stored)
    watching = asyncio.create_task(library.watch())
    async with asyncio.timeout(60):
        await enough.wait()
    watching.cancel()
    assert looks.count(True) > 5


class TestRetry:
    def test_changes_do_not_put_it_off(self) -> None:
        retry = Retry()
        for tenth in range(0, 30, 5):
            retry.looked(tenth / 10, again=False, is_needed=True)
        assert retry.is_due(2.1)

    def test_it_comes_later_each_time_and_a_change_brings_it_nearer(self) -> None:
        retry, now = Retry(), 0.0
        retry.looked(now, again=False, is_needed=True)
        waits: list[float] = []
        for _ in range(7):
            assert retry.at is not None
            waits.append(retry.at - now)
            now = retry.at
            retry.looked(now, again=True, is_needed=True)
        assert waits == [2, 4, 8, 16, 32, 64, 64]
        retry.looked(now + 1, again=False, is_needed=True)
        assert retry.at == now + 3

    def test_nothing_is_due_where_everything_is_served(self) -> None:
        retry = Retry()
        retry.looked(0, again=False, is_needed=True)
        retry.looked(1, again=False, is_needed=False)
        assert not retry.is_due(1_000)
