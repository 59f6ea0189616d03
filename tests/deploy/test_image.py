"""The CPU image, built and run: read-only, with neither root, capabilities nor network (rows C2, C7)."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.container import LIMITS, build, pip_options, podman

pytestmark = [pytest.mark.image, pytest.mark.row("C2", "C7"), pytest.mark.timeout(2400)]

OWNER = 10001
CONFINED = (
    "--read-only",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
    "--tmpfs",
    "/tmp:rw,size=1g",
)
READY_S = 900.0
"""Longest time from the start of a container until its engine is loaded, on a slow machine."""

CHAT = """
import ollama, sys
for part in ollama.Client("http://127.0.0.1:11434").chat(
    "smollm2:135m", [{"role": "user", "content": sys.argv[1]}], stream=True,
    options={"temperature": 0, "num_predict": int(sys.argv[2])},
):
    print(part.message.content, end="", flush=True)
    if part.done:
        print(f"\\n{part.done_reason} {part.eval_count}")
"""


@pytest.fixture(scope="module")
def image() -> str:
    return build()


@pytest.fixture(scope="module")
def cache(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume that `caravan fetch` has filled from an image that holds no weights."""
    folder = tmp_path_factory.mktemp("volume")
    folder.chmod(0o777)
    done = podman(
        *("run", "--rm", "--network", "host", *CONFINED, *LIMITS, *pip_options()),
        *("--volume", f"{folder}:/cache", image, "fetch"),
    )
    assert done == "", "the log goes to standard error"
    return folder


class Running:
    """A container that serves."""

    def __init__(self, image: str, *options: str) -> None:
        given = ("run", "--detach", "--no-healthcheck", *CONFINED, *LIMITS, *options, image)
        self.id = podman(*given).strip()

    @property
    def log(self) -> str:
        """Everything that it has written."""
        return podman("logs", self.id)

    def inspect(self, field: str) -> str:
        return podman("inspect", "--format", "{{" + field + "}}", self.id).strip()

    def inside(self, *command: str) -> str:
        return podman("exec", self.id, *command)

    def client(self, *arguments: str) -> "subprocess.Popen[str]":
        """The official client as a process in the container's network, which has nothing but itself."""
        place = f"--net=/proc/{self.inspect('.State.Pid')}/ns/net"
        command = ["nsenter", place, sys.executable, "-c", CHAT, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def chat(self, text: str, tokens: int = 16) -> str:
        process = self.client(text, str(tokens))
        said, _ = process.communicate(timeout=READY_S)
        assert process.returncode == 0
        return said

    def ready(self) -> bool:
        assert self.inspect(".State.Running") == "true", self.log
        asked = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:11434/readyz').status)"
        return podman("exec", self.id, "python", "-c", asked, check=False).strip() == "200"


@pytest.fixture(scope="module")
def container(image: str, cache: Path) -> Iterator[Running]:
    """A server without a network, on a cache that it cannot write to."""
    running = Running(
        *(image, "--network", "none", "--volume", f"{cache}:/cache:ro"),
        *("--shm-size", "1g", "--env", f"CARAVAN_LOAD_TIMEOUT={READY_S:.0f}s"),
    )
    try:
        eventually(running.ready, READY_S)
        yield running
    finally:
        podman("rm", "--force", "--time", "5", running.id)


def eventually(holds: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(1)


def test_no_weights_are_inside(image: str) -> None:
    found = podman(
        *("run", "--rm", "--entrypoint", "find", *CONFINED, *LIMITS, image),
        *("/", "-xdev", "(", "-name", "*.gguf", "-o", "-name", "*.safetensors", ")", "-size", "+20M"),
        check=False,
    )
    assert found == ""


def test_the_image_says_what_it_is(image: str) -> None:
    config = json.loads(podman("image", "inspect", image))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["tini", "--", "caravan"], ["serve"])
    assert config["Labels"]["org.opencontainers.image.title"] == "Caravan"


def test_a_chat_by_the_official_client(container: Running) -> None:
    said = container.chat("What is the capital of France?")
    assert "Paris" in said


def test_it_runs_as_nobody_in_particular_and_can_do_nothing_else(container: Running) -> None:
    status = dict(
        line.split(":", 1) for line in container.inside("cat", "/proc/1/status").splitlines() if ":" in line
    )
    assert status["Name"].strip() == "tini"
    assert {int(number) for number in (status["Uid"] + status["Gid"]).split()} == {OWNER}
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    for place in ("/opt/caravan/x", "/cache/x"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            container.inside("touch", place)


def test_what_a_dead_engine_leaves_is_reaped_and_the_next_chat_is_answered(container: Running) -> None:
    def processes() -> dict[str, tuple[str, str]]:
        """State and name by process id."""
        lines = container.inside("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; true").splitlines()
        split = [(line.split(" ", 1)[0], *line.split(" ", 1)[1].rsplit(") ", 1)) for line in lines]
        return {number: (rest.split()[0], name.strip("(")) for number, name, rest in split}

    engines = {number for number, (_, name) in processes().items() if "VLLM" in name}
    assert engines, processes()
    container.inside("sh", "-c", f"kill -9 {' '.join(engines)}")
    eventually(container.ready, READY_S)
    assert "Paris" in container.chat("What is the capital of France?")
    eventually(lambda: not any(state == "Z" for state, _ in processes().values()), 10)


def test_sigterm_lets_a_stream_end_and_the_server_leave_with_status_0(container: Running) -> None:
    streaming = container.client("Tell me a long story.", "48")
    assert streaming.stdout is not None
    streaming.stdout.read(8)
    began = time.monotonic()
    podman("stop", "--time", "60", container.id)
    took_s = time.monotonic() - began
    rest, _ = streaming.communicate(timeout=60)
    assert rest.splitlines()[-1] == "length 48", "the stream was cut"
    assert container.inspect(".State.ExitCode") == "0"
    assert took_s < 60, "it had to be killed"
