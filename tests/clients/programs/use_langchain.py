"""LangChain's `ChatOpenAI`, on chat completions and on responses, its embeddings and its agent."""

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from telling import DOT, KEY, URL, WRONG_KEY, failure, tell

V1 = f"{URL}/v1"
COMPARE = "Compare the weather of Paris and London"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather."""
    return f"{len(city)} degrees"


def model(name: str = "m", key: str = KEY, **fields: Any) -> Any:
    return ChatOpenAI(model=name, base_url=V1, api_key=key, max_retries=0, **fields)


def both(**fields: Any) -> dict[str, Any]:
    return {
        "chat": model(**fields),
        "responses": model(use_responses_api=True, output_version="responses/v1", **fields),
    }


def invoke() -> Any:
    asked = [SystemMessage("the server."), HumanMessage("Who are you?")]
    return {name: each.invoke(asked).text for name, each in both().items()}


def stream() -> Any:
    found: dict[str, Any] = {}
    for name, each in both(stream_usage=True).items():
        chunks = list(each.stream("Hello"))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        found[name] = ["".join(chunk.text for chunk in chunks), whole.usage_metadata["output_tokens"] > 0]
    return found


def bind_tools() -> Any:
    found: dict[str, Any] = {}
    for name, each in both().items():
        bound, messages, calls = each.bind_tools([get_weather]), [HumanMessage(COMPARE)], 0
        for _ in range(5):
            answer = bound.invoke(messages)
            messages.append(answer)
            if not answer.tool_calls:
                break
            calls += len(answer.tool_calls)
            messages += [get_weather.invoke(call) for call in answer.tool_calls]
        assert isinstance(messages[2], ToolMessage)
        found[name] = [calls, messages[-1].text]
    return found


def forced() -> Any:
    found: dict[str, Any] = {}
    for name, each in both().items():
        bound = each.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
        found[name] = [call["args"] for call in bound.invoke("The weather of London").tool_calls]
    return found


def agent() -> Any:
    found: dict[str, Any] = {}
    for name, each in both().items():
        answer = create_agent(each, [get_weather]).invoke({"messages": [HumanMessage(COMPARE)]})
        found[name] = answer["messages"][-1].text
    return found


def agent_streamed() -> Any:
    found: dict[str, Any] = {}
    for name, each in both().items():
        asked = {"messages": [HumanMessage("The weather of Paris and London at once")]}
        parts = create_agent(each, [get_weather]).stream(asked, stream_mode="messages")
        found[name] = "".join(part.text for part, about in parts if about["langgraph_node"] == "model")
    return found


def with_structured_output() -> Any:
    found: dict[str, Any] = {}
    for name, each in both().items():
        methods = ("json_schema", "function_calling", "json_mode")
        answers = [
            each.with_structured_output(Person, method=method).invoke("Who? As json") for method in methods
        ]
        found[name] = [answer.model_dump() for answer in answers]
    return found


def thinking() -> Any:
    """Reasoning of chat completions is no field that this client reads; that of responses is."""
    answer = model(use_responses_api=True, reasoning={"effort": "low", "summary": "auto"}).invoke("think")
    blocks = [block["reasoning"] for block in answer.content_blocks if block["type"] == "reasoning"]
    chat = model(reasoning_effort="low").invoke("think")
    return [blocks, answer.text, [block["type"] for block in chat.content_blocks], chat.text]


def picture() -> Any:
    parts = [{"type": "text", "text": "What?"}, {"type": "image", "base64": DOT, "mime_type": "image/png"}]
    return {name: each.invoke([HumanMessage(parts)]).text for name, each in both().items()}


def embeddings() -> Any:
    """By default it sends token ids of a vocabulary of OpenAI's, which no model here has."""
    fields: dict[str, Any] = {"model": "emb", "base_url": V1, "api_key": KEY}
    made = OpenAIEmbeddings(check_embedding_ctx_length=False, **fields)
    return [[len(vector) for vector in made.embed_documents(["a", "b"])], len(made.embed_query("a"))]


def errors() -> Any:
    return {
        "unknown model": failure(lambda: model("nosuch").invoke("Hello")),
        "wrong key": failure(lambda: model(key=WRONG_KEY).invoke("Hello")),
        "broken": failure(lambda: list(model().stream("break"))),
    }


if __name__ == "__main__":
    tell(globals())
