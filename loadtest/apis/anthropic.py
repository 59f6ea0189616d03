"""Anthropic's Messages API: events of blocks, each with its start, its pieces and its end."""

import re
from dataclasses import dataclass

from loadtest.apis.base import Ask, BadAnswer, Json, Kind, Reply
from loadtest.apis.events import data_of, read_object

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""All tokens of a prompt: those that were cached stand apart."""


@dataclass(slots=True)
class _Block:
    kind: str
    name: str
    text: str = ""
    is_open: bool = True


class Anthropic:
    kinds: frozenset[Kind] = frozenset(("chat", "schema", "tools"))
    has_text = re.compile(rb'"type": ?"(?:text|thinking|input_json)_delta"')

    def request(self, ask: Ask) -> tuple[str, Json]:
        body: Json = {
            "model": ask.model,
            "messages": list(ask.messages),
            "max_tokens": ask.most_tokens,
            "stream": True,
        }
        if ask.schema:
            body["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
        if ask.tools:
            body["tools"] = [
                {
                    "name": tool["function"]["name"],
                    "description": tool["function"]["description"],
                    "input_schema": tool["function"]["parameters"],
                }
                for tool in ask.tools
            ]
        return "/v1/messages", body

    def reply(self, ask: Ask, body: bytes) -> Reply:
        events = [read_object(data) for data in data_of(body)]
        for event in events:
            if event["type"] == "error":
                raise BadAnswer(f"error event: {event['error']['message']}")
        if not events or events[0]["type"] != "message_start" or events[-1]["type"] != "message_stop":
            raise BadAnswer("the stream ends without message_stop")
        ends = [event for event in events if event["type"] == "message_delta"]
        if not ends or not ends[-1]["delta"].get("stop_reason"):
            raise BadAnswer("no stop_reason")
        blocks = _blocks(events)
        usage: Json = events[0]["message"]["usage"] | ends[-1]["usage"]
        return Reply(
            text="".join(block.text for block in blocks if block.kind == "text"),
            prompt_tokens=sum(usage.get(name) or 0 for name in _INPUT),
            output_tokens=usage["output_tokens"],
            calls=[
                (block.name, read_object(block.text.encode())) for block in blocks if block.kind == "tool_use"
            ],
            cut_at_limit=ends[-1]["delta"]["stop_reason"] == "max_tokens",
        )


def _blocks(events: list[Json]) -> list[_Block]:
    """The blocks that the events add up to; `BadAnswer` where one is not whole."""
    blocks: list[_Block] = []
    for event in events:
        match event["type"]:
            case "content_block_start":
                begun = event["content_block"]
                if event["index"] != len(blocks) or (blocks and blocks[-1].is_open):
                    raise BadAnswer("a block begins out of turn")
                blocks.append(_Block(begun["type"], begun.get("name", ""), begun.get("text", "")))
            case "content_block_delta":
                if event["index"] != len(blocks) - 1 or not blocks[-1].is_open:
                    raise BadAnswer("a piece of no open block")
                delta = event["delta"]
                blocks[-1].text += delta.get("text", "") + delta.get("partial_json", "")
            case "content_block_stop":
                blocks[event["index"]].is_open = False
            case _:
                pass
    if any(block.is_open for block in blocks):
        raise BadAnswer("a block without an end")
    return blocks
