"""Which models are configured."""

from pathlib import Path

import pytest

from app.prepare import BUNDLED, served
from app.settings.server import CONFIG_VARIABLE, read_settings


@pytest.mark.point(170)
@pytest.mark.parametrize(
    ("variables", "file", "expected"),
    [
        ({}, "", [BUNDLED.name]),
        ({"CARAVAN_MODELS": ""}, "", [BUNDLED.name]),
        ({"CARAVAN_MODELS": "[]"}, "", []),
        ({}, "models: []", []),
        ({"CARAVAN_MODELS": '[{"name": "m", "source": "/m"}]'}, "", ["m"]),
        ({"CARAVAN_PEERS": "http://a:11434"}, "", []),
    ],
)
def test_the_bundled_model_is_served_unless_something_else_is_said(
    variables: dict[str, str],
    file: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CARAVAN_MODELS", "CARAVAN_PEERS", CONFIG_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file:
        (tmp_path / "caravan.yaml").write_text(file)
        monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "caravan.yaml"))
    assert [model.name for model in served(read_settings())] == expected
