"""From the bytes of a request to what it asks for."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.format import read_format
from app.api.ollama.codec import (
    Asked,
    ShowCall,
    to_chat,
    to_embed,
    to_embeddings,
    to_generate,
    to_show,
)
from app.catalogue.parameters import read_parameters
from app.core.errors import InvalidRequest
from app.core.limits import DEFAULTS
from app.core.request import (
    FOREVER,
    ChatPrompt,
    CompletionPrompt,
    Deferred,
    Embedding,
    Generation,
    Load,
    Message,
    Render,
    Request,
    Unload,
)

NOW = 123
EMPTY = Generation("", CompletionPrompt(), NOW, Deferred(read_parameters, {}), Deferred(read_format, None))


def _show(body: bytes, received_ns: int) -> ShowCall:
    del received_ns
    return to_show(body)


ROUTES: dict[str, Callable[[bytes, int], Any]] = {
    "generate": to_generate,
    "chat": to_chat,
    "embed": to_embed,
    "embeddings": to_embeddings,
    "show": _show,
}


def refused(text: str) -> Any:
    return pytest.raises(InvalidRequest, match=f"^{re.escape(text)}$")


@pytest.mark.point(33, 34)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("body", [b"", b" \r\n\t "])
def test_every_route_misses_an_empty_body(route: str, body: bytes) -> None:
    with refused("missing request body"):
        ROUTES[route](body, NOW)


@pytest.mark.point(35, 36, 40)
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_has_the_same_decoder(route: str) -> None:
    for body, text in {
        b"{": "unexpected EOF",
        b"xyz": "invalid character 'x' looking for beginning of value",
        b'{"model":"m",}': "invalid character '}' looking for beginning of object key string",
    }.items():
        with refused(text):
            ROUTES[route](body, NOW)


def test_a_chat_whole() -> None:
    body = {
        "model": " Plain ",
        "messages": [{"role": "System", "content": "s"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1}}}],
        "stream": False,
        "format": "json",
        "keep_alive": "5m",
        "options": {"temperature": 0.1, "bogus": 1},
        "think": "high",
        "truncate": False,
        "shift": False,
        "logprobs": True,
        "top_logprobs": 20,
        "_debug_render_only": True,
        "system": "ignored",
    }
    assert to_chat(json.dumps(body).encode(), NOW) == Asked(
        " Plain ",
        Render(
            Generation(
                model=" Plain ",
                prompt=ChatPrompt(
                    messages=(Message.of("system", "s"), Message.of("user", "hi")),
                    tools=(
                        {
                            "type": "function",
                            "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
                        },
                    ),
                ),
                received_ns=NOW,
                sampling=Deferred(read_parameters, {"temperature": 0.1, "bogus": 1}),
                constraint=Deferred(read_format, "json"),
                think="high",
                logprobs=True,
                top_logprobs=20,
                keep_alive_s=300.0,
                truncate=False,
                shift=False,
            )
        ),
        stream=False,
        top_logprobs=20,
    )


def test_a_generate_whole() -> None:
    body = {
        "model": "m",
        "prompt": "p",
        "suffix": "u",
        "system": "s",
        "template": "t",
        "context": [1, 2],
        "raw": True,
        "images": [base64.b64encode(b"x").decode()],
        "format": {"type": "object"},
        "keep_alive": -1,
        "think": False,
    }
    assert to_generate(json.dumps(body).encode(), NOW) == Asked(
        "m",
        Generation(
            model="m",
            prompt=CompletionPrompt(
                prompt="p", suffix="u", system="s", template="t", context=(1, 2), raw=True, images=(b"x",)
            ),
            received_ns=NOW,
            sampling=Deferred(read_parameters, {}),
            constraint=Deferred(read_format, {"type": "object"}),
            think=False,
            keep_alive_s=FOREVER,
        ),
        stream=True,
        top_logprobs=0,
    )


@pytest.mark.point(28, 29, 30, 31)
def test_a_body_is_read_as_go_reads_it() -> None:
    call = to_generate(b'{"MODEL":"a","Prompt":"hi","STREAM":false,"x":{"model":1}} junk', NOW)
    assert isinstance(call.request, Generation)
    assert (call.model, call.request.prompt, call.stream) == ("a", CompletionPrompt("hi"), False)
    assert to_generate(b'{"model":"a","model":"b"}', NOW).model == "b"


@pytest.mark.row("A4")
@pytest.mark.parametrize(
    ("body", "streams"),
    [(b"{}", True), (b'{"stream":null}', True), (b'{"stream":true}', True), (b'{"stream":false}', False)],
)
def test_an_answer_streams_unless_it_is_told_not_to(body: bytes, streams: bool) -> None:
    assert to_chat(body, NOW).stream is streams
    assert to_generate(body, NOW).stream is streams


@pytest.mark.point(41)
def test_a_null_body_asks_for_no_model() -> None:
    assert to_generate(b"null", NOW).request == Load(EMPTY)
    assert to_chat(b"null", NOW).request == Load(replace(EMPTY, prompt=ChatPrompt()))


@pytest.mark.point(88)
@pytest.mark.parametrize("number", [21, -1, 10**6])
@pytest.mark.parametrize("route", ["generate", "chat"])
def test_top_logprobs_has_a_range_for_any_model(route: str, number: int) -> None:
    with refused("top_logprobs must be between 0 and 20"):
        ROUTES[route](json.dumps({"model": "nosuch", "top_logprobs": number}).encode(), NOW)
    assert ROUTES[route](b'{"top_logprobs":20}', NOW).top_logprobs == 20


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ({}, ()),
        ({"input": None}, ()),
        ({"input": ""}, ()),
        ({"input": []}, ()),
        ({"input": "a"}, ("a",)),
        ({"input": [""]}, ("",)),
        ({"input": ["a", "", "b"]}, ("a", "", "b")),
        ({"prompt": "a"}, ()),
    ],
)
def test_what_embed_is_to_embed(sent: dict[str, Any], inputs: tuple[str, ...]) -> None:
    assert to_embed(json.dumps(sent).encode(), NOW).inputs == inputs


@pytest.mark.point(163)
@pytest.mark.parametrize("value", [5, 0, False, True, [5], {}, ["a", ["b"]], ["a", None], {"a": "b"}])
def test_an_input_of_the_wrong_type_is_refused_for_any_model(value: Any) -> None:
    with refused("invalid input type"):
        to_embed(json.dumps({"model": "nosuch", "input": value}).encode(), NOW)


def test_an_embed_whole() -> None:
    body = b'{"model":"e","input":"a","truncate":false,"dimensions":2,"keep_alive":0,"options":{"num_ctx":8}}'
    assert to_embed(body, NOW) == Embedding(
        "e", ("a",), NOW, Deferred(read_parameters, {"num_ctx": 8}), False, 2, 0.0
    )


def test_embeddings_takes_one_text_and_never_cuts_it() -> None:
    body = b'{"model":"e","prompt":"a","input":["x"],"keep_alive":"1s","options":{"num_ctx":8}}'
    assert to_embeddings(body, NOW) == Embedding(
        "e", ("a",), NOW, Deferred(read_parameters, {"num_ctx": 8}), False, 0, 1.0
    )
    assert to_embeddings(b'{"prompt":""}', NOW).inputs == ()


@pytest.mark.point(176)
def test_show_takes_the_old_name_of_model() -> None:
    assert to_show(b'{"name":"plain"}') == ShowCall("plain")
    assert to_show(b'{"model":"","name":"plain"}') == ShowCall("plain")
    assert to_show(b'{"model":"m","name":"n","verbose":true,"system":"s","options":{"a":1}}') == ShowCall(
        "m", True, "s", {"a": 1}
    )
    for body in (b"{}", b"null", b'{"model":"","name":""}'):
        with refused("model is required"):
            to_show(body)


@settings(deadline=None)
@given(st.sampled_from(sorted(ROUTES)), st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_request_or_refused(route: str, body: bytes) -> None:
    def read() -> Any:
        try:
            return ROUTES[route](body, NOW)
        except InvalidRequest as error:
            return str(error)

    assert read() == read() != ""


def test_the_deepest_tool_is_read_without_running_out_of_stack() -> None:
    levels = (DEFAULTS.nesting - 6) // 2
    nested = b'{"properties":{"p":' * levels + b'{"type":"string"}' + b"}}" * levels
    body = b'{"tools":[{"function":{"parameters":{"properties":{"q":' + nested + b"}}}}]}"
    (tool,) = cast(ChatPrompt, cast(Load, to_chat(body, NOW).request).wanted.prompt).tools
    assert json.dumps(tool).count('"properties"') == levels + 1


@pytest.mark.parametrize("depth", [201, 900, 1_100, 9_900])
@pytest.mark.parametrize(
    ("route", "field", "before", "after"),
    [
        ("chat", "tools", b'{"tools":', b"}"),
        ("chat", "messages.tool_calls", b'{"messages":[{"tool_calls":[{"function":{"arguments":', b"}}]}]}"),
        ("chat", "format", b'{"format":', b"}"),
        ("generate", "format", b'{"FORMAT":', b"}"),
        ("generate", "options", b'{"options":', b"}"),
        ("embed", "options", b'{"options":', b"}"),
        ("show", "options", b'{"model":"m","options":', b"}"),
    ],
)
def test_what_is_read_with_recursion_has_a_depth(
    depth: int, route: str, field: str, before: bytes, after: bytes
) -> None:
    """F7: a body is as deep as Go lets it be, the fields that are made something of are not."""
    text = f"{field}: at most 200 levels of nesting, this request has more"
    for opening, closing in ((b"[", b"]"), (b'{"properties":', b"}")):
        with refused(text):
            ROUTES[route](before + opening * depth + b"1" + closing * depth + after, NOW)


@pytest.mark.parametrize("route", sorted(ROUTES))
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_field_that_nobody_knows_is_as_deep_as_in_go(route: str, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    deepest = opening * 9_999 + b"1" + closing * 9_999
    body = b'{"model":"m","prompt":"a","x":' + deepest + b"}"
    plain = ROUTES[route](b'{"model":"m","prompt":"a"}', NOW)
    assert ROUTES[route](body, NOW) == plain
    with refused(f"invalid character '{opening[:1].decode()}' exceeded max depth"):
        ROUTES[route](body.replace(b'"x":', b'"x":' + opening), NOW)


@pytest.mark.point(61, 63, 106, 129, 130)
@pytest.mark.parametrize(
    ("read", "body", "kind"),
    [
        (to_generate, {"prompt": ""}, Load),
        (to_generate, {"prompt": "", "suffix": "x", "system": "y"}, Load),
        (to_generate, {"prompt": " "}, Generation),
        (to_chat, {}, Load),
        (to_chat, {"tools": []}, Load),
        (to_chat, {"messages": [{"role": "user"}]}, Generation),
        (to_generate, {"keep_alive": 0}, Unload),
        (to_chat, {"keep_alive": 0}, Unload),
        (to_generate, {"prompt": "hi", "keep_alive": 0}, Generation),
        (to_generate, {"keep_alive": "1ns"}, Load),
        (to_chat, {"keep_alive": -1}, Load),
        (to_generate, {"prompt": "", "_debug_render_only": True}, Load),
        (to_generate, {"keep_alive": 0, "options": {"num_ctx": "x"}, "raw": True, "system": "x"}, Unload),
    ],
)
def test_what_is_empty_loads_and_what_keeps_nothing_alive_unloads(
    read: Callable[..., Asked], body: Any, kind: type[Request]
) -> None:
    assert isinstance(read(json.dumps({"model": "m", **body}).encode(), NOW).request, kind)
