"""Answers of every API, read by the path that was asked: what a model said, how it ends, what errors say."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from chaos import answers
from chaos.answers import NDJSON, Answer, Broken, Reply, document

EVENTS = "text/event-stream"
ANTHROPIC, OPENAI = "/v1/messages", "/v1/"
_RESPONSES = "/v1/responses"
_DATA = b"data: "
REFUSALS = (400, 403, 404, 413)
COMPACTION_FAILED = (500, "compaction_failed")
"""What a client is told whose model wrote no summary, which no request can prevent (docs/reference 22.3)."""
_FAILURES = (408, 429)
_Event: TypeAlias = dict[str, Any]


def error_text(answer: Answer) -> str:
    """What an error's document says, in the envelope of its API and no other; empty for anything else."""
    return _error_of(answer.path, document(answer))


def _error_of(path: str, found: Mapping[str, Any]) -> str:
    error = found.get("error")
    if not path.startswith(OPENAI):
        return error if isinstance(error, str) and list(found) == ["error"] else ""
    if not isinstance(error, dict) or not isinstance(error.get("message"), str) or not error.get("type"):
        return ""
    if path.startswith(ANTHROPIC):
        proper = found.get("type") == "error" and bool(found.get("request_id"))
    else:
        proper = set(found) == {"error"} and {"param", "code"} <= set(error)
    return error["message"] if proper else ""


def is_refusal(answer: Answer) -> bool:
    """Whether it is a refusal of what was asked, in the API's form."""
    text, status = error_text(answer), answer.status
    if status == COMPACTION_FAILED[0] and answer.path.startswith(_RESPONSES):
        return document(answer)["error"].get("code") == COMPACTION_FAILED[1]
    return bool(text) and status in REFUSALS


def failure(answer: Answer) -> str:
    """The text of a clear failure that is the server's; empty for any other answer."""
    if answer.status >= 500 or answer.status in _FAILURES:
        if not (text := error_text(answer)):
            raise Broken(f"{answer.status} without an error's text: {answer.body[:80]!r}")
        return f"{answer.status} {text}"
    if answer.status == 200 and is_streamed(answer):
        return reply(answer).error
    return ""


def is_streamed(answer: Answer) -> bool:
    return answer.content_type == NDJSON or answer.content_type.startswith(EVENTS)


def reply(answer: Answer) -> Reply:
    """What the model said.

    Raises:
        Broken: where the answer is not whole and does not end with an error either.
    """
    if not answer.path.startswith(OPENAI):
        return answers.reply(answer)
    try:
        if not is_streamed(answer):
            return _whole(answer.path)(document(answer))
        events, error = _ended(answer)
        told = _streamed(answer.path)(events)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
        raise Broken(f"not of the API's form: {fault!r}") from fault
    told.error = error
    return told


def ending(answer: Answer) -> str:
    """What is wrong with the end of a stream of events; empty where it is whole or says what failed."""
    try:
        _ended(answer)
    except (Broken, KeyError, TypeError, ValueError) as fault:
        return str(fault) or repr(fault)
    return ""


def _ended(answer: Answer) -> tuple[list[_Event], str]:
    """The events of a stream that came to its end, and what the error says that ended it, if one did."""
    *blocks, rest = answer.body.split(b"\n\n")
    if rest or not blocks:
        raise Broken(f"the stream ends within an event: {rest[-80:]!r}")
    lines = [line for block in blocks for line in block.split(b"\n")]
    data = [line[len(_DATA) :] for line in lines if line.startswith(_DATA)]
    is_done = data[-1] == b"[DONE]"
    events: list[_Event] = [json.loads(each) for each in data[: -1 if is_done else None]]
    last = events[-1] if events else {}
    kind = last.get("type", "")
    if answer.path.startswith(ANTHROPIC):
        failed, ends = kind == "error", kind == "message_stop"
        text = _error_of(ANTHROPIC, last)
    elif answer.path.startswith(_RESPONSES):
        failed, ends = kind == "response.failed", kind in ("response.completed", "response.incomplete")
        text = last["response"]["error"]["message"] if failed else ""
        if [event["sequence_number"] for event in events] != list(range(len(events))):
            raise Broken("events are missing or out of order")
    else:
        failed, ends = "error" in last and not is_done, is_done
        text = _error_of(OPENAI, last)
    if failed:
        if not text:
            raise Broken(f"an error in another form: {last}")
        return events[:-1], text
    if not ends:
        raise Broken(f"the stream ends with {last}")
    return events, ""


def _call(name: str, arguments: Any) -> tuple[str, str]:
    read = json.loads(arguments) if isinstance(arguments, str) else arguments
    return name, json.dumps(read, sort_keys=True)


def _openai_calls(calls: Iterable[_Event] | None) -> list[tuple[str, str]]:
    return [_call(call["function"]["name"], call["function"]["arguments"]) for call in calls or ()]


def _openai_counts(usage: Mapping[str, Any]) -> tuple[int, int]:
    return usage["prompt_tokens"], usage["completion_tokens"]


def _openai_whole(found: _Event) -> Reply:
    (choice,) = found["choices"]
    message = choice.get("message") or {"content": choice.get("text")}
    return Reply(
        message["content"] or "",
        message.get("reasoning") or "",
        _openai_calls(message.get("tool_calls")),
        reason=choice["finish_reason"],
        counts=_openai_counts(found["usage"]),
    )


def _openai_streamed(events: list[_Event]) -> Reply:
    told = Reply()
    for event in events:
        for choice in event["choices"]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            told.content += delta.get("content") or ""
            told.thinking += delta.get("reasoning") or ""
            told.calls += _openai_calls(delta.get("tool_calls"))
            told.reason = choice.get("finish_reason") or told.reason
        if usage := event.get("usage"):
            told.counts = _openai_counts(usage)
    return told


def _responses_whole(found: _Event) -> Reply:
    told = Reply(reason="length" if found["incomplete_details"] else "stop")
    told.counts = found["usage"]["input_tokens"], found["usage"]["output_tokens"]
    for item in found["output"]:
        match item["type"]:
            case "message":
                told.content += "".join(part["text"] for part in item["content"])
            case "reasoning":
                told.thinking += "".join(part["text"] for part in item["summary"])
            case "function_call":
                told.calls.append(_call(item["name"], item["arguments"]))
            case other:
                raise Broken(f"an item of type {other}")
    return told


def _responses_streamed(events: list[_Event]) -> Reply:
    """What the pieces came to; of a stream that is whole, its last event must say the same."""
    told = Reply()
    for event in events:
        match event["type"]:
            case "response.output_text.delta":
                told.content += event["delta"]
            case "response.reasoning_summary_text.delta":
                told.thinking += event["delta"]
            case "response.output_item.done" if event["item"]["type"] == "function_call":
                told.calls.append(_call(event["item"]["name"], event["item"]["arguments"]))
            case "response.completed" | "response.incomplete":
                whole = _responses_whole(event["response"])
                if (whole.content, whole.thinking, whole.calls) != (told.content, told.thinking, told.calls):
                    raise Broken("the response says something else than its events")
                return whole
            case _:
                pass
    return told


def _anthropic_counts(usage: Mapping[str, Any]) -> tuple[int, int]:
    cached = usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
    return usage["input_tokens"] + cached, usage["output_tokens"]


def _anthropic_reply(blocks: Iterable[_Event], reason: str, usage: Mapping[str, Any]) -> Reply:
    told = Reply(reason="length" if reason == "max_tokens" else "stop", counts=_anthropic_counts(usage))
    for block in blocks:
        match block["type"]:
            case "text":
                told.content += block["text"]
            case "thinking":
                told.thinking += block["thinking"]
            case "tool_use":
                told.calls.append(_call(block["name"], block["input"]))
            case other:
                raise Broken(f"a block of type {other}")
    return told


def _anthropic_whole(found: _Event) -> Reply:
    return _anthropic_reply(found["content"], found["stop_reason"], found["usage"])


_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def _anthropic_streamed(events: list[_Event]) -> Reply:
    blocks: list[_Event] = []
    reason, usage = "", dict[str, Any]()
    for event in events:
        match event["type"]:
            case "message_start":
                usage |= event["message"]["usage"]
            case "content_block_start":
                blocks.append(event["content_block"])
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    block["input"] = json.loads(delta["partial_json"])
                else:
                    name = _PIECES[delta["type"]]
                    block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                reason = event["delta"]["stop_reason"]
                usage |= event["usage"]
            case _:
                pass
    return _anthropic_reply(blocks, reason, usage or {"input_tokens": 0, "output_tokens": 0})


def _whole(path: str) -> Callable[[_Event], Reply]:
    if path.startswith(ANTHROPIC):
        return _anthropic_whole
    return _responses_whole if path.startswith(_RESPONSES) else _openai_whole


def _streamed(path: str) -> Callable[[list[_Event]], Reply]:
    if path.startswith(ANTHROPIC):
        return _anthropic_streamed
    return _responses_streamed if path.startswith(_RESPONSES) else _openai_streamed
