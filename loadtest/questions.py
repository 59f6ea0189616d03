"""What one user asks: the next request of each kind, its lengths drawn, and what makes its answer right."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from jsonschema import Draft202012Validator

from loadtest.apis.base import Ask, BadAnswer, Json, Kind, Reply
from loadtest.lengths import Lengths

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city name team minute idea body back parent face level office door
"""
WORDS = _TEXT.split()
"""Each is one token, with the space before it, in the vocabularies of the usual models."""
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["good", "bad", "neither"]},
        "stars": {"enum": [1, 2, 3, 4, 5]},
        "urgent": {"type": "boolean"},
    },
    "required": ["mood", "stars", "urgent"],
    "additionalProperties": False,
}
SCHEMA_TOKENS = 128
"""Room for an answer of `SCHEMA` with any white space that a model may put into it."""
MOST_SILENT = 8
"""Tokens that an answer may have with no text at all: a model may end with a few special ones."""
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city."}},
            "required": ["city"],
        },
    },
}


def words(count: int, dice: random.Random) -> str:
    """So many words in no order: about as many tokens, and no prefix that a cache may know."""
    return " ".join(dice.choices(WORDS, k=count))


@dataclass(frozen=True, slots=True)
class Models:
    """The model of each kind of request."""

    usual: str
    embed: str
    tools: str

    def of(self, kind: Kind) -> str:
        return {"embed": self.embed, "tools": self.tools}.get(kind, self.usual)


@dataclass(slots=True)
class Questions:
    """The requests of one user. Its chat grows by its answers and begins anew after `turns` of them; the
    user's messages of one chat add up to the length of one prompt."""

    dice: random.Random
    lengths: Lengths
    models: Models
    turns: int
    _chat: list[Json] = field(default_factory=list[Json])
    _message_tokens: int = 0

    def ask(self, kind: Kind) -> Ask:
        prompt_tokens, answer_tokens = self.lengths.draw(self.dice)
        model = self.models.of(kind)
        if kind in ("generate", "embed"):
            return Ask(kind, model, words(prompt_tokens, self.dice), most_tokens=answer_tokens)
        if kind == "chat":
            return Ask(kind, model, messages=self._turn(prompt_tokens), most_tokens=answer_tokens)
        message = [_said("user", words(prompt_tokens, self.dice) + ". What is the weather in Paris now?")]
        if kind == "schema":
            return Ask(kind, model, messages=message, most_tokens=SCHEMA_TOKENS, schema=SCHEMA)
        return Ask(kind, model, messages=message, most_tokens=answer_tokens, tools=[TOOL])

    def _turn(self, prompt_tokens: int) -> Sequence[Json]:
        if len(self._chat) >= 2 * self.turns:
            self._chat = []
        if not self._chat:
            self._message_tokens = max(1, prompt_tokens // self.turns)
        return [*self._chat, _said("user", words(self._message_tokens, self.dice))]

    def answered(self, ask: Ask, reply: Reply) -> None:
        """Take the answer in, once it was whole."""
        if ask.kind == "chat":
            self._chat = [*ask.messages, _said("assistant", reply.text)]


def check(ask: Ask, reply: Reply) -> None:
    """`BadAnswer` unless the answer is what was asked for."""
    if ask.kind == "embed":
        if reply.vectors != 1:
            raise BadAnswer("not one vector for one input")
        return
    if reply.output_tokens > ask.most_tokens:
        raise BadAnswer("more tokens than were asked for")
    if not reply.text and not reply.calls and not reply.cut_at_limit and reply.output_tokens > MOST_SILENT:
        raise BadAnswer("tokens without text")
    if ask.schema and not reply.cut_at_limit:
        _check_schema(ask.schema, reply.text)
    known = [tool["function"]["name"] for tool in ask.tools]
    if any(name not in known for name, _ in reply.calls):
        raise BadAnswer("a call of a tool that does not exist")


def _check_schema(schema: Json, text: str) -> None:
    try:
        fits = Draft202012Validator(schema).is_valid(orjson.loads(text))
    except orjson.JSONDecodeError:
        fits = False
    if not fits:
        raise BadAnswer("an answer that breaks its JSON schema")


def _said(role: str, content: str) -> Json:
    return {"role": role, "content": content}
