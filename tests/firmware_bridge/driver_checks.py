"""What every driver of a head must do, whatever it speaks to.

Each of CHECKS takes a Bench: a driver that was not opened yet, in front of a head that was just
switched on, and a way to let time pass for both. A newcomer is tested by one more line in
test_driver_checks.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest

from firmware_bridge.driver import Driver, Hold, Home, Move, Relax, Report, Status
from firmware_bridge.errors import LinkError

LONGEST_S = 30.0  # that any way takes


class Bench(NamedTuple):
    """A driver before its head."""

    driver: Driver
    wait: Callable[[float], None]  # let so many seconds pass


def until_still(bench: Bench) -> Report:
    """Ask until it has arrived; the last report."""
    for _ in range(round(LONGEST_S / 0.05)):
        bench.wait(0.05)
        report = bench.driver.request(Status())
        if not report.moving:
            return report
    raise AssertionError(f"still moving after {LONGEST_S} s")


def places(identity) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two positions well inside its limits, in whole steps."""
    step = identity.step
    return tuple(
        tuple(step * round((low + share * (high - low)) / step) for low, high in identity.limits)
        for share in (0.4, 0.6)
    )


def it_says_what_it_can_do(bench: Bench) -> None:
    identity = bench.driver.open()
    assert identity.name and identity.port and identity.unit
    assert identity.step > 0.0 and math.isfinite(identity.usual.per_rad)
    for (low, high), home in zip(identity.limits, identity.home, strict=True):
        assert low < high and low <= home <= high
    assert min(identity.speed) >= min(identity.home_speed) > 0.0


def opening_and_asking_moves_nothing(bench: Bench) -> None:
    bench.driver.open()
    first = bench.driver.request(Status())
    bench.wait(0.2)
    later = bench.driver.request(Status())
    assert not first.moving and not later.moving
    assert (first.goal, first.driven) == (later.goal, later.driven) and later.t_s > first.t_s


def a_move_arrives_where_it_was_sent(bench: Bench) -> None:
    identity = bench.driver.open()
    for goal in places(identity):
        report = bench.driver.request(Move(*goal, 0.3))
        assert report.goal == goal and not report.clipped and not report.torque_off
        assert until_still(bench).driven == pytest.approx(goal, abs=5 * identity.step)


def a_move_may_take_as_long_as_it_says(bench: Bench) -> None:
    identity = bench.driver.open()
    one, other = places(identity)
    bench.driver.request(Move(*one))
    until_still(bench)
    report = bench.driver.request(Move(*other, identity.longest_s))
    assert report.moving and report.remaining_s == pytest.approx(identity.longest_s, abs=0.1)
    bench.driver.request(Hold())
    until_still(bench)


def beyond_its_limits_it_goes_as_far_as_it_may_and_says_so(bench: Bench) -> None:
    identity = bench.driver.open()
    (pan_low, _), (_, tilt_high) = identity.limits
    report = bench.driver.request(Move(pan_low - 200, tilt_high + 200))
    assert report.clipped and report.goal == (pan_low, tilt_high)
    until_still(bench)


def hold_stops_it_on_its_way(bench: Bench) -> None:
    identity = bench.driver.open()
    one, other = places(identity)
    bench.driver.request(Move(*one))
    until_still(bench)
    assert bench.driver.request(Move(*other, 2.0)).moving
    bench.wait(0.1)
    bench.driver.request(Hold())
    stood = until_still(bench).driven
    assert max(abs(a - b) for a, b in zip(stood, other, strict=True)) > 5 * identity.step


def home_is_where_it_says(bench: Bench) -> None:
    identity = bench.driver.open()
    bench.driver.request(Move(*places(identity)[0]))
    until_still(bench)
    bench.driver.request(Home())
    assert until_still(bench).driven == pytest.approx(identity.home, abs=5 * identity.step)


def relax_takes_its_torque_until_the_next_command(bench: Bench) -> None:
    identity = bench.driver.open()
    goal = places(identity)[0]
    bench.driver.request(Move(*goal))
    until_still(bench)
    relaxed = bench.driver.request(Relax())
    assert relaxed.torque_off and not relaxed.moving and not relaxed.was_reset
    assert not bench.driver.request(Move(*goal)).torque_off
    until_still(bench)


def it_can_be_closed_twice_and_opened_again(bench: Bench) -> None:
    bench.driver.close()
    identity = bench.driver.open()
    bench.driver.close()
    bench.driver.close()
    with pytest.raises(LinkError):
        bench.driver.request(Status())
    assert bench.driver.open() == identity and not bench.driver.request(Status()).moving


CHECKS = [
    it_says_what_it_can_do,
    opening_and_asking_moves_nothing,
    a_move_arrives_where_it_was_sent,
    a_move_may_take_as_long_as_it_says,
    beyond_its_limits_it_goes_as_far_as_it_may_and_says_so,
    hold_stops_it_on_its_way,
    home_is_where_it_says,
    relax_takes_its_torque_until_the_next_command,
    it_can_be_closed_twice_and_opened_again,
]
