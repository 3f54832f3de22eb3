"""Where the head was when: what it reported, and in between what it was commanded."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from typing import NamedTuple

from firmware_bridge.aim import Pair

SAMPLES = 1024  # 20 s of a moving head, 100 s of one at rest
WAKE_S = 1.0  # a servo whose torque comes on turns unseen to where its first pulse has it
GAP_S = 0.5  # without a report: the line is dead, and the head has begun to help itself
UNANSWERED_S = 3.0  # a command that is not answered for so long did not arrive
UNKNOWN = (math.nan, math.nan)


class Pose(NamedTuple):
    """Where a head was at some moment; NaN where it is not known, as with torque off."""

    pan_rad: float  # positive to the right
    tilt_rad: float  # positive up
    moving: bool


class SafePose(NamedTuple):
    """Where a head that hears nothing goes by itself."""

    home_rad: Pair
    there_after_s: float  # of silence, from wherever it was


class Sample(NamedTuple):
    """One report of the head, in radians."""

    t_s: float
    commanded_s: float  # when the command it answers was given: the head may move from then on
    here_rad: Pair
    goal_rad: Pair
    remaining_s: float  # until it arrives, going straight and evenly; 0 when it does not move
    moving: bool
    still_since_s: float = math.inf


class Track:
    """The last SAMPLES reports, and where the head was between and after them.

    settle_s: for so long after it arrived a head still counts as moving, since it swings.
    """

    def __init__(self, settle_s: float) -> None:
        self.safe: SafePose | None = None  # None: a head that does nothing by itself
        self.commanded_s: float | None = None  # of the oldest command that was not answered yet
        self._settle_s = settle_s
        self._awake_s = -math.inf  # when it has turned to where it was first driven
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def add(self, sample: Sample) -> None:
        """The newest report."""
        last = self._samples[-1] if self._samples else None
        if last and last.t_s >= sample.t_s:  # a clock too coarse to tell them apart
            self._samples.pop()
        if last and not is_known(last.here_rad) and is_known(sample.here_rad):
            self._awake_s = sample.t_s + WAKE_S
        if not sample.moving:
            still_since_s = max(_still_since_s(last, sample.t_s), self._awake_s)
            sample = sample._replace(still_since_s=still_since_s)
        self._samples.append(sample)

    @property
    def newest_rad(self) -> Pair:
        """Where the head was at the newest report."""
        return self._samples[-1].here_rad if self._samples else UNKNOWN

    def at(self, t_s: float) -> Pose:
        """Where the head was at t_s."""
        index = bisect_right(self._samples, t_s, key=_time)
        if index == 0:
            return Pose(*self._samples[0].here_rad, True) if self._samples else Pose(*UNKNOWN, True)
        last = self._samples[index - 1]
        if index == len(self._samples):
            return self._since(last, t_s)
        return self._between(last, self._samples[index], t_s)

    def _between(self, last: Sample, coming: Sample, t_s: float) -> Pose:
        """As predicted at the last report, less what that was wrong by at the coming one."""
        gap_s = coming.t_s - last.t_s
        part = (t_s - last.t_s) / gap_s
        here = predict(last, t_s)
        wrong = [a - b for a, b in zip(coming.here_rad, predict(last, coming.t_s), strict=True)]
        moving = (
            self._moves_or_swings(last, t_s)
            or (coming.moving and t_s >= coming.commanded_s)
            or gap_s > GAP_S
        )
        return Pose(here[0] + part * wrong[0], here[1] + part * wrong[1], moving)

    def _since(self, last: Sample, t_s: float) -> Pose:
        """As predicted; after a long silence at the safe pose, on the way there until then."""
        silent_s = t_s - last.t_s
        commanded = self.commanded_s is not None and 0.0 <= t_s - self.commanded_s < UNANSWERED_S
        if silent_s <= GAP_S or not is_known(last.here_rad):
            return Pose(*predict(last, t_s), commanded or self._moves_or_swings(last, t_s))
        if self.safe is None:
            arrived_s = last.t_s + last.remaining_s + self._settle_s
            return Pose(*predict(last, t_s), commanded or t_s < arrived_s)
        if silent_s < self.safe.there_after_s + self._settle_s:
            return Pose(*predict(last, t_s), True)
        return Pose(*self.safe.home_rad, False)

    def _moves_or_swings(self, last: Sample, t_s: float) -> bool:
        return last.moving or t_s - last.still_since_s < self._settle_s


def predict(sample: Sample, t_s: float) -> Pair:
    """Where the head is at t_s if it went on as it did at the sample."""
    if not sample.moving:
        return sample.here_rad
    part = min(1.0, (t_s - sample.t_s) / sample.remaining_s) if sample.remaining_s > 0.0 else 1.0
    pan_rad, tilt_rad = (
        here + part * (goal - here)
        for here, goal in zip(sample.here_rad, sample.goal_rad, strict=True)
    )
    return pan_rad, tilt_rad


def is_known(angles_rad: Pair) -> bool:
    """Whether these are angles, not UNKNOWN."""
    return not math.isnan(angles_rad[0])


def _still_since_s(last: Sample | None, t_s: float) -> float:
    """Of a head that is found still at t_s; what it did before the first report is long ago."""
    if last is None:
        return -math.inf
    return t_s if last.moving else last.still_since_s


def _time(sample: Sample) -> float:
    return sample.t_s
