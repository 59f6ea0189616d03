"""Which of vLLM's parsers reads a model's tool calls and reasoning.

vLLM leaves that choice to the operator. The model's own files settle it nearly always: the chat template
shows the very markers that the model was trained to write. Rules are tried in order, first match wins.
"""

from collections.abc import Collection
from dataclasses import dataclass

OFF = "none"
"""The parser name with which an operator turns parsing off."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`parser` reads models whose template has all `marks`, whose `config.json` gives one of `types` as a
    `model_type` (any, when empty) and whose vocabulary has all `tokens`, without which the parser cannot
    be made.
    """

    parser: str
    marks: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def fits(self, template: str, types: Collection[str], vocabulary: Collection[str]) -> bool:
        return (
            (not self.types or any(kind in self.types for kind in types))
            and all(mark in template for mark in self.marks)
            and (not vocabulary or all(token in vocabulary for token in self.tokens))
        )


GPT_OSS = ("gpt_oss", "gpt-oss", "gptoss")
COHERE_4 = ("cohere2_moe",)
"""Command A+, whose text parts have marks of their own."""

ERNIE = ("ernie4_5", "ernie4_5_moe", "ernie4_5_vl_moe")
GRANITE_4 = ("granitemoehybrid", "granitemoe", "granitemoeshared", "granite")
HUNYUAN = ("hunyuan", "hunyuan_v1_moe", "hunyuan_v1_dense")
PHI_4 = ("phi3", "phi4mm", "phi4_multimodal")
THINK = ("<think>", "</think>")
BAR = "\uff5c"
"""The wide bar of DeepSeek's and Step's markers."""

DEEPSEEK = f"<{BAR}tool▁calls▁begin{BAR}>"

TOOL_RULES = (
    Rule("openai", types=GPT_OSS),
    Rule("deepseek_v32", types=("deepseek_v32",)),
    Rule("deepseek_v4", types=("deepseek_v4",)),
    Rule("deepseek_v41", types=("deepseek_v41",)),
    Rule("kimi_k3", types=("kimi_k3",)),
    Rule("xlam", ("xLAM",)),
    Rule("deepseek_v3", (DEEPSEEK, "```json"), tokens=(DEEPSEEK,)),
    Rule("deepseek_v31", (DEEPSEEK,), tokens=(DEEPSEEK,)),
    Rule("kimi_k2", ("<|tool_calls_section_begin|>",)),
    Rule("minimax_m3", ("]<]minimax[>[",)),
    Rule("minimax_m2", ("<minimax:tool_call>",)),
    Rule("seed_oss", ("<seed:tool_call>",)),
    Rule("longcat", ("<longcat_tool_call>",)),
    Rule("hy_v3", ("<tool_sep", "<arg_key"), ("hy_v3",)),
    Rule("hy_v4", ("<arg_key",), ("hy_v4",)),
    Rule("ling3", ("<arg_key>",), ("bailing_moe_v3", "ling3")),
    Rule("poolside_v1", ("<arg_key>",), ("laguna", "poolside_v1")),
    Rule("k2_horizon", ("<ifm|tool_call",)),
    Rule("muse_glimmer", ("<atem:function_calls>",)),
    Rule("glm45", ("<arg_key>",)),
    Rule("step3p5", ("<function=",), ("step3p5",)),
    Rule("step3", (f"<{BAR}tool_calls_begin{BAR}>",)),
    Rule("mimo", ("<function=",), ("mimo", "mimo_v2_flash", "mimo_v2")),
    Rule("minicpm5", ("<function name=",)),
    Rule("qwen3_coder", ("<function=", "<tool_call>")),
    Rule("functiongemma", ("<start_function_call>",)),
    Rule("gemma4", ("<|tool_call>",)),
    Rule("lfm2", ("<|tool_call_start|>",), tokens=("<|tool_call_start|>", "<|tool_call_end|>")),
    Rule("internlm", ("<|action_start|>",)),
    Rule("cohere_command4", ("<|START_ACTION|>",), COHERE_4),
    Rule("cohere_command3", ("<|START_ACTION|>",)),
    Rule("apertus", ("<|tools_prefix|>",)),
    Rule("plamo3", ("<|plamo:begin_tool_request",)),
    Rule("inkling", ("<|content_invoke_tool_json|>",)),
    Rule("dots", ("<dots_function_call>",)),
    Rule("olmo3", ("<function_calls>",)),
    Rule("granite-20b-fc", ("<function_call>",), ("gpt_bigcode",)),
    Rule("granite", ("<|tool_call|>",), GRANITE_4),
    Rule("granite4", ("<tool_call>",), GRANITE_4),
    Rule("phi4_mini_json", ("<|tool|>",), PHI_4),
    Rule("mistral", ("[TOOL_CALLS]",), tokens=("[TOOL_CALLS]",)),
    Rule("hunyuan_a13b", ("<tool_calls>",), HUNYUAN),
    Rule("jamba", ("<tool_calls>",), tokens=("<tool_calls>", "</tool_calls>")),
    Rule("ernie45", ("<tool_call>",), ERNIE),
    Rule("hermes", ("<tool_call>",)),
    Rule("llama4_pythonic", ("[func_name1(",), ("llama4",)),
    Rule("pythonic", ("[func_name1(",)),
    Rule("llama4_json", ('"parameters"',), ("llama4",)),
    Rule("llama3_json", ('"parameters"', "<|start_header_id|>")),
    Rule("llama3_json", ("<|python_tag|>",)),
)

REASONING_RULES = (
    Rule("openai_gptoss", types=GPT_OSS),
    Rule("deepseek_v4", types=("deepseek_v4",)),
    Rule("deepseek_v41", types=("deepseek_v41",)),
    Rule("kimi_k3", types=("kimi_k3",)),
    Rule("mistral", ("[THINK]",), tokens=("[THINK]", "[/THINK]")),
    Rule("gemma4", ("<|channel>",)),
    Rule("seed_oss", ("<seed:think>",)),
    Rule("minimax_m3", ("<mm:think>",)),
    Rule("cohere_command4", ("<|START_THINKING|>",), COHERE_4),
    Rule("cohere_command3", ("<|START_THINKING|>",)),
    Rule("plamo3", ("<|plamo:begin_think",)),
    Rule("k2_horizon", ("<ifm|think",)),
    Rule("inkling", ("<|content_thinking|>",)),
    Rule("muse_glimmer", ("<atem:function_calls>",)),
    Rule("granite", ("Here is my thought process:",)),
    Rule("granite_thinking_parser", THINK, GRANITE_4, THINK),
    Rule("hunyuan_a13b", ("<think>", "<answer>"), HUNYUAN),
    Rule("hy_v3", ("<think",), ("hy_v3",)),
    Rule("hy_v4", ("<think",), ("hy_v4",)),
    Rule("ling3", ("<think>",), ("bailing_moe_v3", "ling3"), THINK),
    Rule("poolside_v1", ("<think>",), ("laguna", "poolside_v1"), THINK),
    Rule("glm45", ("</think>", "<|observation|>"), tokens=THINK),
    Rule("kimi_k2", ("</think>", "<|tool_calls_section_begin|>"), tokens=THINK),
    Rule("minimax_m2", ("</think>", "<minimax:tool_call>"), tokens=THINK),
    Rule("nemotron_v3", ("</think>",), ("nemotron_h", "nemotron_v3"), THINK),
    Rule("step3p5", ("</think>",), ("step3p5",), THINK),
    Rule("step3", ("</think>",), ("step3", "step3_vl", "step3_text"), THINK),
    Rule("mimo", ("</think>",), ("mimo", "mimo_v2_flash", "mimo_v2"), THINK),
    Rule("minicpmv", ("</think>",), ("minicpmv", "minicpmo"), THINK),
    Rule("olmo3", ("<think>",), ("olmo3",)),
    Rule("ernie45", ("</think>",), ERNIE, THINK),
    Rule(
        "deepseek_v3",
        ("</think>", f"<{BAR}Assistant{BAR}>", "thinking"),
        ("deepseek_v3", "deepseek_v32"),
        THINK,
    ),
    Rule("qwen3", ("</think>", "enable_thinking"), tokens=THINK),
    Rule("deepseek_r1", ("</think>",), tokens=THINK),
)


def choose(
    rules: tuple[Rule, ...],
    asked: str | None,
    template: str,
    types: Collection[str] = (),
    vocabulary: Collection[str] = (),
) -> str | None:
    """The parser that the operator asked for, or else the one that the rules give.

    Without a template those rules are left that go by the type alone.
    """
    if asked:
        return None if asked.lower() == OFF else asked
    fitting = (rule.parser for rule in rules if rule.fits(template, types, vocabulary))
    return next(fitting, None)
