"""Every name and label that the dashboard and the rules use is one that a server with keys exports."""

import asyncio
from pathlib import Path
from typing import Any

import yaml

from app.access.keys import new_key
from app.core.errors import EngineFailed
from app.engine.fake.engine import FakeEngine
from app.engine.fake.script import Reply
from harness.fake_model import fake_model
from tests.api.scrape import value
from tests.e2e.engines import eventually
from tests.e2e.fake_site import fake_site
from tests.observability.promql import GATEWAY, exported, expressions, unmet

SOON_S = 10.0


def hold(index: int) -> asyncio.Future[None]:
    """Lets one delta through and holds the second back for ever."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if not index:
        future.set_result(None)
    return future


def engine() -> FakeEngine:
    script = {
        "fail": Reply((" a", " b"), error=EngineFailed("it broke"), error_after=1),
        "hold": Reply((" a", " b"), gate=hold),
    }
    return FakeEngine(script)


def chat(content: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": content}]}


def test_all_that_is_used_is_exported(tmp_path: Path) -> None:
    key, hashed = new_key("team")
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [{"id": "team", "hash": hashed, "scopes": ["admin"]}]}))
    settings: dict[str, Any] = {"keys_file": file, "max_body_bytes": 4096, "tools": ["net"]}
    with fake_site(fake_model("m"), engine=engine, **settings) as site:
        site.client.headers["authorization"] = f"Bearer {key}"
        assert site.client.post("/api/chat", json=chat("Hi")).status_code == 200
        assert "it broke" in site.client.post("/api/chat", json=chat("fail")).text
        assert site.client.post("/api/chat", content=b" " * 5000).status_code == 413
        assert site.client.post("/api/generate", json={"model": "m", "keep_alive": 0}).status_code == 200
        private = {"url": "http://127.0.0.1/"}
        assert site.client.post("/api/experimental/web_fetch", json=private).status_code == 400
        eventually(lambda: value(site.client, "caravan_model_unloads_total", reason="asked"), SOON_S)
        with site.client.stream("POST", "/api/chat", json=chat("hold")) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            series = exported(site.client.get("/metrics").text)
    assert [each for each in unmet(expressions(), series) if not each.startswith(("vllm:", GATEWAY))] == []
