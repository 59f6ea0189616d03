"""litellm's `completion` by each provider with which it reaches a server of ours."""

import json
from typing import Any

import litellm
from pydantic import BaseModel
from telling import DOT, KEY, URL, WRONG_KEY, failure, tell

litellm.suppress_debug_info = True
V1 = f"{URL}/v1"
PROVIDERS: dict[str, str] = {"openai": V1, "anthropic": URL, "ollama_chat": URL}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


def ask(provider: str, text: Any, *, model: str = "m", key: str = KEY, **fields: Any) -> Any:
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    return litellm.completion(
        model=f"{provider}/{model}",
        api_base=PROVIDERS[provider],
        api_key=key,
        messages=messages,
        num_retries=0,
        **fields,
    )


def said(answer: Any) -> str:
    return answer.choices[0].message.content


def each(do: Any) -> dict[str, Any]:
    return {provider: do(provider) for provider in PROVIDERS}


def completion() -> Any:
    def once(provider: str) -> Any:
        system = {"role": "system", "content": "the server."}
        return said(ask(provider, [system, {"role": "user", "content": "Who are you?"}]))

    return each(once)


def streamed() -> Any:
    def once(provider: str) -> Any:
        chunks = ask(provider, "Hello", stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    return each(once)


def tools() -> Any:
    def once(provider: str) -> Any:
        messages: list[Any] = [{"role": "user", "content": "Compare the weather of Paris and London"}]
        calls = 0
        for _ in range(5):
            message = ask(provider, messages, tools=[TOOL]).choices[0].message
            messages.append(message.model_dump())
            if not message.tool_calls:
                return [calls, message.content]
            for call in message.tool_calls:
                calls += 1
                city = json.loads(call.function.arguments)["city"]
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": call.id,
                        "name": "get_weather",
                        "content": f"{len(city)} degrees",
                    }
                )
        raise AssertionError("the tools are called for ever")

    return each(once)


def tools_streamed() -> Any:
    """Two calls in one answer. Put together again by the client, those of `ollama_chat` run into one: it
    gives no index of its own to calls, and reads none of Ollama's."""

    def once(provider: str) -> Any:
        asked: list[Any] = [{"role": "user", "content": "The weather of Paris and London at once"}]
        chunks = list(ask(provider, asked, tools=[TOOL], stream=True))
        if provider == "ollama_chat":
            calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        else:
            calls = litellm.stream_chunk_builder(chunks, messages=asked).choices[0].message.tool_calls
        return [json.loads(call.function.arguments) for call in calls]

    return each(once)


def response_format() -> Any:
    return each(lambda provider: json.loads(said(ask(provider, "Who?", response_format=Person))))


def thinking() -> Any:
    def once(provider: str) -> Any:
        message = ask(provider, "think", reasoning_effort="low", **allowed(provider)).choices[0].message
        return [message.reasoning_content, message.content]

    return each(once)


def allowed(provider: str) -> dict[str, Any]:
    """It sends `reasoning_effort` to those models of Anthropic alone that it knows to reason, unless told."""
    return {"allowed_openai_params": ["reasoning_effort"]} if provider == "anthropic" else {}


def picture() -> Any:
    url = {"url": f"data:image/png;base64,{DOT}"}
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    return each(lambda provider: said(ask(provider, [{"role": "user", "content": parts}])))


def responses() -> Any:
    answer = litellm.responses(model="openai/m", input="Hello", api_base=V1, api_key=KEY)
    return answer.output[-1].content[0].text


def embedding() -> Any:
    found: dict[str, Any] = {}
    for provider, base in (("openai", V1), ("ollama", URL)):
        answer = litellm.embedding(model=f"{provider}/emb", input=["a", "b"], api_base=base, api_key=KEY)
        found[provider] = [len(row["embedding"]) for row in answer.data]
    return found


def errors() -> Any:
    return {
        "unknown model": each(lambda provider: failure(lambda: ask(provider, "Hello", model="nosuch"))),
        "wrong key": each(lambda provider: failure(lambda: ask(provider, "Hello", key=WRONG_KEY))),
    }


if __name__ == "__main__":
    tell(globals())
