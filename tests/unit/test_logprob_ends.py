"""The end of an answer with log-probabilities costs little: they are written as they come.

With 20 alternatives they are a hundred times the text. Whatever is written at the end is written on the event
loop at once, and everybody waits for it.
"""

import time
from collections.abc import Callable

import pytest

from app.api.ollama.encoder import ChatEncoder
from app.api.openai.chat import chat_encoder
from app.api.openai.completions import completion_encoder
from app.api.openai.encoder import Form
from app.api.openai.responses.echo import echo_of
from app.api.openai.responses.encoder import ResponsesEncoder
from app.api.openai.responses.schema import ResponsesBody
from app.api.openai.responses.tools import Toolbox
from app.api.stream import Encoder
from app.core.events import Content, Done, Timings, TokenLogprob

TOKENS, TOP = 1500, 20
FORM = Form("m", top_logprobs=TOP)
END = Done("stop", 0, 0, 1, TOKENS, Timings())


def responses_encoder() -> ResponsesEncoder:
    return ResponsesEncoder(echo_of(ResponsesBody(), 1.0), Toolbox(), top_logprobs=TOP)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "ollama": lambda: ChatEncoder("m", top_logprobs=TOP),
    "chat": lambda: chat_encoder(FORM),
    "completions": lambda: completion_encoder(FORM),
    "responses": responses_encoder,
}


def scored(text: str) -> Content:
    others = [TokenLogprob(f"{text}{at}", -1.5, b"ab") for at in range(TOP)]
    return Content(text, [TokenLogprob(text, -0.5, b"ab", others)])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("made", ENCODERS.values(), ids=ENCODERS)
def test_the_end_is_a_small_part_of_the_work(made: Callable[[], Encoder], stream: bool) -> None:
    encoder, events = made(), [scored(f"w{at} ") for at in range(TOKENS)]
    take = encoder.feed if stream else encoder.collect
    begun = time.thread_time()
    for event in events:
        take(event)
    before_s = time.thread_time() - begun
    begun = time.thread_time()
    take(END)
    ended = b"" if stream else encoder.whole()
    assert time.thread_time() - begun < before_s / 2
    assert stream or ended.count(b'"w7 11"') == 1
