"""The chart's load test (row C7): the arguments that it renders are those that locust runs with."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from harness.ports import free_port
from tests.chart.helm import CHART, objects, of_kind
from tests.e2e.fake_site import fake_site
from tests.loadtest.locust_runs import command, finish, launch

pytestmark = pytest.mark.row("C7")


def job(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    (found,) = (
        each
        for each in of_kind("Job", objects)
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    return found["spec"]


def arguments(spec: dict[str, Any]) -> list[str]:
    return spec["template"]["spec"]["containers"][0]["args"]


def test_off_by_default() -> None:
    assert not any("loadtest" in each["metadata"]["name"] for each in objects())


def test_a_key_comes_from_a_secret_and_workers_are_as_many_as_the_master_expects() -> None:
    rendered = objects(CHART / "ci" / "loadtest-values.yaml")
    master, worker = job(rendered, "loadtest-master"), job(rendered, "loadtest-worker")
    assert f"--expect-workers={worker['parallelism']}" in arguments(master)
    for spec in (master, worker):
        (key, mix) = spec["template"]["spec"]["containers"][0]["env"]
        assert key["valueFrom"]["secretKeyRef"] == {"name": "loadtest-key", "key": "key"}
        assert mix == {"name": "LOADTEST_MIX", "value": "chat=3,generate=1"}
    (service,) = (each for each in of_kind("Service", rendered) if "loadtest" in each["metadata"]["name"])
    assert f"--master-host={service['metadata']['name']}" in arguments(worker)
    assert "--host=http://caravan:11434" in arguments(master)


def test_what_it_renders_runs(tmp_path: Path) -> None:
    options = {"users": 2, "run-time": 3, "shape": "step", "lengths": "8/5", "mix": "chat", "wait": 20}
    with fake_site(
        fake_model("fake"), engine=lambda: FakeEngine(default=Reply([" word"] * 9), delay_s=0.005)
    ) as site:
        given = {
            "enabled": True,
            "workers": 1,
            "stopSeconds": 20,
            "host": f"http://127.0.0.1:{site.port}",
            "options": options,
        }
        rendered = objects(given={"loadtest": given, "models": [{"name": "fake", "source": "bundled"}]})
        bind = free_port()
        worker = launch(
            command(
                *(
                    each
                    for each in arguments(job(rendered, "loadtest-worker"))
                    if "--master-host" not in each
                ),
                f"--master-port={bind}",
            ),
            tmp_path / "worker",
        )
        master = launch(
            command(*arguments(job(rendered, "loadtest-master")), f"--master-bind-port={bind}"),
            tmp_path / "master",
        )
        found, ended = finish(master, tmp_path / "master"), finish(worker, tmp_path / "worker")
    assert (found.status, ended.status) == (0, 0), found.output
    assert Counter(each.kind for each in found.run.samples)["chat"] > 4
