"""Where the head was when, out of reports: against motions known in full."""

import math

import numpy as np
import pytest

from firmware_bridge.track import GAP_S, UNANSWERED_S, UNKNOWN, WAKE_S, SafePose, Sample, Track

SETTLE_S = 0.1
SPEED_RAD_S = 2.0


class Sweep:
    """From rest at (0, 0) to goal_rad, evenly, beginning at begin_s."""

    def __init__(self, goal_rad, begin_s):
        self.goal_rad = goal_rad
        self.begin_s = begin_s
        self.end_s = begin_s + max(map(abs, goal_rad)) / SPEED_RAD_S

    def here_rad(self, t_s):
        part = np.clip((t_s - self.begin_s) / (self.end_s - self.begin_s), 0.0, 1.0)
        return part * self.goal_rad[0], part * self.goal_rad[1]

    def moves(self, t_s):
        return self.begin_s <= t_s < self.end_s

    def report(self, t_s):
        return Sample(
            t_s=t_s,
            commanded_s=self.begin_s if self.moves(t_s) else t_s,
            here_rad=self.here_rad(t_s),
            goal_rad=self.goal_rad if t_s >= self.begin_s else (0.0, 0.0),
            remaining_s=max(0.0, self.end_s - t_s) if self.moves(t_s) else 0.0,
            moving=self.moves(t_s),
        )


def still(t_s, here_rad=(0.0, 0.0)):
    return Sample(t_s, t_s, here_rad, here_rad, 0.0, False)


@pytest.mark.parametrize("seed", range(20))
def test_between_reports_the_head_is_where_it_was(seed):
    rng = np.random.default_rng(seed)
    sweep = Sweep(tuple(rng.uniform(-1.0, 1.0, 2)), begin_s=0.5)
    # Irregular reports, one right at the start, as the answer to the move is.
    times = np.sort(np.append(rng.uniform(0.0, 2.0, 60), [0.0, sweep.begin_s, 2.0]))
    track = Track(SETTLE_S)
    for t_s in times:
        track.add(sweep.report(float(t_s)))
    for t_s in rng.uniform(0.0, 2.0, 300):
        pose = track.at(t_s)
        assert np.allclose((pose.pan_rad, pose.tilt_rad), sweep.here_rad(t_s), atol=1e-12)
        if sweep.begin_s <= t_s < sweep.end_s + SETTLE_S:
            assert pose.moving  # never said to be still when it is not
        if SETTLE_S < t_s < sweep.begin_s - 1e-9:
            assert not pose.moving
    after_s = next(t for t in times if t >= sweep.end_s)
    assert not track.at(after_s + SETTLE_S + 1e-9).moving


def test_a_wrong_forecast_is_corrected_by_the_next_report():
    """A servo that is slower than it told: between two reports it went on evenly."""
    track = Track(SETTLE_S)
    track.add(Sample(1.0, 1.0, (0.0, 0.0), (1.0, 0.0), 0.1, True))  # would be there at 1.1
    track.add(Sample(1.2, 1.2, (0.5, 0.0), (1.0, 0.0), 0.1, True))  # was half way at 1.2
    assert track.at(1.2).pan_rad == 0.5
    before = [track.at(t_s).pan_rad for t_s in (1.0, 1.1999999)]
    assert before == pytest.approx([0.0, 0.5], abs=1e-5)


def test_after_the_newest_report_the_motion_told_goes_on_and_ends_at_its_goal():
    track = Track(SETTLE_S)
    track.add(Sample(1.0, 1.0, (0.0, 0.2), (1.0, -0.2), 0.4, True))
    assert track.at(1.1) == pytest.approx((0.25, 0.1, True))
    assert track.at(1.4) == pytest.approx((1.0, -0.2, True))


def test_a_command_not_yet_answered_counts_as_motion():
    track = Track(SETTLE_S)
    track.add(still(0.0))
    track.add(still(1.0))
    track.commanded_s = 1.05
    assert not track.at(1.04).moving
    assert track.at(1.06).moving
    track.add(Sample(1.1, 1.05, (0.0, 0.0), (1.0, 0.0), 0.5, True))
    track.commanded_s = None
    assert not track.at(1.04).moving  # the answer tells since when
    assert track.at(1.06).moving


def test_a_silent_head_moves_until_it_must_be_home():
    track = Track(SETTLE_S)
    track.safe = SafePose((0.1, -0.1), 4.0)
    track.add(still(10.0, (0.5, 0.5)))
    assert track.at(10.0 + GAP_S - 0.01) == (0.5, 0.5, False)
    assert track.at(10.0 + GAP_S + 0.01).moving
    assert track.at(14.0).moving
    assert track.at(14.2) == (0.1, -0.1, False)
    track.commanded_s = 14.3  # it cannot have heard that
    assert track.at(14.4) == (0.1, -0.1, False)


def test_a_head_that_helps_itself_by_nothing_stays_where_it_was_going():
    track = Track(SETTLE_S)
    track.add(Sample(1.0, 1.0, (0.0, 0.0), (1.0, 0.0), 2.0, True))
    assert track.at(2.0) == (0.5, 0.0, True)
    assert track.at(9.0) == (1.0, 0.0, False)
    track.commanded_s = 5.0
    assert track.at(5.1).moving
    assert not track.at(5.0 + UNANSWERED_S).moving


def test_across_a_gap_nothing_is_claimed_to_be_still():
    track = Track(SETTLE_S)
    for t_s in (0.0, 1.0, 1.4, 3.0, 3.1, 3.3):
        track.add(still(t_s))
    assert not track.at(1.2).moving
    assert track.at(2.0).moving
    assert not track.at(3.2).moving


def test_a_limp_head_is_nowhere_and_a_stiffened_one_swings_for_long():
    track = Track(SETTLE_S)
    track.add(still(0.0, UNKNOWN))
    track.add(still(0.5, UNKNOWN))
    assert math.isnan(track.at(0.2).pan_rad) and math.isnan(track.at(99.0).tilt_rad)
    for t_s in np.arange(0.6, 3.0, 0.1):
        track.add(still(float(t_s)))
    assert math.isnan(track.at(0.55).pan_rad)
    assert track.at(0.6 + WAKE_S).moving
    assert track.at(0.6 + WAKE_S + SETTLE_S + 0.01) == (0.0, 0.0, False)


def test_before_the_first_report_nothing_is_known_to_be_still():
    track = Track(SETTLE_S)
    assert track.at(0.0).moving and math.isnan(track.at(0.0).pan_rad)
    track.add(still(1.0))
    assert track.at(0.5).moving


def test_memory_is_bounded_and_the_oldest_go_first():
    track = Track(SETTLE_S)
    for i in range(5000):
        track.add(still(0.1 * i, (1e-4 * i, 0.0)))
    assert track.at(499.9).pan_rad == pytest.approx(0.4999)
    assert track.at(0.0).pan_rad > 0.3
    assert len(track._samples) <= 1024
