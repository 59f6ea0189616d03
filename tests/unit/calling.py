"""Writes tool calls in each format as a model would, and says which marks the format is made of."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

BAR, DSML = "\uff5c", "\uff5cDSML\uff5c"
Family = Literal["json", "tagged", "pythonic"]
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Format:
    """`write` gives the text of calls, `marks` what its markup is made of, `broken` calls that are none.

    In some formats without a mark calls are `only_first` in a reply.
    """

    family: Family
    write: Callable[[Sequence[Call]], str]
    marks: tuple[str, ...]
    broken: tuple[str, ...]
    only_first: bool = False


def _json(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _tags(opening: str, closing: str) -> Format:
    def write(calls: Sequence[Call]) -> str:
        return "\n".join(f"{opening}\n{_json(*call)}\n{closing}" for call in calls)

    bad = (
        "not json",
        '{"name": "f"',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": {"a": NaN}}',
    )
    return Format(
        "json", write, (opening, closing, '"}}'), tuple(f"{opening}\n{each}\n{closing}" for each in bad)
    )


def _list(opening: str, closing: str = "", key: str = "arguments") -> Format:
    def write(calls: Sequence[Call]) -> str:
        return opening + json.dumps([{"name": name, key: each} for name, each in calls]) + closing

    return Format("json", write, (opening, closing or "]", '"}}]'), (f'{opening}[{{"name": "f", "argu',))


def _headed(opening: str, closing: str, marks: tuple[str, ...]) -> Format:
    def write(calls: Sequence[Call]) -> str:
        return "".join(
            opening.format(name) + json.dumps(each, ensure_ascii=False) + closing for name, each in calls
        )

    return Format(
        "json", write, marks, (opening.format("f") + '{"a": ' + closing, opening.format("f") + closing)
    )


def _tagged(head: str, argument: str, tail: str, *marks: str, bad: str) -> Format:
    def write(calls: Sequence[Call]) -> str:
        return "\n".join(
            head.format(name) + "".join(argument.format(key, value) for key, value in given.items()) + tail
            for name, given in calls
        )

    body = argument.format("text", "x")
    twice, garbage = head.format("write") + body + body + tail, head.format("write") + "?" + body + tail
    invented = head.format("write") + argument.format("invented", "x") + tail
    return Format(
        "tagged", write, (head.format("write"), body, tail, *marks), (twice, garbage, invented, bad)
    )


def _coder(wrapper: str, line: str = "\n") -> Format:
    head, tail = f"<{wrapper}>\n<function={{}}>\n", f"</function>\n</{wrapper}>"
    argument = f"<parameter={{}}>{line}{{}}{line}</parameter>\n"
    marks = (
        "<parameter=text>",
        "</parameter>",
        "</function>",
        f"</{wrapper}>",
        f"<{wrapper}>",
        "<function=write>",
    )
    return _tagged(head, argument, tail, *marks, bad=f"<{wrapper}>\nhi\n</{wrapper}>")


def _glm(
    head: str, tail: str, argument: str = "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n"
) -> Format:
    marks = (
        "<arg_key>",
        "<arg_key>text</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "</tool_call>",
        "<tool_call>",
    )
    return _tagged(head, argument, tail, *marks, bad=f"{head.format('write')}?{tail}")


def _invoke(wrapper: str, prefix: str = "", attribute: str = "", parameter: str = "parameter") -> Format:
    head = f'<{wrapper}>\n<{prefix}invoke name="{{}}">\n'
    argument = f'<{prefix}{parameter} name="{{}}"{attribute}>{{}}</{prefix}{parameter}>\n'
    tail = f"</{prefix}invoke>\n</{wrapper}>"
    marks = (f"</{prefix}{parameter}>", f"</{prefix}invoke>", f"</{wrapper}>", f"<{wrapper}>")
    return _tagged(head, argument, tail, *marks, bad=f"<{wrapper}>\nhi\n</{wrapper}>")


def python(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"


def _python(opening: str, closing: str, between: str, *, only_first: bool = False) -> Format:
    def write(calls: Sequence[Call]) -> str:
        return opening + between.join(map(python, calls)) + closing

    broken = () if only_first else (f"{opening}f(1){closing}", f"{opening}f(a=1e999){closing}")
    return Format("pythonic", write, (opening, closing, ")]", "',", '",'), broken, only_first=only_first)


def _bare(calls: Sequence[Call]) -> str:
    return "; ".join(
        json.dumps({"name": name, "parameters": each}, ensure_ascii=False) for name, each in calls
    )


def _by_key(calls: Sequence[Call]) -> str:
    return f"<|tools_prefix|>{json.dumps([{name: given} for name, given in calls])}<|tools_suffix|>"


def _deepseek(inner: str, last: str) -> Format:
    begin, sep, end = (f"<{BAR}tool▁{each}{BAR}>" for each in ("call▁begin", "sep", "call▁end"))
    return _headed(begin + inner.replace("SEP", sep), last + end, (begin, sep, end, "```", "```json\n"))


_HERMES = _tags("<tool_call>", "</tool_call>")
_CODER = _coder("tool_call")
_GLM = _glm("<tool_call>{}\n", "</tool_call>")
_KIMI = "<|tool_call_begin|>functions.{}:0<|tool_call_argument_begin|>"

_LLAMA = Format("json", _bare, ("<|python_tag|>", '{"name": "f", "parameters": {}}', ";"), ())

FORMATS: Mapping[str, Format] = {
    "hermes": _HERMES,
    "qwen3_json": _HERMES,
    "granite4": _HERMES,
    "ernie45": _HERMES,
    "longcat": _tags("<longcat_tool_call>", "</longcat_tool_call>"),
    "jamba": _list("<tool_calls>", "</tool_calls>"),
    "hunyuan_a13b": _list("<tool_calls>", "</tool_calls>"),
    "internlm": _tags("<|action_start|><|plugin|>", "<|action_end|>"),
    "granite": _list("<|tool_call|>"),
    "granite-20b-fc": _tags("<function_call>", ""),
    "phi4_mini_json": _list("functools"),
    "mistral": _headed("[TOOL_CALLS]{}[ARGS]", "", ("[TOOL_CALLS]", "[ARGS]", "[TOOL_CALLS]f[ARGS]{")),
    "deepseek_v3": _deepseek("functionSEP{}\n```json\n", "\n```"),
    "deepseek_v31": _deepseek("{}SEP", ""),
    "kimi_k2": _headed(_KIMI, "<|tool_call_end|>", ("<|tool_call_begin|>", "<|tool_call_end|>")),
    "llama3_json": _LLAMA,
    "llama4_json": _LLAMA,
    "qwen3_coder": _CODER,
    "qwen3_xml": _CODER,
    "step3p5": _CODER,
    "seed_oss": _coder("seed:tool_call"),
    "mimo": _coder("tool_call", ""),
    "glm45": _GLM,
    "glm47": _GLM,
    "ling3": _GLM,
    "poolside_v1": _GLM,
    "hy_v3": _glm("<tool_call>{}<tool_sep>\n", "</tool_call>"),
    "hy_v4": _glm("<tool_call>{}", "</tool_call>", "<arg_key>{}</arg_key><arg_value>{}</arg_value>"),
    "minimax_m2": _invoke("minimax:tool_call"),
    "dots": _invoke("dots_function_call"),
    "deepseek_v32": _invoke(f"{DSML}function_calls", DSML, ' string="true"'),
    "deepseek_v4": _invoke(f"{DSML}tool_calls", DSML, ' string="true"'),
    "deepseek_v41": _invoke(f"{DSML} calls", f"{DSML} ", ' string="true"'),
    "minicpm5": _tagged(
        '<function name="{}">', '<param name="{}">{}</param>', "</function>",
        "</param>", '<param name="text">',
        bad="<function name>",
    ),
    "step3": _tagged(
        f'<{BAR}tool_call_begin{BAR}>function<{BAR}tool_sep{BAR}><steptml:invoke name="{{}}">',
        '<steptml:parameter name="{}">{}</steptml:parameter>',
        f"</steptml:invoke><{BAR}tool_call_end{BAR}>",
        "</steptml:parameter>", "</steptml:invoke>", '<steptml:parameter name="text">',
        bad=f"<{BAR}tool_call_begin{BAR}>hi<{BAR}tool_call_end{BAR}>",
    ),
    "pythonic": _python("[", "]", ", ", only_first=True),
    "llama4_pythonic": _python("<|python_start|>[", "]<|python_end|>", ", ", only_first=True),
    "olmo3": _python("<function_calls>", "</function_calls>", "\n"),
    "lfm2": _python("<|tool_call_start|>[", "]<|tool_call_end|>", ", "),
    "apertus": Format(
        "json",
        _by_key,
        ("<|tools_prefix|>", "<|tools_suffix|>", "}}]"),
        ("<|tools_prefix|>[{<|tools_suffix|>",),
    ),
}  # fmt: skip
