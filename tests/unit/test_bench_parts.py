"""What the benchmarks ask and measure, without a server."""

from argparse import Namespace

import pytest

from app.core.events import Content
from bench.compare import sides_of
from bench.path import encoders


@pytest.mark.parametrize(("api", "path"), [("ollama", "/api/chat"), ("openai", "/v1/chat/completions")])
def test_caravan_is_asked_by_the_api_of_the_plan(api: str, path: str) -> None:
    caravan, vllm = sides_of(Namespace(api=api, caravan="c", vllm="v"))
    assert (caravan.path, vllm.path) == (path, "/v1/chat/completions")
    assert (caravan.body == vllm.body) == (api == "openai")


def test_each_encoder_has_begun_and_tells_a_token_in_one_frame() -> None:
    found = {name: encoder.feed(Content(" once")) for name, encoder in encoders().items()}
    assert len(found) == 6
    for frame in found.values():
        assert frame.count(b" once") == 1
        assert frame.count(b"\n\n") <= 1
