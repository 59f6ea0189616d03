"""Every metric that Caravan has, as data: the meter and the operator's guide are both made from this."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
ERROR = "error.type"
OPERATION = "gen_ai.operation.name"
MODEL = "gen_ai.request.model"
TOKEN_TYPE = "gen_ai.token.type"
KEY = "caravan.key.id"
REASON = "reason"
OUTCOME = "outcome"
STAGE = "stage"
TOOL = "gen_ai.tool.name"
TASK = "task"
DEVICE = "device"
STATE = "state"

Kind: TypeAlias = Literal["counter", "histogram", "gauge"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric. A gauge or what is `watched` is read when metrics are collected; others are recorded as
    things happen."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    watched: bool = False


# The boundaries that the semantic conventions advise.
_HTTP_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_REQUEST_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
# And one of our own: a queue is either short or very long.
_QUEUE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

HTTP_DURATION = Instrument(
    "http.server.request.duration",
    "histogram",
    "s",
    "Every HTTP request, from its head to the end of its answer.",
    (METHOD, ROUTE, STATUS, ERROR),
    _HTTP_S,
)
TOKENS = Instrument(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    "Tokens of one request, prompt (`input`) and answer (`output`); cancelled requests count what they used.",
    (TOKEN_TYPE, OPERATION, MODEL, KEY),
    _TOKENS,
)
REQUEST_DURATION = Instrument(
    "gen_ai.server.request.duration",
    "histogram",
    "s",
    "A request to a model, from its head to the end of its answer.",
    (OPERATION, MODEL, KEY, STATUS, ERROR),
    _REQUEST_S,
)
FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    "histogram",
    "s",
    "From a request's arrival to its first token, for requests that succeeded.",
    (OPERATION, MODEL, KEY),
    _FIRST_TOKEN_S,
)
PER_TOKEN = Instrument(
    "gen_ai.server.time_per_output_token",
    "histogram",
    "s",
    "Mean time of a token after the first, for requests that succeeded.",
    (OPERATION, MODEL, KEY),
    _TOKEN_S,
)
QUEUE_DURATION = Instrument(
    "caravan.queue.duration",
    "histogram",
    "s",
    "Time a request waited: for its model to `load`, for its turn at the `engine` and in its own queue.",
    (STAGE, MODEL, KEY),
    _QUEUE_S,
)
QUEUE_DEPTH = Instrument(
    "caravan.queue.depth",
    "gauge",
    "{request}",
    "Requests that wait now, by what they wait for.",
    (STAGE, MODEL),
)
ACTIVE = Instrument(
    "caravan.requests.active",
    "gauge",
    "{request}",
    "Requests to models that are being served now, those that wait included.",
    (MODEL, KEY),
)
REJECTIONS = Instrument(
    "caravan.rejections",
    "counter",
    "{request}",
    "Requests turned away, by reason.",
    (REASON, KEY),
)
CANCELLATIONS = Instrument(
    "caravan.cancellations",
    "counter",
    "{request}",
    "Requests to models whose client left before the end.",
    (MODEL, KEY),
)
LOADS = Instrument(
    "caravan.model.loads",
    "counter",
    "{load}",
    "Loads of a model's engine that ended, by outcome: `ok` or `error`.",
    (MODEL, OUTCOME),
)
LOAD_DURATION = Instrument(
    "caravan.model.load.duration",
    "histogram",
    "s",
    "How long the loads that succeeded took.",
    (MODEL,),
    _QUEUE_S,
)
UNLOADS = Instrument(
    "caravan.model.unloads",
    "counter",
    "{unload}",
    "Engines that went, by reason.",
    (MODEL, REASON),
)
SLEEPS = Instrument(
    "caravan.model.sleeps",
    "counter",
    "{sleep}",
    "Engines that were put to sleep in place of being unloaded, by reason.",
    (MODEL, REASON),
)
WAKES = Instrument(
    "caravan.model.wakes",
    "counter",
    "{wake}",
    "Engines that were woken, by outcome: `ok`, or `error` where they had to be loaded anew.",
    (MODEL, OUTCOME),
)
WAKE_DURATION = Instrument(
    "caravan.model.wake.duration",
    "histogram",
    "s",
    "How long it took to wake those that could be woken.",
    (MODEL,),
    _QUEUE_S,
)
ASLEEP = Instrument(
    "caravan.model.asleep",
    "gauge",
    "1",
    "1 where the model's engine is asleep, its weights in the host's memory, else 0.",
    (MODEL,),
)
SLEEP_MEMORY = Instrument(
    "caravan.sleep.memory",
    "gauge",
    "By",
    "The host's memory for engines asleep: `total` that they may have, `promised` to those that sleep or "
    "have slept.",
    (STATE,),
)
SERVER_READY = Instrument(
    "caravan.ready",
    "gauge",
    "1",
    "1 while `/readyz` is green, else 0.",
    (),
)
FRONT_ENDS = Instrument(
    "caravan.front_ends",
    "gauge",
    "1",
    "Processes that take requests, where there are several (`CARAVAN_FRONT_ENDS`); those that serve now.",
    (),
)
READY = Instrument(
    "caravan.model.ready",
    "gauge",
    "1",
    "1 where a request for the model would be served without a load, else 0.",
    (MODEL,),
)
RESTARTS = Instrument(
    "caravan.engine.restarts",
    "counter",
    "{restart}",
    "Engines started again after their process died or hung.",
    (MODEL,),
)
KEY_RELOADS = Instrument(
    "caravan.keys.reloads",
    "counter",
    "{reload}",
    "Times the files of API keys changed, by outcome: `ok`, or `error` where the old keys stay in force.",
    (OUTCOME,),
)
STORE_FAILURES = Instrument(
    "caravan.limits.store.failures",
    "counter",
    "{failure}",
    "Times the limits store could not be reached.",
    (),
)
PEER_FAILURES = Instrument(
    "caravan.peers.failures",
    "counter",
    "{failure}",
    "Servers left out of a list of models, by reason: `rate` (429 for the client's key) or `silent`.",
    (REASON,),
)
TASK_FAILURES = Instrument(
    "caravan.background.failures",
    "counter",
    "{failure}",
    "Failures of tasks that run beside the requests, by task.",
    (TASK,),
    watched=True,
)

DEVICE_MEMORY = Instrument(
    "caravan.device.memory",
    "gauge",
    "By",
    "Memory of each device (of the host on a CPU): `total` that engines may have, `free`, and `promised` to "
    "those that are loaded.",
    (DEVICE, STATE),
)

TOOL_CALLS = Instrument(
    "caravan.tool.calls",
    "counter",
    "{call}",
    "Calls of built-in tools, by outcome: `ok`, `error`, or `refused` where an address may not be reached.",
    (TOOL, OUTCOME, KEY),
)
TOOL_DURATION = Instrument(
    "caravan.tool.duration",
    "histogram",
    "s",
    "How long calls of built-in tools took.",
    (TOOL,),
    _HTTP_S,
)
TOOL_RECEIVED = Instrument(
    "caravan.tool.received",
    "counter",
    "By",
    "What built-in tools received from the network.",
    (TOOL,),
)
PAGE_REFUSALS = Instrument(
    "caravan.tool.page.refusals",
    "counter",
    "{request}",
    "Requests of pages in the browser to addresses that may not be reached.",
    (),
)

INSTRUMENTS: tuple[Instrument, ...] = (
    HTTP_DURATION,
    REQUEST_DURATION,
    FIRST_TOKEN,
    PER_TOKEN,
    TOKENS,
    QUEUE_DURATION,
    QUEUE_DEPTH,
    ACTIVE,
    REJECTIONS,
    CANCELLATIONS,
    SERVER_READY,
    FRONT_ENDS,
    READY,
    LOADS,
    LOAD_DURATION,
    UNLOADS,
    SLEEPS,
    WAKES,
    WAKE_DURATION,
    ASLEEP,
    RESTARTS,
    KEY_RELOADS,
    STORE_FAILURES,
    PEER_FAILURES,
    TASK_FAILURES,
    DEVICE_MEMORY,
    SLEEP_MEMORY,
    TOOL_CALLS,
    TOOL_DURATION,
    TOOL_RECEIVED,
    PAGE_REFUSALS,
)
