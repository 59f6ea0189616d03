"""OpenAI's Responses API: numbered events, the last of which has the whole response."""

import re

from loadtest.apis.base import Ask, BadAnswer, Json, Kind, Reply
from loadtest.apis.events import data_of, read_object


class Responses:
    kinds: frozenset[Kind] = frozenset(("chat", "schema", "tools"))
    has_text = re.compile(
        rb"response\.(?:output_text|reasoning_text|reasoning_summary_text|function_call_arguments)\.delta"
    )

    def request(self, ask: Ask) -> tuple[str, Json]:
        body: Json = {
            "model": ask.model,
            "input": list(ask.messages),
            "max_output_tokens": ask.most_tokens,
            "stream": True,
            "store": False,
        }
        if ask.schema:
            shape = {"type": "json_schema", "name": "answer", "schema": ask.schema, "strict": True}
            body["text"] = {"format": shape}
        if ask.tools:
            body["tools"] = [{"type": "function", **tool["function"]} for tool in ask.tools]
        return "/v1/responses", body

    def reply(self, ask: Ask, body: bytes) -> Reply:
        events = [read_object(data) for data in data_of(body) if data != b"[DONE]"]
        last = events[-1] if events else {}
        if last.get("type") == "response.failed":
            raise BadAnswer(f"failed: {last['response']['error']['message']}")
        if last.get("type") not in ("response.completed", "response.incomplete"):
            raise BadAnswer("the stream ends without response.completed")
        if [event["sequence_number"] for event in events] != list(range(len(events))):
            raise BadAnswer("events are missing")
        whole: Json = last["response"]
        text = "".join(
            part.get("text", "")
            for item in whole["output"]
            if item["type"] == "message"
            for part in item["content"]
        )
        told = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        if text != told:
            raise BadAnswer("the response has another text than its events")
        cut = whole.get("incomplete_details") or {}
        return Reply(
            text=text,
            prompt_tokens=whole["usage"]["input_tokens"],
            output_tokens=whole["usage"]["output_tokens"],
            calls=[
                (item["name"], read_object(item["arguments"].encode()))
                for item in whole["output"]
                if item["type"] == "function_call"
            ],
            cut_at_limit=cut.get("reason") == "max_output_tokens",
        )
