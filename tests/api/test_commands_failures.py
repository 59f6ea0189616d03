"""What a command says of servers that fail or are none, and how the program ends."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import _app  # pyright: ignore[reportPrivateUsage]  # the program as it is installed
from harness.ports import free_port
from tests.api.scripted import scripted
from tests.egress.site import certificate, serves_with

WAIT_S = 60
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


def answer(
    body: bytes, status: str = "200 OK", media_type: str = "application/json", length: int = -1
) -> bytes:
    size = len(body) if length < 0 else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def caravan(port: int, *arguments: str) -> Result:
    return CliRunner().invoke(_app, arguments, env={"CARAVAN_HOST": f"127.0.0.1:{port}"})


def reason_of(result: Result) -> str:
    """The one sentence that a command ends with."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("caravan: ")
    return sentence.removeprefix("caravan: ")


COMMANDS = (("models",), ("ps",), ("pull", "m"), ("rm", "m"), ("stop", "m"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nobody_listens(command: tuple[str, ...]) -> None:
    port = free_port()
    assert reason_of(caravan(port, *command)) == (
        f"the server at http://127.0.0.1:{port} cannot be reached: connection refused; is it running?"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (
            answer(HTML, "502 Bad Gateway", "text/html"),
            "answered 502 Bad Gateway with text/html in place of JSON",
        ),
        (
            answer(b"404 page not found", "404 Not Found", "text/plain"),
            "answered 404 Not Found with text/plain",
        ),
        (
            answer(b'{"error":"no\x1b[31m key","status":"x"}', "401 Unauthorized"),
            "by --key or CARAVAN_API_KEY",
        ),
        (answer(b'{"error":{"message":"of another kind"}}', "500 Internal Server Error"), "of another kind"),
        (
            answer(b"", "302 Found").replace(b"\r\n\r\n", b"\r\nLocation: https://x\r\n\r\n"),
            "redirect to https://x",
        ),
        (b"", "broke the connection off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke the connection off"),
        (answer(b'{"mod', length=100), "broke the connection off"),
    ],
)
def test_what_no_server_of_models_answers(command: tuple[str, ...], sent: bytes, told: str) -> None:
    if command[0] == "rm" and sent.startswith(b"HTTP/1.1 200"):
        return  # the answer to a deletion is its status
    with scripted(sent) as stub:
        reason = reason_of(caravan(stub.port, *command))
    assert told in reason
    assert reason.isprintable()


@pytest.mark.parametrize("command", [("models",), ("ps",), ("pull", "m"), ("stop", "m")], ids=" ".join)
@pytest.mark.parametrize("body", [HTML, b"[1]", b"\xff", b'"text"', b"NaN"])
def test_an_answer_that_is_not_json(command: tuple[str, ...], body: bytes) -> None:
    with scripted(answer(body, media_type="text/html")) as stub:
        assert "in place of JSON" in reason_of(caravan(stub.port, *command))


def test_a_list_of_something_else() -> None:
    for body in (b"{}", b'{"models":{}}', b'{"models":[1]}'):
        with scripted(answer(body)) as stub:
            assert "something other than a list" in reason_of(caravan(stub.port, "models"))


PULLED = (
    b'{"status":"pulling manifest"}\n'
    b'{"status":"pulling aaaaaaaaaaaa","digest":"sha256:aa","total":4000000,"completed":1000000}\n'
    b'{"status":"pulling aaaaaaaaaaaa","digest":"sha256:aa","total":4000000,"completed":4000000}\n'
)
SUCCESS = b'{"status":"success"}\n'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (PULLED, "ended before the work was done"),
        (b"", "ended before the work was done"),
        (
            PULLED + b'{"error":"pull model manifest: file does not exist"}\n',
            "pull model manifest: file does not exist",
        ),
        (PULLED + b"<html>\n", "in place of JSON"),
        (PULLED + b'{"status":', "in place of JSON"),
        (b"x" * (9 << 20), "a line of over"),
        (b'{"status":5,"total":"x","digest":[]}\n', "ended before the work was done"),
    ],
)
def test_a_stream_that_does_not_end_well(lines: bytes, told: str) -> None:
    with scripted(answer(lines)) as stub:
        assert told in reason_of(caravan(stub.port, "pull", "m"))
    with scripted(answer(lines, length=len(lines) + 1)) as stub:
        reason_of(caravan(stub.port, "pull", "m"))


def test_the_lines_of_a_stream_are_printed_as_they_are_and_its_error_is_told() -> None:
    lines = PULLED + b'{"error":"no"}\n'
    with scripted(answer(lines)) as stub:
        result = caravan(stub.port, "pull", "m", "--json")
    assert result.stdout.encode() == lines
    assert reason_of(result) == "no"


def test_plain_lines_say_each_layer_once() -> None:
    with scripted(answer(PULLED + SUCCESS)) as stub:
        result = caravan(stub.port, "pull", "m", "--insecure")
        assert stub.requests[0].endswith(b'{"model":"m","insecure":true}')
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "pulling manifest\npulling aaaaaaaaaaaa (4 MB)\nsuccess\n"


def test_the_key_goes_to_the_server_and_nowhere_else() -> None:
    with scripted(answer(b'{"models":[]}')) as stub:
        assert caravan(stub.port, "models", "--key", "secret").exit_code == 0
        assert b"\r\nauthorization: Bearer secret\r\n" in stub.requests[0].lower().replace(
            b"bearer", b"Bearer"
        )
    port = free_port()
    assert "secret" not in caravan(port, "models", "--key", "secret").output


def test_a_proxy_of_the_environment_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with scripted(answer(b'{"models":[]}')) as stub:
        assert caravan(stub.port, "models").exit_code == 0


def test_the_systems_certificates_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path, "localhost")
    with scripted(answer(b'{"models":[]}'), tls=serves_with(made)) as stub:
        address = f"https://localhost:{stub.port}"
        result = CliRunner().invoke(_app, ["models", "--host", address])
        reason = "its certificate is not trusted: self-signed certificate"
        assert reason_of(result) == f"the server at {address} cannot be reached: {reason}"
        monkeypatch.setenv("SSL_CERT_FILE", str(made.with_suffix(".crt")))
        assert CliRunner().invoke(_app, ["models", "--host", address]).exit_code == 0


def test_a_blob_that_is_refused_before_it_has_come(tmp_path: Path) -> None:
    def answers(request: bytes) -> bytes:
        if request.startswith(b"HEAD"):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return answer(b'{"error":"the blob is too large"}', "413 Payload Too Large")

    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM w.gguf")
    (tmp_path / "w.gguf").write_bytes(b"GGUF" + bytes(1 << 20))
    with scripted(answers) as stub:
        assert reason_of(caravan(stub.port, "create", "m", "-f", str(modelfile))) == "the blob is too large"
    assert [request.partition(b" HTTP")[0].partition(b" ")[0] for request in stub.requests] == [
        b"HEAD",
        b"HEAD",
        b"POST",
    ]


# As a process


def command_of(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def environment(port: int) -> Mapping[str, str]:
    return {**os.environ, "CARAVAN_HOST": "", "OLLAMA_HOST": f"127.0.0.1:{port}", "COLUMNS": "100"}


def process(port: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command_of(*arguments),
        env=environment(port),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("models",), 0, ""),
        (("models", "--host", "ftp://x"), 2, "caravan: --host: ftp:// is neither http:// nor https://"),
        (("models", "--nope"), 2, "No such option"),
        (("rm",), 2, "Missing argument"),
        (
            ("create", "m", "-f", "/nowhere/Modelfile"),
            1,
            "caravan: /nowhere/Modelfile: No such file or directory",
        ),
        (("import", "/nowhere"), 1, "caravan: /nowhere is no folder of models"),
    ],
)
def test_how_the_program_ends(arguments: tuple[str, ...], code: int, told: str) -> None:
    with scripted(answer(b'{"models":[]}')) as stub:
        ended = process(stub.port, *arguments)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.stdout or code == 0


HEAVY = {"fastapi", "starlette", "uvicorn", "pydantic_settings", "torch", "transformers", "vllm", "numpy"}
"""Of what the server needs. pydantic itself is imported by typer."""


def test_a_command_starts_without_the_server(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom app.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    with scripted(answer(b'{"models":[]}')) as stub:
        for arguments in (["models", "--json"], ["pull", "m", "--json"]):
            ended = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                env=environment(stub.port),
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
            modules = ended.stderr.splitlines()[-1].split()
            assert "httpx" in modules
            assert {module.split(".")[0] for module in modules} & HEAVY == set()
            ours = {module for module in modules if module.startswith("app.")}
            assert not {
                module for module in ours if module.startswith(("app.api", "app.engine", "app.runtime"))
            }
            assert "app.settings.server" not in ours


def test_a_large_file_is_sent_in_pieces(tmp_path: Path) -> None:
    def answers(request: bytes) -> bytes:
        if request.startswith(b"HEAD"):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return answer(SUCCESS if b"/api/create" in request else b"", "201 Created")

    size = 300 << 20
    (tmp_path / "Modelfile").write_text("FROM w.gguf")
    with (tmp_path / "w.gguf").open("wb") as file:
        file.write(b"GGUF")
        file.truncate(size)
    # Not getrusage, which also counts what the process was before it became this program.
    program = (
        "import re\nfrom app.cli import main\n"
        "try:\n    main()\nfinally:\n    status = open('/proc/self/status').read()\n"
        "    print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) >> 10)"
    )
    with scripted(answers) as stub:
        ended = subprocess.run(
            [sys.executable, "-c", program, "create", "m", "-f", str(tmp_path / "Modelfile")],
            env=environment(stub.port),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
    uploads = [request for request in stub.requests if request.startswith(b"POST /api/blobs/")]
    assert [f"content-length: {size}".encode() in request.lower() for request in uploads] == [True]
    assert int(ended.stdout) < 200, "MiB"


def test_an_interrupted_pull_says_that_it_goes_on() -> None:
    with scripted(answer(PULLED, length=10**6), hold=True) as stub:
        running = subprocess.Popen(
            command_of("pull", "m"),
            env=environment(stub.port),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A shell has what it starts in the background ignore the signal.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
        )
        assert running.stderr is not None
        assert running.stderr.readline() == "pulling manifest\n"
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=WAIT_S)
    assert running.returncode == 130
    assert output == ""
    assert errors.splitlines()[-1] == (
        "caravan: the pull was broken off; what has come is kept, and the same pull goes on from there"
    )
    assert "Traceback" not in errors


def on_terminal(port: int, *arguments: str) -> str:
    """What a command that ends well leaves on a terminal, from its first line as it is drawn last."""
    terminal, inner = pty.openpty()
    running = subprocess.Popen(
        command_of(*arguments),
        env={**environment(port), "TERM": "xterm", "COLUMNS": "120"},
        stderr=inner,
        stdout=subprocess.PIPE,
    )
    os.close(inner)
    output, _ = running.communicate(timeout=WAIT_S)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    assert (running.returncode, output) == (0, b"")
    return shown.decode()


def test_a_terminal_has_a_bar_for_each_layer() -> None:
    second = PULLED.replace(b"aa", b"bb").partition(b"\n")[2]
    with scripted(answer(PULLED + second + SUCCESS)) as stub:
        shown = on_terminal(stub.port, "pull", "m")
    last = shown[shown.rindex("pulling manifest") :]
    for layer in ("pulling aaaaaaaaaaaa", "pulling bbbbbbbbbbbb"):
        [line] = [line for line in last.splitlines() if layer in line]
        assert "100%" in line
        assert "4.0/4.0 MB" in line
    assert "success" in last


def test_a_terminal_has_a_bar_for_each_file(tmp_path: Path) -> None:
    def answers(request: bytes) -> bytes:
        if request.startswith(b"HEAD"):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        lines = b'{"status":"parsing [bold]GGUF"}\n' + SUCCESS
        return answer(lines if b"/api/create" in request else b"", "201 Created")

    (tmp_path / "Modelfile").write_text("FROM w.gguf")
    (tmp_path / "w.gguf").write_bytes(b"GGUF" + bytes(2_000_000))
    with scripted(answers) as stub:
        shown = on_terminal(stub.port, "create", "m", "-f", str(tmp_path / "Modelfile"))
    last = shown[shown.rindex("hashing w.gguf") :]
    for label in ("hashing w.gguf", "uploading w.gguf"):
        assert any(label in line and "2.0/2.0 MB" in line for line in last.splitlines())
    assert "parsing [bold]GGUF" in last, "what a server says is no markup"


def test_a_reader_that_leaves_is_no_failure() -> None:
    rows = [{"name": f"m{number}", "digest": "0" * 64, "size": 1} for number in range(20_000)]
    with scripted(answer(json.dumps({"models": rows}).encode())) as stub:
        running = subprocess.Popen(
            command_of("models"), env=environment(stub.port), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert running.stdout is not None
        running.stdout.close()
        _, errors = running.communicate(timeout=WAIT_S)
    assert b"Traceback" not in errors
