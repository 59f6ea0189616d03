"""Which templates are Jinja, and which compile."""

import time

import pytest

from app.core.errors import InvalidRequest
from app.prompt.jinja import is_jinja


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", True),
        ("{% if messages %}hi{% endif %}", True),
        ("{# a comment #}{{ bos_token }}", True),
        ("{% generation %}{{ messages }}{% endgeneration %}", True),
        ("", False),
        ("no action at all", False),
        ("{{ .System }}{{ .Prompt }}", False),
        ("{{ .Prompt }} says {% and {# as text", False),
    ],
)
def test_the_kind_of_a_template(source: str, expected: bool) -> None:
    assert is_jinja(source) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages }}", 'template: :1: function "messages" not defined'),
        ("{{#if x}}", 'template: :1: unexpected "#"'),
        ("a\n{% if x %}", "template: :2: Unexpected end of template"),
        ("{{ .Prompt }{% if", "template: :1: "),
        ("{% do x.y() %}", "template: :1: Encountered unknown tag 'do'"),
        ("{{ messages | nosuch }}{% if x %}{% endif %}", "template: :1: No filter named 'nosuch'"),
        ("{% break %}", "template: :1: 'break' outside loop"),
        ("{% include 'x' %}", "template: :1: there are no other templates"),
        ("\n{% extends 'x' %}", "template: :2: there are no other templates"),
        ("{% from 'x' import y %}", "template: :1: there are no other templates"),
        ("{% for x in y %}" * 30 + "{% endfor %}" * 30, "template: :1: too many statically nested"),
        ("{% if " + "(" * 20_000 + "1" + ")" * 20_000 + " %}{% endif %}", "template: :1: nested too deeply"),
        ("{% set x = " + "9" * 60_000 + " %}", "template: :1: nested too deeply"),
        ("{#" + "x" * 65_536 + "#}", "template: :1: longer than 65536 characters"),
    ],
)
def test_what_does_not_compile_is_told_with_its_line(source: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        is_jinja(source)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    "work", ["9**(9**9)", "'x' | center(9999999999)", "'x' * 9999999999", "'%9999999999d' % 1"]
)
def test_nothing_is_worked_out_where_a_template_is_only_compiled(work: str) -> None:
    began = time.process_time()
    assert is_jinja(f"{{% set x = {work} %}}{{% if {work} %}}{{{{ {work} }}}}{{% endif %}}")
    assert time.process_time() - began < 1
