"""A user of a language model: asks, reads the stream, judges the answer and tells locust what it took."""

import random
import time
from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import gevent
import orjson
from geventhttpclient.client import HTTPClient
from geventhttpclient.url import URL
from locust import User, task
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.apis import APIS
from loadtest.apis.base import Api, Ask, BadAnswer, Reply
from loadtest.mix import Mix
from loadtest.options import Plan
from loadtest.questions import Questions, check
from loadtest.recorder import Recorder
from loadtest.samples import Sample
from loadtest.stream import Answer, receive
from loadtest.thresholds import EACH

CONNECT_S = 10.0
AFTER_FAILURE_S = 0.1
"""A user that was refused waits a little, so that a server that is down is not asked as fast as can be."""
ENTRIES = {"ttft": "TTFT", "tpot": "TPOT", "speed": "tokens/s"}
"""Locust's statistics have these beside POST, in its column for the method. Its times are in milliseconds; a
speed stands there as the number it is."""


class ModelUser(User):
    """Sends the next request when it has its answer and has thought about it."""

    plan: ClassVar[Plan]
    mix: ClassVar[Mix]
    recorder: ClassVar[Recorder]
    _numbers: ClassVar[Iterator[int]] = count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        runner = environment.runner
        worker = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        number = next(self._numbers)
        self._dice = random.Random(f"{self.plan.seed} {worker} {number}")
        self._api_name = self.plan.apis.of_user(number)
        self._api = APIS[self._api_name]
        self._mix = self.plan.apis.mix_of(self._api_name, self.mix)
        self._questions = Questions(self._dice, self.plan.lengths, self.plan.models, self.plan.turns)
        url = URL(self.host or "")
        self._prefix = url.path.rstrip("/")
        self._client = HTTPClient.from_url(
            url, connection_timeout=CONNECT_S, network_timeout=self.plan.timeout_s, block_size=1 << 16
        )

    def wait_time(self) -> float:
        mean_s = self.plan.think_time_s
        return self._dice.expovariate(1 / mean_s) if mean_s else 0.0

    def on_stop(self) -> None:
        self._client.close()

    @task
    def ask(self) -> None:
        ask = self._questions.ask(self._mix.draw(self._dice))
        path, body = self._api.request(ask)
        payload = orjson.dumps(body)
        began, began_s = time.time(), time.perf_counter()
        try:
            answer = receive(
                self._client, self._prefix + path, payload, self.plan.headers, self._api.has_text
            )
            reply = read_reply(self._api, ask, answer)
        except BadAnswer as error:
            took_s = time.perf_counter() - began_s
            failed = Sample(ask.kind, began, 0.0, began + took_s, 0, 0, str(error), self._api_name)
            self._tell(failed, 0, error)
            gevent.sleep(AFTER_FAILURE_S)
            return
        self._questions.answered(ask, reply)
        first = began + answer.first_s - answer.began_s if answer.first_s else 0.0
        ended = began + answer.ended_s - answer.began_s
        counts = reply.prompt_tokens, reply.output_tokens
        sample = Sample(ask.kind, began, first, ended, *counts, "", self._api_name)
        self._tell(sample, len(answer.body), None)

    def _tell(self, sample: Sample, length: int, error: BadAnswer | None) -> None:
        self.recorder.add(sample)
        fire = self.environment.events.request.fire
        mixed = len(self.plan.apis.weights) > 1
        name = f"{sample.api} {sample.kind}" if mixed else sample.kind
        entry = {"name": name, "context": {}, "exception": None}
        fire(
            **entry | {"exception": error},
            request_type="POST",
            response_time=sample.total_s * 1e3,
            response_length=length,
        )
        for metric, shown in ENTRIES.items():
            if (value := EACH[metric](sample)) is not None:
                fire(**entry, request_type=shown, response_time=value, response_length=0)


def read_reply(api: Api, ask: Ask, answer: Answer) -> Reply:
    """`BadAnswer` unless it is whole and what was asked for."""
    try:
        reply = api.reply(ask, answer.body)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswer(f"not of the API's form: {type(error).__name__} {error}") from error
    check(ask, reply)
    return reply
