"""How long a server that was told to stop goes on."""

from app.runtime.lifecycle import Lifecycle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def made(*, grace_s: float = 30, delay_s: float = 0) -> tuple[Lifecycle, Clock]:
    clock = Clock()
    return Lifecycle(grace_s=grace_s, delay_s=delay_s, clock=clock), clock


def test_a_server_goes_on_until_it_is_told_to_stop() -> None:
    lifecycle, clock = made()
    clock.now += 1e6
    assert (lifecycle.draining, lifecycle.over(0), lifecycle.over(1)) == (False, False, False)


def test_what_is_under_way_has_the_grace_period() -> None:
    lifecycle, clock = made(grace_s=30)
    lifecycle.stop()
    assert (lifecycle.draining, lifecycle.over(0)) == (True, True)
    clock.now += 29.9
    assert not lifecycle.over(1)
    clock.now += 0.1
    assert lifecycle.over(1)


def test_a_second_stop_is_the_end_of_waiting() -> None:
    lifecycle, _ = made()
    lifecycle.stop()
    lifecycle.stop()
    assert lifecycle.over(5)


def test_an_idle_server_stays_for_the_delay_but_not_beyond_the_grace_period() -> None:
    lifecycle, clock = made(grace_s=30, delay_s=5)
    lifecycle.stop()
    assert not lifecycle.over(0)
    clock.now += 5
    assert lifecycle.over(0)
    lifecycle, clock = made(grace_s=3, delay_s=5)
    lifecycle.stop()
    clock.now += 3
    assert lifecycle.over(0)


def test_a_failure_drains_too_and_the_first_reason_counts() -> None:
    lifecycle, _ = made()
    lifecycle.fail("an engine keeps dying")
    lifecycle.fail("another does too")
    assert (lifecycle.draining, lifecycle.failure) == (True, "an engine keeps dying")
    assert not lifecycle.over(1), "a second failure is no second signal"
