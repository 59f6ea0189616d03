"""A stand-in for the Hugging Face hub: so much of its HTTP API as the real client asks for."""

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1_000
"""A file of that size is in large storage, with a SHA-256."""

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(slots=True)
class StandIn:
    """`repos` are files by repository; `gated` ones need `token`. Where `cdn` is set, large files are sent
    from there. `pause` holds back the second half of large files until it is set.
    """

    repos: dict[str, dict[str, bytes]]
    gated: frozenset[str] = frozenset()
    token: str = ""
    cdn: str = ""
    endpoint: str = ""
    pause: threading.Event | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        with suppress(ConnectionError):
            self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("authorization", "")))
        if found := _API.fullmatch(path):
            self._api(found[1], found[2] or "", found[3] or "main")
        elif found := _RESOLVE.fullmatch(path):
            self._file(found[1], found[2], found[3])
        else:
            self._send(404, b"")

    def _may(self, repo: str, revision: str) -> bool:
        if repo not in self.hub.repos:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif repo in self.hub.gated and self.headers.get("authorization") != f"Bearer {self.hub.token}":
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            return True
        return False

    def _api(self, repo: str, kind: str, revision: str) -> None:
        if not self._may(repo, revision):
            return
        files = self.hub.repos[repo]
        if kind == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)} | _lfs(data, "oid")
                for path, data in files.items()
            ]
            self._send(200, json.dumps(rows).encode())
            return
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": _git_oid(data)} | _lfs(data, "sha256")
            for path, data in files.items()
        ]
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
        self._send(200, json.dumps(info | {"siblings": siblings}).encode())

    def _file(self, repo: str, revision: str, path: str) -> None:
        if not self._may(repo, revision):
            return
        data = self.hub.repos[repo].get(path)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        large = len(data) >= LARGE_BYTES
        etag = hashlib.sha256(data).hexdigest() if large else _git_oid(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            if self.hub.cdn:
                self._send(302, b"", headers | {"Location": f"{self.hub.cdn}{self.path}"})
                return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if found:
            begin, end = int(found[1]), int(found[2]) + 1 if found[2] else len(data)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self._send(206, data[begin:end], headers)
        else:
            self._send(200, data, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        is_large = "/resolve/" in self.path and len(body) >= LARGE_BYTES
        half = len(body) // 2 if self.hub.pause and is_large else len(body)
        self.wfile.write(body[:half])
        if self.hub.pause and half < len(body):
            self.wfile.flush()
            self.hub.pause.wait(20)
            self.wfile.write(body[half:])


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _lfs(data: bytes, name: str) -> dict[str, Any]:
    if len(data) < LARGE_BYTES:
        return {}
    return {"lfs": {name: hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}


@contextmanager
def stand_in(repos: dict[str, dict[str, bytes]], **more: Any) -> Generator[StandIn]:
    hub = StandIn(repos, **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.pause:
            hub.pause.set()
        server.shutdown()
        thread.join()
        server.server_close()
