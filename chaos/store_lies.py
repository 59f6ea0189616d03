"""Files whose headers lie, sent to a server and made models of; and what becomes of those that are taken."""

import importlib
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from app.catalogue.conversion import allowance
from app.catalogue.headers import read_gguf
from chaos.store_clients import folder, upload
from harness.fake_server import FakeServer
from harness.lying_headers import fields_of_gguf, lying_gguf, lying_json, lying_safetensors
from harness.tiny_gguf import write_gguf

if TYPE_CHECKING:
    from chaos.store import Found, Place

MIB = 1 << 20
MOST_GROWTH_MIB = 48
MOST_S = 20.0
_WARM = 20
"""Requests after which a server has set aside what it needs for such."""


async def lied(place: "Place", headers: int, seed: int, *, converted: int | None = None) -> "Found":
    """Send `headers` files of each format and convert the first `converted` (None: all) that are taken."""
    from chaos.store import Found, client_of

    found, chance, counts = Found(), random.Random(seed), Counter[str]()
    good = write_gguf(place.root / "good.gguf").read_bytes()
    fields, head = fields_of_gguf(good)
    files = folder(random.Random(seed))
    sound = files.pop("model.safetensors")
    small = files
    taken: list[Path] = []
    server = place.start()
    async with client_of(server) as http:
        judge = _Judge(http, server, found)
        for number in range(headers):
            lies = {
                "w.gguf": lying_gguf(good, fields, head, chance),
                "model.safetensors": lying_safetensors(sound, chance),
            }
            for name, data in lies.items():
                more = {} if name == "w.gguf" else small
                if await judge.takes({**more, name: data}):
                    counts[name] += 1
                    taken.append(place.root / f"{number}-{name}")
                    taken[-1].write_bytes(data)
            name = chance.choice(sorted(small))
            changed = {**small, name: lying_json(small[name], chance), "model.safetensors": sound}
            counts["folder"] += await judge.takes(changed)
            if number == _WARM:
                judge.warm()
        found.wrong += judge.grown()
        listed = await http.get("/api/tags")
        if len(listed.json()["models"]) != 1:
            found.wrong.append(f"what was refused is listed: {listed.text}")
    server.stop()
    if not taken:
        found.wrong.append("nothing was taken")
    ends, wrong = judged_apart(taken[:converted])
    found.wrong += wrong
    found.told = (
        f"- {headers} headers of each format that lie: {counts['w.gguf']} GGUF and "
        f"{counts['model.safetensors']} safetensors files are taken, and {counts['folder']} folders whose "
        "JSON lies, all others refused with a sentence; "
        f"of those taken {ends['served']} load, {ends['refused']} are refused with a reason, "
        f"{ends['killed']} end their own process; the slowest answer took {judge.slowest_s:.2f} s, "
        f"memory grew by {judge.growth_mib:.1f} MiB"
    )
    return found


class _Judge:
    """Holds each answer against what may be."""

    def __init__(self, http: httpx.AsyncClient, server: FakeServer, found: "Found") -> None:
        self._http, self._server, self._found = http, server, found
        self._before = 0
        self.slowest_s = self.growth_mib = 0.0

    async def takes(self, contents: Mapping[str, bytes]) -> bool:
        """Whether a model of these files is made; it is then shown, asked and deleted."""
        began = time.monotonic()
        files = {name: await upload(self._http, data) for name, data in contents.items()}
        made = await self._ask("POST", "/api/create", model="lie", files=files, stream=False)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if made.status_code == 200:
            for path, body in (("/api/show", {"verbose": True}), ("/api/generate", {"prompt": "Hi"})):
                answer = await self._ask("POST", path, model="lie", stream=False, **body)
                self._expect(answer.status_code == 200, path, answer)
            gone = await self._ask("DELETE", "/api/delete", model="lie")
            self._expect(gone.status_code == 200, "/api/delete", gone)
            return True
        text = made.json().get("error", "") if made.status_code == 400 else ""
        self._expect(0 < len(text) < 400 and "Traceback" not in text, "/api/create", made)
        return False

    def warm(self) -> None:
        self._before = self._server.memory_bytes()

    def grown(self) -> list[str]:
        self.growth_mib = (self._server.memory_bytes() - self._before) / MIB if self._before else 0.0
        peak = (self._server.memory_bytes("VmHWM") - self._before) / MIB if self._before else 0.0
        wrong = [f"the server has grown by {self.growth_mib:.0f} MiB"] * (self.growth_mib > MOST_GROWTH_MIB)
        wrong += [f"at its most the server had {peak:.0f} MiB more"] * (peak > 4 * MOST_GROWTH_MIB)
        return wrong + [f"the slowest answer took {self.slowest_s:.1f} s"] * (self.slowest_s > MOST_S)

    def _expect(self, is_right: bool, path: str, answer: httpx.Response) -> None:
        if not is_right:
            self._found.wrong.append(f"{path}: {answer.status_code} {answer.text[:500]}")

    async def _ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        return await self._http.request(method, path, json=body)


def judged_apart(files: list[Path]) -> tuple[Counter[str], list[str]]:
    """What becomes of files where they are loaded, in a process for each; and what may not be."""
    if not files:
        return Counter(), []
    command = [sys.executable, "-m", __name__, *map(str, files)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line.split(" ", 1) for line in out.stdout.splitlines()]
    wrong = [text for kind, text in lines if kind == "wrong"]
    if out.returncode or len(lines) != len(files):
        wrong.append(f"{len(lines)} of {len(files)} files were judged, status {out.returncode}")
    return Counter(kind for kind, _ in lines), wrong


def _judge_all(files: list[Path]) -> None:
    """A line for each file: how its loading ended, in a child that is bound as a conversion is."""
    for library in ("gguf", "safetensors", "torch", "transformers"):
        importlib.import_module(library)
    for file in files:
        began = time.monotonic()
        pid = os.fork()
        if not pid:
            os._exit(_loaded(file))
        _, status, used = os.wait4(pid, 0)
        took_s, kind = time.monotonic() - began, "served"
        if os.WIFSIGNALED(status):
            kind = "killed"
        elif os.WEXITSTATUS(status):
            kind = "refused"
        if took_s > 120 or used.ru_maxrss > 6 << 20:
            kind = "wrong"
        print(kind, f"{file.name}: status {status}, {took_s:.1f} s, {used.ru_maxrss >> 10} MiB", flush=True)


def _loaded(file: Path) -> int:
    """The child's work."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    load: Callable[[Path], None] = _converted if file.suffix == ".gguf" else _mapped
    try:
        load(file)
    except Exception:  # whatever it is, it is a reason and no crash
        return 1
    return 0


def _converted(file: Path) -> None:
    from app.catalogue.dequantise import dequantise
    from app.core.confinement import bind

    allowed = allowance(file.stat().st_size, read_gguf(file))
    bind(memory_bytes=allowed.memory_bytes, file_bytes=allowed.file_bytes, processor_s=100)
    target = file.with_suffix(".folder")
    target.mkdir()
    dequantise(file, target, lambda _phase, _fraction: None)


def _mapped(file: Path) -> None:
    from safetensors import safe_open

    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    with safe_open(file, "numpy") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            opened.get_tensor(name)


if __name__ == "__main__":
    _judge_all([Path(each) for each in sys.argv[1:]])
