"""A server that asks for keys, with the scripted model, for every client of the session."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from app.access.keys import new_key
from app.engine.fake.engine import FakeEngine
from harness.fake_model import fake_model
from tests.clients.scripted import script
from tests.e2e.fake_site import FakeSite, fake_site


@dataclass(frozen=True, slots=True)
class Keyed:
    """The server's address, without a path, and a key that it takes."""

    site: FakeSite
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.site.port}"


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    key, digest = new_key("client")
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    scopes = ["inference", "models:read"]
    file.write_text(json.dumps({"keys": [{"id": "client", "hash": digest, "scopes": scopes}]}))
    models = (fake_model("m"), fake_model("emb", "embedding"))
    with fake_site(*models, engine=lambda: FakeEngine(script), keys_file=file) as site:
        yield Keyed(site, key)
