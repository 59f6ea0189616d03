"""OpenAI's Python client and its own helpers, on chat completions, responses, embeddings and models."""

import json
from typing import Any

import openai
from pydantic import BaseModel
from telling import DOT, KEY, URL, WRONG_KEY, failure, tell

V1 = f"{URL}/v1"
client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0, timeout=60)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather", "parameters": PARAMETERS},
}
FLAT: Any = {"type": "function", "name": "get_weather", "strict": True, "parameters": PARAMETERS}
PICTURE = f"data:image/png;base64,{DOT}"


class Person(BaseModel):
    name: str
    age: int


def asked(text: Any) -> list[Any]:
    return [{"role": "user", "content": text}]


def weather(arguments: str) -> str:
    return f"{len(json.loads(arguments)['city'])} degrees"


def chat() -> Any:
    answer = client.chat.completions.create(model="m", messages=asked("Hello"))
    return [answer.choices[0].message.content, answer.choices[0].finish_reason]


def chat_streamed() -> Any:
    with client.chat.completions.stream(
        model="m", messages=asked("Hello"), stream_options={"include_usage": True}
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    return [text, final.choices[0].message.content, final.usage is not None]


def chat_tools() -> Any:
    """Until no tool is called any more; whole and streamed in turns."""
    messages, calls = asked("Compare the weather of Paris and London"), 0
    for turn in range(5):
        if turn % 2:
            with client.chat.completions.stream(model="m", messages=messages, tools=[TOOL]) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
            message = message.choices[0].message
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        if not message.tool_calls:
            return [calls, message.content]
        for call in message.tool_calls:
            assert call.type == "function"
            calls += 1
            result = weather(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise AssertionError("the tools are called for ever")


def chat_required() -> Any:
    answer = client.chat.completions.create(
        model="m", messages=asked("The weather of London"), tools=[TOOL], tool_choice="required"
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    return [call.function.name, json.loads(call.function.arguments)]


def chat_parsed() -> Any:
    answer = client.chat.completions.parse(model="m", messages=asked("Who?"), response_format=Person)
    with client.chat.completions.stream(model="m", messages=asked("Who?"), response_format=Person) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    return [answer.choices[0].message.parsed == streamed, streamed and streamed.model_dump()]


def chat_thinking() -> Any:
    answer = (
        client.chat.completions.create(model="m", messages=asked("think"), reasoning_effort="low")
        .choices[0]
        .message
    )
    chunks = client.chat.completions.create(model="m", messages=asked("think"), stream=True)
    thoughts = [(chunk.choices[0].delta.model_extra or {}).get("reasoning", "") for chunk in chunks]
    return [(answer.model_extra or {})["reasoning_content"], "".join(thoughts), answer.content]


def chat_picture() -> Any:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    return client.chat.completions.create(model="m", messages=asked(parts)).choices[0].message.content


def responses() -> Any:
    answer = client.responses.create(model="m", input="Hello", instructions="Be brief.")
    with client.responses.stream(model="m", input="Hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    return [answer.output_text, text, final.output_text, final.status]


def responses_tools() -> Any:
    history, calls = asked("Compare the weather of Paris and London"), 0
    for turn in range(5):
        if turn % 2:
            with client.responses.stream(model="m", input=history, tools=[FLAT], store=False) as stream:
                answer = stream.get_final_response()
        else:
            answer = client.responses.create(model="m", input=history, tools=[FLAT], store=False)
        history += answer.output
        called = [item for item in answer.output if item.type == "function_call"]
        if not called:
            return [calls, answer.output_text]
        for call in called:
            calls += 1
            output = weather(call.arguments)
            history.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    raise AssertionError("the tools are called for ever")


def responses_parsed() -> Any:
    answer = client.responses.parse(model="m", input="Who?", text_format=Person)
    return answer.output_parsed and answer.output_parsed.model_dump()


def responses_thinking() -> Any:
    answer = client.responses.create(model="m", input="think", reasoning={"effort": "low"})
    thoughts = [item.summary[0].text for item in answer.output if item.type == "reasoning"]
    return [thoughts, answer.output_text]


def responses_picture() -> Any:
    parts = [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
    ]
    return client.responses.create(model="m", input=asked(parts)).output_text


async def at_once() -> Any:
    async with openai.AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0) as many:
        stream = await many.chat.completions.create(model="m", messages=asked("Hello"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def embeddings_and_models() -> Any:
    vectors = client.embeddings.create(model="emb", input=["a", "b"], dimensions=4).data
    return [[len(each.embedding) for each in vectors], [model.id for model in client.models.list()]]


def errors() -> Any:
    wrong = openai.OpenAI(base_url=V1, api_key=WRONG_KEY, max_retries=0)
    completions, hello = client.chat.completions, asked("Hello")
    return {
        "unknown model": failure(lambda: completions.create(model="nosuch", messages=hello)),
        "unknown, streamed": failure(
            lambda: list(completions.create(model="nosuch", messages=hello, stream=True))
        ),
        "wrong key": failure(lambda: wrong.chat.completions.create(model="m", messages=hello)),
        "responses, wrong key": failure(lambda: wrong.responses.create(model="m", input="Hello")),
        "broken": failure(lambda: list(completions.create(model="m", messages=asked("break"), stream=True))),
    }


if __name__ == "__main__":
    tell(globals())
