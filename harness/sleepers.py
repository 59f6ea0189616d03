"""A server over scripted engines that can be put to sleep, on a device with room for one that is awake.

`python -m harness.sleepers serve --port N --config FILE` is the whole server but vLLM and a GPU: what takes
turns asleep there is decided, told and counted as on one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from app.core.device import Device, Need
from app.core.model import Model
from app.engine.fake.engine import FakeEngine


class Device100:
    """100 bytes, of which an engine has 60, or 5 where it is asleep, and 30 of the host then."""

    tells = is_current = True
    settles_s = 0.0

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []

    def start(self) -> FakeEngine:
        self.engines.append(FakeEngine(can_sleep=True))
        return self.engines[-1]

    def devices(self) -> Sequence[Device]:
        taken = sum(5 if each.asleep else 60 for each in self.engines if not each.closed)
        return [Device(0, 100, 100 - taken)]

    async def fresh(self) -> bool:
        return True

    def need(self, model: Model) -> Need:
        return Need(60, 60, host=30, asleep=5)

    def measured(self, model: Model, bytes_each: int, rank: int) -> None: ...

    def spare_host_bytes(self) -> int:
        return 1000


def serve(port: int, names: Sequence[str]) -> None:
    """Until told to stop."""
    from app.catalogue.library import Library
    from app.main import build_app
    from app.runtime.ledger import Ledger
    from app.runtime.lifecycle import Lifecycle
    from app.serve import bind, listen
    from app.settings.server import read_settings
    from harness.fake_model import fake_model

    device = Device100()

    async def start(_: Model) -> FakeEngine:
        return device.start()

    settings = read_settings(host=f"127.0.0.1:{port}")
    lifecycle = Lifecycle(grace_s=1)
    ledger = Ledger(device, sleep_bytes=settings.sleep_memory)
    library = Library([fake_model(name, "completion") for name in names])
    app = build_app(settings, library, start, lifecycle=lifecycle, ledger=ledger)
    listen(app, settings, lifecycle, bind(settings.host))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=Path, required=True)
    given = parser.parse_args()
    serve(given.port, [each["name"] for each in yaml.safe_load(given.config.read_text())["models"]])


if __name__ == "__main__":
    main()
