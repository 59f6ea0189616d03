"""Go templates: what they see, what they print, and what they may not do."""

from datetime import date, timedelta
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.request import Message, PastToolCall, Think
from app.prompt.gotemplate import GoTemplate

SYSTEM = Message.of("system", "Be brief.")
HELLO = Message.of("user", "Hello")
REPLY = Message.of("assistant", "Hi there")
AGAIN = Message.of("user", "Again")

CHATML = """{{- range $i, $message := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}<|{{ .Role }}|>
{{ .Content }}
{{- if not (and $last (eq .Role "assistant")) }}<|end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}<|assistant|>
{{ end }}
{{- end }}"""

ROUNDS = """{{ if .System }}<sys>{{ .System }}</sys>{{ end }}
{{- if .Prompt }}<usr>{{ .Prompt }}</usr>{{ end }}<ast>{{ .Response }}</ast>
"""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now>",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "unit": {"type": ["string", "null"], "enum": ["C", "F"], "description": "of heat"},
                "city": {"type": "string"},
                "when": {"anyOf": [{"type": "integer"}, {"type": "array"}]},
            },
        },
    },
}


def render(source: str, *messages: Message, **more: Any) -> str:
    return GoTemplate(source).render(messages, **more)


@pytest.mark.point(79)
def test_a_template_without_messages_or_response_is_continued_by_the_reply() -> None:
    assert render("T:{{ .Prompt }}", Message.of("user", "hi")) == "T:hi"
    assert render("T:{{ .Prompt }} ", HELLO, REPLY, AGAIN) == "T:Hello Hi thereT:Again "


@pytest.mark.point(80)
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ .Bad", "template: :1: unclosed action"),
        ("one\ntwo {{ nosuch .Prompt }}", 'template: :2: function "nosuch" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ if .Prompt }}", "template: :1: unexpected EOF"),
        ('{{ define "x" }}{{ end }}{{ template "x" }}', "undefined template specified"),
    ],
)
def test_a_bad_template_is_refused_with_go_s_text(source: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GoTemplate(source)
    assert str(caught.value) == text


def test_a_template_that_fails_while_it_runs_says_where() -> None:
    with pytest.raises(InvalidRequest, match=r"^template: :2:4: executing \"\": .*out of range"):
        render("\n{{ index .Messages 5 }}", HELLO)


@pytest.mark.point(77, 81)
def test_messages_are_seen_in_order_and_the_reply_is_opened() -> None:
    assert render(CHATML, SYSTEM, HELLO, REPLY, AGAIN) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\nHi there<|end|>\n"
        "<|user|>\nAgain<|end|>\n<|assistant|>\n"
    )


@pytest.mark.point(153)
@pytest.mark.parametrize(("source", "tail"), [(CHATML, "<|assistant|>\nHi there"), (ROUNDS, "<ast>Hi there")])
def test_a_last_message_of_the_assistant_s_is_left_open(source: str, tail: str) -> None:
    assert render(source, HELLO, REPLY).endswith(tail)


@pytest.mark.point(78, 153)
def test_an_old_template_runs_once_a_round_and_stops_at_the_last_response() -> None:
    assert render(ROUNDS, SYSTEM, HELLO, REPLY, AGAIN) == (
        "<sys>Be brief.</sys><usr>Hello</usr><ast>Hi there</ast>\n<usr>Again</usr><ast>"
    )


def test_an_old_template_keeps_every_system_message_with_its_round() -> None:
    assert render(ROUNDS, HELLO, REPLY, SYSTEM, AGAIN) == (
        "<usr>Hello</usr><ast>Hi there</ast>\n<sys>Be brief.</sys><usr>Again</usr><ast>"
    )


def test_an_old_template_reads_what_a_tool_said_as_the_user_s() -> None:
    asked = render(ROUNDS, HELLO, REPLY, Message.of("tool", "12 C", tool_name="weather"), AGAIN)
    assert asked.endswith("<usr>12 C\n\nAgain</usr><ast>")


def test_the_cut_keeps_to_the_branch_that_holds_the_response() -> None:
    source = "{{ if .System }}S{{ .Response }}s{{ else }}N{{ .Response }}n{{ end }}tail{{ .Prompt }}"
    assert render(source, SYSTEM, HELLO) == "S"
    assert render(source, HELLO) == "N"
    assert render(source, HELLO, REPLY, AGAIN) == "NHi therentailHelloN"


def test_neighbours_of_one_role_are_merged_but_tools_are_not() -> None:
    source = "{{ .System }}|{{ range .Messages }}[{{ .Role }}:{{ .Content }}:{{ .ToolName }}]{{ end }}"
    told = [Message.of("tool", "1", tool_name="a"), Message.of("tool", "2", tool_name="b")]
    later = Message.of("system", "Be kind.")
    assert render(source, SYSTEM, HELLO, AGAIN, *told, later) == (
        "Be brief.\n\nBe kind.|[system:Be brief.:][user:Hello\n\nAgain:]"
        "[tool:1:a][tool:2:b][system:Be kind.:]"
    )


def test_merging_keeps_pictures_calls_and_thoughts() -> None:
    source = (
        "{{ range .Messages }}{{ .Thinking }}/{{ len .Images }}/"
        "{{ range .ToolCalls }}{{ .Function.Index }}{{ .Function.Name }} {{ .ID }};{{ end }}{{ end }}"
    )
    first = Message.of("assistant", thinking="so", images=(b"a",), tool_calls=(PastToolCall("f", {}, "c1"),))
    second = Message.of(
        "assistant", thinking="then", images=(b"b",), tool_calls=(PastToolCall("g", {}, "c2"),)
    )
    assert render(source, first, second) == "so\n\nthen/2/0f c1;1g c2;"


@pytest.mark.point(83)
def test_a_suffix_leaves_the_template_nothing_but_prompt_and_suffix() -> None:
    source = (
        "{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ else }}{{ .System }}{{ .Prompt }}{{ end }}"
    )
    assert render(source, SYSTEM, prompt="def f(", suffix="return 1") == "<P>def f(<S>return 1<M>"
    assert render(source, system="S:", prompt="def f(") == "S:def f("


def test_what_is_missing_prints_as_nothing_and_equals_nothing() -> None:
    source = (
        '[{{ .Nothing }}{{ range .Nothing }}x{{ end }}{{ if eq .Nothing "a" }}x{{ end }}'
        '{{ if ne .Nothing "a" }}y{{ end }}{{ range .Messages }}{{ .Nothing }}{{ end }}'
        '{{ printf "%s" .Nothing }}{{ json .Nothing }}]'
    )
    assert render(source, HELLO) == "[ynull]"


@pytest.mark.parametrize(
    ("think", "seen"),
    [
        (None, "false  false"),
        (False, "false  true"),
        (True, "true medium true"),
        ("high", "true high true"),
    ],
)
def test_the_reasoning_switch(think: Think, seen: str) -> None:
    source = "{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}"
    assert render("{{ range .Messages }}{{ end }}" + source, HELLO, think=think) == seen
    assert render(source, HELLO, think=think) == seen
    assert render(source, prompt="a", suffix="b", think=think) == seen


def test_tools_and_arguments_print_as_ollama_s_json() -> None:
    source = (
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
        "\n{{ .Tools }}\n{{ range .Tools }}{{ json .Function.Name }} "
        '{{ printf "%s" .Function.Parameters.Properties }}{{ end }}'
    )
    call = PastToolCall("weather", {"when": 2.0, "city": "Å", "at": {"b": [None, True], "a": 0.5}})
    calls, tools, properties = render(
        source, Message.of("assistant", tool_calls=(call,)), tools=[WEATHER]
    ).split("\n")
    city_first = (
        '{"city":{"type":"string"},'
        '"unit":{"type":["string","null"],"description":"of heat","enum":["C","F"]},'
        '"when":{"anyOf":[{"type":"integer"},{"type":"array"}]}}'
    )
    assert calls == '{"at":{"a":0.5,"b":[null,true]},"city":"Å","when":2}'
    assert tools == (
        '[{"type":"function","function":{"name":"weather","description":"The weather \\u003cnow\\u003e",'
        '"parameters":{"type":"object","required":["city"],"properties":' + city_first + "}}}]"
    )
    assert properties == '"weather" ' + city_first


def test_a_template_can_walk_a_tool_s_properties() -> None:
    source = (
        "{{ range .Messages }}{{ end }}"
        "{{ range .Tools }}{{ range $name, $of := .Function.Parameters.Properties }}"
        "{{ $name }}: {{ toTypeScriptType $of }} ({{ $of.Type }}) {{ $of.Description }}{{ $of.Enum }};"
        "{{ end }}{{ end }}"
    )
    assert render(source, HELLO, tools=[WEATHER]) == (
        "city: string (string) ;unit: string | null ([string null]) of heat[C F];when: number | any[] ([]) ;"
    )


def test_dates() -> None:
    today = date.today()
    source = '{{ currentDate }} {{ currentDate "2006" }} {{ yesterdayDate }}{{ range .Messages }}{{ end }}'
    assert render(source, HELLO) == f"{today} {today} {today - timedelta(days=1)}"


def test_pictures_are_marked_where_they_belong() -> None:
    source = "{{ range .Messages }}{{ .Content }}{{ if .Images }}+{{ len .Images }}{{ end }};{{ end }}"
    asked = (
        Message.of("user", "see", images=(b"a", b"b")),
        REPLY,
        Message.of("user", "and [img] this", images=(b"c",)),
    )
    assert render(source, *asked) == "[img-0][img-1]see+2;Hi there;and [img-2] this+1;"
    assert render("{{ .Prompt }}", asked[0]) == "[img-0][img-1]see"


@pytest.mark.parametrize(
    ("source", "used", "unused"),
    [
        ("{{ .Prompt }}{{ .Suffix }}", "suffix", "Tools"),
        ("{{ with .Tools }}{{ . }}{{ end }}", "Tools", "Suffix"),
        (
            "{{ range $m := .Messages }}{{ if (and $m.Thinking) }}{{ else }}{{ .Suffix }}{{ end }}{{ end }}",
            "Thinking",
            "Tools",
        ),
        ('{{ define "t" }}{{ .ToolCalls }}{{ end }}{{ template "t" . }}', "ToolCalls", "Messages"),
    ],
)
def test_uses_tells_capabilities(source: str, used: str, unused: str) -> None:
    template = GoTemplate(source)
    assert template.uses(used)
    assert not template.uses(unused)


@pytest.mark.parametrize(
    "source",
    [
        '{{ $x := "aaaaaaaa" }}' + "{{ $x = print $x $x }}" * 60,
        '{{ $x := "aaaaaaaa" }}' + '{{ $x = printf "%s%s" $x $x }}' * 60,
        '{{ printf "%999999999d" 1 }}',
        '{{ printf "%*d" 999999999 1 }}',
        "{{ range 1000000000 }}{{ end }}",
        "{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}",
        '{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}',
        "".join(
            f'{{{{ define "t{n + 1}" }}}}{{{{ template "t{n}" . }}}}{{{{ template "t{n}" . }}}}{{{{ end }}}}'
            for n in range(60)
        )
        + '{{ define "t0" }}{{ end }}{{ template "t60" . }}',
        "{{ range 200000 }}{{ $.Prompt }}{{ $.Prompt }}{{ end }}",
        "{{ if .A }}" + "{{ else if .A }}" * 4000 + "{{ end }}",
        "{{ " + "(" * 2000 + ".A" + ")" * 2000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "x" * 100_000,
    ],
)
@pytest.mark.timeout(60)
def test_a_hostile_template_is_refused_before_it_costs_much(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source, Message.of("user", "x" * 1000))


@pytest.mark.timeout(60)
def test_processor_time_is_limited_where_nothing_else_is() -> None:
    with pytest.raises(InvalidRequest, match="it takes too long"):
        render("{{ range 200000 }}" + "{{ if $.A }}{{ end }}" * 3000 + "{{ end }}", HELLO)


@pytest.mark.parametrize("source", ["{{ .Prompt.upper }}", "{{ .Prompt.__class__ }}", "{{ call .Prompt }}"])
def test_a_template_cannot_reach_past_its_values(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source, HELLO)
