"""What locust runs: `locust -f loadtest/locustfile.py --host URL`, or `python -m loadtest`.

Options, users, shape and thresholds are in the modules beside this one; here they are put together.
"""

import logging
import sys
import time
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.apis.base import Kind
from loadtest.mix import Mix
from loadtest.options import DEFAULT_RUN_S, Plan, add_options, read_options
from loadtest.prelude import CannotAsk, usual_mix, warm_up
from loadtest.recorder import Recorder
from loadtest.shapes import SHAPES
from loadtest.users import ModelUser

_log = logging.getLogger(__name__)
RETRY_S = 2.0


class Shape(LoadTestShape):
    """The number of users at each moment; `--users` is the most, `--run-time` the length of the run.

    Locust asks for it while models are still loaded; the time of a run begins after that, with `begin`.
    Locust's own `reset_time` comes before that in one kind of process and after it in another, so it does not
    count.
    """

    use_common_options = True
    _began_s: float | None = None

    def begin(self) -> None:
        self._began_s = time.perf_counter()

    def end(self) -> None:
        self._began_s = None

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        passed_s = time.perf_counter() - self._began_s if self._began_s is not None else 0.0
        share = passed_s / (options.run_time or DEFAULT_RUN_S)
        if share >= 1:
            return None
        users = SHAPES[options.shape](share, options.num_users or 1, options.steps)
        return users, max(options.spawn_rate or 0, users)


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    add_options(parser)


@events.init.add_listener
def _init(environment: Environment, **_: Any) -> None:
    _plan(environment)
    ModelUser.recorder = Recorder(environment)


@events.test_start.add_listener
def _start(environment: Environment, **_: Any) -> None:
    """On each node: options may have come from the web form or the master."""
    ModelUser.plan = plan = _plan(environment)
    try:
        ModelUser.mix = _prepare(environment, plan)
    except CannotAsk as error:
        _log.error("cannot ask %s", error)
        environment.process_exit_code = 1
        assert environment.runner is not None
        environment.runner.quit()
        return
    if isinstance(environment.shape_class, Shape):
        environment.shape_class.begin()
    ModelUser.recorder.start(plan)


@events.test_stop.add_listener
def _stop(environment: Environment, **_: Any) -> None:
    if isinstance(environment.shape_class, Shape):
        environment.shape_class.end()


@events.quitting.add_listener
def _quit(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if runner is None or isinstance(runner, WorkerRunner) or not hasattr(ModelUser, "plan"):
        return
    passed = ModelUser.recorder.finish(ModelUser.plan) and not runner.exceptions
    environment.process_exit_code = environment.process_exit_code or (0 if passed else 1)


def _plan(environment: Environment) -> Plan:
    assert environment.parsed_options is not None
    try:
        return read_options(environment.parsed_options)
    except ValueError as error:
        _log.error("%s", error)
        sys.exit(2)


def _prepare(environment: Environment, plan: Plan) -> Mix:
    """What to ask, once the server is there and, unless this is a worker, has the models loaded."""
    host = environment.host or ""
    deadline = time.monotonic() + plan.wait_s
    while True:
        try:
            mix, lacking = (plan.mix, set[Kind]()) if plan.mix else usual_mix(host, plan)
            if not isinstance(environment.runner, WorkerRunner):
                warm_up(host, plan, mix)
            break
        except CannotAsk as error:
            if time.monotonic() >= deadline:
                raise
            _log.info("not yet: %s", error)
            gevent.sleep(RETRY_S)
    if lacking:
        _log.warning("left out of the mix, for the model cannot do it: %s", ", ".join(sorted(lacking)))
    return mix
