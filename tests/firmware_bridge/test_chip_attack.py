"""Random and damaged frames on the emulated chip, across resets of every kind.

Half a million in `make attack`, fewer in `make test`. As many again, with new settings among them,
are in test_chip_settings.py: the two run side by side.
"""

import numpy as np
import pytest

from firmware_bridge.protocol import Cause, Hello, Move
from tests.firmware_bridge import emulated
from tests.firmware_bridge.emulated import HZ

pytestmark = pytest.mark.chip

emulated.require()

US = HZ // 1_000_000


@pytest.mark.parametrize("frames", [100_000, pytest.param(500_000, marks=pytest.mark.attack)])
def test_no_pulse_leaves_the_limits_or_jumps_whatever_bytes_arrive(frames):
    with emulated.Chip(seed=1) as chip:
        record = chip.record
        record.low, record.high, record.step = 1000 * US, 2000 * US, 60 * US
        count = chip.attack(seed=1, frames=frames, settings=False, resets=True)
        print(
            f"{count.frames} frames ({count.noise} noise, {count.broken} broken, {count.hostile} "
            f"hostile, {count.sane} sane), {sum(record.resets)} resets, {record.pulses} pulses, "
            f"{chip.now_s:.0f} s"
        )
        assert count.frames == frames
        assert min(count.noise, count.broken, count.hostile) > frames / 25
        assert record.pulses > frames / 10
        assert record.outside == record.jumps == record.glitches == 0
        assert record.shortest == record.low and record.longest == record.high  # they were reached
        for cause in (Cause.POWER_ON, Cause.EXTERNAL, Cause.BROWN_OUT, Cause.WATCHDOG, Cause(0)):
            assert record.resets[cause] > frames / 50_000
        assert count.silences > frames / 50_000
        assert count.replies > frames / 25 and count.garbled <= sum(record.resets)
        assert works(chip)


def works(chip) -> bool:
    """It answers and goes where it is told."""
    chip.run(0.1)
    greeting = chip.ask(Hello(0x51F0)).body
    for _ in range(10):
        chip.say(Move(1111.0, 1888.5))
        chip.run(0.1)
    return greeting.nonce == 0x51F0 and chip.measured() == (1111.0, 1888.5)


def test_the_judge_sees_what_is_wrong():
    """The same attack, judged by limits that are too narrow for the firmware by one tick."""
    with emulated.Chip(seed=1) as chip:
        record = chip.record
        record.low, record.high, record.step = 1000 * US, 2000 * US - 8, 60 * US - 8
        chip.attack(seed=1, frames=20_000, settings=False, resets=True)
        assert record.outside > 0 and record.jumps > 0
        assert record.first_bad.width > 0


def test_the_stack_stays_small():
    """Over the 512 bytes that variables may take there is nothing but the stack."""
    with emulated.Chip(seed=3) as chip:
        chip.run(emulated.START_S)
        mark = 0xA5
        chip.ram()[512:-100] = mark
        chip.attack(seed=3, frames=20_000, settings=True, resets=False)
        used = len(chip.ram()) - 512 - np.flatnonzero(chip.ram()[512:] != mark)[0]
        print(f"{used} bytes of stack")
        assert used < 256
