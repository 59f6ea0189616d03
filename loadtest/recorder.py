"""Gathers the samples of a run, from all workers where there are any, and judges them at the end."""

import logging
import sys
import time
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import thresholds
from loadtest.options import Plan
from loadtest.samples import Crowd, Run, Sample, save

_log = logging.getLogger(__name__)
CROWD_EVERY_S = 0.1


class Recorder:
    """One in each locust process; a worker's sends what it has to the master's with each of locust's
    reports."""

    def __init__(self, environment: Environment) -> None:
        self.run = Run()
        self._environment = environment
        self._watch: gevent.Greenlet[[], None] | None = None
        events = environment.events
        if isinstance(environment.runner, WorkerRunner):
            events.report_to_master.add_listener(self._send)
            return
        if isinstance(environment.runner, MasterRunner):
            events.worker_report.add_listener(self._take)
        events.test_stop.add_listener(self._stop)

    def start(self, plan: Plan) -> None:
        """A new run begins: forget the one before."""
        self.run = Run(plan.about)
        if not isinstance(self._environment.runner, WorkerRunner):
            self._watch = gevent.spawn(self._watch_crowd)

    def add(self, sample: Sample) -> None:
        self.run.samples.append(sample)

    def finish(self, plan: Plan) -> bool:
        """Print the verdict and keep the results; whether all thresholds hold."""
        verdicts = thresholds.judge(self.run, plan.thresholds)
        self.run.about["verdicts"] = [
            {"threshold": each.threshold.text, "measured": each.value, "holds": each.holds}
            for each in verdicts
        ]
        print(f"\n{thresholds.table(verdicts)}\n", file=sys.stderr)
        if plan.results:
            save(self.run, plan.results)
            _log.info("%d samples are in %s", len(self.run.samples), plan.results)
        return all(each.holds for each in verdicts)

    def _send(self, client_id: str, data: dict[str, Any]) -> None:
        data["samples"] = [tuple(each) for each in self.run.samples]
        self.run.samples.clear()

    def _take(self, client_id: str, data: dict[str, Any]) -> None:
        self.run.samples += [Sample(*row) for row in data.get("samples", ())]

    def _watch_crowd(self) -> None:
        """Note each change of the number of users."""
        runner, crowds = self._environment.runner, self.run.crowds
        assert runner is not None
        while True:
            if not crowds or crowds[-1].users != runner.user_count:
                crowds.append(Crowd(time.time(), runner.user_count))
            gevent.sleep(CROWD_EVERY_S)

    def _stop(self, environment: Environment, **_: Any) -> None:
        if self._watch:
            self._watch.kill()
            self._watch = None
            self.run.crowds.append(Crowd(time.time(), 0))
