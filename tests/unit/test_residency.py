"""Which devices an engine goes to, and what goes for it."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.device import Device, Need, Placement
from app.runtime.policy import Loaded
from app.runtime.residency import Decision, Impossible, MakeRoom, Place, Resident, Wait, decide, room


def idle(key: str, size: int = 0, *on: int, keep_alive_s: float = 300, since: float = 0) -> Resident:
    return Resident(Loaded(key, 0, keep_alive_s, since), Placement(on or (0,), size, 100), size)


def busy(key: str, size: int = 0, *on: int) -> Resident:
    return Resident(Loaded(key, 1, 300, 0), Placement(on or (0,), size, 100), size)


def host(*residents: Resident, total: int = 100) -> list[Device]:
    return [Device(0, total, total - sum(each.used for each in residents))]


ANY = Need(0, 0)


@pytest.mark.parametrize(
    ("loaded", "max_loaded", "expected"),
    [
        ([], 1, "place"),
        ([busy("a"), busy("b")], 0, "place"),
        ([busy("a")], 2, "place"),
        ([busy("a")], 1, Wait(("a",))),
        ([idle("a"), busy("b")], 2, MakeRoom(("a",))),
        ([idle("a", since=9), idle("b", since=3)], 2, MakeRoom(("b",))),
        ([idle("a", keep_alive_s=math.inf), idle("b", since=9)], 2, MakeRoom(("b",))),
        ([idle("a", since=1), idle("b", keep_alive_s=60, since=9)], 2, MakeRoom(("b",))),
        ([idle("a"), idle("b"), idle("c", keep_alive_s=1)], 2, MakeRoom(("c", "a"))),
        ([idle("a"), busy("b"), busy("c")], 2, Wait(("a", "b"))),
    ],
)
def test_engines_are_counted(loaded: list[Resident], max_loaded: int, expected: Decision | str) -> None:
    found = decide(ANY, host(*loaded), loaded, max_loaded)
    assert ("place" if isinstance(found, Place) else found) == expected


@pytest.mark.parametrize(
    ("loaded", "need", "expected"),
    [
        ([], 100, Place(Placement((0,), 100, 100))),
        ([busy("a", 60)], 40, Place(Placement((0,), 40, 100))),
        ([busy("a", 60)], 41, Wait(("a",))),
        ([idle("a", 60)], 41, MakeRoom(("a",))),
        # One big one in place of two small ones, though it is worth more.
        ([idle("a", 20, since=1), idle("b", 20, since=2), idle("c", 60, since=3)], 60, MakeRoom(("c",))),
        ([idle("a", 30, since=2), idle("b", 30, since=1), busy("c", 30)], 40, MakeRoom(("b",))),
        ([idle("a", 30), busy("c", 60)], 71, Wait(("a", "c"))),
    ],
)
def test_bytes_are_counted(loaded: list[Resident], need: int, expected: Decision) -> None:
    assert decide(Need(need, need), host(*loaded), loaded) == expected


def test_what_was_promised_is_not_given_to_another_before_it_is_taken() -> None:
    lazy = Resident(Loaded("a", 1, 300, 0), Placement((0,), 60, 100), used=10)
    devices = [Device(0, 100, 90)]
    assert room(devices[0], [lazy]) == 40
    assert decide(Need(41, 41), devices, [lazy]) == Wait(("a",))
    assert decide(Need(40, 90), devices, [lazy]) == Place(Placement((0,), 40, 100))


def tired(key: str, size: int, *on: int, kept: int = 5, since: float = 0) -> Resident:
    return replace(idle(key, size, *on, since=since), kept=kept)


def asleep(key: str, kept: int = 5, since: float = 0) -> Resident:
    there = Resident(Loaded(key, 0, 0, since), Placement((0,), kept, 100), kept)
    return replace(there, asleep=True)


@pytest.mark.parametrize(
    ("loaded", "need", "expected"),
    [
        ([tired("a", 60)], 60, MakeRoom(("a",), ("a",))),
        ([tired("a", 60)], 95, MakeRoom(("a",), ("a",))),
        ([tired("a", 60)], 96, MakeRoom(("a",))),
        # One of the two may sleep: that of more value, which was used later.
        ([tired("a", 40, since=1), tired("b", 40, since=2)], 92, MakeRoom(("a", "b"), ("b",))),
        ([tired("a", 40, since=1), idle("b", 40, since=2)], 92, MakeRoom(("a", "b"), ("a",))),
        # What is asleep goes before what is awake, and only where it is needed.
        ([asleep("a"), tired("b", 60)], 40, MakeRoom(("a",))),
        ([asleep("a"), tired("b", 60)], 41, MakeRoom(("b",), ("b",))),
        ([asleep("a", since=2), asleep("b", since=1), busy("c", 60)], 35, MakeRoom(("b",))),
    ],
)
def test_who_sleeps_keeps_something_of_the_device(
    loaded: list[Resident], need: int, expected: Decision
) -> None:
    assert decide(Need(need, need), host(*loaded), loaded) == expected


def test_what_is_asleep_is_not_loaded() -> None:
    there = [asleep("a"), busy("b", 10)]
    assert isinstance(decide(ANY, host(*there), there, 2), Place)
    assert decide(ANY, host(*there), there, 1) == Wait(("b",))


def test_what_others_than_engines_have_is_out_of_reach_and_told() -> None:
    found = decide(Need(3 << 30, 3 << 30), [Device(0, 8 << 30, 2 << 30)], [])
    assert isinstance(found, Impossible)
    assert found.reason == "it needs 3.0 GiB on the device, and of 8.0 GiB models can have 2.0 GiB"


def test_a_model_goes_to_the_device_with_the_most_room() -> None:
    devices = [Device(0, 100, 50), Device(1, 100, 80), Device(2, 100, 60)]
    assert decide(Need(30, 100), devices, []) == Place(Placement((1,), 80, 100))
    assert decide(Need(30, 40, count=2), devices, []) == Place(Placement((1, 2), 40, 100))
    assert decide(Need(30, 40, only=(0,)), devices, []) == Place(Placement((0,), 40, 100))


def test_room_is_made_on_one_device_and_not_on_all() -> None:
    loaded = [idle("a", 90, 0, since=5), idle("b", 90, 1, since=1), busy("c", 90, 2)]
    devices = [Device(index, 100, 10) for index in range(3)]
    assert decide(Need(50, 50), devices, loaded) == MakeRoom(("b",))
    assert decide(Need(50, 50, count=2), devices, loaded) == MakeRoom(("b", "a"))
    assert decide(Need(50, 50, count=3), devices, loaded) == Wait(("b", "a", "c"))


def test_an_engine_of_several_devices_gives_room_on_all_of_them() -> None:
    loaded = [idle("wide", 60, 0, 1)]
    devices = [Device(0, 100, 40), Device(1, 100, 40)]
    assert decide(Need(70, 70, count=2), devices, loaded) == MakeRoom(("wide",))


def test_too_few_devices_are_told() -> None:
    found = decide(Need(1, 1, count=4), [Device(0, 9, 9), Device(1, 9, 9)], [])
    assert found == Impossible("it needs 4 devices, and there are 2 for it")


def test_many_devices_do_not_make_a_decision_slow() -> None:
    devices = [Device(index, 100, 100) for index in range(64)]
    begun = time.thread_time()
    assert isinstance(decide(Need(10, 10, count=32), devices, []), Place)
    assert time.thread_time() - begun < 1


residents = st.lists(
    st.builds(
        lambda key, users, keep, since, size, used, on: Resident(
            Loaded(key, users, keep, since), Placement(tuple(sorted(on)), size, 100), min(used, size)
        ),
        key=st.uuids().map(str),
        users=st.integers(0, 1),
        keep=st.sampled_from([0, 60.0, 300.0, math.inf]),
        since=st.floats(0, 1e6),
        size=st.integers(0, 60),
        used=st.integers(0, 60),
        on=st.sets(st.integers(0, 2), min_size=1, max_size=2),
    ),
    max_size=6,
)


def after(devices: Sequence[Device], loaded: Sequence[Resident], gone: Sequence[str]) -> list[int]:
    """The room of each device once some have gone."""
    left = [each for each in loaded if each.loaded.key not in gone]
    freed = {
        device.index: sum(
            each.used for each in loaded if each.loaded.key in gone and device.index in each.placement.devices
        )
        for device in devices
    }
    return [
        room(Device(device.index, device.total, device.free + freed[device.index]), left)
        for device in devices
    ]


@given(residents, st.integers(0, 110), st.integers(1, 3), st.integers(0, 6), st.integers(0, 30))
def test_a_decision_makes_just_enough_room(
    loaded: list[Resident], least: int, count: int, max_loaded: int, foreign: int
) -> None:
    devices = [
        Device(
            index,
            300,
            300 - foreign - sum(each.used for each in loaded if index in each.placement.devices),
        )
        for index in range(3)
    ]
    found = decide(Need(least, 2 * least, count), devices, loaded, max_loaded)
    users = {each.loaded.key: each.loaded.users for each in loaded}
    match found:
        case Place(placement):
            rooms = after(devices, loaded, ())
            assert len(placement.devices) == count
            assert all(rooms[index] >= placement.bytes_each >= least for index in placement.devices)
            assert not max_loaded or len(loaded) < max_loaded
        case MakeRoom(keys) | Wait(keys):
            assert bool(sum(users[key] for key in keys)) is isinstance(found, Wait)
            rooms = sorted(after(devices, loaded, keys), reverse=True)
            assert rooms[count - 1] >= least
            assert not max_loaded or len(loaded) - len(keys) < max_loaded
            for (
                kept
            ) in keys:  # None of them goes needlessly: without it there is too little room, or one too many.
                others = [key for key in keys if key != kept]
                fits = sorted(after(devices, loaded, others), reverse=True)[count - 1] >= least
                assert not fits or (max_loaded and len(loaded) - len(others) >= max_loaded)
        case Impossible():
            rooms = sorted(after(devices, loaded, list(users)), reverse=True)
            assert rooms[count - 1] < least
