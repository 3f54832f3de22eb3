"""Pulses of the shipping firmware on the emulated chip: widths, period, speed, arrival. Exact."""

import itertools
import math
import random

import numpy as np
import pytest

from firmware_bridge.protocol import (
    AxisSettings,
    Cause,
    Configure,
    Flag,
    Hello,
    Hold,
    Home,
    Move,
    Relax,
    Result,
    Status,
)
from tests.firmware_bridge import emulated
from tests.firmware_bridge.emulated import BYTE_S, HZ, START_S

pytestmark = pytest.mark.chip

emulated.require()

PERIOD_CYCLES = HZ // 50
PERIOD_S = 0.02
US = HZ // 1_000_000
QUARTER_US = US // 4
WIDE = AxisSettings(500.0, 2500.0, 1500.0, 65535)  # so fast that every step takes one period


@pytest.fixture
def chip():
    with emulated.Chip() as chip:
        chip.run(START_S)
        yield chip


def by_axis(pulses):
    return [pulses[pulses["axis"] == axis] for axis in (0, 1)]


def at_rest(chip, pan_us, tilt_us):
    """Pulses have come to these widths; what came before is forgotten."""
    chip.say(Move(pan_us, tilt_us))
    for _ in range(200):
        chip.run(PERIOD_S)
        if chip.measured() == (pan_us, tilt_us):
            return
        chip.say(Status())
    raise AssertionError(f"not at {pan_us}, {tilt_us} within 4 s")


# ------------------------------------------------------------------------------------------------
# Widths and period


def test_widths_are_exact_over_the_whole_range_on_both_axes(chip):
    assert chip.ask(Configure(1, WIDE, WIDE)).result == Result.OK
    chip.run(0.3)
    pan_us = 500.0 + 0.5 * np.arange(4001)
    tilt_us = 3000.0 - pan_us
    at_rest(chip, 500.0, 2500.0)
    chip.pulses()
    for pan, tilt in zip(pan_us, tilt_us, strict=True):
        chip.say(Move(pan, tilt))
        chip.run(PERIOD_S)
    chip.run(2 * PERIOD_S)
    pulses = chip.pulses()
    for axis, wanted in zip(by_axis(pulses), (pan_us, tilt_us), strict=True):
        start = np.flatnonzero(axis["width"] == wanted[0] * US)[0]
        widths = axis["width"][start : start + len(wanted)].astype(float)
        assert np.max(np.abs(widths - wanted * US)) <= QUARTER_US
        assert np.max(np.abs(np.diff(axis["rise"].astype(float)) - PERIOD_CYCLES)) == 0


def test_traffic_does_not_shake_the_pulses(chip):
    """Requests and replies at every phase of the period, and noise that the board cannot take."""
    at_rest(chip, 1234.5, 1876.0)
    rng = random.Random(1)
    chip.pulses()
    for _ in range(600):
        if rng.random() < 0.5:
            chip.say(Status())
        else:
            chip.feed(rng.randbytes(rng.randrange(1, 60)))
        chip.run(rng.uniform(0.0, 0.01))
    for axis, width_us in zip(by_axis(chip.pulses()), (1234.5, 1876.0), strict=True):
        assert len(axis) > 100
        assert set(axis["width"]) == {width_us * US}
        assert set(np.diff(axis["rise"])) == {PERIOD_CYCLES}
    assert chip.record.glitches == 0


def test_both_pulses_begin_together(chip):
    at_rest(chip, 1100.0, 1900.0)
    chip.run(1.0)
    pan, tilt = by_axis(chip.pulses())
    assert list(pan["rise"]) == list(tilt["rise"])


def test_the_board_tells_what_the_pins_do(chip):
    chip.say(Move(1900.0, 1200.5, 700))
    for _ in range(20):
        chip.run(0.0413)
        driven_us = chip.state().driven_us
        chip.run(0.001)
        latest = [axis["width"][-2:] / US for axis in by_axis(chip.pulses())]
        assert all(of_axis in widths for of_axis, widths in zip(driven_us, latest, strict=True))


# ------------------------------------------------------------------------------------------------
# Motion

SLEWS = (100, 500, 3000, 12345)
WAYS = [
    ((1500.0, 1500.0), (2000.0, 1000.0), 0),
    ((1000.0, 2000.0), (2000.0, 1999.5), 1000),
    ((1500.0, 1500.0), (1500.5, 1700.0), 35),
    ((1000.0, 1000.0), (1001.0, 2000.0), 410),
]


@pytest.mark.parametrize(("slew", "way"), list(itertools.product(SLEWS, WAYS)))
def test_both_axes_arrive_together_when_commanded_or_as_soon_as_they_can(chip, slew, way):
    start_us, goal_us, duration_ms = way
    for settings in (WIDE, AxisSettings(500.0, 2500.0, 1500.0, slew)):
        assert chip.ask(Configure(1, settings, settings)).result == Result.OK
        chip.run(0.3)
        at_rest(chip, *start_us) if settings is WIDE else None
    chip.ask(Status())
    chip.pulses()

    commanded_s = chip.now_s
    state = chip.ask(Move(*goal_us, duration_ms)).body
    step_us = slew * PERIOD_S
    furthest_us = max(abs(goal - start) for goal, start in zip(goal_us, start_us, strict=True))
    periods = max(math.ceil(furthest_us / step_us), math.ceil(1e-3 * duration_ms / PERIOD_S))
    assert state.remaining_ms == 20 * periods
    for _ in range(periods // 10 + 1):
        chip.run(0.2)
        chip.say(Status())
    chip.run(0.1)

    arrived = []
    for axis, start, goal in zip(by_axis(chip.pulses()), start_us, goal_us, strict=True):
        widths = np.concatenate([[start], axis["width"] / US])
        assert np.max(np.abs(np.diff(widths))) <= math.ceil(2 * step_us) / 2
        assert widths[-1] == goal
        arrived.append(axis["rise"][np.flatnonzero(widths[1:] == goal)[0]])
        first = axis["rise"][axis["rise"] > commanded_s * HZ + 0.5 * HZ * BYTE_S][0]
    if min(abs(goal - start) for goal, start in zip(goal_us, start_us, strict=True)) > 1.0:
        assert arrived[0] == arrived[1]
    late = max(arrived) - first
    assert abs(late - (periods - 1) * PERIOD_CYCLES) <= PERIOD_CYCLES
    assert max(arrived) / HZ - commanded_s <= periods * PERIOD_S + PERIOD_S + 0.004
    chip.state()


def test_a_new_move_takes_over_where_the_old_one_is(chip):
    chip.say(Move(2000.0, 1000.0, 1000))
    chip.run(0.4)
    chip.say(Move(1500.0, 1500.0, 200))
    chip.run(0.4)
    for axis in by_axis(chip.pulses()):
        assert np.max(np.abs(np.diff(axis["width"].astype(float)))) <= 60 * US
    assert chip.measured() == (1500.0, 1500.0)


def test_limits_hold_whatever_is_commanded(chip):
    rng = random.Random(2)
    chip.record.low, chip.record.high = 1000 * US, 2000 * US
    for _ in range(100):
        reply = chip.ask(Move(rng.uniform(0, 32767), rng.uniform(0, 32767)))
        assert reply.result in (Result.OK, Result.CLIPPED)
        chip.run(0.05)
    assert chip.record.pulses > 400 and chip.record.outside == 0


# ------------------------------------------------------------------------------------------------
# A host that falls silent


def changes_s(chip, from_s):
    """When pulses began that differ from the one before, seconds after from_s."""
    rises = []
    for axis in by_axis(chip.pulses()):
        changed = np.flatnonzero(np.diff(axis["width"])) + 1
        rises.append(axis["rise"][changed] / HZ - from_s)
    return np.unique(np.concatenate(rises))


@pytest.mark.parametrize("seed", range(8))
def test_without_its_host_it_holds_at_500_ms_and_goes_home_at_3_s(chip, seed):
    rng = random.Random(seed)
    at_rest(chip, 1100.0, 1900.0)
    chip.run(rng.uniform(0.0, PERIOD_S))
    chip.pulses()
    chip.say(Move(2000.0, 1000.0, 2000))
    silent_s = chip.now_s + BYTE_S * chip.unfed  # from the last byte on
    if seed % 2:  # noise is no host
        for _ in range(70):
            chip.run(0.1)
            chip.feed(rng.randbytes(9))
    else:
        chip.run(7.0)
    changed_s = changes_s(chip, silent_s)
    held_s = changed_s[changed_s < 1.0].max()
    homing_s = changed_s[changed_s > 1.0].min()
    assert abs(held_s - 0.5) <= 0.025
    assert abs(homing_s - 3.0) <= 0.025
    assert chip.measured() == (1500.0, 1500.0)
    assert Flag.HOST_LOST in chip.state().flags


def test_home_is_reached_at_its_own_slow_rate(chip):
    at_rest(chip, 2000.0, 1200.0)
    chip.pulses()
    chip.say(Home())
    for _ in range(6):
        chip.run(0.25)
        chip.say(Status())
    pan, _ = by_axis(chip.pulses())
    widths_us = pan["width"] / US
    on_the_way = widths_us[(widths_us < 2000.0) & (widths_us >= 1500.0)]
    assert on_the_way[0] == 1990.0 and on_the_way[49] == 1500.0  # 500 us/s: 10 us a period


def test_a_status_is_a_heartbeat(chip):
    chip.say(Move(2000.0, 1000.0, 3000))
    for _ in range(10):
        chip.run(0.45)
        assert Flag.HOST_LOST not in chip.state().flags
    assert chip.measured() == (2000.0, 1000.0)


def test_a_limp_head_stays_limp(chip):
    at_rest(chip, 1700.0, 1700.0)
    chip.ask(Relax())
    chip.run(0.1)
    chip.pulses()
    chip.run(10.0)
    assert len(chip.pulses()) == 0
    assert Flag.TORQUE_OFF in chip.state().flags


def test_hold_stops_where_it_is(chip):
    chip.say(Move(2000.0, 1000.0, 1000))
    chip.run(0.5)
    held = chip.ask(Hold()).body
    for _ in range(3):
        chip.run(0.4)
        assert chip.state().driven_us == chip.measured() == held.driven_us


# ------------------------------------------------------------------------------------------------
# Resets


@pytest.mark.parametrize("seed", range(20))
def test_power_on_never_jumps(seed):
    with emulated.Chip(seed) as chip:
        chip.record.step = 60 * US
        chip.run(1.0)
        assert len(chip.pulses()) == 0
        chip.say(Move(2000.0, 1000.0))
        chip.run(0.4)
        for axis in by_axis(chip.pulses()):
            assert axis["width"][0] == 1500 * US
        assert chip.record.jumps == 0 and chip.measured() == (2000.0, 1000.0)


def first_widths_us(chip):
    """Of the first pulses from now on, which Hold asks for."""
    chip.run(0.5)
    assert len(chip.pulses()) == 0  # torque is off until a command
    assert Flag.TORQUE_OFF in chip.state().flags
    chip.ask(Hold())
    chip.run(0.1)
    return tuple(axis["width"][0] / US for axis in by_axis(chip.pulses()))


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("cause", [Cause.EXTERNAL, Cause.WATCHDOG, Cause(0)])
def test_after_a_reset_it_is_limp_until_told_and_then_where_it_was(chip, cause, still):
    rng = random.Random(int(cause))
    for _ in range(10):
        chip.say(Move(rng.uniform(1000.0, 2000.0), rng.uniform(1000.0, 2000.0), 400))
        chip.run(rng.uniform(0.45, 0.6) if still else rng.uniform(0.1, 0.4))
        last = chip.measured()
        chip.reset(cause, boot_s=rng.choice([0.0, 1.3]))
        chip.pulses()
        chip.run(1.3)
        # In motion the next pulse may have been prepared when the reset came: one step further.
        step_us = 0.0 if still else 3000.0 * PERIOD_S
        assert first_widths_us(chip) == pytest.approx(last, abs=step_us)


@pytest.mark.parametrize("ram", emulated.Ram)
def test_after_a_brown_out_it_is_limp_until_told_and_then_at_home(chip, ram):
    at_rest(chip, 1250.0, 1750.0)
    chip.reset(Cause.BROWN_OUT, ram)
    chip.pulses()
    assert first_widths_us(chip) == (1500.0, 1500.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_memory_that_cannot_be_trusted_is_home(seed):
    """A boot loader has hidden that the power had gone."""
    with emulated.Chip(seed) as chip:
        chip.run(START_S)
        at_rest(chip, 1250.0, 1750.0)
        chip.reset(Cause(0), emulated.Ram.RANDOM)
        chip.pulses()
        assert first_widths_us(chip) == (1500.0, 1500.0)


@pytest.mark.parametrize("interrupts", [False, True])
def test_the_watchdog_ends_a_hung_loop(chip, interrupts):
    chip.record.low, chip.record.high = 1000 * US, 2000 * US
    chip.say(Move(1000.0, 2000.0, 1000))
    chip.run(0.3)
    rng = random.Random(interrupts)
    for _ in range(10):
        chip.run(rng.uniform(0.0, PERIOD_S))
        chip.hang(interrupts)
        last = chip.measured()
        hung_s = chip.now_s
        resets = chip.record.resets[Cause.WATCHDOG]
        while chip.record.resets[Cause.WATCHDOG] == resets:
            chip.run(0.001)
        assert chip.now_s - hung_s <= 0.25
        chip.run(START_S)
        assert chip.ask(Hello(9)).body.nonce == 9
        assert chip.state().reset_cause == Cause.WATCHDOG
        chip.pulses()
        chip.ask(Hold())
        chip.run(0.1)
        assert chip.measured() == pytest.approx(last, abs=60.0)  # it may have prepared one more
        chip.say(Move(2000.0, 1000.0, 1000))
        chip.run(0.2)
    assert chip.record.outside == chip.record.glitches == 0
