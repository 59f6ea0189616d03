import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.api.ollama.views import Running, is_large, ps, show, tags
from app.api.ollama.wire import local_stamp
from app.core.model import Model, ModelFacts, ModelName, ModelSpec, TensorInfo
from app.core.request import Message

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)
SPEC = ModelSpec(
    name=ModelName("sys"),
    source="x",
    system="be brief",
    parameters={"stop": ["a", 'b"\n'], "temperature": 0.5, "num_ctx": 4096, "seed": -1.0, "use_mmap": True},
    messages=(Message.of("user", "hi"), Message.of("assistant", "ho\nho")),
    license=("MIT", "and more\nlines"),
)
FACTS = ModelFacts(
    path=Path("/models/x"),
    digest="ab" * 32,
    size_bytes=1000,
    modified_at=NOON,
    format="gguf",
    family="llama",
    families=("llama",),
    parameter_count=134_515_008,
    parameter_size="134.52M",
    quantization="Q4_1",
    context_length=8192,
    embedding_length=576,
    capabilities=("completion", "tools"),
    chat_template="{{ messages }}",
    info={"llama.block_count": 30, "general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b"]},
    tensors=(TensorInfo("token_embd.weight", "Q8_0", (576, 49152)),),
)
DETAILS = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]


def model(spec: dict[str, Any] | None = None, parent: str = "", **facts: Any) -> Model:
    fields = {name: getattr(SPEC, name) for name in SPEC.__slots__} | (spec or {})
    known = {name: getattr(FACTS, name) for name in FACTS.__slots__} | facts
    return Model(ModelSpec(**fields), ModelFacts(**known), "key", parent)


TENSOR = FACTS.tensors[0]


@pytest.mark.parametrize(
    ("spec", "facts", "large"),
    [
        ({}, {}, False),
        ({"license": ("x" * 1000,)}, {"tensors": (TENSOR,) * 1000}, False),
        ({"license": (lambda: "MIT",)}, {}, True),
        ({"system": "x" * 200_000}, {}, True),
        ({"messages": (Message.of("user"),) * 3000}, {}, True),
        ({"parameters": {"stop": ["x" * 200_000]}}, {}, True),
        ({}, {"tensors": (TENSOR,) * 150_000}, True),
        ({}, {"info": {str(number): number for number in range(3000)}}, True),
        ({}, {"info": {"general.description": "x" * 200_000}}, True),
        ({}, {"chat_template": "x" * 200_000}, True),
    ],
)
def test_what_is_too_large_to_be_shown_on_the_event_loop(
    spec: dict[str, Any], facts: dict[str, Any], large: bool
) -> None:
    assert is_large(model(spec, **facts)) is large


def test_a_license_that_is_read_when_it_is_shown() -> None:
    shown = show(model({"license": ("MIT", lambda: "BSD")}), "sys")
    assert shown["license"] == "MIT\nBSD"
    assert "LICENSE MIT\nLICENSE BSD\n" in shown["modelfile"]


@pytest.mark.point(171, 174)
def test_a_tag_has_its_keys_in_order() -> None:
    [item] = tags([model(parent="base:latest")])["models"]
    assert list(item) == ["name", "model", "modified_at", "size", "digest", "details", "capabilities"]
    assert list(item["details"]) == [*DETAILS, "context_length", "embedding_length"]
    assert (item["name"], item["model"], item["size"]) == ("sys:latest", "sys:latest", 1000)
    assert item["details"]["parent_model"] == "base:latest"
    assert item["details"]["context_length"] == 8192
    assert item["modified_at"] == local_stamp(NOON)


@pytest.mark.point(171)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (ModelName("m"), "m:latest"),
        (ModelName("m", "8b", "ns"), "ns/m:8b"),
        (ModelName("m", "8b", "Library", "Registry.Ollama.ai"), "m:8b"),
        (ModelName("m", "8b", "library", "hf.co"), "hf.co/library/m:8b"),
    ],
)
def test_names_are_shown_short_and_with_the_tag(name: ModelName, shown: str) -> None:
    assert tags([model({"name": name})])["models"][0]["name"] == shown


def test_what_a_tag_leaves_out() -> None:
    [item] = tags([model(context_length=0, embedding_length=0, capabilities=(), families=())])["models"]
    assert "capabilities" not in item
    assert list(item["details"]) == DETAILS
    assert item["details"]["families"] is None
    assert tags([]) == {"models": []}


@pytest.mark.point(173)
def test_the_newest_tag_comes_first() -> None:
    ages = {
        "old": timedelta(days=-1),
        "a": timedelta(),
        "b": timedelta(milliseconds=500),
        "new": timedelta(1),
    }
    models = [model({"name": ModelName(name)}, modified_at=NOON + age) for name, age in ages.items()]
    names = [item["name"] for item in tags(models)["models"]]
    assert names == ["new:latest", "a:latest", "b:latest", "old:latest"]


@pytest.mark.point(172, 175)
def test_rows_of_ps() -> None:
    later = NOON + timedelta(minutes=5)
    running = [Running(model(), 5, 3, 2048, NOON), Running(model({"name": ModelName("b")}), 6, 0, 99, later)]
    first, second = ps(running)["models"]
    keys = ["name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length"]
    assert list(first) == keys
    assert (first["name"], second["name"]) == ("b:latest", "sys:latest")
    assert list(second["details"]) == DETAILS
    assert (second["size"], second["size_vram"], second["context_length"]) == (5, 3, 2048)
    assert second["digest"] == tags([model()])["models"][0]["digest"]
    assert second["details"]["parent_model"] == ""
    assert second["expires_at"] == local_stamp(NOON)


@pytest.mark.point(177)
def test_show_has_its_keys_in_order() -> None:
    answer = show(model(), "sys")
    assert list(answer) == [
        *("license", "modelfile", "parameters", "template", "system", "details", "messages", "model_info"),
        *("tensors", "capabilities", "modified_at"),
    ]
    assert list(answer["details"]) == DETAILS
    assert answer["messages"][1] == {"role": "assistant", "content": "ho\nho"}
    assert answer["tensors"] == [{"name": "token_embd.weight", "type": "Q8_0", "shape": [576, 49152]}]
    assert answer["capabilities"] == ["completion", "tools"]


def test_show_of_a_bare_model() -> None:
    bare = {"system": "", "parameters": {}, "messages": (), "license": ()}
    answer = show(model(bare, info={}, format="safetensors", chat_template=""), "sys")
    keys = ["modelfile", "template", "details", "model_info", "capabilities", "modified_at"]
    assert list(answer) == keys
    assert (answer["template"], answer["model_info"]) == ("{{ .Prompt }}", {})
    assert "TEMPLATE {{ .Prompt }}\n" in answer["modelfile"]


@pytest.mark.point(178)
def test_long_lists_only_when_verbose() -> None:
    short, long = show(model(), "sys")["model_info"], show(model(), "sys", verbose=True)["model_info"]
    assert list(short) == ["general.architecture", "llama.block_count", "tokenizer.ggml.tokens"]
    assert short["tokenizer.ggml.tokens"] is None
    assert long["tokenizer.ggml.tokens"] == ["a", "b"]
    plain = model(format="safetensors")
    assert "tensors" not in show(plain, "sys")
    assert "tensors" in show(plain, "sys", verbose=True)


@pytest.mark.point(179)
def test_license_and_parameters() -> None:
    answer = show(model(), "sys")
    assert answer["license"] == "MIT\nand more\nlines"
    assert answer["parameters"].split("\n") == [
        'stop                           "a"',
        'stop                           "b\\"\\n"',
        "temperature                    0.5",
        "num_ctx                        4096",
        "seed                           -1",
        "use_mmap                       true",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (131072, "131072"),
        (1048576, "1.048576e+06"),
        (1000000, "1e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-1.5e22, "-1.5e+22"),
        (1.10, "1.1"),
    ],
)
def test_numbers_in_gos_form(number: float, text: str) -> None:
    parameters = show(model({"parameters": {"x": number}}), "sys")["parameters"]
    assert parameters == f"{'x':<30} {text}"


@pytest.mark.point(180)
def test_the_modelfile() -> None:
    assert show(model(), "sys")["modelfile"] == (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        "# FROM sys:latest\n"
        "\n"
        "FROM /models/x\n"
        "SYSTEM be brief\n"
        "PARAMETER stop a\n"
        'PARAMETER stop """b"\n"""\n'
        "PARAMETER temperature 0.5\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER seed -1\n"
        "PARAMETER use_mmap true\n"
        "LICENSE MIT\n"
        'LICENSE "and more\nlines"\n'
        "MESSAGE user hi\n"
        'MESSAGE assistant "ho\nho"\n'
    )


@pytest.mark.point(181)
def test_overrides_of_show() -> None:
    answer = show(model(), "sys", system=" loud", options={"temperature": 1, "top_k": 3})
    assert answer["system"] == " loud"
    assert 'SYSTEM " loud"\n' in answer["modelfile"]
    assert "PARAMETER temperature 1\n" in answer["modelfile"]
    assert "PARAMETER top_k 3\n" in answer["modelfile"]
    assert "top_k" not in answer["parameters"]
    assert show(model(), "sys")["system"] == "be brief"


def test_a_go_template_is_shown_before_a_jinja_one() -> None:
    answer = show(model({"template": "{{ .System }}\n{{ .Prompt }}"}), "sys")
    assert answer["template"] == "{{ .System }}\n{{ .Prompt }}"
    assert 'TEMPLATE "{{ .System }}\n{{ .Prompt }}"\n' in answer["modelfile"]
    assert show(model(), "sys")["template"] == "{{ messages }}"


def test_copilot_sees_the_name_it_asked_for() -> None:
    agent = "GitHubCopilotChat/0.26.7"
    assert show(model(), "SYS", user_agent=agent)["model_info"]["general.basename"] == "SYS"
    assert "general.basename" not in show(model(), "SYS", user_agent="curl/8")["model_info"]


def test_the_part_that_sees_is_shown_apart() -> None:
    info = {"general.architecture": "gemma3", "clip.vision.patch_size": 14}
    answer = show(model(info=info, capabilities=("completion", "vision")), "sys")
    assert answer["model_info"] == {"general.architecture": "gemma3"}
    assert answer["projector_info"] == {"clip.vision.patch_size": 14, "general.architecture": "clip"}
    assert list(answer).index("projector_info") == list(answer).index("model_info") + 1


def test_stamps_name_a_zone() -> None:
    stamp = tags([model()])["models"][0]["modified_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.25(Z|[+-]\d\d:\d\d)", stamp)
