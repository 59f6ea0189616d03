"""Which formats are read here, by the name that vLLM gives their parser. The others are read by vLLM's.

docs/tool-calls.md says of each why, and what cannot be told apart.
"""

import re
from collections.abc import Mapping

from app.decode.calls.bare import BareCalls
from app.decode.calls.base import CallReader
from app.decode.calls.objects import JsonCalls, call_by_key
from app.decode.calls.pythonic import PythonicCalls
from app.decode.calls.tagged import TaggedCalls, verbatim

BAR, DSML = "\uff5c", "\uff5cDSML\uff5c"
_NAME = r"(?P<name>[\w.\-]{1,256})"
# White space belongs to one part of it only: a run of it would be tried in every way else.
_QUOTED = r"""=\s*+["']?\s*+(?P<{}>[^"'<>\s](?:[^"'<>]{{0,254}}[^"'<>\s])?)(?:\s*+["'])?"""


def _in_tags(opening: str, closing: str) -> JsonCalls:
    return JsonCalls((opening,), re.compile(re.escape(opening)), re.compile(re.escape(closing)))


def _listed(*openings: str) -> JsonCalls:
    """An array behind a mark, with nothing that ends it but itself."""
    return JsonCalls(openings, re.compile("|".join(map(re.escape, openings))), None)


def _functions(wrapper: str, **trim: object) -> TaggedCalls:
    """Qwen3-Coder's tags in a wrapper of this name; models leave the wrapper out at times."""
    return TaggedCalls(
        marks=(f"<{wrapper}>", "<function="),
        opens=rf"(?:<{wrapper}>\s*)?<function=(?P<name>[^<>\n]{{1,256}})>",
        parameter=r"<parameter=(?P<key>[^<>\n]{1,256})>",
        ends="</parameter>",
        closes=rf"</function>(?:\s*</{wrapper}>)?",
        wrapper=f"<{wrapper}>",
        **trim,  # pyright: ignore[reportArgumentType]
    )


def _pairs(suffix: str = "", separator: str = "", section: str = "") -> TaggedCalls:
    """GLM's tags: the name, then pairs of a key and a value. Hunyuan's may have a suffix in each tag."""

    def tag(name: str) -> str:
        return f"<{name}{suffix}>"

    before, after = (rf"(?:{tag(section)}\s*)?", rf"(?:\s*{tag('/' + section)})?") if section else ("", "")
    sep = tag(separator) if separator else rf"(?={tag('arg_key')}|{tag('/tool_call')})"
    return TaggedCalls(
        marks=(*((f"<{section}",) if section else ()), "<tool_call"),
        opens=rf"{before}{tag('tool_call')}\s*{_NAME}\s*{sep}",
        parameter=rf"{tag('arg_key')}(?P<key>[^<>]{{1,256}}){tag('/arg_key')}\s*{tag('arg_value')}",
        ends=tag("/arg_value"),
        closes=rf"{tag('/tool_call')}{after}",
        wrapper=tag("tool_call"),
        trim=verbatim,
    )


def _invokes(wrapper: str, prefix: str = "", attribute: str = "") -> TaggedCalls:
    """`<invoke name="f">` and `<parameter name="k">` in a wrapper around all calls."""
    return TaggedCalls(
        marks=(f"<{wrapper}>", f"<{prefix}invoke"),
        opens=rf"(?:<{wrapper}>\s*)?<{prefix}invoke\s+name{_QUOTED.format('name')}\s*+>",
        parameter=rf"<{prefix}parameter\s+name{_QUOTED.format('key')}{attribute}\s*+>",
        ends=f"</{prefix}parameter>",
        closes=rf"</{prefix}invoke>(?:\s*</{wrapper}>)?",
        wrapper=f"<{wrapper}>",
        trim=verbatim,
    )


def _without_space(text: str) -> str:
    """Python's own `strip` takes control characters too, which a value may begin with."""
    return text.strip(" \t\r\n")


def _without_cdata(text: str) -> str:
    opening, closing = "<![CDATA[", "]]>"
    inner = text.strip()
    whole = inner.startswith(opening) and inner.endswith(closing)
    return inner[len(opening) : -len(closing)] if whole else text


_DEEPSEEK = f"<{BAR}tool▁{{}}{BAR}>"
_DEEPSEEK_MARKS = (_DEEPSEEK.format("calls▁begin"), _DEEPSEEK.format("call▁begin"))
_DEEPSEEK_OPENS = rf"(?:{_DEEPSEEK_MARKS[0]}\s*)?{_DEEPSEEK_MARKS[1]}"
_DEEPSEEK_SEP = _DEEPSEEK.format("sep")
_DEEPSEEK_CLOSES = rf"{_DEEPSEEK.format('call▁end')}(?:\s*{_DEEPSEEK.format('calls▁end')})?"
_HERMES = _in_tags("<tool_call>", "</tool_call>")
_TOOL_CALLS = _in_tags("<tool_calls>", "</tool_calls>")
_CODER = _functions("tool_call")
_GLM = _pairs()
_SUFFIX = r"(?::[^\s<>]{1,64})?"
_STRING = r"""(?:\s++string="(?P<string>true|false)")?"""
_LIST = PythonicCalls(
    ("[", "<|python_start|>"),
    re.compile(r"\A\s*(?:<\|python_start\|>\s*)?\[(?=\s*[A-Za-z_][\w.]*\()"),
    re.compile(r"\s*(?:<\|python_end\|>\s*)?"),
    at_start=True,
)

READERS: Mapping[str, CallReader] = {
    "hermes": _HERMES,
    "qwen3_json": _HERMES,
    "granite4": _HERMES,
    "ernie45": _HERMES,
    "longcat": _in_tags("<longcat_tool_call>", "</longcat_tool_call>"),
    "jamba": _TOOL_CALLS,
    "hunyuan_a13b": _TOOL_CALLS,
    "internlm": _in_tags("<|action_start|><|plugin|>", "<|action_end|>"),
    "granite": _listed("<|tool_call|>", "<tool_call>"),
    "granite-20b-fc": _listed("<function_call>"),
    "phi4_mini_json": JsonCalls(("functools[",), re.compile(r"functools(?=\[)"), None),
    "apertus": JsonCalls(
        ("<|tools_prefix|>",),
        re.compile(r"<\|tools_prefix\|>"),
        re.compile(r"<\|tools_suffix\|>"),
        call_by_key,
    ),
    "mistral": JsonCalls(
        ("[TOOL_CALLS]",),
        re.compile(
            rf"\[TOOL_CALLS\]\s*(?:{_NAME}(?:\[CALL_ID\](?P<id>\w{{1,64}}))?(?:\[ARGS\])?|(?=[\[{{]))"
        ),
        None,
    ),
    "deepseek_v3": JsonCalls(
        _DEEPSEEK_MARKS,
        re.compile(rf"{_DEEPSEEK_OPENS}\s*function\s*{_DEEPSEEK_SEP}\s*{_NAME}\s*```json"),
        re.compile(rf"```\s*{_DEEPSEEK_CLOSES}"),
    ),
    "deepseek_v31": JsonCalls(
        _DEEPSEEK_MARKS,
        re.compile(rf"{_DEEPSEEK_OPENS}\s*{_NAME}\s*{_DEEPSEEK_SEP}"),
        re.compile(_DEEPSEEK_CLOSES),
    ),
    "kimi_k2": JsonCalls(
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        re.compile(
            r"(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>\s*"
            rf"(?P<id>(?:functions\.)?{_NAME}(?::\d{{1,9}})?)\s*<\|tool_call_argument_begin\|>"
        ),
        re.compile(r"<\|tool_call_end\|>(?:\s*<\|tool_calls_section_end\|>)?"),
    ),
    "llama3_json": BareCalls(),
    "llama4_json": BareCalls(),
    "qwen3_coder": _CODER,
    "qwen3_xml": _CODER,
    "step3p5": _CODER,
    "seed_oss": _functions("seed:tool_call"),
    "mimo": _functions("tool_call", trim=verbatim),
    "glm45": _GLM,
    "glm47": _GLM,
    "ling3": _GLM,
    "poolside_v1": _GLM,
    "hy_v3": _pairs(_SUFFIX, "tool_sep", "tool_calls"),
    "hy_v4": _pairs(_SUFFIX, "", "tool_calls"),
    "minimax_m2": _invokes("minimax:tool_call"),
    "dots": _invokes("dots_function_call"),
    "deepseek_v32": _invokes(f"{DSML}function_calls", DSML, _STRING),
    "deepseek_v4": _invokes(f"{DSML}tool_calls", DSML, _STRING),
    "deepseek_v41": _invokes(f"{DSML} calls", f"{DSML} ", _STRING),
    "minicpm5": TaggedCalls(
        marks=("<function name",),
        opens=rf"<function\s+name{_QUOTED.format('name')}\s*+>",
        parameter=rf"<param\s+name{_QUOTED.format('key')}\s*+>",
        ends="</param>",
        closes="</function>",
        wrapper=r"<function\s+name(?=\s*>)",
        trim=_without_cdata,
    ),
    "step3": TaggedCalls(
        marks=(f"<{BAR}tool_calls_begin{BAR}>", f"<{BAR}tool_call_begin{BAR}>", "<steptml:invoke"),
        opens=rf"(?:(?:<{BAR}tool_calls_begin{BAR}>\s*)?<{BAR}tool_call_begin{BAR}>\s*function\s*"
        rf"<{BAR}tool_sep{BAR}>\s*)?<steptml:invoke\s+name{_QUOTED.format('name')}\s*+>",
        parameter=rf"<steptml:parameter\s+name{_QUOTED.format('key')}\s*+>",
        ends="</steptml:parameter>",
        closes=rf"</steptml:invoke>(?:\s*<{BAR}tool_call_end{BAR}>)?(?:\s*<{BAR}tool_calls_end{BAR}>)?",
        wrapper=f"<{BAR}tool_call_begin{BAR}>",
        trim=_without_space,
    ),
    "pythonic": _LIST,
    "llama4_pythonic": _LIST,
    "olmo3": PythonicCalls(
        ("<function_calls>",),
        re.compile("<function_calls>"),
        re.compile("</function_calls>"),
        bracketed=False,
    ),
    "lfm2": PythonicCalls(
        ("<|tool_call_start|>",),
        re.compile(r"<\|tool_call_start\|>\s*\["),
        re.compile(r"\s*<\|tool_call_end\|>"),
    ),
}
