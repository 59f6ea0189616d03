"""Replies of the test models as the engine hands them out, read by the real decoders."""

import warnings
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers.decoders import DecodeStream

from app.catalogue.digest import FileHashes
from app.catalogue.facts import read_facts
from app.core.events import Content, Delta, Event, Thinking, ToolCall
from app.core.model import ModelName, ModelSpec
from app.core.request import ChatPrompt, Constraint, Sampling
from app.engine.base import Prompt, Run
from harness.models.build import build
from harness.models.catalogue import Case, Json, Kind
from harness.models.tokens import VOCABULARIES

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, while it is imported
    from vllm.tokenizers import get_tokenizer

    from app.core.thinking import thinking_kwargs
    from app.decode.reply import ReplyDecoder
    from app.engine.vllm.parse.choice import decoder_of, parser_for
    from app.engine.vllm.parse.reply import Parsers, VllmReplyParser
    from app.engine.vllm.stream.detokenizer import hiding
    from harness.models.train import Transcript, render

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets; calls with their arguments as pairs, since their order counts."""

    thinking: str = ""
    content: str = ""
    calls: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()


def called(name: str, **arguments: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    return name, tuple(arguments.items())


def answer_of(events: Iterable[Event]) -> Answer:
    events = list(events)
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert not any(isinstance(event, Thinking | Content) and not event.text for event in events)
    return Answer(
        "".join(event.text for event in events if isinstance(event, Thinking)),
        "".join(event.text for event in events if isinstance(event, Content)),
        tuple(called(call.name, **call.arguments) for call in calls),
    )


def expected(case: Case, *, think: bool) -> Answer:
    calls = tuple(called(call.name, **call.arguments) for call in case.calls)
    return Answer(case.thinking if think else "", case.content, calls)


def parser_of(decoder: ReplyDecoder) -> VllmReplyParser:
    return cast(VllmReplyParser, decoder.parser)


class Reader:
    """Reads replies of one kind of model as its engine would."""

    def __init__(self, kind: Kind) -> None:
        folder = build(kind)
        facts = read_facts(folder, ModelSpec(ModelName(kind), str(folder)), FileHashes(Path("/nonexistent")))
        self._kind: Kind = kind
        self._variable = facts.thinking_variable
        self.tokenizer: Any = get_tokenizer(str(folder))
        self._parsers = Parsers(self.tokenizer, None, facts.tool_parser, facts.reasoning_parser)

    def reasoning_by(self, parser: str) -> "Reader":
        """The same with another parser of vLLM for the reasoning, and none for calls."""
        made = copy(self)
        made._parsers = Parsers(self.tokenizer, None, None, parser)
        return made

    def transcript(self, case: Case, *, think: bool) -> Transcript:
        return render(self.tokenizer, case, think=think)

    def decoder(
        self,
        prompt: str,
        tools: Sequence[Json] = (),
        *,
        think: bool = True,
        continues: bool = False,
        constrained: bool = False,
    ) -> ReplyDecoder | None:
        run = Run(
            Sampling(),
            max_tokens=1,
            constraint=Constraint() if constrained else None,
            think=think,
            chat=ChatPrompt((), tuple(tools)),
        )
        made = Prompt(prompt, self.tokenizer.encode(prompt, add_special_tokens=False), continues=continues)
        parser = parser_for(self._parsers, run, made, thinking_kwargs(self._variable, think))
        return cast("ReplyDecoder | None", decoder_of(parser))

    def deltas(self, reply: str, decoder: ReplyDecoder | None, finish: Finish = "stop") -> list[Delta]:
        """A delta for each token; the end token of a reply that the model ended has no text."""
        end = VOCABULARIES[self._kind].end if finish == "stop" else ""
        token_ids = self.tokenizer.encode(reply + end, add_special_tokens=False)
        stream = DecodeStream(skip_special_tokens=decoder is None or parser_of(decoder).skip_special_tokens)
        tokenizer = self.tokenizer.backend_tokenizer
        hidden = parser_of(decoder).hidden if decoder is not None else frozenset[int]()
        decode = hiding(lambda token_id: stream.step(tokenizer, token_id) or "", hidden)
        deltas = [Delta(decode(token_id), [token_id]) for token_id in token_ids]
        if finish == "stop":
            deltas[-1].text = ""
        deltas[-1].finish = finish
        return deltas


reader = cache(Reader)


def merged(deltas: Sequence[Delta], cuts: Iterable[int]) -> list[Delta]:
    """The same tokens in fewer deltas, as they come when the reader is slow."""
    return [_joined(deltas[start:end]) for start, end in pairwise((0, *cuts, len(deltas)))]


def _joined(deltas: Sequence[Delta]) -> Delta:
    token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
    return Delta("".join(delta.text for delta in deltas), token_ids, finish=deltas[-1].finish)


def fed(decoder: ReplyDecoder | None, deltas: Iterable[Delta]) -> list[Event]:
    """What is shown while the reply is made."""
    if decoder is None:
        return [Content(delta.text) for delta in deltas if delta.text]
    return [event for delta in deltas for event in decoder.feed(delta)]


def read(decoder: ReplyDecoder | None, deltas: Iterable[Delta]) -> Answer:
    shown = fed(decoder, deltas)
    return answer_of(shown + (decoder.flush() if decoder is not None else []))
