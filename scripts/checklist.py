"""The numbered points of the contract with Ollama's clients: which there are, and where we depart from them.

The numbers are those of the conformance checklist, docs/reference 24. A test names the points that it proves
with `@pytest.mark.point(...)`; `scripts.compat` and the tables in docs/compatibility.md are made from this
module.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that a client can observe. `not_yet` ones belong to routes that are not served."""

    number: int
    section: str
    title: str
    not_yet: bool = False


_IN_SCOPE: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("Transport", 1): (
        "GET / is the liveness text",
        "HEAD / has the length and no body",
        "GET /api/version",
        "HEAD of version and tags",
        "HEAD of a GET-only route is 405",
        "An unknown path is 404 in plain text",
        "A wrong method is 405 with `Allow`",
        "`Allow` lists methods in the order of registration",
        "A trailing slash on GET moves with 301",
        "A trailing slash on POST moves with 307",
        "A path with `//` moves with 307",
        "count_tokens is not routed",
        "A local origin is echoed",
        "A foreign origin gets 403 and nothing else",
        "Origins of desktop apps are echoed",
        "Extension and null origins get 403",
        "A name that only begins like localhost gets 403",
        "A preflight gets the fixed answer",
        "A preflight from the server's own origin is 405",
        "CORS headers also on a 404",
        "Configured origins are added to the local ones",
        "On loopback a foreign Host gets 403",
        "On loopback local and private Hosts are let in",
        "On loopback OPTIONS is 204 for a name, 405 for an address",
        "No Content-Type is needed",
        "Any Content-Type is read as JSON",
        "A chunked request body",
        "Unknown keys are ignored",
        "Keys match in any case",
        "Of doubled keys the last wins",
        "What follows the first JSON value is ignored",
        "An Authorization header is ignored",
    ),
    ("Decode errors", 33): (
        "An empty body",
        "A body of white space",
        "A body that ends too early",
        "A body that is not JSON",
        "An array where the request should be",
        "A model that is no string",
        "A stream switch that is no boolean",
        "A trailing comma",
        "A null body is an empty request",
        "Options that are no object",
        "Content in parts",
        "An image that is not base64",
        "An image in a data URL",
    ),
    ("Model lookup", 46): (
        "generate without a model",
        "chat without a model",
        "generate and chat of an unknown model",
        "embed and embeddings of an unknown model",
        "show of an unknown model says the tag",
        "show of an unknown model says the namespace",
        "A name that breaks the grammar",
        "delete of a bad name",
        "Both source suffixes",
        "Names match in any case and are echoed as sent",
        "Spaces around a name are echoed",
        "The suffix `:local`",
        "embeddings minds the case of names",
        "A cloud model on generate is 403",
        "A cloud model on show is 403",
    ),
    ("generate", 61): (
        "No prompt loads",
        "A load answer is plain JSON also when streaming",
        "No prompt and keep_alive 0 unloads",
        "Unloading an unknown model is 404",
        "NDJSON with a newline after each line",
        "The keys of the lines before the last",
        "The keys of the last line, in order",
        "stream null and stream false",
        "Durations in nanoseconds, load_duration never 0",
        "raw returns no context",
        "raw with system, template or context is 400",
        "raw is checked without a prompt; an empty context is fine",
        "num_predict ends with `length`",
        "A stop text ends with `stop` and is not returned",
        "The form of created_at",
        "`<`, `>` and `&` are escaped",
        "_debug_render_only shows the prompt",
        "system replaces the model's own unless empty",
        "template replaces the model's own",
        "A template that does not parse",
        "The order of the model's messages and the prompt",
        "A context stands for the model's messages",
        "suffix makes a fill-in-the-middle prompt",
        "suffix on a model that cannot fill in",
        "An embedding model cannot generate",
        "logprobs on every line",
        "top_logprobs in one document, last key",
        "top_logprobs out of range, before lookup",
        "format with an unknown word",
        "format that is neither word nor schema",
        "format empty or null is no constraint",
        "format json and format as a schema",
        "A bad format does not stop a load",
        "A client that leaves stops the work",
        "A failure after output is the last line",
        "A failure before output has its status",
        "Bad options do not stop an unload",
    ),
    ("keep_alive", 98): (
        "A word that is no duration",
        "A number in quotes",
        "A negative number in quotes",
        "A boolean",
        "A list",
        "Negative is for ever",
        "Seconds, with fractions",
        "null keeps the last setting",
        "0 with a prompt unloads after the answer",
        "The default from the environment",
    ),
    ("options", 108): (
        "A float option of another type",
        "An integer option of another type",
        "stop that is no list",
        "stop with an item that is no string",
        "A boolean option of another type",
        "Unknown options are ignored",
        "null leaves an option to the model",
        "An integer option drops fractions",
        "The smallest window is 4",
        "num_ctx is clamped to the trained length",
        "Request before model before default",
        "A bad option stops a load",
        "A seed at temperature 0 repeats",
    ),
    ("think", 121): (
        "think on a model that cannot",
        "think false or null on a model that cannot",
        "think with an unknown word",
        "think of another type",
        "A thinking model thinks unless told not to",
        "think false turns it off",
        "Thinking is streamed before content",
        "No tag and no leading space in content",
    ),
    ("chat", 129): (
        "No messages loads",
        "No messages and keep_alive 0 unloads",
        "Role and content on every line",
        "The last line has metrics and no context",
        "stream false joins the content",
        "Roles are read in any case and not checked",
        "A message without content",
        "The model's SYSTEM comes first",
        "Only a first system message replaces SYSTEM",
        "A top-level `system` field",
        "The model's messages come before the request's",
        "An embedding model cannot chat",
        "tools on a model that cannot call them",
        "No tools on a model that cannot call them",
        "tools that are no list",
        "A tool call: arguments object, index, no type",
        "A tool call has an id; done_reason",
        "Two calls have two indexes",
        "A streamed call comes whole",
        "Text before a call is content",
        "Arguments in the history: object or null",
        "Tool results with and without a name",
        "Unknown keys of a tool's parameters are not shown",
        "A property's type: word or list",
        "An assistant message at the end is continued",
        "A long history loses its oldest messages",
        "truncate false drops nothing",
        "A prompt over the window with shift false",
        "logprobs come before the metrics",
        "_debug_render_only on chat",
    ),
    ("Embeddings", 159): (
        "embed of a text",
        "embed of a list",
        "embed of nothing",
        "embed of a list with an empty text",
        "Input of another type, before lookup",
        "Too long with truncate false",
        "Too long is cut",
        "dimensions",
        "embed has no prompt field",
        "embeddings, the older route",
        "A failure of the engine on embeddings is 500",
    ),
    ("Listing", 170): (
        "An empty store lists nothing",
        "The keys of a tags item",
        "The form of a digest",
        "tags: newest first",
        "The keys of details",
        "ps: keys and order",
        "show takes name for model",
        "show: model_info, capabilities, modified_at",
        "show: long lists only when verbose",
        "show: licenses and parameters",
        "show: the modelfile",
        "show with system",
        "An embedding model's capabilities",
        "GET /api/status",
    ),
    ("OpenAI", 211): (
        "chat without messages",
        "An empty body",
        "An unknown model",
        "A whole answer",
        "Without `stream` nothing streams",
        "A stream",
        "include_usage",
        "A tool call",
        "Thinking is `reasoning`",
        "temperature and top_p are 1 where they are absent",
        "Content parts; an http image URL",
        "content null",
        "reasoning_effort",
        "A failure in mid-stream",
        "completions: templated; a list; nothing",
        "completions: include_usage",
        "embeddings: base64; no input; an empty text",
        "One model",
    ),
    ("Responses", 229): (
        "responses: the answer as one document",
        "responses: the answer as a stream",
    ),
    ("Messages", 231): (
        "max_tokens is required; the envelope of an error",
        "The blocks and the reason of an answer",
        "The events of a stream, in order",
        "Thinking asked of a model that cannot is left out",
    ),
    ("Create, blobs, copy, delete", 184): (
        "Whether a blob is there",
        "A new blob, a known one, and a wrong digest",
        "A digest that is none",
        "create of nothing",
        "create under a bad name",
        "Files outside their folder",
        "A file without a digest",
        "create of no files",
        "create from another model",
        "create in one document",
        "What a model is given is shown",
        "A template that does not compile",
        "Bad parameters are found when the model is run",
        "An unknown quantization",
        "The old `modelfile` field",
        "copy, and what cannot be copied",
        "delete, and delete again",
    ),
    ("Pull, push", 201): (
        "The first and last lines of a pull",
        "What is there is told of once",
        "A tag that changed",
        "pull in one document",
        "pull of an unknown name, streaming",
        "pull of an unknown name, in one document",
        "A registry that answers 412",
        "pull of a bad name",
        "push of nothing and of what is not here",
        "A pull that was interrupted goes on",
    ),
    ("Lifecycle", 235): (
        "A full queue is 503",
        "Two requests to a model with one slot",
    ),
    ("Official command line", 237): ("Its commands, by what they send and need",),
}
"""Titles by section and the number of its first point."""

_NOT_YET: tuple[tuple[str, int, int], ...] = ()
"""Section, first and last point of what is not served."""


def _points() -> Iterator[Point]:
    for (section, first), titles in _IN_SCOPE.items():
        for number, title in enumerate(titles, first):
            yield Point(number, section, title)
    for section, first, last in _NOT_YET:
        for number in range(first, last + 1):
            yield Point(number, section, "", not_yet=True)


POINTS: Mapping[int, Point] = {
    point.number: point for point in sorted(_points(), key=lambda each: each.number)
}

_MISTAKE = "a client's mistake is 400, not 500; the text is Ollama's"

DEPARTURES: Mapping[int, str] = {
    12: "`POST /v1/messages/count_tokens` counts the prompt's tokens by the model's own template",
    18: "`Access-Control-Allow-Headers` has `X-Api-Key` and the headers of Anthropic's clients besides",
    80: _MISTAKE,
    89: _MISTAKE,
    90: _MISTAKE,
    108: _MISTAKE,
    109: _MISTAKE,
    110: _MISTAKE,
    111: _MISTAKE,
    112: _MISTAKE,
    119: _MISTAKE,
    138: "honoured: it is the system prompt of a chat whose first message is not a system message",
    145: "`done_reason` is `tool_calls`; `CARAVAN_TOOL_CALLS_DONE_REASON=stop` gives Ollama's `stop`",
    170: "by default the bundled model is served, so that a server lists one also where its store is empty; "
    "`CARAVAN_MODELS=[]` gives Ollama's empty list",
    221: "the parts of a message stay one message, texts and pictures in the client's order",
    224: "an error frame in OpenAI's shape comes before the stream ends, still without `[DONE]`",
    225: "a list of texts, token ids or lists of them is answered, a choice for each",
}
"""Points that we answer otherwise on purpose, and what we do instead. A test pins each of them."""

OTHER_DEPARTURES: tuple[tuple[str, str], ...] = (
    ("1.1", "an address with a bad port stops the start with one line, instead of a warning and a default"),
    (
        "1.1",
        "with `CARAVAN_KEYS_FILE` every route but `/`, `/api/version` and health asks for an API key: 401 or "
        "403 without the right one, as Bearer, Basic, `x-api-key` or a signature; without that setting any "
        "`Authorization` is ignored, as Ollama does",
    ),
    ("1.5", "a body over `CARAVAN_MAX_BODY_BYTES` is 413, one slower than `CARAVAN_BODY_TIMEOUT` 408"),
    ("1.6", "every answer has an `X-Request-Id`, the client's own where it is sane"),
    (
        "2",
        "`/livez`, `/readyz`, `/startupz` and `/metrics` exist besides Ollama's routes",
    ),
    (
        "2, 11, 12",
        "configured models cannot be changed (403), and a pull of one ends in `success`; GGUF adapters, "
        "drafts, "
        "`info` and remote models are 400 with the reason, as is `quantize` but for 8 bits on a GPU, which "
        "are FP8 made at each load; a template may be Jinja; `capabilities` that a model has not are 400; "
        "`renderer`, `parser` and `requires` are kept for Ollama and not used; what a pull may fetch is the "
        "operator's to say (403); deleting unloads what no other name holds; a blob posted as `sha256-` is "
        "taken",
    ),
    (
        "4.3",
        "a JSON schema that cannot be enforced in full is 400 with the reason, instead of being enforced in "
        "part",
    ),
    (
        "4.5",
        "output stops at the end of the window with `done_reason` `length`; `shift` only decides whether a "
        "prompt over the window is cut in its middle or refused, the window never slides",
    ),
    ("4.5", "with `truncate` false a prompt over the window is 400 with the text of `shift` false"),
    ("4.5", "what is dropped from a long history is not rendered, so no template refuses it"),
    (
        "4.7",
        "images on a model that cannot see are 400 `M does not support image input`, M being its name with "
        "the tag; audio is refused too; one picture may be 200 times as long as wide, and all of a request "
        "have 15 million pixels; "
        "of a picture that moves the first frame is seen",
    ),
    (
        "5",
        "a `num_ctx` above what the engine was loaded with is clamped to the engine's window; no option "
        "reloads a model; a model that sees images has no smallest window of 2048",
    ),
    ("5", "an unlimited `num_predict` ends at the window, not at ten times the window"),
    (
        "5",
        "`temperature` is bent into 0..2, `min_p` into 0..1, a `top_p` of 0 or less into the smallest above "
        "0; `repeat_penalty` of 0 or less is 400",
    ),
    (
        "5",
        "with speculation on vLLM's model runner V1 `repeat_last_n` and `typical_p` change nothing: the "
        "repeat penalty covers the whole text, the presence and frequency penalties, bent into -2..2, the "
        "answer",
    ),
    ("5", "a number that its type cannot hold is 400 with the text for a wrong type"),
    (
        "6, 7",
        "as Ollama unless switched over for clients of another API: `CARAVAN_STREAM_DEFAULT=false` answers "
        "in one document where a request does not say, `CARAVAN_REPEAT_TEXT=true` repeats the whole text on "
        "the last line",
    ),
    (
        "1.5, 6, 7",
        "`datai` is not ignored: it switches built-in tools on, or is 400 where there are none",
    ),
    ("8.5", "no guard against repeated tokens: a reply ends at `num_predict` or the window"),
    ("9.1", 'a text model is refused with 400 `"M" does not support embeddings`, save for an empty input'),
    ("9.2", "a text too long for `/api/embeddings` is 400 `the input length exceeds the context length`"),
    (
        "13",
        "what Ollama ignores of OpenAI's own fields, and what vLLM's server takes besides, is honoured or "
        "refused: [openai.md](openai.md)",
    ),
    (
        "13.1",
        "`id` is a number up to 10^15, so that clients can keep answers apart; reasoning comes as "
        "`reasoning_content` too; items of `logprobs` always have `bytes` and `top_logprobs`",
    ),
    ("13.2", "`logprobs` of completions are in the answer"),
    (
        "10.4",
        "with keys, a key without the scope `admin` sees the model's name after FROM in a Modelfile, not the "
        "server's path, and no `parent_model` that it may not use",
    ),
    ("10.6", "cloud models are always off: `disabled` true, `source` `config`"),
    (
        "14.1",
        "`tool_choice`, `parallel_tool_calls`, `top_logprobs`, `include` of log-probabilities, `truncation` "
        "and `text.format` `json_object` are honoured; `metadata`, `safety_identifier` and "
        "`prompt_cache_key` are repeated; `service_tier` `flex` waits behind others",
    ),
    (
        "14.1",
        "`previous_response_id`, `conversation`, `background`, `prompt`, `context_management` and "
        "`moderation` are 400: nothing is stored or moderated",
    ),
    (
        "14.2",
        "texts and pictures of a message keep their order; what developers say is a system message, and "
        "those at the front are one; where the template refuses system messages among the others, they are "
        "the user's",
    ),
    (
        "14.2",
        "calls of free-form tools, of the client's shell and for tools are items too, as are tools and "
        "compactions; `item_reference` is 400",
    ),
    (
        "14.3",
        "free-form tools, a local shell and a search that the client runs are functions to the model; a call "
        "comes back as its tool was declared, with its namespace apart; tools that a server runs are 400 by "
        "name, web search too where the server has none",
    ),
    (
        "14.4",
        "an answer that was cut has `status` `incomplete` and says why; text beside calls is kept, as an "
        "item of its own; `cached_tokens` is true",
    ),
    (
        "14.5",
        "`response.reasoning_summary_part.added` and `.done` are there; a stream that was cut ends in "
        "`response.incomplete`, one that failed in `error` and `response.failed`; there is no `Connection` "
        "header",
    ),
    (
        "14.5",
        "a GET that offers a WebSocket is 426, at which Codex goes on over HTTP at once",
    ),
    (
        "15.1",
        "a full queue and every other 503 is 529, as on Anthropic's servers; a body that is too large is 413 "
        "`request_too_large`; every answer has a `request-id`",
    ),
    (
        "15.2",
        "`tool_choice` and `disable_parallel_tool_use` are honoured; `output_config.format` binds the answer "
        "to a schema; `thinking.display` `omitted` leaves reasoning out; tools that a server runs (searches "
        "and fetches only where it has none), computers and browsers are 400 by name; bash, text editor and "
        "memory are described to the model",
    ),
    (
        "15.2",
        "a line for billing that begins the system prompt is left out, and later system messages join the "
        "message before them, so that a prompt begins as the last one did",
    ),
    (
        "15.3",
        "texts and pictures of a message keep their order; `is_error` is shown; documents of text and search "
        "results are shown, other documents are 400; what a server's tool found stands where it was found",
    ),
    (
        "15.4",
        "a stop sequence of the client's that matched is told: `stop_reason` `stop_sequence`, and which; an "
        "answer without content has `[]`, over which Anthropic's clients iterate; thinking has a "
        "`signature`, without which clients do not hand it back, or refuse it",
    ),
    (
        "15.5",
        "`message_start` has the true count of tokens; a `ping` follows it; thinking ends in a "
        "`signature_delta`; a failure in mid-stream is an `error` event; there is no `Connection` header",
    ),
    (
        "16.1",
        "`/api/me` is 200 with the name of the key, `anonymous` where the server has no keys: without that "
        "the command line does not push; signing out is 403 with the reason, there being no accounts",
    ),
    (
        "16.4",
        "the models of this server, and of those behind it, that can chat and that the key may use",
    ),
    ("17", "`CARAVAN_NUM_PARALLEL` is the engine's own number by default (Ollama: 1): requests run batched"),
    ("18", "a setting with a bad value stops the start with one line, instead of a warning and a default"),
)
"""Section of the reference and departure, where no numbered point speaks of it."""


def in_scope() -> list[Point]:
    return [point for point in POINTS.values() if not point.not_yet]


def departures() -> Iterator[tuple[str, str]]:
    """Where, and what we do instead; points with the same words together."""
    grouped: dict[str, list[int]] = {}
    for number, why in DEPARTURES.items():
        grouped.setdefault(why, []).append(number)
    for why, numbers in grouped.items():
        yield f"point{'s' * (len(numbers) > 1)} {ranges(numbers)}", why
    for section, why in OTHER_DEPARTURES:
        yield f"section{'s' * (',' in section)} {section}", why


def ranges(numbers: Iterable[int]) -> str:
    """`1-3, 5` for 1, 2, 3 and 5."""
    ordered = sorted(numbers)
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b - a > 1)]
    ends = [*(a for a, b in pairwise(ordered) if b - a > 1), ordered[-1]]
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True))
