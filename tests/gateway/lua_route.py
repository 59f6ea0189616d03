"""route.lua as the chart has it, in a Lua runtime of its own."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lupa.luajit21 import LuaRuntime

from harness.envoy import CHART

MODELS = {"qwen3": "q", "smollm2:135m": "s", "Hub.co/Org/Model:Q4": "h", "ns/model": "n"}
Route = Callable[[bytes, bytes], Any]


SCRIPT = (CHART / "files" / "route.lua").read_text()
SMALL = 3
"""Bytes of a part: so few that every token is cut somewhere."""
OF_TEXT = """
function route_text(text, path)
  return route(#text, function(first, count)
    assert(first >= 1 and count >= 1 and first + count - 1 <= #text)
    return string.sub(text, first, first + count - 1)
  end, path or "/api/chat")
end
"""


def runtime(
    *,
    affinity: bool = True,
    keyed: bool = False,
    part: int = 0,
    steps: int = 0,
    before: str = "",
    models: Mapping[str, str] = MODELS,
    pools: Sequence[tuple[str, int, Sequence[str]]] = (),
) -> Any:
    """The script as the chart has it, where it wants to read `part` bytes at once, in at most `steps`.

    `pools` are slugs, pods over which a model is spread, and patterns of names.
    """
    made: Any = LuaRuntime  # its stub leaves parameters out
    lua = made(encoding=None)
    names = "".join(f"[{json.dumps(name)}] = {json.dumps(slug)}," for name, slug in models.items())
    head = f"MODELS = {{{names}}} AFFINITY = {json.dumps(affinity)} KEYED = {json.dumps(keyed)}\n"
    if pools:
        head += f"POOLS = {{{''.join(_pool(*pool) for pool in pools)}}}\n"
    source = re.sub(r"(?<=local PART = )\d+", str(part) if part else r"\g<0>", SCRIPT)
    source = re.sub(r"(?<=local MOST_STEPS = )\d+", str(steps) if steps else r"\g<0>", source)
    lua.execute((before + head + source + OF_TEXT).encode())
    return lua


def _pool(slug: str, pods: int, names: Sequence[str]) -> str:
    taken = f", names = {{{', '.join(map(json.dumps, names))}}}" if names else ""
    return f"{{ slug = {json.dumps(slug)}, pods = {pods}{taken} }},"


def script(*, affinity: bool = True, part: int = 0) -> Route:
    return runtime(affinity=affinity, part=part).globals()[b"route_text"]


ROUTE, IN_PARTS = script(), script(part=SMALL)


def routed(body: bytes, path: str = "/api/chat") -> Any:
    """What comes of a body, the same however it is cut."""
    found = ROUTE(body, path.encode())
    assert IN_PARTS(body, path.encode()) == found
    return found


def workload(body: bytes | dict[str, Any], path: str = "/api/chat") -> str | None:
    found = routed(body if isinstance(body, bytes) else json.dumps(body).encode(), path)
    name = found[0] if isinstance(found, tuple) else found
    return None if name is None else name.decode()


def hashed(body: dict[str, Any], path: str = "/api/chat") -> bytes | None:
    found = routed(json.dumps(body).encode(), path)
    return found[1] if isinstance(found, tuple) else None
