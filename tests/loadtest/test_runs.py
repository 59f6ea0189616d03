"""Locust itself, against a server over the scripted engine and against one that answers wrongly (row C7)."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from statistics import median
from typing import Any

import httpx
import pytest

from app.core.model import Capability
from app.engine.base import Prompt
from app.engine.base import Run as EngineRun
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import EVERYTHING, fake_model
from harness.ports import free_port
from loadtest import report
from tests.e2e.fake_site import FakeSite, fake_site
from tests.loadtest.locust_runs import finish, run, start
from tests.loadtest.stub import DONE, END, HEAD, TEXT, line, stub

pytestmark = pytest.mark.row("C7")

ALL: tuple[Capability, ...] = (*EVERYTHING, "embedding")
WORDS = [" word"] * 30
FITTING = Reply([json.dumps({"mood": "good", "stars": 5, "urgent": False})])
EQUAL = "--mix=chat=1,generate=1,schema=1,tools=1,embed=1"


def answer(_: Prompt, asked: EngineRun) -> Reply:
    return FITTING if asked.constraint else Reply(WORDS)


@pytest.fixture(scope="module")
def site() -> Iterator[FakeSite]:
    engine = lambda: FakeEngine(answer, delay_s=0.005)  # noqa: E731
    with fake_site(fake_model("all", *ALL), fake_model("plain", "completion"), engine=engine) as running:
        yield running


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_all_kinds_are_timed_and_counted(site: FakeSite, tmp_path: Path) -> None:
    found = run(
        tmp_path, url(site.port), "--model=all", EQUAL, "--lengths=64/20", "--turns=2",
        "--shape=step", "--steps=2",
        "--thresholds=errors<=0,requests>=20,ttft.p95<=5000,tpot.p95<=1000,throughput>=50",
    )  # fmt: skip
    assert found.status == 0, found.output
    samples = found.run.samples
    by_kind = Counter(each.kind for each in samples)
    assert found.counts("POST") == by_kind
    assert min(by_kind[kind] for kind in ("chat", "generate", "schema", "tools", "embed")) > 0
    words = {kind: count for kind, count in by_kind.items() if kind not in ("embed", "schema")}
    assert found.counts("TTFT") == words | {"schema": by_kind["schema"]}
    assert found.counts("tokens/s") == words | {"schema": by_kind["schema"]}
    assert found.counts("TPOT").items() >= words.items()
    assert {each.output_tokens for each in samples if each.kind in words} == {20}
    assert all(each.began < each.first < each.ended for each in samples if each.kind in words)
    assert 0.004 < median(each.tpot_s or 0 for each in samples if each.kind in words) < 1
    users = [each.users for each in found.run.crowds]
    assert {2, 4} <= set(users) <= {0, 1, 2, 3, 4}
    assert users[-1] == 0
    assert "TTFT" in (tmp_path / "locust.html").read_text()
    report.main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "throughput&gt;=50" in page


def test_users_of_several_apis_at_once(site: FakeSite, tmp_path: Path) -> None:
    """Each API's answers are read as they are: none fails."""
    limits = "errors<=0,anthropic:ttft.p95<=5000,tools:requests>=4"
    found = run(
        tmp_path, url(site.port), "--model=all", EQUAL, "--lengths=64/20", "--turns=2",
        "--api=ollama,openai,responses,anthropic", f"--thresholds={limits}",
    )  # fmt: skip
    assert found.status == 0, found.output
    asked = Counter((each.api, each.kind) for each in found.run.samples)
    for api in ("ollama", "openai", "responses", "anthropic"):
        assert min(asked[api, kind] for kind in ("chat", "schema", "tools")) > 0
    assert {api for api, kind in asked if kind in ("generate", "embed")} == {"ollama", "openai"}
    assert found.counts("POST") == {f"{api} {kind}": count for (api, kind), count in asked.items()}
    texts = [each for each in found.run.samples if each.kind == "chat"]
    assert {each.output_tokens for each in texts} == {20}
    assert all(each.began < each.first < each.ended for each in texts)


def test_a_missed_threshold_is_the_exit_status(site: FakeSite, tmp_path: Path) -> None:
    found = run(
        tmp_path, url(site.port), "--model=plain", "--lengths=8/3", "--thresholds=ttft.p50<=0.001", seconds=1
    )
    assert found.status == 1
    assert "ttft.p50<=0.001" in found.output
    assert "MISSED" in found.output
    assert "left out of the mix, for the model cannot do it: embed, tools" in found.output
    assert {each.kind for each in found.run.samples} <= {"chat", "generate", "schema"}
    assert [each["holds"] for each in found.run.about["verdicts"]] == [False]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--mix=tea=1", "a mix has"),
        ("--turns=0", "turns"),
    ],
)
def test_an_option_that_cannot_be_used(argument: str, said: str, tmp_path: Path) -> None:
    found = run(tmp_path, url(1), argument)
    assert found.status == 2, found.output
    assert said in found.output
    assert not (tmp_path / "run.json").exists()


def test_a_run_begins_when_its_model_is_loaded(tmp_path: Path) -> None:
    def loading() -> FakeEngine:
        time.sleep(3)
        return FakeEngine(answer, delay_s=0.005)

    with fake_site(fake_model("slow"), engine=loading) as slow:
        found = run(tmp_path, url(slow.port), "--model=slow", "--mix=chat", "--lengths=8/5", seconds=2)
    assert found.status == 0, found.output
    assert len(found.run.samples) > 4
    assert max(each.ttft_s or 0 for each in found.run.samples) < 2.5


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    found = run(tmp_path, url(free_port()), seconds=1)
    assert found.status == 1, found.output
    assert "cannot ask show of 'smollm2:135m'" in found.output


def test_answers_that_are_not_whole_are_failures(tmp_path: Path) -> None:
    answers = [
        ("good", TEXT + DONE + END),
        ("cut in the middle", TEXT),
        ("cut in the middle", TEXT + b"5\r\nab"),
        ("no answer", HEAD[:20]),
        ("the stream ends without a done line", TEXT + END),
        ("error line: gone", TEXT + line(error="gone") + END),
        ("a line that is no JSON", TEXT + b'3\r\n{"a\r\n' + END),
        ("status 503: busy", b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy"),
        ("silent for longer than --timeout", b""),
    ]
    with stub(answers) as server:
        found = run(
            tmp_path, url(server.port) + "/base/", "--mix=generate", "--lengths=8/5", "--key=sesame",
            "--timeout=0.5", "--thresholds=errors<=0.5",
        )  # fmt: skip
    assert found.status == 1, found.output
    errors = Counter(each.error for each in found.run.samples)
    told = Counter({name: count for name, count in server.given.items() if name != "good"})
    assert errors.pop("") == server.given["good"] - 1 > 2  # one warms up
    assert {next(name for name in told if error.startswith(name)) for error in errors} == set(told)
    assert sum(errors.values()) == told.total() == found.failures()
    assert server.heads[0].startswith("POST /base/api/chat HTTP/1.1\r\n")
    assert all(head.startswith("POST /base/api/generate HTTP/1.1\r\n") for head in server.heads[1:])
    assert all("authorization: bearer sesame\r\n" in head.lower() for head in server.heads)
    assert "sesame" not in (tmp_path / "run.json").read_text()


def test_a_master_and_two_workers(site: FakeSite, tmp_path: Path) -> None:
    port = f"--master-port={(bind := free_port())}"
    folder = tmp_path / "master"
    workers = [start(tmp_path / f"worker{number}", "--worker", port) for number in range(2)]
    master = start(
        folder, "--master", f"--master-bind-port={bind}", "--master-bind-host=127.0.0.1",
        "--expect-workers=2", f"--host={url(site.port)}", "--users=4", "--run-time=10", "--stop-timeout=20",
        "--model=all", EQUAL, "--lengths=16/10",
    )  # fmt: skip
    found = finish(master, folder)
    ended = [finish(worker, tmp_path / f"worker{number}") for number, worker in enumerate(workers)]
    assert [found.status, *(each.status for each in ended)] == [0, 0, 0], found.output
    assert Counter(each.kind for each in found.run.samples) == found.counts("POST")
    assert len(found.run.samples) > 20
    assert max(each.users for each in found.run.crowds) == 4
    assert not any((each.folder / "run.json").exists() for each in ended)


def test_the_web_form_has_our_options_and_starts_a_run(site: FakeSite, tmp_path: Path) -> None:
    port = free_port()
    arguments = [
        f"--web-port={port}",
        "--web-host=127.0.0.1",
        "--key=sesame",
        "--model=plain",
        "--lengths=8/5",
    ]
    process = start(tmp_path, *arguments, headless=False)
    form = {"user_count": 2, "spawn_rate": 2, "host": url(site.port), "run_time": "1m", "mix": "generate"}
    try:
        with httpx.Client(base_url=url(port), timeout=10) as browser:
            wait_for(lambda: browser.get("/").status_code == 200)
            page = browser.get("/").text
            assert "most_answer" in page
            assert "sesame" not in page
            assert browser.post("/swarm", data=form).json()["success"]
            wait_for(
                lambda: {"POST", "TTFT", "TPOT", "tokens/s"} <= {row["method"] for row in shown(browser)}
            )
            assert {row["name"] for row in shown(browser)} == {"generate", "Aggregated"}
            browser.get("/stop")
    finally:
        process.send_signal(SIGTERM)
        found = finish(process, tmp_path)
    assert found.status == 0, found.output
    assert {each.kind for each in found.run.samples} == {"generate"}


def shown(browser: httpx.Client) -> list[dict[str, Any]]:
    """What the page's table is made from."""
    return browser.get("/stats/requests").json()["stats"]


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(httpx.TransportError):
            if true():
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)  # another process: there is nothing to wait on
