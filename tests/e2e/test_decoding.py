"""How bodies are read: points 25 to 45 over HTTP, on the real server. Nearly all of it needs no engine."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.ollama_lines import JSON

pytestmark = pytest.mark.engine

ROUTES = {
    "/api/chat": "ChatRequest",
    "/api/generate": "GenerateRequest",
    "/api/embed": "EmbedRequest",
    "/api/embeddings": "EmbeddingRequest",
    "/api/show": "ShowRequest",
}
"""The native routes with a body, and Go's name for each of their requests."""

every_route = pytest.mark.parametrize("route", ROUTES)

SHORT: dict[str, Any] = {"prompt": "Hello", "stream": False, "think": False, "options": {"num_predict": 2}}


def post(client: httpx.Client, route: str, body: str | bytes) -> httpx.Response:
    return client.post(route, content=body)


def refused(answer: httpx.Response, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert answer.headers["content-type"] == JSON


@pytest.mark.point(25, 26)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "a;;b"])
def test_the_content_type_does_not_matter(client: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    body = json.dumps({"model": "tool", **SHORT}).encode()
    request = client.build_request("POST", "/api/generate", content=body, headers=headers)
    assert request.headers.get("content-type") == content_type
    assert client.send(request).json()["done"] is True


@pytest.mark.point(27)
def test_a_chunked_body(client: httpx.Client) -> None:
    body = json.dumps({"model": "tool", **SHORT}).encode()

    def pieces() -> Iterator[bytes]:
        yield from (body[at : at + 7] for at in range(0, len(body), 7))

    answer = client.post("/api/generate", content=pieces())
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json()["done"] is True


@pytest.mark.point(28)
def test_unknown_keys_are_ignored_at_every_level(client: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"nope": []}}}
    answer = client.post(
        "/api/chat",
        json={
            "model": "tool",
            "stream": False,
            "nope": {"deep": [1]},
            "messages": [{"role": "user", "content": "Hello", "nope": 1}],
            "tools": [{**tool, "nope": None}],
            "options": {"num_predict": 1, "nope": "x", "mirostat": 2},
        },
    )
    assert (answer.status_code, answer.json()["done"]) == (200, True)


@pytest.mark.point(29)
def test_keys_match_in_any_case(client: httpx.Client) -> None:
    answer = client.post(
        "/api/generate",
        json={"MODEL": "tool", "Prompt": "hi", "STREAM": False, "Options": {"num_predict": 1}},
    )
    assert answer.headers["content-type"] == JSON
    assert (answer.json()["model"], answer.json()["eval_count"]) == ("tool", 1)


@pytest.mark.point(29)
@pytest.mark.parametrize("body", ['{"model":"m","MODEL":"x"}', '{"MODEL":"x","model":"m"}'])
def test_a_key_in_its_own_case_wins(client: httpx.Client, body: str) -> None:
    refused(post(client, "/api/show", body), "model 'm:latest' not found", 404)


@pytest.mark.point(30)
@every_route
def test_of_doubled_keys_the_last_wins(client: httpx.Client, route: str) -> None:
    body = '{"model":"tool","model":"nosuch"}'
    answer = post(client, route, body)
    assert answer.status_code == 404
    assert "nosuch" in answer.json()["error"]


@pytest.mark.point(31)
@pytest.mark.parametrize("junk", [" junk", "}", "\x00", '{"model":"nosuch"}', "\n\n[[["])
def test_what_follows_the_first_value_is_ignored(client: httpx.Client, junk: str) -> None:
    answer = post(client, "/api/generate", '{"model":"tool","stream":false}' + junk)
    assert answer.json()["done_reason"] == "load"


@pytest.mark.point(32)
@pytest.mark.parametrize("authorization", ["Bearer x", "Basic !!!", "nonsense", ""])
def test_an_authorization_header_is_ignored(client: httpx.Client, authorization: str) -> None:
    answer = client.post(
        "/api/generate", json={"model": "tool"}, headers={"authorization": authorization, "x-api-key": "k"}
    )
    assert answer.json()["done_reason"] == "load"


@pytest.mark.point(33, 34)
@every_route
@pytest.mark.parametrize("body", ["", " ", "\n\t\r "])
def test_no_body(client: httpx.Client, route: str, body: str) -> None:
    refused(post(client, route, body), "missing request body")


BROKEN = {
    "{": "unexpected EOF",
    '{"model"': "unexpected EOF",
    '{"model":"to': "unexpected EOF",
    "xyz": "invalid character 'x' looking for beginning of value",
    '{"model":"tool",}': "invalid character '}' looking for beginning of object key string",
    "{'a':1}": r"invalid character '\'' looking for beginning of object key string",
    '{"a" "b"}': "invalid character '\"' after object key",
    '{"a":"b" "c":1}': "invalid character '\"' after object key:value pair",
    '{"a":"\n"}': r"invalid character '\n' in string literal",
    r'{"a":"\q"}': "invalid character 'q' in string escape code",
    '{"a":tru}': "invalid character '}' in literal true (expecting 'e')",
}


@pytest.mark.point(35, 36, 40)
@every_route
@pytest.mark.parametrize("body", BROKEN)
def test_a_body_that_is_no_json(client: httpx.Client, route: str, body: str) -> None:
    refused(post(client, route, body), BROKEN[body])


@pytest.mark.point(36)
@pytest.mark.parametrize(
    ("body", "character"), [(b"\xef\xbb\xbf{}", "ï"), (b"\x1f\x8b\x08\x00", r"\x1f"), (b"\x00{}", r"\x00")]
)
def test_a_body_that_is_no_text(client: httpx.Client, body: bytes, character: str) -> None:
    refused(
        post(client, "/api/chat", body), f"invalid character '{character}' looking for beginning of value"
    )


@pytest.mark.point(37)
@pytest.mark.parametrize(("route", "go_type"), ROUTES.items())
@pytest.mark.parametrize(("body", "kind"), [("[]", "array"), ('"x"', "string"), ("1", "number")])
def test_a_body_of_another_type(client: httpx.Client, route: str, go_type: str, body: str, kind: str) -> None:
    refused(post(client, route, body), f"json: cannot unmarshal {kind} into Go value of type api.{go_type}")


@pytest.mark.point(38)
@pytest.mark.parametrize(("route", "go_type"), ROUTES.items())
def test_a_model_that_is_no_string(client: httpx.Client, route: str, go_type: str) -> None:
    error = f"json: cannot unmarshal number into Go struct field {go_type}.model of type string"
    refused(post(client, route, '{"model":1}'), error)


GENERATE_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"stream": "yes"}, "string into Go struct field GenerateRequest.stream of type bool"),
    (
        {"options": []},
        "array into Go struct field GenerateRequest.options of type map[string]interface {}",
    ),
    ({"context": ["a"]}, "string into Go struct field GenerateRequest.context of type int"),
    ({"top_logprobs": 1.5}, "number 1.5 into Go struct field GenerateRequest.top_logprobs of type int"),
    ({"images": "x"}, "string into Go struct field GenerateRequest.images of type []api.ImageData"),
    ({"raw": 1}, "number into Go struct field GenerateRequest.raw of type bool"),
]


@pytest.mark.point(39, 42)
@pytest.mark.parametrize(("fields", "error"), GENERATE_FIELDS)
def test_a_field_of_another_type(client: httpx.Client, fields: dict[str, Any], error: str) -> None:
    refused(
        client.post("/api/generate", json={"model": "plain", **fields}), f"json: cannot unmarshal {error}"
    )


CHAT_FIELDS: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
    ),
    (
        {"messages": "x"},
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
    ),
    (
        {"messages": ["x"]},
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Alias",
    ),
    (
        {"tools": ["x"]},
        "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tool",
    ),
    (
        {"tools": [{"function": {"parameters": "x"}}]},
        "json: cannot unmarshal string into Go struct field ToolFunction.tools.function.parameters "
        "of type api.ToolFunctionParameters",
    ),
]


@pytest.mark.point(43)
@pytest.mark.parametrize(("fields", "error"), CHAT_FIELDS)
def test_a_field_of_chat_of_another_type(client: httpx.Client, fields: dict[str, Any], error: str) -> None:
    refused(client.post("/api/chat", json={"model": "plain", **fields}), error)


@pytest.mark.point(41)
def test_a_null_body_asks_for_nothing(client: httpx.Client) -> None:
    refused(post(client, "/api/generate", "null"), "model '' not found", 404)
    refused(post(client, "/api/embed", "null"), "model '' not found", 404)
    for route in ("/api/chat", "/api/embeddings", "/api/show"):
        refused(post(client, route, "null"), "model is required")


@pytest.mark.point(41)
def test_a_null_field_is_an_absent_one(client: httpx.Client) -> None:
    fields = ("prompt", "system", "stream", "raw", "format", "keep_alive", "images", "options", "think")
    answer = client.post("/api/generate", json={"model": "tool", **dict.fromkeys(fields)})
    assert answer.json()["done_reason"] == "load"


@pytest.mark.point(44, 45)
@pytest.mark.parametrize(
    ("image", "at"), [("!!", 0), ("data:image/png;base64,aGk=", 4), ("aGk", 0), ("aGk=aGk=", 4)]
)
def test_an_image_that_is_no_base64(client: httpx.Client, image: str, at: int) -> None:
    error = f"illegal base64 data at input byte {at}"
    refused(client.post("/api/generate", json={"model": "plain", "images": [image]}), error)
    messages = [{"role": "user", "images": [image]}]
    refused(client.post("/api/chat", json={"model": "plain", "messages": messages}), error)
