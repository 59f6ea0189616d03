"""The families, a row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scripts.families.templates import Reasoning, Turns

Files = Literal["real files", "made by hand", "real code"]
BAR, DSML = "\uff5c", "\uff5cDSML\uff5c"


@dataclass(frozen=True, slots=True)
class Family:
    """A family and what holds of it.

    `kind` and `architecture` are what `config.json` names; `example` is what the template tells the model of
    calls, and `call` a call of `get_weather` with `city` "Paris" as its model writes it. `tokens` are those
    of the vocabulary that have a role, `pieces` plain ones that a parser asks for. `tool_parser` and
    `reasoning_parser` are what is to be chosen, `levels` what `think` may be. `files` says where its files
    come from ("real code": vLLM or a library of the vendor writes the prompts, the vocabulary is made by
    hand). `is_read` says whether its replies can be read here; `unseen` is what no row here can show.
    """

    name: str
    repositories: str
    kind: str
    architecture: str
    turns: Turns | None = None
    example: str = ""
    call: str = ""
    reasoning: Reasoning | None = None
    tokens: tuple[str, ...] = ()
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    levels: tuple[bool | str, ...] = ()
    files: Files = "made by hand"
    vision: bool = False
    embeds: bool = False
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pieces: tuple[str, ...] = ()
    is_read: bool = True
    needs: str = ""
    unseen: str = ""


CHATML = Turns("<|im_start|>ROLE\n", "<|im_end|>\n")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
LLAMA3 = Turns(
    "<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>", "<|begin_of_text|>", tool="ipython"
)
LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>")
LLAMA4 = Turns("<|header_start|>ROLE<|header_end|>\n\n", "<|eot|>", "<|begin_of_text|>", tool="ipython")
INST = Turns("[INST]ROLE ", "[/INST]", "<s>")
GEMMA = Turns("<start_of_turn>ROLE\n", "<end_of_turn>\n", "<bos>", "model")
GEMMA4 = Turns("<|turn>ROLE\n", "<turn|>\n", "<bos>", "model")
DEEPSEEK = Turns(
    f"<{BAR}ROLE{BAR}>", f"<{BAR}end▁of▁sentence{BAR}>", f"<{BAR}begin▁of▁sentence{BAR}>", "Assistant"
)
GRANITE = Turns("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n")
PHI = Turns("<|ROLE|>", "<|end|>")
GLM = Turns("<|ROLE|>\n", "", "[gMASK]<sop>", tool="observation")
KIMI = Turns("<|im_ROLE|>ROLE<|im_middle|>", "<|im_end|>")
MINIMAX = Turns("]~b]ROLE\n", "[e~[\n", "]~!b[", "ai")
COHERE = Turns("<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "CHATBOT")
SEED = Turns("<seed:bos>ROLE\n", "<seed:eos>")
ZEPHYR = Turns("<|ROLE|>\n", "</s>\n")
EXAONE = Turns("[|ROLE|]", "[|endofturn|]\n")
PLAIN = Turns("### ROLE: ", "\n")

THINK_TOKENS = ("<think>", "</think>")
ALWAYS = Reasoning()
"""Written by the model or the prompt, without a switch."""

ALWAYS_OPENED = Reasoning(opened=True)
SWITCHED = Reasoning(switch="enable_thinking", off="<think>\n\n</think>\n\n")
ON_OFF: tuple[bool | str, ...] = (False, True)
ON: tuple[bool | str, ...] = (True,)

_JSON = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
_LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
HERMES_EXAMPLE = '<tool_call>{"name": f, "arguments": a}</tool_call>'
HERMES = f"<tool_call>\n{_JSON}\n</tool_call>"
CODER_EXAMPLE = "<tool_call>\n<function=f>\n<parameter=p>v</parameter>\n</function>\n</tool_call>"
CODER = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
)
GLM_EXAMPLE = "<tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>"
GLM_CALL = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
PYTHONIC_EXAMPLE = "[func_name1(params_name1=params_value1)]"
PYTHONIC = '[get_weather(city="Paris")]'


def _coder(wrapper: str) -> str:
    return CODER.replace("tool_call>", f"{wrapper}>")


def _deepseek(inner: str, last: str = "") -> str:
    begin, sep, end = (f"<{BAR}tool▁{each}{BAR}>" for each in ("call▁begin", "sep", "call▁end"))
    calls, done = (f"<{BAR}tool▁calls▁{each}{BAR}>" for each in ("begin", "end"))
    return calls + begin + inner.replace("SEP", sep) + '{"city": "Paris"}' + last + end + done


def _invoke(wrapper: str, prefix: str = "", attribute: str = "") -> str:
    return (
        f'<{wrapper}>\n<{prefix}invoke name="get_weather">\n<{prefix}parameter name="city"{attribute}>Paris'
        f"</{prefix}parameter>\n</{prefix}invoke>\n</{wrapper}>"
    )


DEEPSEEK_TOKENS = (
    *(f"<{BAR}{each}{BAR}>" for each in ("User", "Assistant", "end▁of▁sentence", "begin▁of▁sentence")),
    *(f"<{BAR}tool▁{each}{BAR}>" for each in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")),
    *THINK_TOKENS,
)
KIMI_TOKENS = (
    *("<|im_end|>", "<|im_middle|>", "<|im_user|>", "<|im_assistant|>", *THINK_TOKENS),
    *(
        f"<|tool_{each}|>"
        for each in (
            "calls_section_begin",
            "calls_section_end",
            "call_begin",
            "call_end",
            "call_argument_begin",
        )
    ),
)
KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
    '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>'
)
HARMONY_CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}'
K3_TOKENS = ("<|open|>", "<|close|>", "<|sep|>", "<|im_end|>")
_V32_TOKENS = (*DEEPSEEK_TOKENS, f"<{DSML}function_calls>", f"{DSML}")
MELODY = "the package `cohere_melody`"
REMOTE = "code of its repository (`trust_remote_code`)"

FAMILIES: tuple[Family, ...] = (
    Family("Llama 2", "meta-llama/Llama-2-*-chat-hf", "llama", "LlamaForCausalLM", INST),
    Family(
        "Llama 3.1, 3.3",
        "meta-llama/Llama-3.*-Instruct",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        _LLAMA.replace("get_weather", "f"),
        _LLAMA,
        tokens=(*LLAMA3_TOKENS, "<|python_tag|>"),
        tool_parser="llama3_json",
    ),
    Family(
        "Llama 3.2 (lists of calls)",
        "meta-llama/Llama-3.2-1B/3B-Instruct",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        PYTHONIC_EXAMPLE,
        PYTHONIC,
        tokens=LLAMA3_TOKENS,
        tool_parser="pythonic",
    ),
    Family(
        "Llama 4",
        "meta-llama/Llama-4-*",
        "llama4",
        "Llama4ForConditionalGeneration",
        LLAMA4,
        PYTHONIC_EXAMPLE,
        PYTHONIC,
        tokens=("<|python_start|>", "<|python_end|>", "<|eot|>"),
        tool_parser="llama4_pythonic",
        vision=True,
    ),
    Family(
        "Qwen2.5",
        "Qwen/Qwen2.5-*-Instruct",
        "qwen2",
        "Qwen2ForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        tokens=(*CHATML_TOKENS, "<tool_call>", "</tool_call>"),
        tool_parser="hermes",
    ),
    Family(
        "QwQ",
        "Qwen/QwQ-32B",
        "qwen2",
        "Qwen2ForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        ALWAYS_OPENED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "hermes",
        "deepseek_r1",
        ON,
    ),
    Family(
        "Qwen3",
        "Qwen/Qwen3-*",
        "qwen3",
        "Qwen3ForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        SWITCHED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "hermes",
        "qwen3",
        ON_OFF,
    ),
    Family(
        "Qwen3 MoE",
        "Qwen/Qwen3-30B-A3B",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        SWITCHED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "hermes",
        "qwen3",
        ON_OFF,
    ),
    Family(
        "Qwen3 Instruct 2507",
        "Qwen/Qwen3-*-Instruct-2507",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        tokens=(*CHATML_TOKENS, *THINK_TOKENS),
        tool_parser="hermes",
    ),
    Family(
        "Qwen3 Thinking 2507",
        "Qwen/Qwen3-*-Thinking-2507",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        ALWAYS_OPENED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "hermes",
        "deepseek_r1",
        ON,
    ),
    Family(
        "Qwen3-Coder",
        "Qwen/Qwen3-Coder-*",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        CHATML,
        CODER_EXAMPLE,
        CODER,
        tokens=CHATML_TOKENS,
        tool_parser="qwen3_coder",
    ),
    Family(
        "Qwen3.5",
        "Qwen/Qwen3.5-*",
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        CHATML,
        CODER_EXAMPLE,
        CODER,
        Reasoning(switch="enable_thinking", off="<think>\n\n</think>\n\n", opened=True),
        (*CHATML_TOKENS, *THINK_TOKENS, "<tool_call>", "</tool_call>"),
        "qwen3_coder",
        "qwen3",
        ON_OFF,
        vision=True,
    ),
    Family(
        "Qwen3-VL",
        "Qwen/Qwen3-VL-*-Instruct",
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        tokens=(*CHATML_TOKENS, "<|vision_start|>"),
        tool_parser="hermes",
        vision=True,
    ),
    Family("Gemma 2", "google/gemma-2-*-it", "gemma2", "Gemma2ForCausalLM", GEMMA),
    Family("Gemma 3", "google/gemma-3-*-it", "gemma3", "Gemma3ForConditionalGeneration", GEMMA, vision=True),
    Family(
        "FunctionGemma",
        "google/functiongemma-*",
        "gemma3_text",
        "Gemma3ForCausalLM",
        GEMMA,
        "<start_function_call>call:f{k:<escape>v<escape>}<end_function_call>",
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        tokens=("<start_function_call>", "<end_function_call>", "<escape>"),
        tool_parser="functiongemma",
    ),
    Family(
        "Gemma 4",
        "google/gemma-4-*-it",
        "gemma4",
        "Gemma4ForConditionalGeneration",
        GEMMA4,
        '<|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|>',
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>',
        Reasoning("<|channel>thought\n", "<channel|>", "enable_thinking", ""),
        (
            "<|tool_call>",
            "<tool_call|>",
            '<|"|>',
            "<|channel>",
            "<channel|>",
            "<|turn>",
            "<turn|>",
            "<|tool_response>",
        ),
        "gemma4",
        "gemma4",
        ON_OFF,
        vision=True,
    ),
    Family(
        "gpt-oss",
        "openai/gpt-oss-20b, -120b",
        "gpt_oss",
        "GptOssForCausalLM",
        None,
        "",
        f"{HARMONY_CALL}<|call|>",
        Reasoning("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        (),
        "openai",
        "openai_gptoss",
        ("low", "medium", "high"),
        "real files",
    ),
    Family(
        "Mistral 7B v0.3 with a template",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "mistral",
        "MistralForCausalLM",
        INST,
        '[TOOL_CALLS][{"name": f, "arguments": a}]',
        f"[TOOL_CALLS][{_JSON}]",
        tokens=("[TOOL_CALLS]", "[INST]", "[/INST]"),
        tool_parser="mistral",
    ),
    Family(
        "Mistral Nemo, Large 2 (tekken)",
        "mistralai/Mistral-Nemo-Instruct-2407",
        "mistral",
        "MistralForCausalLM",
        None,
        "",
        f"[TOOL_CALLS][{_JSON}]",
        tool_parser="mistral",
        files="real files",
    ),
    Family(
        "Mistral Small 3 (tekken)",
        "mistralai/Mistral-Small-*",
        "mistral",
        "MistralForCausalLM",
        None,
        "",
        f"[TOOL_CALLS][{_JSON}]",
        tool_parser="mistral",
        files="real files",
    ),
    Family(
        "Magistral (tekken)",
        "mistralai/Magistral-Small-*",
        "mistral",
        "MistralForCausalLM",
        None,
        "",
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}',
        Reasoning("[THINK]", "[/THINK]"),
        (),
        "mistral",
        "mistral",
        ON,
        "real code",
        unseen="its own control tokens: they are added to a real vocabulary",
    ),
    Family("Mixtral", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral", "MixtralForCausalLM", INST),
    Family(
        "Pixtral, Mistral Small 3.1",
        "mistralai/Mistral-Small-3.1-24B-*",
        "mistral3",
        "Mistral3ForConditionalGeneration",
        INST,
        '[TOOL_CALLS][{"name": f}]',
        f"[TOOL_CALLS][{_JSON}]",
        tokens=("[TOOL_CALLS]", "[INST]", "[/INST]"),
        tool_parser="mistral",
        vision=True,
    ),
    Family(
        "DeepSeek R1",
        "deepseek-ai/DeepSeek-R1",
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        DEEPSEEK,
        _deepseek("functionSEPf\n```json\n", "\n```"),
        _deepseek("functionSEPget_weather\n```json\n", "\n```"),
        ALWAYS_OPENED,
        DEEPSEEK_TOKENS,
        "deepseek_v3",
        "deepseek_r1",
        ON,
    ),
    Family(
        "DeepSeek R1 distilled",
        "deepseek-ai/DeepSeek-R1-Distill-*",
        "qwen2",
        "Qwen2ForCausalLM",
        DEEPSEEK,
        "",
        "",
        ALWAYS_OPENED,
        DEEPSEEK_TOKENS,
        None,
        "deepseek_r1",
        ON,
    ),
    Family(
        "DeepSeek V3",
        "deepseek-ai/DeepSeek-V3-0324",
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        DEEPSEEK,
        _deepseek("functionSEPf\n```json\n", "\n```"),
        _deepseek("functionSEPget_weather\n```json\n", "\n```"),
        tokens=DEEPSEEK_TOKENS,
        tool_parser="deepseek_v3",
    ),
    Family(
        "DeepSeek V3.1",
        "deepseek-ai/DeepSeek-V3.1",
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        DEEPSEEK,
        _deepseek("fSEP"),
        _deepseek("get_weatherSEP"),
        Reasoning(switch="thinking", off="</think>", opened=True, note=f"<{BAR}Assistant{BAR}>"),
        DEEPSEEK_TOKENS,
        "deepseek_v31",
        "deepseek_v3",
        ON_OFF,
    ),
    Family(
        "DeepSeek V3.2",
        "deepseek-ai/DeepSeek-V3.2",
        "deepseek_v32",
        "DeepseekV32ForCausalLM",
        None,
        "",
        _invoke(f"{DSML}function_calls", DSML, ' string="true"'),
        ALWAYS_OPENED,
        _V32_TOKENS,
        "deepseek_v32",
        "deepseek_v3",
        ON_OFF,
        "real code",
    ),
    Family(
        "DeepSeek V4",
        "deepseek-ai/DeepSeek-V4*",
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        None,
        "",
        _invoke(f"{DSML}tool_calls", DSML, ' string="true"'),
        ALWAYS_OPENED,
        _V32_TOKENS,
        "deepseek_v4",
        "deepseek_v4",
        (False, "low", "high", "max"),
        "real code",
    ),
    Family(
        "DeepSeek V4.1",
        "deepseek-ai/DeepSeek-V4.1*",
        "deepseek_v41",
        "DeepseekV41ForCausalLM",
        None,
        "",
        _invoke(f"{DSML} calls", f"{DSML} ", ' string="true"'),
        ALWAYS_OPENED,
        _V32_TOKENS,
        "deepseek_v41",
        "deepseek_v41",
        (False, "low", "high", "xhigh", "max"),
        "real code",
    ),
    Family(
        "Kimi K2",
        "moonshotai/Kimi-K2-Instruct",
        "kimi_k2",
        "DeepseekV3ForCausalLM",
        KIMI,
        "<|tool_calls_section_begin|>",
        KIMI_CALL,
        tokens=KIMI_TOKENS,
        tool_parser="kimi_k2",
    ),
    Family(
        "Kimi K2 Thinking",
        "moonshotai/Kimi-K2-Thinking",
        "kimi_k2",
        "DeepseekV3ForCausalLM",
        KIMI,
        "<|tool_calls_section_begin|>",
        KIMI_CALL,
        ALWAYS,
        KIMI_TOKENS,
        "kimi_k2",
        "kimi_k2",
        ON,
    ),
    Family(
        "Kimi K3",
        "moonshotai/Kimi-K3*",
        "kimi_k3",
        "KimiK3ForConditionalGeneration",
        None,
        "",
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" '
        'type="string"<|sep|>Paris<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>", opened=True),
        K3_TOKENS,
        "kimi_k3",
        "kimi_k3",
        (False, "low", "high", "max"),
        "real code",
        vision=True,
        needs=REMOTE,
        unseen="its prompts, which code of its repository writes",
    ),
    Family(
        "GLM-4.5, 4.6",
        "zai-org/GLM-4.5",
        "glm4_moe",
        "Glm4MoeForCausalLM",
        GLM,
        GLM_EXAMPLE,
        GLM_CALL,
        Reasoning(switch="enable_thinking", off="<think></think>", note="<|observation|>"),
        (
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
            *THINK_TOKENS,
            "<tool_call>",
            "</tool_call>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
        ),
        "glm45",
        "glm45",
        ON_OFF,
    ),
    Family(
        "MiniMax M2",
        "MiniMaxAI/MiniMax-M2",
        "minimax_m2",
        "MiniMaxM2ForCausalLM",
        MINIMAX,
        "<minimax:tool_call>",
        _invoke("minimax:tool_call"),
        ALWAYS_OPENED,
        (*THINK_TOKENS, "<minimax:tool_call>", "</minimax:tool_call>", "]~b]", "[e~["),
        "minimax_m2",
        "minimax_m2",
        ON,
    ),
    Family(
        "Seed-OSS",
        "ByteDance-Seed/Seed-OSS-36B-Instruct",
        "seed_oss",
        "SeedOssForCausalLM",
        SEED,
        "<seed:tool_call>\n<function=f>",
        _coder("seed:tool_call"),
        Reasoning("<seed:think>", "</seed:think>"),
        (
            "<seed:think>",
            "</seed:think>",
            "<seed:tool_call>",
            "</seed:tool_call>",
            "<seed:bos>",
            "<seed:eos>",
        ),
        "seed_oss",
        "seed_oss",
        ON,
    ),
    Family("Phi-3, Phi-4", "microsoft/phi-4", "phi3", "Phi3ForCausalLM", PHI),
    Family(
        "Phi-4-mini",
        "microsoft/Phi-4-mini-instruct",
        "phi3",
        "Phi3ForCausalLM",
        PHI,
        "<|tool|>functools",
        f"functools[{_JSON}]",
        tokens=("<|tool|>", "<|/tool|>", "<|tool_call|>"),
        tool_parser="phi4_mini_json",
    ),
    Family(
        "Phi-4 reasoning",
        "microsoft/Phi-4-reasoning",
        "phi3",
        "Phi3ForCausalLM",
        CHATML,
        "",
        "",
        ALWAYS,
        (*CHATML_TOKENS, *THINK_TOKENS),
        None,
        "deepseek_r1",
        ON,
    ),
    Family(
        "Granite 3",
        "ibm-granite/granite-3.3-8b-instruct",
        "granite",
        "GraniteForCausalLM",
        GRANITE,
        "<|tool_call|>",
        f"<|tool_call|>[{_JSON}]",
        tokens=("<|tool_call|>", "<|start_of_role|>"),
        tool_parser="granite",
    ),
    Family(
        "Granite 4",
        "ibm-granite/granite-4.0-h-small",
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        GRANITE,
        HERMES_EXAMPLE,
        HERMES,
        tokens=("<tool_call>", "</tool_call>"),
        tool_parser="granite4",
    ),
    Family(
        "Command R7B, A",
        "CohereLabs/c4ai-command-a-03-2025",
        "cohere2",
        "Cohere2ForCausalLM",
        COHERE,
        "<|START_ACTION|>[]<|END_ACTION|>",
        "",
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_ACTION|>", "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        "cohere_command3",
        "cohere_command3",
        ON,
        needs=MELODY,
        is_read=False,
        unseen="its replies: the package that reads them is not installed",
    ),
    Family(
        "Command A+",
        "CohereLabs/*command-a-plus*",
        "cohere2_moe",
        "Cohere2MoeForCausalLM",
        COHERE,
        "<|START_ACTION|>[]<|END_ACTION|>",
        "",
        Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|START_ACTION|>", "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        "cohere_command4",
        "cohere_command4",
        ON,
        needs=MELODY,
        is_read=False,
        unseen="its replies: the package that reads them is not installed",
    ),
    Family(
        "SmolLM2",
        "HuggingFaceTB/SmolLM2-*-Instruct",
        "llama",
        "LlamaForCausalLM",
        CHATML,
        tokens=CHATML_TOKENS,
    ),
    Family(
        "SmolLM3",
        "HuggingFaceTB/SmolLM3-3B",
        "smollm3",
        "SmolLM3ForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        SWITCHED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "hermes",
        "qwen3",
        ON_OFF,
    ),
    Family(
        "Hermes 2, 3, 4",
        "NousResearch/Hermes-*",
        "llama",
        "LlamaForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        tokens=(*CHATML_TOKENS, "<tool_call>", "</tool_call>"),
        tool_parser="hermes",
    ),
    Family(
        "InternLM 2.5, 3",
        "internlm/internlm3-8b-instruct",
        "internlm3",
        "InternLM3ForCausalLM",
        CHATML,
        "<|action_start|><|plugin|>",
        f"<|action_start|><|plugin|>\n{_JSON}<|action_end|>",
        tokens=(*CHATML_TOKENS, "<|action_start|>", "<|action_end|>", "<|plugin|>"),
        tool_parser="internlm",
    ),
    Family(
        "EXAONE 4",
        "LGAI-EXAONE/EXAONE-4.0-32B",
        "exaone4",
        "Exaone4ForCausalLM",
        EXAONE,
        HERMES_EXAMPLE,
        HERMES,
        Reasoning(switch="enable_thinking", off="<think>\n\n</think>\n\n"),
        THINK_TOKENS,
        "hermes",
        "qwen3",
        ON_OFF,
    ),
    Family(
        "OLMo 3 Think",
        "allenai/Olmo-3-*-Think",
        "olmo3",
        "Olmo3ForCausalLM",
        CHATML,
        "<function_calls>",
        '<function_calls>get_weather(city="Paris")</function_calls>',
        ALWAYS_OPENED,
        CHATML_TOKENS,
        "olmo3",
        "olmo3",
        ON,
        pieces=("\u0120</", "</", "think", ">", ">\u010a"),
    ),
    Family(
        "LFM2",
        "LiquidAI/LFM2-*",
        "lfm2",
        "Lfm2ForCausalLM",
        CHATML,
        "<|tool_call_start|>",
        f"<|tool_call_start|>{PYTHONIC}<|tool_call_end|>",
        tokens=(*CHATML_TOKENS, "<|tool_call_start|>", "<|tool_call_end|>"),
        tool_parser="lfm2",
    ),
    Family(
        "Nemotron Nano v3",
        "nvidia/NVIDIA-Nemotron-3-*",
        "nemotron_h",
        "NemotronHForCausalLM",
        CHATML,
        CODER_EXAMPLE,
        CODER,
        Reasoning(switch="enable_thinking", off="<think></think>", opened=True),
        (*CHATML_TOKENS, *THINK_TOKENS),
        "qwen3_coder",
        "nemotron_v3",
        ON_OFF,
    ),
    Family(
        "ERNIE 4.5 Thinking",
        "baidu/ERNIE-4.5-21B-A3B-Thinking",
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        CHATML,
        HERMES_EXAMPLE,
        HERMES,
        ALWAYS_OPENED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "ernie45",
        "ernie45",
        ON,
    ),
    Family(
        "Hunyuan A13B",
        "tencent/Hunyuan-A13B-Instruct",
        "hunyuan_v1_moe",
        "HunYuanMoEV1ForCausalLM",
        PLAIN,
        "<tool_calls>[]</tool_calls>",
        f"<tool_calls>[{_JSON}]</tool_calls>",
        Reasoning(
            "<think>\n",
            "\n</think>\n<answer>\n",
            note="<answer>",
            switch="enable_thinking",
            off="<think>\n\n</think>\n",
        ),
        (),
        "hunyuan_a13b",
        "hunyuan_a13b",
        ON_OFF,
        is_read=False,
        unseen="its reasoning: the parser knows it by numbers of its own vocabulary",
    ),
    Family(
        "Jamba",
        "ai21labs/AI21-Jamba-1.5-Mini",
        "jamba",
        "JambaForCausalLM",
        PLAIN,
        "<tool_calls>[]</tool_calls>",
        f"<tool_calls>[{_JSON}]</tool_calls>",
        tokens=("<tool_calls>", "</tool_calls>"),
        tool_parser="jamba",
    ),
    Family(
        "Step 3.5",
        "stepfun-ai/Step-3.5-Flash",
        "step3p5",
        "Step3p5ForCausalLM",
        CHATML,
        CODER_EXAMPLE,
        CODER,
        ALWAYS_OPENED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "step3p5",
        "step3p5",
        ON,
    ),
    Family(
        "MiMo V2",
        "XiaomiMiMo/MiMo-V2-Flash",
        "mimo_v2_flash",
        "MiMoV2FlashForCausalLM",
        CHATML,
        CODER_EXAMPLE,
        CODER.replace(">\nParis\n<", ">Paris<"),
        SWITCHED,
        (*CHATML_TOKENS, *THINK_TOKENS),
        "mimo",
        "mimo",
        ON_OFF,
    ),
    Family(
        "Apertus",
        "swiss-ai/Apertus-*-Instruct",
        "apertus",
        "ApertusForCausalLM",
        PLAIN,
        "<|tools_prefix|>",
        '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>',
        tokens=("<|tools_prefix|>",),
        tool_parser="apertus",
    ),
    Family(
        "xLAM 2",
        "Salesforce/Llama-xLAM-2-8b-fc-r",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        "You are xLAM: [calls]",
        f"[{_JSON}]",
        tokens=LLAMA3_TOKENS,
        tool_parser="xlam",
    ),
    Family("Falcon 3", "tiiuae/Falcon3-*-Instruct", "llama", "LlamaForCausalLM", ZEPHYR),
    Family("Zephyr, TinyLlama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama", "LlamaForCausalLM", ZEPHYR),
    Family("Yi 1.5", "01-ai/Yi-1.5-*-Chat", "llama", "LlamaForCausalLM", CHATML, tokens=CHATML_TOKENS),
    Family("LLaVA", "llava-hf/llava-1.5-7b-hf", "llava", "LlavaForConditionalGeneration", PLAIN, vision=True),
    Family("BGE, E5, GTE", "BAAI/bge-m3", "xlm-roberta", "XLMRobertaModel", embeds=True),
    Family("Qwen3-Embedding", "Qwen/Qwen3-Embedding-*", "qwen3", "Qwen3ForCausalLM", embeds=True),
    Family(
        "Nomic Embed",
        "nomic-ai/nomic-embed-text-v1.5",
        "nomic_bert",
        "NomicBertModel",
        embeds=True,
        needs=REMOTE,
    ),
)
