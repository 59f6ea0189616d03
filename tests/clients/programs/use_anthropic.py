"""Anthropic's Python client and its own helpers."""

from typing import Any

import anthropic
from pydantic import BaseModel
from telling import DOT, KEY, URL, WRONG_KEY, failure, tell

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=60)
COMPARE: Any = [{"role": "user", "content": "Compare the weather of Paris and London"}]


class Person(BaseModel):
    name: str
    age: int


def asking(text: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": text}], **fields}


@anthropic.beta_tool
def get_weather(city: str) -> str:
    """The weather.

    Args:
        city: Where.
    """
    return f"{len(city)} degrees"


def texts(message: Any) -> list[str]:
    return [block.text for block in message.content if block.type == "text"]


def create() -> Any:
    message = client.messages.create(**asking("Who are you?", system="the server."))
    return [*texts(message), message.stop_reason]


def streamed() -> Any:
    with client.messages.stream(**asking("Hello")) as stream:
        text = "".join(stream.text_stream)
    return [text, stream.get_final_message().stop_reason]


def tools() -> Any:
    """The client's own loop: it calls the tools until the model calls none."""
    runner = client.beta.messages.tool_runner(model="m", max_tokens=64, messages=COMPARE, tools=[get_weather])
    messages = list(runner)
    return [len(messages) - 1, *texts(messages[-1])]


def tools_streamed() -> Any:
    runner = client.beta.messages.tool_runner(
        model="m", max_tokens=64, messages=COMPARE, tools=[get_weather], stream=True
    )
    last, count = None, 0
    for stream in runner:
        for _ in stream:
            pass
        last, count = stream.get_final_message(), count + 1
    return [count - 1, *texts(last)]


def tool_choice() -> Any:
    tool = get_weather.to_dict()
    message = client.messages.create(
        **asking("The weather of London", tools=[tool], tool_choice={"type": "any"})
    )
    return [[block.name, block.input] for block in message.content if block.type == "tool_use"]


def parsed() -> Any:
    message = client.messages.parse(**asking("Who?", output_format=Person))
    return message.parsed_output and message.parsed_output.model_dump()


def thinking() -> Any:
    on = {"type": "enabled", "budget_tokens": 1024}
    message = client.messages.create(**asking("think", thinking=on) | {"max_tokens": 2048})
    with client.messages.stream(**asking("think", thinking=on) | {"max_tokens": 2048}) as stream:
        thoughts = "".join(event.thinking for event in stream if event.type == "thinking")
    return [[block.type for block in message.content], message.content[0].thinking, thoughts]


def picture() -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": DOT}
    message = client.messages.create(
        **asking([{"type": "image", "source": source}, {"type": "text", "text": "What?"}])
    )
    return texts(message)


def count() -> Any:
    body = asking("Hello")
    del body["max_tokens"]
    return client.messages.count_tokens(**body).input_tokens > 0


def models() -> Any:
    return [model.id for model in client.models.list()]


async def at_once() -> Any:
    async with (
        anthropic.AsyncAnthropic(base_url=URL, auth_token=KEY, max_retries=0) as many,
        many.messages.stream(**asking("Hello")) as stream,
    ):
        return "".join([text async for text in stream.text_stream])


def errors() -> Any:
    wrong = anthropic.Anthropic(base_url=URL, api_key=WRONG_KEY, max_retries=0)
    return {
        "unknown model": failure(lambda: client.messages.create(**asking("Hello") | {"model": "nosuch"})),
        "wrong key": failure(lambda: wrong.messages.create(**asking("Hello"))),
        "broken": failure(lambda: list(client.messages.create(**asking("break"), stream=True))),
    }


if __name__ == "__main__":
    tell(globals())
