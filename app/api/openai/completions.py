"""The words of `/v1/completions` (docs/reference 13.2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.api.openai.chat import LEAST_LOGPROB
from app.api.openai.counts import usage
from app.api.openai.encoder import FINGERPRINT, Choice, Form, OpenAIEncoder, frame, head_of
from app.api.wire import dumps, listed
from app.core.events import Content, Event, TokenLogprob


def completion_encoder(form: Form) -> OpenAIEncoder:
    return OpenAIEncoder(form, CompletionWords(form))


class _Kept(NamedTuple):
    """A token, its score, and those of its alternatives as JSON."""

    token: str
    score: float
    top: bytes


class CompletionWords:
    """Chunks and documents have one object; where usage is asked for, every chunk has one, of zeros."""

    tells_thinking = False

    def __init__(self, form: Form) -> None:
        self._form = form
        self.head: Mapping[str, Any] = head_of("cmpl", "text_completion")
        named = {"model": form.model, "system_fingerprint": FINGERPRINT}
        self._behind = {**named, **({"usage": usage(())} if form.include_usage else {})}
        self._named = named
        self._offsets = [len(self._echo(index)) for index in range(form.choices)]

    def text(self, index: int) -> tuple[bytes, bytes]:
        head = b"data: " + dumps(self.head)[:-1] + b',"choices":[{"text":'
        behind = b',"index":%d,"finish_reason":null}],' % index + dumps(self._behind)[1:] + b"\n\n"
        return head, behind

    def chunk(self, index: int, event: Event, *, first: bool) -> bytes:
        if not isinstance(event, Content):
            return b""
        scored = self._scored(index, self.kept(event.logprobs)) if event.logprobs else None
        return self._chunk(index, self._first(index, first=first) + event.text, None, scored)

    def finish(self, index: int, reason: str, *, first: bool) -> bytes:
        return self._chunk(index, self._first(index, first=first), reason)

    def counted(self, counts: Mapping[str, Any]) -> bytes:
        return frame({**self.head, "choices": [], **self._named, **counts})

    def kept(self, logprobs: Sequence[TokenLogprob]) -> Sequence[_Kept]:
        return [_Kept(item.token, _score(item), dumps(self._top(item))) for item in logprobs]

    def document(self, index: int, choice: Choice) -> dict[str, Any]:
        scored = {"logprobs": self._scored(index, choice.logprobs)} if choice.logprobs else {}
        return {"text": self._echo(index) + "".join(choice.content), "index": index, **scored}

    def _echo(self, index: int) -> str:
        """The prompt, where it is to be repeated before its answers."""
        echoes = self._form.echoes
        return echoes[index // self._form.per_prompt] if echoes else ""

    def _first(self, index: int, *, first: bool) -> str:
        return self._echo(index) if first else ""

    def _chunk(
        self, index: int, text: str, reason: str | None, scored: Mapping[str, Any] | None = None
    ) -> bytes:
        more = {} if scored is None else {"logprobs": scored}
        choice = {"text": text, "index": index, **more, "finish_reason": reason}
        return frame({**self.head, "choices": [choice], **self._behind})

    def _scored(self, index: int, scored: Sequence[_Kept]) -> dict[str, Any]:
        """`text_offset` counts characters from the beginning of the choice's text."""
        offsets: list[int] = []
        for item in scored:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(item.token)
        return {
            "tokens": [item.token for item in scored],
            "token_logprobs": [item.score for item in scored],
            "top_logprobs": listed([item.top for item in scored]),
            "text_offset": offsets,
        }

    def _top(self, item: TokenLogprob) -> dict[str, float]:
        """The alternatives, and the token itself, which may make one more than was asked for."""
        told = {other.token: _score(other) for other in item.top[: self._form.top_logprobs]}
        return told if item.token in told else {**told, item.token: _score(item)}


def _score(item: TokenLogprob) -> float:
    return max(item.logprob, LEAST_LOGPROB)
