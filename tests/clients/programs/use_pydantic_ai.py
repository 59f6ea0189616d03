"""Agents of pydantic-ai: by chat completions, by responses, by messages, and as it speaks to Ollama."""

import base64
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, RunContext, ToolOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider
from telling import DOT, KEY, URL, WRONG_KEY, tell


class Person(BaseModel):
    name: str
    age: int


def models(name: str = "m", key: str = KEY) -> dict[str, Any]:
    openai = OpenAIProvider(base_url=f"{URL}/v1", api_key=key)
    anthropic = AnthropicProvider(base_url=URL, api_key=key)
    schemas = {"supports_json_schema_output": True}  # which it knows of Anthropic's own names alone
    return {
        "chat": OpenAIChatModel(name, provider=openai),
        "responses": OpenAIResponsesModel(name, provider=openai),
        "anthropic": AnthropicModel(name, provider=anthropic, profile=schemas),
        "ollama": OllamaModel(name, provider=OllamaProvider(base_url=f"{URL}/v1", api_key=key)),
    }


async def each(run: Any) -> dict[str, Any]:
    return {name: await run(model) for name, model in models().items()}


async def run() -> Any:
    async def once(model: Any) -> Any:
        result = await Agent(model, instructions="the server.").run("Who are you?")
        return result.output

    return await each(once)


async def streamed() -> Any:
    async def once(model: Any) -> Any:
        async with Agent(model).run_stream("Hello") as result:
            return "".join([text async for text in result.stream_text(delta=True, debounce_by=None)])

    return await each(once)


def weather_agent(model: Any, **fields: Any) -> Any:
    agent = Agent(model, deps_type=int, **fields)

    @agent.tool
    def get_weather(ctx: RunContext[int], city: str) -> str:
        """The weather."""
        return f"{len(city) + ctx.deps} degrees"

    return agent


async def tools() -> Any:
    async def once(model: Any) -> Any:
        result = await weather_agent(model).run("Compare the weather of Paris and London", deps=0)
        return [result.usage.tool_calls, result.output]

    return await each(once)


async def tools_streamed() -> Any:
    async def once(model: Any) -> Any:
        agent = weather_agent(model)
        async with agent.run_stream_events("The weather of Paris and London at once", deps=0) as events:
            return [event.result.output async for event in events if event.event_kind == "agent_run_result"]

    return await each(once)


async def history() -> Any:
    """A second run goes on from the messages of the first, its calls and thoughts among them."""

    async def once(model: Any) -> Any:
        agent = weather_agent(model)
        first = await agent.run("The weather of Paris", deps=0)
        second = await agent.run("And the weather of London", deps=0, message_history=first.all_messages())
        return second.output

    return await each(once)


async def output() -> Any:
    async def once(model: Any) -> Any:
        forms = [ToolOutput(Person, name="final_result"), NativeOutput(Person)]
        found = [(await Agent(model, output_type=form).run("Who?")).output for form in forms]
        return [person.model_dump() for person in found]

    return await each(once)


async def output_after_tools() -> Any:
    async def once(model: Any) -> Any:
        agent = weather_agent(model, output_type=Person)
        result = await agent.run("The weather of Paris", deps=0)
        return [result.usage.tool_calls, result.output.model_dump()]

    return await each(once)


async def thinking() -> Any:
    async def once(model: Any) -> Any:
        result = await Agent(model).run("think", model_settings={"thinking": "low"})
        parts = [part for message in result.all_messages() for part in message.parts]
        return ["".join(part.content for part in parts if isinstance(part, ThinkingPart)), result.output]

    return await each(once)


async def picture() -> Any:
    async def once(model: Any) -> Any:
        image = BinaryContent(base64.b64decode(DOT), media_type="image/png")
        return (await Agent(model).run(["What?", image])).output

    return await each(once)


async def embeddings() -> Any:
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY)
    embedder = Embedder(OpenAIEmbeddingModel("emb", provider=provider))
    return [len(vector) for vector in (await embedder.embed_documents(["a", "b"])).embeddings]


async def errors() -> Any:
    async def failing(model: Any) -> list[Any]:
        try:
            await Agent(model).run("Hello")
        except Exception as error:
            return [type(error).__name__, getattr(error, "status_code", None)]
        raise AssertionError("no error")

    return {
        "unknown model": {name: await failing(model) for name, model in models("nosuch").items()},
        "wrong key": {name: await failing(model) for name, model in models(key=WRONG_KEY).items()},
    }


if __name__ == "__main__":
    tell(globals())
