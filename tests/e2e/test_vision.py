"""Pictures, through a model that sees: each format reaches it, counts, and fails as the client's mistake."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from harness.models.build import build
from harness.requests.pictures import picture as extreme
from harness.server import MIB, serving
from tests.e2e.engines import OwnServer, busy, own

pytestmark = pytest.mark.engine

PICTURE_TOKENS = 7
"""Four for the picture itself, three that mark where it begins and ends."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    scratch = tmp_path_factory.mktemp("vision")
    engine = {"dtype": "float32", "kv_cache_memory_bytes": 64 * MIB}
    model = {"name": "eyes", "source": str(build("vision")), "engine": engine}
    with serving([model], scratch, CARAVAN_PRELOAD="true") as live, own(live, scratch) as running:
        yield running


def picture(kind: str = "PNG", *, colour: str = "red", mode: str = "RGB", side: int = 40) -> str:
    image = Image.new(mode, (side, side), colour)
    image.paste("blue", (0, 0, side // 2, side // 3))
    data = io.BytesIO()
    image.save(data, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return base64.b64encode(data.getvalue()).decode()


def ask(site: OwnServer, path: str, *images: str, **fields: Any) -> httpx.Response:
    options = {"temperature": 0, "num_predict": 8}
    body: dict[str, Any] = {"model": "eyes", "stream": False, "options": options, **fields}
    if path == "/api/chat":
        body["messages"] = [{"role": "user", "content": "What is this?", "images": list(images)}]
    else:
        body = {"prompt": "What is this?", "images": list(images)} | body
    return site.client.post(path, json=body)


def prompt_tokens(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return answer.json()["prompt_eval_count"]


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["message"]["content"]


@pytest.mark.row("A3")
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_counts_as_its_tokens(site: OwnServer, path: str, kind: str) -> None:
    none, one = prompt_tokens(ask(site, path)), prompt_tokens(ask(site, path, picture(kind)))
    assert one - none == PICTURE_TOKENS


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_several_pictures(site: OwnServer, path: str) -> None:
    none, two = prompt_tokens(ask(site, path)), prompt_tokens(ask(site, path, picture(), picture("JPEG")))
    assert two - none == 2 * PICTURE_TOKENS


def test_the_model_sees_the_picture_and_not_its_format(site: OwnServer) -> None:
    red = text(ask(site, "/api/chat", picture()))
    assert red == text(ask(site, "/api/chat", picture("WEBP")))
    assert red == text(ask(site, "/api/chat", picture(mode="RGBA")))
    assert red != text(ask(site, "/api/chat", picture(colour="yellow")))


def test_a_streamed_answer_about_a_picture(site: OwnServer) -> None:
    lines = ask(site, "/api/chat", picture(), stream=True).text.splitlines()
    assert len(lines) > 2
    assert '"done":true' in lines[-1]


def test_pictures_of_earlier_turns_still_count(site: OwnServer) -> None:
    turns = [
        {"role": "user", "content": "What is this?", "images": [picture()]},
        {"role": "assistant", "content": "A llama."},
        {"role": "user", "content": "And this?", "images": [picture("JPEG")]},
    ]
    bare = [{key: value for key, value in turn.items() if key != "images"} for turn in turns]
    body = {"model": "eyes", "stream": False, "options": {"num_predict": 1}}
    counts = [
        prompt_tokens(site.client.post("/api/chat", json=body | {"messages": messages}))
        for messages in (bare, turns)
    ]
    assert counts[1] - counts[0] == 2 * PICTURE_TOKENS


def broken(kind: str) -> str:
    data = base64.b64decode(picture(kind))
    return base64.b64encode(data[: len(data) // 2]).decode()


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(base64.b64encode(b"no picture").decode(), id="no picture"),
        pytest.param(broken("PNG"), id="half a PNG"),
        pytest.param(broken("JPEG"), id="half a JPEG"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_broken_picture_is_the_clients_mistake(site: OwnServer, path: str, data: str) -> None:
    for stream in (False, True):
        answer = ask(site, path, picture(), data, stream=stream)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("failed to decode image: ")
    assert prompt_tokens(ask(site, path, picture()))
    assert busy(site.client, "eyes") == 0


def test_a_picture_that_the_prompt_has_no_place_for_is_refused(site: OwnServer) -> None:
    answer = ask(site, "/api/generate", picture(), raw=True)
    assert answer.status_code == 400, answer.text
    assert answer.json() == {"error": "the prompt has no place for every image"}
    with_place = ask(site, "/api/generate", picture(), raw=True, prompt="<image> What is this?")
    without = ask(site, "/api/generate", raw=True, prompt=" What is this?")
    assert prompt_tokens(with_place) - prompt_tokens(without) == PICTURE_TOKENS
    assert busy(site.client, "eyes") == 0


def test_more_pictures_than_the_window_holds_are_refused(site: OwnServer) -> None:
    answer = ask(site, "/api/chat", *[picture()] * 700)
    assert answer.status_code == 400, answer.text
    assert prompt_tokens(ask(site, "/api/chat", picture()))


@pytest.mark.parametrize(("width", "height"), [(1, 14_999_999), (100, 20_001)])
def test_a_picture_far_longer_than_wide_is_refused(site: OwnServer, width: int, height: int) -> None:
    """F24."""
    answer = ask(site, "/api/chat", base64.b64encode(extreme(width, height)).decode())
    assert answer.status_code == 400, answer.text
    wanted = f"at most 200 times as long as wide, this request has a picture of {width} x {height} pixels"
    assert answer.json() == {"error": f"images: {wanted}"}
    assert prompt_tokens(ask(site, "/api/chat", base64.b64encode(extreme(100, 20_000)).decode()))


def test_it_says_that_it_sees(site: OwnServer) -> None:
    shown = site.client.post("/api/show", json={"model": "eyes"}).json()
    assert set(shown["capabilities"]) == {"completion", "vision"}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_model_that_does_not_see_refuses_pictures(client: httpx.Client, path: str) -> None:
    message = {"role": "user", "content": "Hello", "images": [picture()]}
    body = {"model": "tool", "prompt": "Hello", "images": [picture()], "messages": [message]}
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert "does not support image input" in answer.json()["error"]
