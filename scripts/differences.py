"""What differs from vLLM's own server: the test that asks both reads it, and docs/vllm-differences.md.

Texts, defaults and status codes are Ollama's (docs/reference 13-15); fields that Ollama ignores follow
OpenAI's document, or Anthropic's; vLLM comes last. A difference without a row is a fault, and so is a row
without a difference.
"""

import re
from dataclasses import dataclass
from functools import cache

CHAT = ("chat/*", "wrong chat/*", "plain chat/*")
STREAMED_CHAT = ("chat, streamed/*", "chat, streamed with usage/*")
COMPLETION = ("completion/*", "completion of one that reasons/*")
STREAMED_COMPLETION = ("completion, streamed/*",)
OPENAI = (*CHAT, *STREAMED_CHAT, *COMPLETION, *STREAMED_COMPLETION)
RESPONSES = ("response/*", "response, streamed/*")
MESSAGES = ("message/*", "message, streamed/*")
ANY = "*"


@dataclass(frozen=True, slots=True)
class Row:
    """Of some requests, where their answers differ. `*` in a pattern is any text; `|` parts alternatives.

    `title` says what differs and `why` for what reason. A row explains a difference that all of its patterns
    match: that of the request's name, of the member's path, and of what either has there.
    """

    title: str
    requests: tuple[str, ...]
    where: tuple[str, ...]
    why: str
    ours: str = ANY
    theirs: str = ANY

    def explains(self, request: str, path: str, ours: str, theirs: str) -> bool:
        values = matches(self.ours, ours) and matches(self.theirs, theirs)
        return (
            values
            and any(matches(each, request) for each in self.requests)
            and any(matches(each, path) for each in self.where)
        )


def matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).fullmatch(text) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\|", "|"), re.DOTALL)


_DOCUMENT_NULLS = tuple(
    f"document.{name}"
    for name in (
        "service_tier",
        "prompt_logprobs",
        "prompt_token_ids",
        "prompt_text",
        "kv_transfer_params",
        "ec_transfer_params",
        "metrics",
        "choices[].logprobs",
        "choices[].stop_reason",
        "choices[].token_ids",
        "choices[].routed_experts",
        "choices[].prompt_logprobs",
        "choices[].prompt_token_ids",
        "choices[].message.refusal",
        "choices[].message.annotations",
        "choices[].message.audio",
        "choices[].message.function_call",
        "choices[].message.reasoning",
        "usage.prompt_tokens_details.*",
        "usage.completion_tokens_details",
    )
)
_CHUNK_NULLS = tuple(
    f"stream.shapes.{name}"
    for name in (
        "choices[]/logprobs",
        "choices[]/stop_reason",
        "choices[]/token_ids",
        "choices[]/prompt_token_ids",
        "prompt_text",
        "prompt_token_ids",
    )
)
_REFUSED = '"4*'

ROWS: tuple[Row, ...] = (
    # The shape of answers.
    Row(
        "Members that are null",
        (*CHAT, *COMPLETION),
        _DOCUMENT_NULLS,
        "Ollama leaves out what there is nothing to say of; clients read both alike",
        ours="absent",
        theirs="null",
    ),
    Row(
        "Members of chunks that are null",
        (*STREAMED_CHAT, *STREAMED_COMPLETION),
        _CHUNK_NULLS,
        "Ollama leaves out what there is nothing to say of; clients read both alike",
        ours="absent",
        theirs="*null*",
    ),
    Row(
        "`system_fingerprint`",
        (*CHAT, *COMPLETION),
        ("document.system_fingerprint",),
        "Ollama's is the same for all: `fp_ollama`",
    ),
    Row(
        "`timings`",
        (*CHAT, *COMPLETION, "chat, streamed with usage/*"),
        ("document.timings", "stream.shapes.timings/*"),
        "Ollama's own, behind `usage` (docs/reference 13.1)",
        theirs="absent",
    ),
    Row(
        "Reasoning by two names",
        ("chat/*", "wrong chat/*", *STREAMED_CHAT),
        ("document.choices[].message.reasoning_content", "stream.shapes.choices[]/delta/reasoning_content"),
        "`reasoning` is Ollama's name, and `reasoning_content` the one that clients of other servers read",
        theirs="absent",
    ),
    Row(
        "Tokens of the reasoning in the `usage` of completions",
        ("completion of one that reasons/*",),
        ("document.usage.completion_tokens_details",),
        "they are counted, as in chat",
        theirs="null|absent",
    ),
    Row(
        "Tokens of the reasoning in the `usage` of streams",
        ("chat, streamed with usage/unicode", "chat, streamed with usage/stop *"),
        ("stream.usage.completion_tokens_details.reasoning_tokens",),
        "are as many as those of the whole answer; vLLM's streams leave out those that end no character, or "
        "are held back for a stop text",
    ),
    Row(
        "Tokens that went into the cache",
        (*CHAT, "chat, streamed with usage/*"),
        (
            "document.usage.prompt_tokens_details.created_cache_tokens",
            "stream.usage.prompt_tokens_details.created_cache_tokens",
            "stream.shapes.usage/prompt_tokens_details/created_cache_tokens",
        ),
        "vLLM's own; neither Ollama nor OpenAI has it",
        ours="absent",
    ),
    Row(
        "`stop_reason`",
        ("*stop*",),
        ("document.choices[].stop_reason", "stream.shapes.choices[]/stop_reason"),
        "vLLM's own: the text or token that ended the answer; `finish_reason` is `stop` in both",
        ours="absent",
    ),
    Row(
        "`index` of a whole answer's tool calls",
        CHAT[:1],
        ("document.choices[].message.tool_calls[].index",),
        "Ollama's calls have it there too",
        theirs="absent",
    ),
    # Texts.
    Row(
        "White space around reasoning and content",
        (*CHAT, *STREAMED_CHAT),
        ("*reasoning (white space)", "*content (white space)"),
        "what a template puts around reasoning is no part of it (docs/reference 8)",
    ),
    Row(
        "White space in the arguments of a call",
        ("chat/*", "chat, streamed/*"),
        ("*arguments (white space)",),
        "Ollama writes them anew, without any; vLLM gives the model's own text",
    ),
    Row(
        "No content",
        ("chat/*",),
        ("document.choices[].message.content",),
        "an answer without content has an empty one, as Ollama's",
        ours='""',
        theirs="null",
    ),
    Row(
        "Content beside calls, in chunks",
        STREAMED_CHAT[:1],
        ("stream.shapes.choices[]/delta/content",),
        "it is empty there, as in Ollama's chunks",
        ours='"string"',
        theirs='"null or string"',
    ),
    Row(
        "Reasoning of white space alone",
        STREAMED_CHAT,
        ("stream.shapes.choices[]/delta/reasoning",),
        "there is none then",
        ours="absent",
        theirs='"string"',
    ),
    Row(
        "End tokens in a stream",
        ("chat, streamed/ignore_eos",),
        ("stream.choices[].content",),
        "are no text, as in a whole answer; vLLM's streams show them",
    ),
    Row(
        "Closing tags of reasoning in the text",
        ("*/two text parts", "*/min_tokens"),
        ("*.content",),
        "where no reasoning began they are text, and after reasoning they are none; vLLM drops them from "
        "whole answers and not from all streams",
    ),
    Row(
        "Text where no reasoning began",
        ("*/logit_bias", "*/prefill", "*/truncated", "*/unknown role"),
        (
            "*.content",
            "*.reasoning",
            "*.reasoning_tokens",
            "stream.order",
            "stream.shapes.choices[]/delta/reasoning",
        ),
        "it is content; vLLM's parser takes it for reasoning until the reasoning ends",
    ),
    Row(
        "A last message of the assistant",
        ("*/prefill, unasked",),
        (
            "*.content",
            "*.reasoning",
            "*.usage.*_tokens",
            "stream.order",
            "stream.shapes.choices[]/delta/reasoning",
        ),
        "it is gone on with, as in Ollama; vLLM begins a new one unless `continue_final_message` is set",
    ),
    Row(
        "`include_reasoning`",
        ("*/reasoning left out",),
        ("*.reasoning", "stream.order", "stream.shapes.choices[]/delta/reasoning"),
        "reasoning is a field of its own, which a client need not read",
    ),
    Row(
        "`frequency_penalty`",
        ("*/frequency_penalty", "*/penalties"),
        ("*.content", "*.text", "*.usage.*_tokens", "*shapes*"),
        "counts the last 64 tokens, the prompt's too (`repeat_last_n`), as in Ollama; vLLM's the answer",
    ),
    Row(
        "`tool_choice` of `none`",
        ("*/choice none",),
        ("*.content", "*.reasoning", "*.usage.*_tokens", "stream.order"),
        "the model is told of no tools, and so calls none; vLLM's is told of them, and its calls are text",
    ),
    Row(
        "A tool without `parameters`",
        ("*/tool without parameters",),
        (
            "*.content",
            "*.reasoning (white space)",
            "*.usage.*_tokens",
            "stream.shapes.choices[]/delta/reasoning",
        ),
        "templates see a tool as Ollama makes it, with empty parameters",
    ),
    Row(
        "Members of tools that Ollama does not know",
        ("*/strict tool", "*/call that it would not make"),
        ("*.usage.*_tokens",),
        "templates see a tool as Ollama makes it; the schema holds whole",
    ),
    Row(
        "A call that must be made",
        tuple(
            f"*/{name}" for name in ("choice required", "choice of one", "*required without*", "one without*")
        ),
        ("*.arguments", "*.usage.*_tokens"),
        "is one of a list of JSON, whatever the model's own format; vLLM's is in the model's format",
    ),
    Row(
        "`finish_reason` of a call to the one function",
        ("*/choice of one", "*/one without thinking"),
        ("*.finish_reason",),
        "is `tool_calls`, as of every answer that calls",
        ours='"tool_calls"',
        theirs='"stop"',
    ),
    Row(
        "A call that the model would not make",
        ("*/call that it would not make",),
        (
            "*.arguments",
            "*.usage.*_tokens",
        ),
        "has arguments of its schema here; vLLM's need not",
    ),
    Row(
        "`parallel_tool_calls` of false",
        ("*/parallel off",),
        ("*.usage.*_tokens",),
        "the model writes as it would, and one call comes out",
    ),
    Row(
        "White space in an answer of a schema",
        ("*/structured json", "plain chat/schema", "completion/json", "completion/schema"),
        ("*.content", "*.text (white space)", "*.finish_reason", "*.usage.*_tokens"),
        "is bounded, so that a model cannot write of it without end",
    ),
    Row(
        "`guided_choice`",
        ("*/guided_choice",),
        ("*.content", "*.usage.*_tokens"),
        "is honoured; vLLM has dropped the field, and ignores it",
    ),
    Row(
        "`service_tier`",
        ("*/service_tier*",),
        ("document.service_tier",),
        "is told where it was asked for, as OpenAI does",
    ),
    Row(
        "Log probabilities of half characters",
        ("*/logprobs unicode", "*/top_logprobs", "*/logprobs*"),
        (
            "document.choices[].logprobs.top_logprobs[].",
            "document.choices[].logprobs.top_logprobs[].\ufffd",
            "*logprobs.content[].token",
            "*logprobs.content[].bytes[]",
            "*top_logprobs[].token",
            "*top_logprobs[].bytes[]",
        ),
        "`bytes` are the token's own, which joined are the text; vLLM gives none until a character is whole",
    ),
    # What one refuses and the other does not.
    Row(
        "Several greedy answers",
        ("*/two", "*/logprobs, two", "wrong chat/n, greedy"),
        ("status",),
        "are given, all the same, as by OpenAI",
        theirs=_REFUSED,
    ),
    Row(
        "An empty list of tools",
        ("*/no tools",),
        ("status",),
        "is no tools, as for Ollama",
        theirs=_REFUSED,
    ),
    Row(
        "vLLM's fields that are not supported",
        (
            "*/stop included",
            "*/cache_salt",
            "*/return_token_ids",
            "*/prompt_logprobs",
            "*/bad_words",
            "*/allowed_token_ids",
            "*/skip_special_tokens",
            "wrong chat/use_beam_search",
            "wrong chat/documents",
            "wrong chat/echo",
            "wrong chat/logprob_token_ids",
            "wrong chat/truncation_side",
            "completion*/echo with logprobs",
            "completion*/echo of token ids",
        ),
        ("status",),
        "are refused by name, so that nothing is dropped unread (docs/openai.md)",
        ours=_REFUSED,
    ),
    Row(
        "OpenAI's fields that vLLM does not read",
        ("wrong chat/service_tier unknown", "wrong chat/functions"),
        ("status",),
        "what cannot be honoured is refused by name",
        ours=_REFUSED,
    ),
    Row(
        "What Ollama requires of a request",
        (
            "wrong chat/no content",
            "wrong chat/model empty",
            "wrong chat/model null",
            "wrong chat/arguments no JSON",
            "wrong completion/logprobs true",
        ),
        ("status",),
        "is required here with its texts (docs/reference 13)",
        ours=_REFUSED,
    ),
    Row(
        "A bias beyond 100",
        ("wrong chat/logit_bias of 200",),
        ("status",),
        "is refused, by OpenAI's document",
        ours=_REFUSED,
    ),
    Row(
        "What Ollama takes as it comes",
        (
            "wrong chat/no role",
            "wrong chat/temperature below 0",
            "wrong chat/temperature of 5",
            "wrong chat/top_p of 0",
            "wrong chat/top_p above 1",
            "wrong chat/max_tokens of 0",
            "wrong chat/max_tokens below 0",
            "wrong chat/max_tokens beyond the window",
            "wrong chat/stop of number*",
            "wrong chat/empty stop",
            "wrong chat/frequency_penalty of 3",
            "wrong chat/presence_penalty of -3",
            "wrong chat/top_logprobs alone",
            "wrong chat/stream_options without stream",
            "wrong chat/tool without function",
            "wrong chat/tool without name",
            "wrong chat/format unknown",
            "wrong chat/reasoning_effort unknown",
            "wrong completion/max_tokens of 0",
            "wrong completion/stream_options without stream",
        ),
        ("status",),
        "is taken here too: values are bent into their range, and what is of another kind is left out",
        ours="200",
    ),
    Row(
        "A prompt beyond the window",
        ("wrong chat/prompt beyond the window", "wrong completion/prompt beyond the window"),
        ("status",),
        "loses its oldest part, as in Ollama",
        ours="200",
    ),
    Row(
        "`min_tokens` above the length of the answer",
        ("wrong chat/min_tokens above max_tokens",),
        ("status",),
        "is bent to it, since that length may be the window's",
        ours="200",
    ),
    Row(
        "Fields that ask for nothing",
        ("wrong chat/tool_choice without tools", "wrong chat/structured nothing"),
        ("status",),
        "`auto` without tools, or no constraint at all, is as if it were absent",
        ours="200",
    ),
    Row(
        "A message of no parts",
        ("wrong chat/empty parts",),
        ("document.*",),
        "is none, as for Ollama, and a request without messages loads the model",
    ),
    # Completions.
    Row(
        "Prompts that are texts",
        tuple(
            f"completion*/{name}" for name in ("text", "list of one", "list of two", "echo", "echo of two")
        ),
        ("*.text", "*.usage.*_tokens", "*finish_reason", "*shapes*"),
        "are put into the model's template, as by Ollama, and reasoning is not told; ids are not",
    ),
    Row(
        "No prompt",
        tuple(
            f"wrong completion/{name}"
            for name in ("no prompt", "empty prompt", "no prompts", "prompts with an empty one")
        ),
        ("status",),
        "loads the model, as in Ollama",
        ours="200",
    ),
    # Errors.
    Row(
        "The text of an error",
        (ANY,),
        ("document.error.message",),
        "is Ollama's where it has one",
    ),
    Row(
        "The type of an error",
        (ANY,),
        ("document.error.type",),
        "is Ollama's, which is OpenAI's",
        ours='"*_error"',
    ),
    Row(
        "`code` of an error",
        (ANY,),
        ("document.error.code",),
        "is null, as Ollama's; vLLM repeats the status",
        ours="null|absent",
    ),
    Row(
        "`param` of an error",
        (ANY,),
        ("document.error.param",),
        "is null, as Ollama's; the text names the field",
        ours="null|absent",
    ),
    # Other routes.
    Row(
        "Methods and paths that are not served",
        ("raw/*: GET", "raw/unknown path"),
        ("content_type", "text", "document"),
        "are answered with Ollama's text",
    ),
    Row(
        "Routes that a model has no use for",
        ("raw/embeddings on a chat model", "raw/chat on an embedding model", "raw/transcriptions"),
        ("status", "document.error", "document.detail"),
        "are refused with the reason; vLLM has no such route then",
    ),
    Row(
        "The list of models",
        ("models/*",),
        ("status", "document.*"),
        "has every model that the key may use, in Ollama's words; vLLM has one, and no route for it alone",
    ),
    Row(
        "Members of embeddings",
        ("embedding/*",),
        ("document.usage.*", "document.id", "document.created"),
        "are Ollama's",
        ours="absent",
    ),
    Row(
        "Token ids to embed",
        ("embedding/token ids", "embedding/lists of token ids"),
        ("status",),
        "are refused, as by Ollama: clients make them with a vocabulary that is not the model's",
        ours=_REFUSED,
    ),
    Row(
        "`dimensions`",
        ("embedding/dimensions*",),
        ("status",),
        "of any model are cut, as by Ollama; what is out of range changes nothing",
        ours="200",
    ),
    Row(
        "A text that is too long to embed",
        ("embedding/too long",),
        ("status",),
        "is cut to the window, as by Ollama",
        ours="200",
    ),
    # Responses and Messages.
    Row(
        "White space in responses and messages",
        (*RESPONSES, *MESSAGES),
        ("* (white space)",),
        "as in chat",
    ),
    Row(
        "Reasoning in responses",
        RESPONSES,
        (
            "*output[].summary[]",
            "*output[].encrypted_content",
            "*output[].content",
            "stream.order",
            "stream.shapes.response.reasoning_*",
            "stream.shapes.response.output_item.*",
            "stream.texts.response.reasoning_*",
        ),
        "is a summary, and `encrypted_content` besides, as Ollama has it (docs/reference 14); vLLM tells "
        "it as `reasoning_text`",
    ),
    Row(
        "Members of a response",
        RESPONSES,
        (
            "*completed_at",
            "*output[].status",
            "*output[].content[].logprobs",
            "*output[].phase",
            "*output[].async",
            "*output[].caller",
            "*output[].namespace",
            "*.error",
            "*.tool_choice",
            "*.text",
            "*.top_logprobs",
            "*.store",
            "*.service_tier",
            "*.metadata",
            "*.safety_identifier",
            "*.prompt_cache_key",
            "*.prompt",
            "*.user",
            "*_transfer_params",
            "*put_messages",
            "*.tools[].*",
            "*.usage.*put_tokens_details.*",
            "stream.shapes.response.content_part.*",
        ),
        "are those of Ollama, with OpenAI's values; vLLM has some of its own, and leaves others out",
    ),
    Row(
        "A response that is cut",
        ("response*/length",),
        ("*.output[].status", "stream.shapes.response.incomplete", "stream.shapes.response.completed"),
        "ends with `response.incomplete`, as by OpenAI; the message is incomplete too",
    ),
    Row(
        "White space before a call, as an item of its own",
        ("response, streamed/call", "message, streamed/call"),
        ("stream.*",),
        "is none",
    ),
    Row(
        "A response to nothing",
        ("response*/no input",),
        ("status",),
        "loads the model, as in Ollama",
        ours="200",
    ),
    Row(
        "`previous_response_id`",
        ("response*/previous",),
        ("status", "document.error.*"),
        "is refused: nothing is stored",
    ),
    Row(
        "Members of a message",
        MESSAGES,
        (
            "document.content[].signature",
            "document.type",
            "document.request_id",
            "stream.shapes.message_start.*",
            "stream.shapes.message_delta.*",
            "stream.shapes.content_block_start.content_block/signature",
            "stream.shapes.content_block_delta.*",
            "*stop_sequence",
            "stream.order",
            "stream.shapes.ping",
        ),
        "are Ollama's and Anthropic's: errors have the API's envelope, a stream has `ping`, thinking has "
        "a signature from its beginning on",
    ),
    Row(
        "What Ollama takes of messages",
        ("message*/unknown role", "message*/unknown block"),
        ("status",),
        "blocks of unknown types are nothing, and a role is the template's to read (docs/anthropic.md)",
        ours="200",
    ),
    Row(
        "Errors of Anthropic's routes",
        ("raw/messages: *", "messages/*"),
        ("document.type", "document.request_id", "document.context_management"),
        "have Anthropic's envelope, of which vLLM's server has a part",
    ),
)
