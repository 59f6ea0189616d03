"""Templates and tokenizers of others in processes with limits, with real processes and no engine."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import EngineFailed, InvalidRequest, Overloaded
from app.core.pool import Pool
from app.engine.confined.jinja import render, takes_parts_of
from app.engine.confined.processes import HelperLimits, Helpers
from app.engine.confined.program import is_worn
from app.engine.vllm.input.panics import tokenised
from tests.unit.catalogue_folders import QWEN

SOON = HelperLimits(time_s=0.5)
USER = {"role": "user", "content": "Hi"}


def asked(
    template: str, *, continues: bool = False, encodes: bool = False, **variables: Any
) -> dict[str, Any]:
    variables = {"messages": [USER], "add_generation_prompt": True, "tools": None, **variables}
    return {
        "do": "render",
        "template": template,
        "variables": variables,
        "continues": continues,
        "encodes": encodes,
    }


@pytest.fixture
async def helpers() -> AsyncGenerator[Helpers]:
    made = Helpers("m", Pool(), limits=SOON, workers=1)
    yield made
    await made.aclose()
    assert made.processes == 0


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9**(9**9) }}",
    "product": "{{ 'a'*(10**10) }}",
    "doubled": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "replaced": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(30) %}"
    "{% set ns.s = ns.s.replace('a', 'aaaaaaaa') %}{% endfor %}",
    "padded": "{{ 'a'|center(10000000000) }}",
    "formatted": "{{ '%10000000000d'|format(1) }}",
    "endless": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "long": "{{ 'a' * 4000000 }}",
}
REASONS = "longer than|too much memory|calls itself|may make one of|too large"


async def test_templates_without_an_end_are_ended(helpers: Helpers) -> None:
    """M22: they held a thread of the server, its event loop or all of its memory."""
    for name, template in HOSTILE.items():
        began = asyncio.get_running_loop().time()
        with pytest.raises(InvalidRequest, match=REASONS):
            await helpers.ask(asked(template))
        assert asyncio.get_running_loop().time() - began < 20, name
    assert (await helpers.ask(asked("{{ messages[0].content }}")))["text"] == "Hi", "others go on"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages.x.y }}", "has no attribute 'x'"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
async def test_a_template_says_why_it_refuses(helpers: Helpers, template: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        await helpers.ask(asked(template))
    assert helpers.processes == 1, "which is no reason to end the process"


async def test_a_process_has_no_secrets_no_network_and_writes_no_files(
    helpers: Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M22: as it is told of the process itself; a template sees none of this."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    await helpers.ask(asked("x"))
    environment, status, limits = told_of(helper())
    assert "secret" not in environment
    assert "Seccomp:\t2" in status
    assert "Max file size             0" in limits
    space = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert int(space.split()[3]) < 2 << 30


def helper() -> Path:
    """Where the kernel tells of the only one that this process has."""
    (child,) = (place for place in Path("/proc").iterdir() if _is_helper(place))
    return child


def told_of(place: Path) -> list[str]:
    return [(place / name).read_bytes().decode() for name in ("environ", "status", "limits")]


def _is_helper(place: Path) -> bool:
    try:
        told = (place / "stat").read_text().rsplit(")", 1)[1].split()
        return told[1] == str(os.getpid()) and b"engine.confined.program" in (place / "cmdline").read_bytes()
    except (OSError, IndexError):
        return False


async def test_whoever_leaves_ends_the_work() -> None:
    patient = Helpers("m", Pool(), limits=HelperLimits(time_s=60), workers=1)
    job = asyncio.ensure_future(patient.ask(asked(HOSTILE["loops"])))
    await asyncio.sleep(0.5)
    assert patient.processes == 1
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert patient.processes == 0
    await patient.aclose()
    with pytest.raises(EngineFailed, match="has ended"):
        await patient.ask(asked("x"))


async def test_more_than_may_wait_are_refused() -> None:
    full = Helpers("m", Pool(), limits=SOON, workers=1, waiting=0)
    job = asyncio.ensure_future(full.ask(asked("x")))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await full.ask(asked("x"))
    await job
    await full.aclose()


async def test_a_process_ends_with_the_server() -> None:
    """Killed, it can end nobody: the kernel does, though a template is at work."""
    program = """
import asyncio, sys
from app.core.pool import Pool
from app.engine.confined.processes import HelperLimits, Helpers
from tests.unit.test_confined import HOSTILE, asked, helper

async def main():
    helpers = Helpers("m", Pool(), limits=HelperLimits(time_s=60), workers=1)
    await helpers.ask(asked("x"))
    asyncio.ensure_future(helpers.ask(asked(HOSTILE["loops"])))
    await asyncio.sleep(0.5)
    print(helper().name, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    server.send_signal(signal.SIGKILL)
    await server.communicate()
    for _ in range(200):
        if not _runs(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it goes on")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# Tokenizers


def tokenizer_of(**parts: Any) -> Any:
    import json

    from tokenizers import Tokenizer

    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"}
    plain = {"version": "1.0", "added_tokens": [], "model": words, "pre_tokenizer": {"type": "Whitespace"}}
    return Tokenizer.from_str(json.dumps({**plain, **parts}))


def file_of(tokenizer: Any) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return tokenizer.to_str().encode()

    return read


@pytest.fixture
async def patterned() -> AsyncGenerator[Helpers]:
    pattern = {
        "type": "Split",
        "pattern": {"Regex": "(a|a)+b|(a+)+c$"},
        "behavior": "Isolated",
        "invert": False,
    }
    made = Helpers("m", Pool(), file_of(tokenizer_of(pre_tokenizer=pattern)), SOON, workers=1)
    yield made
    await made.aclose()


async def test_texts_become_the_tokens_of_the_tokenizer() -> None:
    tokenizer = tokenizer_of()
    helpers = Helpers("m", Pool(), file_of(tokenizer), workers=1)
    texts = ["a b c", "", "b " * 1000]
    reply = await helpers.ask({"do": "encode", "texts": texts, "special": True, "cut_to": None})
    assert reply["ids"] == [each.ids for each in tokenizer.encode_batch(texts)]
    reply = await helpers.ask({"do": "encode", "texts": texts, "special": True, "cut_to": 1, "side": "left"})
    assert reply["ids"] == [[2], [], [1]]
    reply = await helpers.ask(asked("{{ messages[0].content }} a", encodes=True))
    assert (reply["text"], reply["ids"]) == ("Hi a", [2, 0])
    await helpers.aclose()


async def test_a_tokenizer_makes_no_more_tokens_than_a_text_can_have() -> None:
    """Each is a number of 40 bytes in the server, and there were eight for a byte."""
    grows = {"type": "Replace", "pattern": {"String": "a"}, "content": "a a a "}
    limits = HelperLimits(reply_bytes=100)
    helpers = Helpers("m", Pool(), file_of(tokenizer_of(normalizer=grows)), limits, workers=1)

    def job(text: str) -> dict[str, Any]:
        return {"do": "encode", "texts": [text], "special": True, "cut_to": None}

    with pytest.raises(InvalidRequest, match=r"more than 4\d{3} tokens"):
        await helpers.ask(job("a" * 2_000))
    assert len((await helpers.ask(job("b " * 1_000)))["ids"][0]) == 1_000
    await helpers.aclose()


def test_a_process_is_replaced_before_the_kernel_ends_it_in_a_job_of_somebody() -> None:
    assert not is_worn(jobs=1_999, processor_s=2_999)
    assert is_worn(jobs=2_000, processor_s=1)
    assert is_worn(jobs=2, processor_s=3_001)


async def test_texts_are_filled_up_to_no_length() -> None:
    """Many tokenizers of embedding models are saved so; transformers fills up where it is asked to."""
    words = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}
    tokenizer = tokenizer_of(padding={**words, "pad_type_id": 0, "pad_token": "?"})
    assert len(tokenizer.encode("a b").ids) == 128
    helpers = Helpers("m", Pool(), file_of(tokenizer), workers=1)
    reply = await helpers.ask({"do": "encode", "texts": ["a b"], "special": True, "cut_to": None})
    await helpers.aclose()
    assert reply["ids"] == [[0, 1]]


async def test_a_pattern_that_takes_too_long_is_the_requests_fault(patterned: Helpers) -> None:
    """M23."""
    for text in ("a" * 60 + "!", ("a" * 22 + "!") * 2000):
        job = {"do": "encode", "texts": [text], "special": True, "cut_to": None}
        with pytest.raises(InvalidRequest, match=r"gave up on the text|longer than"):
            await patterned.ask(job)


def test_a_panic_is_the_requests_fault() -> None:
    """M23: it is no Exception, and the connection ended without an answer."""
    pattern = {"type": "Split", "pattern": {"Regex": "(a|a)+b"}, "behavior": "Isolated", "invert": False}
    tokenizer = tokenizer_of(pre_tokenizer=pattern)
    with pytest.raises(InvalidRequest, match="tokenizer gave up on the text"):
        tokenised(tokenizer.encode, "a" * 60 + "!")
    assert tokenised(tokenizer.encode, "a").ids == [0]


# As transformers and vLLM do it

CONVERSATION = [
    {"role": "system", "content": "Be  brief "},
    USER,
    {"role": "assistant", "content": " Hello \n"},
]
TEMPLATES = [
    QWEN,
    "{%- for m in messages %}\n    {{- '<' + m['role'] + '>' + m['content']|trim + '\n' }}\n{%- endfor %}"
    "{{ bos_token }}",
    "{% for m in messages %}\n  {% generation %}{% set a = m.content %}{{ a }}{% endgeneration %}\n"
    "{% endfor %}"
    "{{ a }}",
    "{{ messages|tojson(indent=2) }}{{ tools|tojson }}"
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_what_it_gives_in_transformers(template: str, continues: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = [{"type": "function", "function": {"name": "f\u00e9", "parameters": {"b": 1, "a": 1.0}}}]
    named: dict[str, Any] = {
        "tools": tools,
        "add_generation_prompt": not continues,
        "bos_token": "<s>",
        "documents": None,
    }
    try:
        (expected,), _ = render_jinja_template(
            conversations=[CONVERSATION], chat_template=template, continue_final_message=continues, **named
        )
    except ValueError:
        expected = None
    try:
        found = render(template, {**named, "messages": CONVERSATION}, continues=continues)
    except Exception:
        found = None
    assert found == expected


@pytest.mark.parametrize(
    "template",
    [
        *TEMPLATES,
        "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
        "{% for m in messages[1:] %}{% for c in m['content'] | reverse %}{{ c }}{% endfor %}{% endfor %}",
        "{% set rest = messages[1:] %}{% for m in rest %}{% for c in m.content %}{% endfor %}{% endfor %}",
        "{% macro show(content) %}{% for c in content %}{{ c }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
        "{% macro show(x, y) %}{% for c in y %}{{ c }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ show(1, y=m['content']) }}{% endfor %}",
        "{% macro show(y) %}{% for c in y %}{{ c }}{% endfor %}{% endmacro %}{{ show(tools) }}",
        "{% for m in messages %}{% set content = m.content %}{% for c in content %}{% endfor %}{% endfor %}",
        "{% for m in tools %}{% for c in m.content %}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for c in m.parts %}{% endfor %}{% endfor %}",
    ],
)
def test_contents_are_lists_where_they_are_for_vllm(template: str) -> None:
    from vllm.renderers import hf

    known: Any = hf
    found = known._detect_content_format(template, default="string")
    assert takes_parts_of(template) == (found == "openai")
