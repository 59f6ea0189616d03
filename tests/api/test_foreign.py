"""What models of the store bring, over HTTP: templates are run in a process of their own, and told of."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from app.core.pool import Pool
from app.core.request import ChatPrompt
from app.engine.base import Prompt
from app.engine.confined.processes import HelperLimits, Helpers
from app.engine.fake.engine import FakeEngine
from tests.api.managed import Site, managed
from tests.unit.catalogue_folders import LLAMA, make_folder

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x"


class Confining(FakeEngine):
    """Runs templates that are not configuration's as the real engine does."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.helpers = Helpers("m", Pool(), limits=HelperLimits(time_s=0.5))

    async def render(self, chat: ChatPrompt, *, confined: bool = False, **others: Any) -> Prompt:
        if confined:
            messages = [{"role": each.role, "content": each.text} for each in chat.messages]
            job = {"do": "render", "template": others["chat_template"], "variables": {"messages": messages}}
            await self.helpers.ask({**job, "continues": False, "encodes": False})
        return await super().render(chat, confined=confined, **others)

    async def close(self) -> None:
        await self.helpers.aclose()
        await super().close()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site]:
    monkeypatch.setattr("tests.api.managed.FakeEngine", Confining)
    async with managed(tmp_path) as made:
        yield made
        for engine in made.engines:
            await engine.close()


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "abc"}]}


async def test_a_template_without_an_end_is_a_clear_refusal_and_holds_up_nobody(site: Site) -> None:
    """M22."""
    await site.made(model="endless", **{"from": "plain"}, template=ENDLESS)
    answers = [
        asyncio.ensure_future(site.send(path, **chat("endless"), stream=False, **more))
        for path, more in (
            ("/api/chat", {}),
            ("/v1/chat/completions", {}),
            ("/v1/messages", {"max_tokens": 9}),
        )
    ]
    loop, worst = asyncio.get_running_loop(), 0.0
    while not all(answer.done() for answer in answers):
        began = loop.time()
        assert (await site.client.get("/livez")).status_code == 200
        worst = max(worst, loop.time() - began)
        await asyncio.sleep(0.02)
    for answer in answers:
        assert answer.result().status_code == 400
        assert "it takes longer than" in json.dumps(answer.result().json())
    assert worst < 2
    assert (await site.send("/api/chat", **chat("plain"), stream=False)).status_code == 200


async def test_templates_of_configured_models_stay_in_the_server(site: Site) -> None:
    await site.made(
        model="j", **{"from": "plain"}, template="{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    await site.made(model="same", **{"from": "plain"}, system="Hi")
    for model, confined in (("plain", False), ("same", False), ("j", True)):
        assert (await site.send("/api/chat", **chat(model), stream=False)).status_code == 200
        assert site.engines[0].renderings[-1].confined == confined, model


async def test_an_upload_that_names_another_model_is_refused_with_the_reason(
    site: Site, tmp_path: Path
) -> None:
    """M21."""
    config = {**LLAMA, "speculators_config": {"verifier": {"name_or_path": "/models/hidden"}}}
    folder = make_folder(tmp_path / "folder", config)
    files = {each.name: await site.uploaded(each.read_bytes()) for each in sorted(folder.iterdir())}
    answer = await site.send("/api/create", model="m", files=files, stream=False)
    assert answer.status_code == 400
    assert "config.json: speculators_config names another model" in answer.json()["error"]
    assert await site.names() == ["plain:latest"]
