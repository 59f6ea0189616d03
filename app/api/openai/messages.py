"""Messages of OpenAI's API as those of a chat (docs/reference 13.1).

Other than Ollama's, which makes a message of each part, a list of parts stays one message: its texts and
pictures are read in the order in which the client wrote them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.api.bounds import refuse_nested
from app.api.images import read_image_url
from app.api.openai.schema import CallBody, MessageBody
from app.core.errors import InvalidRequest
from app.core.limits import InputLimits
from app.core.request import Json, Message, Part, PastToolCall, Text
from app.golang.json import decode
from app.golang.types import decode_base64

_GO_TYPES: Mapping[type, str] = {
    type(None): "<nil>",
    bool: "bool",
    int: "float64",
    float: "float64",
    dict: "map[string]interface {}",
}
_BAD_PART = "invalid message format"
_RESULTS = ("tool", "function")
"""Roles of a tool's result; the second is the older one."""
_BAD_AUDIO = "invalid input_audio format"
_NOT_SHOWN: Mapping[str, str] = {
    "audio": "models of this server do not hear",
    "function_call": "use tool_calls",
}
"""Fields of a message that say what a model here could not be shown."""


def to_messages(sent: Sequence[MessageBody], limits: InputLimits) -> tuple[Message, ...]:
    """The messages of a chat; one without any part is none.

    Raises:
        InvalidRequest: with Ollama's text, for what is no message.
    """
    names = {call.id: call.name for message in sent for call in message.tool_calls}
    made = (_message(message, names, limits) for message in sent)
    return tuple(message for message in made if message is not None)


def _message(sent: MessageBody, names: Mapping[str, str], limits: InputLimits) -> Message | None:
    for field, why in _NOT_SHOWN.items():
        if getattr(sent, field):
            raise InvalidRequest(f"messages.{field}: {why}")
    parts = tuple(_parts(sent))
    if isinstance(sent.content, list) and not parts and not sent.tool_calls:
        return None
    tool_name = (sent.name or names.get(sent.tool_call_id, "")) if sent.role in _RESULTS else ""
    return Message(
        sent.role,
        parts,
        thinking=sent.reasoning or sent.reasoning_content,
        tool_calls=tuple(_past_call(call, limits) for call in sent.tool_calls),
        tool_name=tool_name,
        tool_call_id=sent.tool_call_id,
    )


def _parts(sent: MessageBody) -> Iterator[Part]:
    """What a message says; a refusal stands where its content would be, or on a line after it."""
    content = sent.content
    if isinstance(content, str) or (content is None and (sent.tool_calls or sent.refusal)):
        if said := "\n".join(filter(None, (content, sent.refusal))):
            yield Text(said)
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"invalid message content type: {_GO_TYPES[type(content)]}")
    refused = [{"type": "refusal", "refusal": sent.refusal}] if sent.refusal else []
    after_text = False
    for item in (*content, *refused):
        part = _part(item)
        if isinstance(part, Text) and after_text:
            part = Text("\n" + part.text)  # They are two texts to the client, and must not become one word.
        after_text = isinstance(part, Text)
        yield part


def _part(item: Json) -> Part:
    if not isinstance(item, dict):
        raise InvalidRequest(_BAD_PART)
    match item.get("type"):
        case "text" if isinstance(item.get("text"), str):
            return Text(item["text"])
        case "refusal" if isinstance(item.get("refusal"), str):
            return Text(item["refusal"])
        case "image_url":
            return read_image_url(_url(item.get("image_url")))
        case "input_audio":
            raise _refused_audio(item.get("input_audio"))
        case _:
            raise InvalidRequest(_BAD_PART)


def _url(value: Json) -> str:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise InvalidRequest(_BAD_PART)
    return url


def _refused_audio(value: Json) -> InvalidRequest:
    """What is wrong with it, or that nobody would hear it."""
    if not isinstance(value, dict):
        return InvalidRequest(_BAD_AUDIO)
    data = value.get("data")
    if not isinstance(data, str):
        return InvalidRequest(f"{_BAD_AUDIO}: missing data")
    try:
        decode_base64(data)
    except InvalidRequest as error:
        return InvalidRequest(f"invalid input_audio base64 data: {error}")
    return InvalidRequest("input_audio: models of this server do not hear")


def _past_call(call: CallBody, limits: InputLimits) -> PastToolCall:
    if call.custom is not None:
        raise InvalidRequest('messages.tool_calls: "custom" is no kind of call here; use functions')
    try:
        arguments: Any = decode(call.arguments.encode("utf-8", "surrogatepass"), limits)
    except InvalidRequest:
        raise InvalidRequest("invalid tool call arguments") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments")
    refuse_nested("messages.tool_calls", arguments, limits)
    return PastToolCall(call.name, arguments, call.id)
