"""What both servers are asked: plain data, each request with a name of its own.

Nothing here depends on chance: temperatures are 0, or an answer is drawn for its shape alone.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.models.catalogue import ADD, PARIS_QUESTION, WEATHER, user

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the server that has `model`; a `body` of bytes is sent as it is."""

    name: str
    model: str
    path: str
    body: Any = None
    method: str = "POST"
    drawn: bool = False
    """Whether texts are drawn: then only shapes, reasons and counts can be compared."""


HELLO = [user("Hello")]
CAPITAL = [user("What is the capital of France?")]
COMPARE = [user("Compare Paris and London.")]
LONDON = [user("Please check London.")]
STORY = [user("Write a long story.")]
PIRATE = [{"role": "system", "content": "You are a pirate."}, *HELLO]
PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG no picture").decode()
ANN: Fields = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann"]}, "age": {"enum": [30, 31]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHOSEN: Fields = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "London"]}},
    "required": ["city"],
    "additionalProperties": False,
}
PICK = {"type": "function", "function": {"name": "pick", "description": "Pick a city", "parameters": CHOSEN}}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "22 degrees"}
USAGE = {"stream_options": {"include_usage": True}}


def _of(prefix: str, path: str, model: str, common: Fields, rows: Mapping[str, Fields]) -> Iterator[Asked]:
    for name, fields in rows.items():
        body = {"model": model, **common, **fields}
        drawn = bool(body.get("temperature"))
        yield Asked(f"{prefix}/{name}", model, path, body, drawn=drawn)


_GREEDY: Fields = {"temperature": 0, "max_tokens": 64}

CHATS: dict[str, Fields] = {
    "hello": {},
    "capital": {"messages": CAPITAL},
    "count": {"messages": [user("Count to five.")]},
    "unicode": {"messages": [user("Say cheese in French.")]},
    "html": {"messages": [user("Write HTML.")], "max_tokens": 100},
    "escapes": {"messages": [user("Show escapes.")]},
    "half tags": {"messages": [user("Write half tags.")], "max_tokens": 100},
    "system": {"messages": PIRATE},
    "turns": {
        "messages": [*HELLO, {"role": "assistant", "content": "Hello! How can I help you?"}, *CAPITAL],
    },
    "one text part": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    "two text parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]}
        ]
    },
    "system of parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "You are a pirate."}]},
            *HELLO,
        ]
    },
    "named user": {"messages": [{"role": "user", "name": "ann", "content": "Hello"}]},
    "reasoning in the history": {
        "messages": [*HELLO, {"role": "assistant", "content": "Hi", "reasoning": "A greeting."}, *CAPITAL]
    },
    "thinking off": {"chat_template_kwargs": {"enable_thinking": False}},
    "thinking off by effort": {"reasoning_effort": "none"},
    "effort low": {"reasoning_effort": "low"},
    "effort medium": {"reasoning_effort": "medium"},
    "effort high": {"reasoning_effort": "high"},
    "reasoning left out": {"include_reasoning": False},
    "length": {"messages": STORY, "max_tokens": 20},
    "length in the reasoning": {"max_tokens": 2},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "both lengths": {"max_tokens": 30, "max_completion_tokens": 5},
    "no length": {"max_tokens": None},
    "stop text": {"stop": "How"},
    "stop list": {"stop": ["can", "How"]},
    "stop unseen": {"stop": ["zzz"]},
    "stop in the reasoning": {"stop": ["greeting"]},
    "no stops": {"stop": []},
    "stop null": {"stop": None},
    "stop included": {"stop": ["How"], "include_stop_str_in_output": True},
    "stop token": {"stop_token_ids": [0], "max_tokens": 8},
    "seed": {"seed": 7},
    "drawn": {"temperature": 0.8, "seed": 7},
    "two": {"n": 2},
    "n of 1": {"n": 1},
    "three, drawn": {"n": 3, "temperature": 0.9, "seed": 3, "max_tokens": 16},
    "logit_bias": {"logit_bias": {"42": 100}, "max_tokens": 4},
    "logit_bias down": {"logit_bias": {"42": -100}, "max_tokens": 8},
    "no logit_bias": {"logit_bias": {}},
    "frequency_penalty": {"frequency_penalty": 1.5, "messages": STORY},
    "presence_penalty": {"presence_penalty": 1.5, "messages": STORY},
    "repetition_penalty": {"repetition_penalty": 1.3, "messages": STORY},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.5, "messages": STORY},
    "min_p": {"min_p": 0.1},
    "top_k of 1, drawn": {"temperature": 1, "top_k": 1},
    "top_k off": {"top_k": -1},
    "top_k of 0": {"top_k": 0},
    "top_p": {"top_p": 0.5},
    "min_tokens": {"min_tokens": 30, "max_tokens": 40},
    "ignore_eos": {"ignore_eos": True, "max_tokens": 40},
    "logprobs": {"logprobs": True, "max_tokens": 8},
    "top_logprobs": {"logprobs": True, "top_logprobs": 3, "max_tokens": 8},
    "top_logprobs of 0": {"logprobs": True, "top_logprobs": 0, "max_tokens": 4},
    "logprobs off": {"logprobs": False},
    "logprobs without thinking": {
        "logprobs": True,
        "top_logprobs": 2,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "logprobs unicode": {"logprobs": True, "messages": [user("Say cheese in French.")]},
    "logprobs, two": {"logprobs": True, "n": 2, "max_tokens": 4},
    "truncated": {"truncate_prompt_tokens": 6, "max_tokens": 4},
    "user": {"user": "ann"},
    "metadata": {"metadata": {"a": "b"}, "store": False},
    "unknown field": {"no_such_field": 1},
    "request_id": {"request_id": "abc"},
    "service_tier": {"service_tier": "default"},
    "service_tier auto": {"service_tier": "auto"},
    "priority": {"priority": 0},
    "prefill": {
        "messages": [*CAPITAL, {"role": "assistant", "content": "Its name"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "prefill, unasked": {"messages": [*CAPITAL, {"role": "assistant", "content": "Its name"}]},
    "cache_salt": {"cache_salt": "pepper"},
    "return_token_ids": {"return_token_ids": True, "max_tokens": 4},
    "prompt_logprobs": {"prompt_logprobs": 1, "max_tokens": 2},
    "bad_words": {"bad_words": ["Hello"]},
    "allowed_token_ids": {"allowed_token_ids": [42, 43], "max_tokens": 4},
    "skip_special_tokens": {"skip_special_tokens": False},
    "tools unused": {"tools": [WEATHER]},
    "call": {"messages": [PARIS_QUESTION], "tools": [WEATHER], "max_tokens": 128},
    "two calls": {"messages": COMPARE, "tools": [WEATHER], "max_tokens": 160},
    "text and a call": {"messages": LONDON, "tools": [WEATHER], "max_tokens": 128},
    "call of numbers": {"messages": [user("Add 2 and 3.")], "tools": [WEATHER, ADD], "max_tokens": 128},
    "call without thinking": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "max_tokens": 128,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "choice auto": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": "auto",
        "max_tokens": 128,
    },
    "choice none": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": "none",
        "max_tokens": 128,
    },
    "choice required": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_tokens": 160,
    },
    "choice of one": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 160,
    },
    "required without thinking": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_tokens": 160,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "one without thinking": {
        "messages": [PARIS_QUESTION],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 160,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "call that it would not make": {
        "tools": [PICK],
        "tool_choice": "required",
        "max_tokens": 160,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "parallel off": {
        "messages": COMPARE,
        "tools": [WEATHER],
        "parallel_tool_calls": False,
        "max_tokens": 160,
    },
    "no tools": {"tools": []},
    "tool result": {"messages": [PARIS_QUESTION, CALLED, RESULT], "tools": [WEATHER]},
    "tool without parameters": {"tools": [{"type": "function", "function": {"name": "now"}}]},
    "strict tool": {
        "messages": [PARIS_QUESTION],
        "tools": [{**WEATHER, "function": {**WEATHER["function"], "strict": True}}],
        "max_tokens": 128,
    },
    "json": {"messages": [user("Give me a person as json")], "response_format": {"type": "json_object"}},
    "json without thinking": {
        "messages": [user("Give me a person as json")],
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "schema": {
        "messages": [user("Give me a person as json")],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": ANN}},
    },
    "strict schema without thinking": {
        "messages": [user("Give me a person as json")],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": ANN},
        },
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "format text": {"response_format": {"type": "text"}},
    "structured choice": {
        "structured_outputs": {"choice": ["purple", "green"]},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "structured regex": {
        "structured_outputs": {"regex": "[ab]{3}"},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "structured json": {
        "structured_outputs": {"json": ANN},
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "guided_choice": {
        "guided_choice": ["purple", "green"],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "developer": {"messages": [{"role": "developer", "content": "Be kind."}, *HELLO]},
}
"""Bodies that are answered, as a rule by both. All stream as well."""

NOT_STREAMED = frozenset({"no length", "prompt_logprobs"})

BAD_CHATS: dict[str, Fields] = {
    "no messages": {"messages": None},
    "empty messages": {"messages": []},
    "messages of text": {"messages": "Hello"},
    "message of text": {"messages": ["Hello"]},
    "no role": {"messages": [{"content": "Hello"}]},
    "unknown role": {"messages": [{"role": "wizard", "content": "Hello"}]},
    "role of number": {"messages": [{"role": 1, "content": "Hello"}]},
    "no content": {"messages": [{"role": "user"}]},
    "content null": {"messages": [{"role": "user", "content": None}]},
    "content of number": {"messages": [{"role": "user", "content": 5}]},
    "content of object": {"messages": [{"role": "user", "content": {"type": "text", "text": "Hello"}}]},
    "empty content": {"messages": [{"role": "user", "content": ""}]},
    "empty parts": {"messages": [{"role": "user", "content": []}]},
    "unknown part": {"messages": [{"role": "user", "content": [{"type": "smell", "smell": "x"}]}]},
    "part without text": {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "part of text": {"messages": [{"role": "user", "content": ["Hello"]}]},
    "picture for text model": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
        ]
    },
    "picture by address": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}]}
        ]
    },
    "audio": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}],
            }
        ]
    },
    "unknown model": {"model": "nobody"},
    "model empty": {"model": ""},
    "model null": {"model": None},
    "model of number": {"model": 3},
    "temperature of text": {"temperature": "hot"},
    "temperature below 0": {"temperature": -1},
    "temperature of 5": {"temperature": 5},
    "top_p of 0": {"top_p": 0},
    "top_p above 1": {"top_p": 1.5},
    "top_p of text": {"top_p": "x"},
    "top_k below -1": {"top_k": -5},
    "min_p above 1": {"min_p": 2},
    "min_p of text": {"min_p": "x"},
    "max_tokens of 0": {"max_tokens": 0},
    "max_tokens below 0": {"max_tokens": -3},
    "max_tokens of text": {"max_tokens": "many"},
    "max_tokens of fraction": {"max_tokens": 1.5},
    "max_tokens beyond the window": {"max_tokens": 1_000_000},
    "prompt beyond the window": {"messages": [user("word " * 9000)], "max_tokens": 4},
    "min_tokens above max_tokens": {"min_tokens": 30, "max_tokens": 8},
    "min_tokens below 0": {"min_tokens": -1},
    "n of 0": {"n": 0},
    "n of text": {"n": "two"},
    "n, greedy": {"n": 3, "temperature": 0, "max_tokens": 2},
    "n of 1000": {"n": 1000, "max_tokens": 1},
    "seed of text": {"seed": "x"},
    "stop of number": {"stop": 5},
    "stop of numbers": {"stop": [1, 2]},
    "empty stop": {"stop": ""},
    "frequency_penalty of 3": {"frequency_penalty": 3},
    "presence_penalty of -3": {"presence_penalty": -3},
    "frequency_penalty of text": {"frequency_penalty": "x"},
    "min_p below 0": {"min_p": -0.1},
    "repetition_penalty of 0": {"repetition_penalty": 0},
    "repetition_penalty of -1": {"repetition_penalty": -1},
    "logit_bias of text": {"logit_bias": "x"},
    "logit_bias of words": {"logit_bias": {"word": 1}},
    "logit_bias of 200": {"logit_bias": {"42": 200}, "max_tokens": 4},
    "logit_bias unknown token": {"logit_bias": {"99999999": 1}},
    "logprobs of number": {"logprobs": 3, "max_tokens": 4},
    "top_logprobs alone": {"top_logprobs": 3, "max_tokens": 4},
    "top_logprobs of 25": {"logprobs": True, "top_logprobs": 25},
    "top_logprobs below 0": {"logprobs": True, "top_logprobs": -1},
    "stop token unknown": {"stop_token_ids": [1 << 40]},
    "stop token of text": {"stop_token_ids": ["x"]},
    "ignore_eos of text": {"ignore_eos": "maybe"},
    "stream of text": {"stream": "maybe"},
    "stream_options without stream": {"stream_options": {"include_usage": True}},
    "stream_options of text": {"stream": True, "stream_options": "x"},
    "tools of text": {"tools": "x"},
    "tool without function": {"tools": [{"type": "function"}]},
    "tool without name": {"tools": [{"type": "function", "function": {"description": "x"}}]},
    "tool of unknown type": {"tools": [{"type": "hammer", "function": {"name": "x"}}]},
    "tool_choice without tools": {"tool_choice": "auto"},
    "required without tools": {"tool_choice": "required"},
    "required with no tools": {"tools": [], "tool_choice": "required"},
    "tool_choice unknown word": {"tools": [WEATHER], "tool_choice": "sometimes"},
    "tool_choice of number": {"tools": [WEATHER], "tool_choice": 3},
    "tool_choice of an unknown tool": {
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "nobody"}},
    },
    "tool_choice without name": {"tools": [WEATHER], "tool_choice": {"type": "function"}},
    "arguments no JSON": {
        "messages": [
            PARIS_QUESTION,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{x"}}
                ],
            },
            {**RESULT, "tool_call_id": "1"},
        ],
        "tools": [WEATHER],
    },
    "format unknown": {"response_format": {"type": "poem"}},
    "format of text": {"response_format": "json"},
    "format without schema": {"response_format": {"type": "json_schema"}},
    "format with bad schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "smell"}}}
    },
    "structured bad regex": {"structured_outputs": {"regex": "(["}},
    "structured twice": {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    "structured nothing": {"structured_outputs": {}},
    "reasoning_effort unknown": {"reasoning_effort": "some"},
    "reasoning_effort of number": {"reasoning_effort": 3},
    "chat_template_kwargs of text": {"chat_template_kwargs": "x"},
    "truncate below -1": {"truncate_prompt_tokens": -2},
    "two prompts to go on": {"add_generation_prompt": True, "continue_final_message": True},
    "use_beam_search": {"use_beam_search": True, "n": 2, "max_tokens": 4},
    "service_tier unknown": {"service_tier": "gold"},
    "priority of 5": {"priority": 5},
    "functions": {"functions": [WEATHER["function"]]},
    "echo": {"echo": True},
    "documents": {"documents": [{"title": "t", "text": "x"}]},
    "chat_template": {"chat_template": "{{ messages[0].content }}", "max_tokens": 4},
    "logprob_token_ids": {"logprobs": True, "logprob_token_ids": [1, 2], "max_tokens": 4},
    "truncation_side": {"truncate_prompt_tokens": 6, "truncation_side": "right", "max_tokens": 4},
}
"""Bodies that are wrong in some way, or that one of the two does not take."""

IDS = [513, 307, 198, 430, 514, 198, 513, 311, 198]
"""`Hello` in the template of `tool`, some text or other to other models: ids are taken as they are."""
COMPLETED: dict[str, Fields] = {
    "text": {},
    "list of one": {"prompt": ["Hello"]},
    "list of two": {"prompt": ["Hello", "What is the capital of France?"]},
    "ids of a text": {"prompt": IDS},
    "token ids": {"prompt": [1, 2, 3]},
    "lists of token ids": {"prompt": [[1, 2, 3], [4, 5]]},
    "echo": {"prompt": ["Hello"], "echo": True},
    "echo of two": {"prompt": ["Hello", "Count to five."], "echo": True},
    "echo with logprobs": {"prompt": ["Hello"], "echo": True, "logprobs": 1},
    "echo of token ids": {"prompt": [1, 2, 3], "echo": True},
    "logprobs of 0": {"prompt": IDS, "logprobs": 0},
    "logprobs of 3": {"prompt": IDS, "logprobs": 3},
    "logprobs of 2 prompts": {"prompt": [IDS, [513, 307]], "logprobs": 2},
    "n": {"prompt": IDS, "n": 2, "temperature": 0.9, "seed": 3},
    "n of two prompts": {"prompt": [IDS, [513, 307]], "n": 2, "temperature": 0.9, "seed": 3},
    "best_of": {"prompt": IDS, "n": 2, "best_of": 2, "temperature": 0.9, "seed": 3},
    "stop": {"prompt": IDS, "stop": [","], "max_tokens": 40},
    "seed": {"prompt": IDS, "seed": 5},
    "logit_bias": {"prompt": IDS, "logit_bias": {"42": 100}},
    "penalties": {
        "prompt": IDS,
        "frequency_penalty": 1.0,
        "presence_penalty": 1.0,
        "max_tokens": 24,
    },
    "repetition_penalty": {"prompt": IDS, "repetition_penalty": 1.3, "max_tokens": 24},
    "min_tokens": {"prompt": IDS, "min_tokens": 8},
    "ignore_eos": {"prompt": IDS, "ignore_eos": True, "max_tokens": 24},
    "truncated": {"prompt": IDS, "truncate_prompt_tokens": 2},
    "regex": {"prompt": IDS, "structured_outputs": {"regex": "[ab]{3}"}},
    "json": {"prompt": IDS, "structured_outputs": {"json": ANN}, "max_tokens": 40},
    "schema": {
        "prompt": IDS,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": ANN}},
        "max_tokens": 40,
    },
    "user": {"prompt": IDS, "user": "ann"},
    "suffix": {"suffix": "the end"},
}
BAD_COMPLETIONS: dict[str, Fields] = {
    "no prompt": {"prompt": None},
    "empty prompt": {"prompt": ""},
    "no prompts": {"prompt": []},
    "prompt of number": {"prompt": 7},
    "prompt of object": {"prompt": {"a": 1}},
    "mixed prompts": {"prompt": ["a", 1]},
    "prompts with an empty one": {"prompt": ["a", ""]},
    "token of text": {"prompt": [["a"]]},
    "token unknown": {"prompt": [99_999_999]},
    "token below 0": {"prompt": [-1]},
    "unknown model": {"model": "nobody"},
    "logprobs of 25": {"prompt": ["a"], "logprobs": 25},
    "logprobs of -1": {"prompt": ["a"], "logprobs": -1},
    "logprobs true": {"prompt": ["a"], "logprobs": True},
    "logprobs of text": {"prompt": ["a"], "logprobs": "x"},
    "max_tokens of 0": {"prompt": ["a"], "max_tokens": 0},
    "max_tokens of text": {"prompt": ["a"], "max_tokens": "x"},
    "prompt beyond the window": {"prompt": ["word " * 20000]},
    "stop of numbers": {"prompt": ["a"], "stop": [1]},
    "n of 0": {"prompt": ["a"], "n": 0},
    "best_of below n": {"prompt": ["a"], "n": 2, "best_of": 1},
    "temperature of text": {"prompt": ["a"], "temperature": "x"},
    "prompt_embeds": {"prompt_embeds": "AAAA"},
    "echo with suffix": {"prompt": "a", "echo": True, "suffix": "b"},
    "stream_options without stream": {"prompt": ["a"], "stream_options": {"include_usage": True}},
}
EMBEDDED: dict[str, Fields] = {
    "text": {},
    "list": {"input": ["Hello", "Goodbye"]},
    "list of one": {"input": ["Hello"]},
    "base64": {"encoding_format": "base64"},
    "float": {"encoding_format": "float"},
    "user": {"user": "ann"},
    "unicode": {"input": "Café 🧀"},
    "token ids": {"input": [101, 7592, 102]},
    "lists of token ids": {"input": [[101, 7592, 102]]},
    "dimensions": {"dimensions": 64},
    "dimensions of text": {"dimensions": "x"},
    "dimensions below 0": {"dimensions": -1},
    "dimensions too many": {"dimensions": 100_000},
    "empty text": {"input": ""},
    "empty list": {"input": []},
    "list with an empty text": {"input": ["Hello", ""]},
    "no input": {"input": None},
    "input of number": {"input": 5},
    "input of object": {"input": {"a": 1}},
    "mixed": {"input": ["a", 1]},
    "unknown format": {"encoding_format": "smell"},
    "unknown model": {"model": "nobody"},
    "too long": {"input": "word " * 2000},
    "truncated": {"input": "word " * 2000, "truncate_prompt_tokens": -1},
}
RESPONDED: dict[str, Fields] = {
    "text": {},
    "list": {"input": [{"role": "user", "content": "Hello"}]},
    "parts": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]},
    "instructions": {"instructions": "You are a pirate."},
    "length": {"input": "Write a long story.", "max_output_tokens": 16},
    "temperature": {"temperature": 0},
    "user": {"user": "ann", "metadata": {"a": "b"}},
    "no input": {"input": None},
    "unknown model": {"model": "nobody"},
    "wrong temperature": {"temperature": "hot"},
    "previous": {"previous_response_id": "resp_x"},
    "unknown tool": {"tools": [{"type": "hammer"}]},
    "call": {
        "input": "What is the weather in Paris?",
        "tools": [{"type": "function", **WEATHER["function"]}],
        "max_output_tokens": 128,
    },
}
TALKED: dict[str, Fields] = {
    "hello": {},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    "system": {"system": "You are a pirate."},
    "system of blocks": {"system": [{"type": "text", "text": "You are a pirate."}]},
    "length": {"messages": STORY, "max_tokens": 16},
    "stop": {"stop_sequences": ["How"]},
    "metadata": {"metadata": {"user_id": "ann"}},
    "call": {
        "messages": [PARIS_QUESTION],
        "tools": [
            {
                "name": "get_weather",
                "description": "Get the weather",
                "input_schema": WEATHER["function"]["parameters"],
            }
        ],
        "max_tokens": 128,
    },
    "no max_tokens": {"max_tokens": None},
    "no messages": {"messages": None},
    "empty messages": {"messages": []},
    "unknown role": {"messages": [{"role": "wizard", "content": "Hello"}]},
    "unknown model": {"model": "nobody"},
    "max_tokens of 0": {"max_tokens": 0},
    "unknown block": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
}


def _raw() -> Iterator[Asked]:
    for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES):
        at = path.removeprefix("/v1/")
        yield Asked(f"raw/{at}: empty", "tool", path, b"")
        yield Asked(f"raw/{at}: no JSON", "tool", path, b"{nope")
        yield Asked(f"raw/{at}: list", "tool", path, b"[]")
        yield Asked(f"raw/{at}: GET", "tool", path, method="GET")
    yield Asked("raw/completions: text", "tool", COMPLETIONS, b'"x"')
    yield Asked("raw/unknown path", "tool", "/v1/nothing", {})
    yield Asked("raw/embeddings on a chat model", "tool", EMBEDDINGS, {"model": "tool", "input": "Hello"})
    yield Asked("raw/chat on an embedding model", "emb", CHAT, {"model": "emb", "messages": HELLO})
    yield Asked("raw/transcriptions", "tool", "/v1/audio/transcriptions", {})
    yield Asked("models/list", "tool", "/v1/models", method="GET")
    yield Asked("models/one", "tool", "/v1/models/tool", method="GET")
    yield Asked("models/unknown", "tool", "/v1/models/nobody", method="GET")
    counted = {"model": "tool", "messages": HELLO}
    yield Asked("messages/count", "tool", f"{MESSAGES}/count_tokens", counted)
    yield Asked("messages/count of nothing", "tool", f"{MESSAGES}/count_tokens", {"model": "tool"})


def requests() -> list[Asked]:
    """All of them; those to one model are together."""
    chat = {"messages": HELLO, **_GREEDY}
    streamed = {
        name: {**fields, "stream": True} for name, fields in CHATS.items() if name not in NOT_STREAMED
    }
    counted = {name: {**fields, **USAGE} for name, fields in streamed.items() if len(fields) <= 2}
    completed = {"prompt": "Hello", "temperature": 0, "max_tokens": 12}
    embedded = {"input": "Hello"}
    responded = {"input": "Hello", "temperature": 0, "max_output_tokens": 64, "store": False}
    talked = {"messages": HELLO, "temperature": 0, "max_tokens": 64}
    found = [
        *_of("chat", CHAT, "tool", chat, CHATS),
        *_of("chat, streamed", CHAT, "tool", chat, streamed),
        *_of("chat, streamed with usage", CHAT, "tool", chat, counted),
        *_of("wrong chat", CHAT, "tool", chat, BAD_CHATS),
        *_of("completion of one that reasons", COMPLETIONS, "tool", completed, _some(COMPLETED, *_REASONED)),
        *_of("wrong completion", COMPLETIONS, "tool", completed, BAD_COMPLETIONS),
        *_of("response", RESPONSES, "tool", responded, RESPONDED),
        *_of("response, streamed", RESPONSES, "tool", responded, _streaming(RESPONDED)),
        *_of("message", MESSAGES, "tool", talked, TALKED),
        *_of("message, streamed", MESSAGES, "tool", talked, _streaming(TALKED)),
        *_raw(),
        *_of("plain chat", CHAT, "plain", chat, _some(CHATS, *_PLAIN)),
        *_of("completion", COMPLETIONS, "plain", completed, COMPLETED),
        *_of("completion, streamed", COMPLETIONS, "plain", completed, _streaming(_some(COMPLETED, *_PIECES))),
        *_of("embedding", EMBEDDINGS, "emb", embedded, EMBEDDED),
    ]
    return sorted(found, key=lambda asked: ("tool", "plain", "emb").index(asked.model))


def _streaming(rows: Mapping[str, Fields]) -> dict[str, Fields]:
    return {name: {**fields, "stream": True} for name, fields in rows.items()}


_PLAIN = (
    "hello",
    "capital",
    "turns",
    "system",
    "two text parts",
    "length",
    "stop text",
    "top_logprobs",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "truncated",
    "json",
    "schema",
    "structured regex",
    "tools unused",
    "prefill",
)


_REASONED = ("text", "ids of a text", "logprobs of 3", "suffix")
_PIECES = (
    "text",
    "ids of a text",
    "lists of token ids",
    "echo",
    "logprobs of 2 prompts",
    "n",
    "stop",
    "regex",
)


def _some(rows: Mapping[str, Fields], *names: str) -> dict[str, Fields]:
    return {
        name: {key: value for key, value in rows[name].items() if key != "chat_template_kwargs"}
        for name in names
    }
