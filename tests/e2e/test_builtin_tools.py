"""The source's own example (rows B5 and B10): the real engine answers from what only a real page says.

The bundled model calls nothing by itself, so its template shows it the last message alone, where examples
have it write the call, and then what the page says.
"""

import json
import os
import shlex
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.server import MIB, serving
from scripts.tools import tool
from tests.e2e.engines import OwnServer, own

pytestmark = pytest.mark.engine

SAYS = "4711"
"""Stands on the page and in no request."""
_EXAMPLES = "<p>Question: What is the code?<br>Answer: The code is 4711.</p>" * 6
PAGE = f"<html><head><title>Codes</title></head><body><article>{_EXAMPLES}</article></body></html>"
SHOWS = "8822"
"""Stands on no page: a script writes it."""
SCRIPTED = """<html><head><title>Codes</title></head><body><article id="a"></article><script>
const line = "<p>Question: What is the code?<br>Answer: The code is " + (8800 + 22) + ".</p>";
document.getElementById("a").innerHTML = line.repeat(6);
</script></body></html>"""
PAGES = {"/codes": PAGE, "/scripted": SCRIPTED}
TEMPLATE = (
    "{% if tools %}{% endif %}{{ messages[-1].content }}"
    "{% if messages[-1].role == 'tool' %}\nQuestion: What is the code?\nAnswer:{% endif %}"
)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGES.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]  # pyright: ignore


class Pages(ThreadingHTTPServer):
    """A site of this test's own; `asked` are the paths that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return self.at("/codes")

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[OwnServer]:
    scratch = tmp_path_factory.mktemp("tools")
    engine = {"dtype": "float32", "kv_cache_memory_bytes": 256 * MIB, "max_model_len": 4096}
    model = {
        "name": "echo",
        "source": "bundled",
        "tool_parser": "hermes",
        "chat_template": TEMPLATE,
        "engine": engine,
    }
    settings: dict[str, Any] = {
        "CARAVAN_PRELOAD": "true",
        "CARAVAN_TOOLS": "net,webview",
        "PATH": f"{browser(scratch)}{os.pathsep}{os.environ['PATH']}",
        "CARAVAN_FETCH_ALLOW": f"127.0.0.1:{pages.server_port}",
    }
    with serving([model], scratch, **settings) as live, own(live, scratch) as running:
        yield running


def browser(scratch: Path) -> Path:
    """A folder with Debian's Chromium as a program that needs nothing of the environment."""
    chromium = tool("chromium")
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in chromium.environment.items())
    folder = scratch / "bin"
    folder.mkdir()
    program = folder / "chromium"
    program.write_text(f'#!/bin/sh\nexec env {settings} {shlex.quote(str(chromium.path))} "$@"\n')
    program.chmod(0o755)
    return folder


def asking(url: str, tool: str = "web_fetch") -> str:
    """A message that has the model call for `url`."""
    call = f'<tool_call>\n{{"name": "{tool}", "arguments": {{"url": "{url}"}}}}\n</tool_call>'
    return f"Q {url} \nA: {call}\n<END>\n\n" * 5 + f"Q {url} \nA:"


def ask(site: OwnServer, path: str, text: str, **fields: Any) -> httpx.Response:
    prompt = {"messages": [{"role": "user", "content": text}]} if path == "/api/chat" else {"prompt": text}
    options = {"temperature": 0, "num_predict": 60, "stop": ["\n<END>", "\nQuestion"]}
    body = {"model": "echo", "options": options, "datai": {"tools": {"net": True}}, **prompt, **fields}
    answer = site.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.row("B5")
def test_a_chat_is_answered_from_a_page(site: OwnServer, pages: Pages) -> None:
    answer = ask(site, "/api/chat", asking(pages.url), stream=False).json()
    assert SAYS in answer["message"]["content"]
    assert "tool_calls" not in answer["message"]
    assert answer["done_reason"] == "stop"
    assert "/codes" in pages.asked


@pytest.mark.row("B10")
def test_a_completion_is_answered_from_a_page_in_a_stream(site: OwnServer, pages: Pages) -> None:
    datai = {"tools": {"net": True}, "progress": True}
    streamed = ask(site, "/api/generate", asking(pages.url), stream=True, datai=datai).text
    lines = [json.loads(line) for line in streamed.splitlines()]
    assert SAYS in "".join(line["response"] for line in lines)
    uses = [use for line in lines for use in line.get("datai", {}).get("tool_uses", ())]
    assert [(use["target"], use.get("outcome")) for use in uses] == [(pages.url, None), (pages.url, "ok")]
    assert lines[-1]["prompt_eval_count"] > len(PAGE) // 10


@pytest.mark.row("B5")
def test_a_chat_is_answered_from_what_a_browser_shows(site: OwnServer, pages: Pages) -> None:
    text, datai = asking(pages.at("/scripted"), "web_view"), {"tools": {"webview": True}}
    answer = ask(site, "/api/chat", text, stream=False, datai=datai).json()
    assert SHOWS in answer["message"]["content"]
    assert SHOWS not in SCRIPTED


@pytest.mark.row("B5")
def test_what_may_not_be_opened_is_told_to_the_model_and_the_log(site: OwnServer, pages: Pages) -> None:
    private = f"http://127.0.0.1:{pages.server_port + 1}/codes"
    answer = ask(site, "/api/chat", asking(private), stream=False).json()
    assert SAYS not in answer["message"]["content"]
    ends = time.monotonic() + 30
    while "web_fetch" not in (said := site.log_file.read_text()) or '127.0.0.1" - refused' not in said:
        assert time.monotonic() < ends, said
        time.sleep(0.1)
