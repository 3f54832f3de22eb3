"""Settings in the EEPROM of the emulated chip: kept, never half, whatever is cut or damaged."""

import random

import numpy as np
import pytest

from firmware_bridge.protocol import (
    AxisSettings,
    Cause,
    Configure,
    Flag,
    Hello,
    Move,
    Result,
    Status,
)
from tests.firmware_bridge import emulated
from tests.firmware_bridge.emulated import HZ, START_S

pytestmark = pytest.mark.chip

emulated.require()

US = HZ // 1_000_000
DEFAULT = AxisSettings()
WRITTEN_S = 0.2  # all bytes of a copy


@pytest.fixture
def chip():
    with emulated.Chip() as chip:
        chip.run(START_S)
        yield chip


def settings(number):
    """Valid settings that no other number has."""
    pan = AxisSettings(600.0 + number, 2400.0 - number, 1500.0 + number, 1000 + number)
    tilt = AxisSettings(700.0 + number, 2300.0 - number, 1400.0 - number, 2000 + number)
    return Configure(1000 + number, pan, tilt)


def kept(chip):
    """What the board says its settings are."""
    greeting = chip.ask(Hello(1)).body
    return Configure(greeting.board_id, greeting.pan, greeting.tilt)


def power_cycle(chip):
    chip.reset(Cause.POWER_ON, emulated.Ram.RANDOM)
    chip.run(START_S)


def test_settings_hold_at_once_and_outlive_power_and_resets(chip):
    assert kept(chip) == Configure(0, DEFAULT, DEFAULT)
    assert Flag.DEFAULT_SETTINGS in chip.state().flags
    for number in range(5):
        assert chip.ask(settings(number)).result == Result.OK
        assert kept(chip) == settings(number)
        chip.run(WRITTEN_S)
        for cause in (Cause.EXTERNAL, Cause.BROWN_OUT, Cause.WATCHDOG, Cause(0), Cause.POWER_ON):
            chip.reset(cause, emulated.Ram.RANDOM)
            chip.run(START_S)
            assert kept(chip) == settings(number)
            assert Flag.DEFAULT_SETTINGS not in chip.state().flags


def test_new_limits_hold_on_the_pins(chip):
    narrow = AxisSettings(1400.0, 1600.5, 1450.0, 3000)
    assert chip.ask(Configure(1, narrow, narrow)).result == Result.OK
    chip.run(WRITTEN_S)
    power_cycle(chip)
    chip.record.low, chip.record.high = 1400 * US, 1600 * US + 8
    for pan, tilt in ((0.0, 2500.0), (2500.0, 0.0), (32767.5, 32767.5), (0.0, 0.0)):
        assert chip.ask(Move(pan, tilt)).result == Result.CLIPPED
        chip.run(0.4)
    assert chip.record.outside == 0
    assert (chip.record.shortest, chip.record.longest) == (1400 * US, 1600 * US + 8)


def test_a_power_cut_while_writing_leaves_the_old_settings_or_the_new(chip):
    """At every moment of the writing of both copies. The byte being written is garbage then."""
    old = Configure(0, DEFAULT, DEFAULT)
    outcomes = {"old": 0, "new": 0}
    for number, cut_s in enumerate(np.arange(0.0, 0.125, 0.0007), 1):
        assert chip.ask(settings(number)).result == Result.OK
        chip.run(cut_s)
        power_cycle(chip)
        now = kept(chip)
        assert now in (old, settings(number))
        outcomes["new" if now == settings(number) else "old"] += 1
        old = now
    assert outcomes["old"] > 50 and outcomes["new"] > 5


def test_bits_that_flip_leave_settings_that_were_once_valid(chip):
    rng = random.Random(3)
    for number in (1, 2):
        chip.ask(settings(number))
        chip.run(WRITTEN_S)
    whole = chip.eeprom().copy()
    used = np.flatnonzero(whole != 0xFF)
    valid = [settings(1), settings(2)]
    for _ in range(300):
        chip.eeprom()[:] = whole
        chip.eeprom()[rng.choice(used)] ^= 1 << rng.randrange(8)
        power_cycle(chip)
        assert kept(chip) in valid
        assert Flag.DEFAULT_SETTINGS not in chip.state().flags


@pytest.mark.parametrize("seed", range(50))
def test_an_eeprom_full_of_nonsense_means_the_default_settings(seed):
    with emulated.Chip(seed) as chip:
        memory = chip.eeprom()
        memory[:] = np.random.default_rng(seed).integers(0, 256, len(memory)) * (seed > 0)
        power_cycle(chip)
        assert kept(chip) == Configure(0, DEFAULT, DEFAULT)
        assert Flag.DEFAULT_SETTINGS in chip.state().flags


def test_writing_does_not_shake_the_pulses(chip):
    chip.say(Move(1600.0, 1400.0))
    chip.run(0.3)
    chip.pulses()
    for number in range(3):
        assert chip.ask(settings(number)).result == Result.OK
        for _ in range(10):
            chip.run(0.02)
            chip.say(Status())
    pulses = chip.pulses()
    for axis, width_us in enumerate((1600, 1400)):
        of_axis = pulses[pulses["axis"] == axis]
        assert set(of_axis["width"]) == {width_us * US}
        assert set(np.diff(of_axis["rise"])) == {HZ // 50}


def test_settings_that_cannot_be_are_refused(chip):
    fine = AxisSettings()
    for bad in (
        fine._replace(low_us=499.5),
        fine._replace(high_us=2500.5),
        fine._replace(low_us=1500.5),
        fine._replace(high_us=1499.5),
        fine._replace(slew_us_per_s=0),
    ):
        assert chip.ask(Configure(1, bad, fine)).result == Result.REFUSED
        assert chip.ask(Configure(1, fine, bad)).result == Result.REFUSED
    assert kept(chip) == Configure(0, DEFAULT, DEFAULT)


@pytest.mark.parametrize(
    ("frames", "near_us"),  # the more frames, the nearer settings come to what servos stand
    [(100_000, 100), pytest.param(500_000, 20, marks=pytest.mark.attack)],
)
def test_no_pulse_leaves_what_any_servo_stands_whatever_bytes_and_settings_arrive(frames, near_us):
    """CONFIGURE among them; test_chip_attack.py has as many without."""
    with emulated.Chip(seed=2) as chip:
        record = chip.record
        record.low, record.high = 500 * US, 2500 * US
        count = chip.attack(seed=2, frames=frames, settings=True, resets=True)
        print(f"{count.frames} frames, {sum(record.resets)} resets, {record.pulses} pulses")
        assert count.frames == frames
        assert record.pulses > frames / 10
        assert record.outside == record.glitches == 0
        # settings were obeyed
        assert record.shortest < (500 + near_us) * US and record.longest > (2500 - near_us) * US
        assert count.garbled <= sum(record.resets)
        chip.run(START_S)
        assert chip.ask(Hello(5)).body.nonce == 5
