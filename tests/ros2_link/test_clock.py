"""Times of messages."""

import math
import time

import pytest

from ros2_link.clock import on_our_clock


@pytest.mark.parametrize("age_s", [0.0, 0.3, 0.9])
def test_stamps_of_this_clock_count(age_s):
    wall_s, before_s = time.time(), time.monotonic()
    assert on_our_clock(wall_s - age_s) == pytest.approx(before_s - age_s, abs=0.02)


@pytest.mark.parametrize("off_s", [-1e9, -5.0, 1.0, 1e9, math.inf])
def test_stamps_of_other_clocks_do_not(off_s):
    before_s = time.monotonic()
    assert before_s <= on_our_clock(time.time() + off_s) <= time.monotonic()


def test_a_stamp_that_is_not_set_does_not_count():
    before_s = time.monotonic()
    assert before_s <= on_our_clock(None) <= time.monotonic()
