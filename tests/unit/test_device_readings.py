"""What is known of devices while their driver answers, fails, or hangs."""

import time
from collections.abc import Callable, Sequence
from threading import Event

import pytest

from app.core.device import Device
from app.engine.memory.readings import Readings

SOON_S = 20.0
FULL, EMPTY = Device(0, 100, 0), Device(0, 100, 100)


class Driver:
    """Answers with `devices`, raises `error`, or (while not `answers`) never."""

    def __init__(self) -> None:
        self.devices: Sequence[Device] = [EMPTY]
        self.error: Exception | None = None
        self.answers = Event()
        self.answers.set()
        self.asked = 0

    def read(self) -> Sequence[Device]:
        self.asked += 1
        self.answers.wait(SOON_S)
        if self.error is not None:
            raise self.error
        return self.devices


def eventually(done: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_a_reading_that_was_asked_for_is_of_after_the_question() -> None:
    driver = Driver()
    readings = Readings(driver.read, every_s=1000)
    assert (list(readings.last), readings.is_current) == ([EMPTY], True)
    driver.devices = [FULL]
    assert list(readings.last) == [EMPTY], "nobody has asked"
    assert await readings.fresh()
    assert list(readings.last) == [FULL]


def test_it_is_kept_fresh_though_nobody_asks() -> None:
    driver = Driver()
    readings = Readings(driver.read, every_s=0.01)
    driver.devices = [FULL]
    eventually(lambda: list(readings.last) == [FULL])


async def test_a_driver_that_hangs_holds_nobody_up_and_what_it_said_last_is_known() -> None:
    driver = Driver()
    readings = Readings(driver.read, every_s=1000, limit_s=0.2)
    driver.answers.clear()
    begun = time.monotonic()
    assert not await readings.fresh()
    assert not await readings.fresh()
    assert time.monotonic() - begun < SOON_S / 2
    assert list(readings.last) == [EMPTY]
    assert not readings.is_current
    assert driver.asked == 2, "one thread asks it, and waits"
    driver.answers.set()
    assert await readings.fresh()
    assert readings.is_current


def test_a_driver_that_hangs_from_the_start_does_not_keep_the_server_from_starting() -> None:
    driver = Driver()
    driver.answers.clear()
    begun = time.monotonic()
    readings = Readings(driver.read, limit_s=0.2)
    assert time.monotonic() - begun < SOON_S / 2
    assert (list(readings.last), readings.is_current) == ([], False)
    driver.answers.set()
    eventually(lambda: list(readings.last) == [EMPTY])


async def test_a_driver_that_fails_is_told_of_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.error = OSError("GPU is lost")
    readings = Readings(driver.read, every_s=1000)
    for _ in range(3):
        assert not await readings.fresh()
    assert [record.message for record in caplog.records] == ["the memory of the devices cannot be read"]
    driver.error = None
    assert await readings.fresh()
    assert list(readings.last) == [EMPTY]
