"""When a head does what is commanded: delay, speed, and how long until the picture stands still.

Pure. A step is one move of one axis, commanded at a known time, and how far the picture had turned
in each frame after it. The head is taken to do nothing for a while (the delay: the line, the
servo's 20 ms period, the camera and the way of its picture), then to follow the commanded ramp, no
faster than the servo can, through a lag of second order. A servo that overshoots either swings
back, or its shaft stays at the farthest point, the backlash taking up the way back. Moves that
reverse take up backlash first, so steps must go on in the direction the axis came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t as student

from calibration.errors import CalibrationError

LEAST_STEPS = 3
LEAST_STEP_RAD = math.radians(2.0)
STILL_RAD = math.radians(0.2)  # a picture no farther from where it ends stands still
NOISE_RAD = math.radians(0.05)  # of a frame's turn, beside
STAMP_S = 0.0015  # what its time stamp is off
SHAPE_S = 0.003  # of the delay: that no servo moves just as a lag of second order does
PERIOD_S = 0.006  # standard deviation of when, within its 20 ms, a servo hears of a move
STARTS = (30.0, 0.7), (30.0, 1.2), (80.0, 0.7), (80.0, 1.2)  # sharpness and damping
LONGEST_DELAY_S = 1.0
DIFFERENCE = math.sqrt(np.finfo(float).eps)  # between unknowns whose pulls are compared
WATCHED_S = np.arange(0.0, 0.8, 0.004)  # when an overshoot is looked for
SPEED_RAD_S = 0.1, 40.0  # of a servo, at least and at most
SHARPNESS = 8.0, 300.0  # of the lag, per second
DAMPING = 0.4, 3.0  # of the lag: 1 is critical
# What is believed of a servo beforehand, where few sharp pictures show it move: the logarithms of
# sharpness, damping and both speeds, and how far off they may well be.
USUAL = np.log([50.0, 0.9, 7.0, 7.0])
USUAL_STD = np.array([0.5, 0.4, 0.4, 0.4])
LEVEL = 0.95
MOST_LATE_S = 10.0  # that anything here takes: a timing beyond it was not measured


class Step(NamedTuple):
    """One recorded move of an axis."""

    axis: int  # 0 pan, 1 tilt
    commanded_s: float  # when it was commanded
    duration_s: float  # that it was to take; 0 for as fast as it goes
    size_rad: float  # how far the picture turned in the end, above 0
    stamps_s: np.ndarray  # (n,) of the frames, on the clock of commanded_s
    turned_rad: np.ndarray  # (n,) how far the picture had turned in each


@dataclass(frozen=True)
class HeadTiming:
    """Seconds and radians. Intervals hold the truth 95 times in 100.

    Raises CalibrationError for what no head does.
    """

    delay_s: float  # from a command to the time stamp of the first picture that shows it
    delay_interval_s: tuple[float, float]
    lag_s: float  # by which a slow move trails what was commanded, beside the delay
    speed_rad_s: tuple[float, float]  # of pan and tilt at their fastest
    still_after_s: float  # from a command to a picture at rest, for the largest fast step
    step_rad: float  # that step
    settling_s: float  # of it, what is neither delay nor the way at full speed
    rms_rad: float  # of the fit

    def __post_init__(self) -> None:
        late_s = self.delay_s, self.lag_s, self.still_after_s, self.settling_s
        if not all(0.0 <= each_s <= MOST_LATE_S for each_s in late_s):
            raise CalibrationError(
                f"a head whose delay, lag, rest and settling take {late_s} s: each is measured "
                f"between 0 and {MOST_LATE_S:g}"
            )
        if min(self.speed_rad_s) <= 0.0:
            raise CalibrationError(f"speeds of {self.speed_rad_s} rad/s: a head that never moves")

    def rest_after_s(self, turn_rad: float, duration_s: float = 0.0) -> float:
        """Seconds from a command until the picture stands still after a turn of this size."""
        way_s = max(duration_s, abs(turn_rad) / min(self.speed_rad_s))
        return self.delay_s + way_s + self.settling_s

    @property
    def in_words(self) -> str:
        low, high = self.delay_interval_s
        return (
            f"delay {1e3 * self.delay_s:.0f} ms ({1e3 * low:.0f} to {1e3 * high:.0f}); the picture "
            f"is at rest {1e3 * self.still_after_s:.0f} ms after a turn by "
            f"{math.degrees(self.step_rad):.0f} degrees was commanded"
        )


def solve_timing(steps: Sequence[Step]) -> HeadTiming:
    """The timing that explains the steps best, and what is known of its delay.

    Raises CalibrationError for too few or too small steps, or frames that do not show the moves.
    """
    steps = [step for step in steps if step.size_rad >= LEAST_STEP_RAD and len(step.stamps_s) > 3]
    if len(steps) < LEAST_STEPS:
        raise CalibrationError(
            f"{len(steps)} moves were seen well enough to time them, {LEAST_STEPS} are needed: "
            "more light makes pictures sharper while the head moves"
        )
    either = [_Frames(steps, held) for held in (False, True)]
    fits = [(frames, frames.fitted(*s)) for frames in either for s in STARTS]
    frames, fit = min(fits, key=lambda each: each[1].cost)
    delay_s, lag_s, speeds = _unpacked(fit.x)
    reach_s = _standard_error(fit) * student.ppf(0.5 + 0.5 * LEVEL, len(steps) - 1)
    step, still_s = _still(steps)
    way_s = max(step.duration_s, step.size_rad / speeds[step.axis])
    return HeadTiming(
        delay_s=delay_s,
        delay_interval_s=(max(0.0, delay_s - reach_s), delay_s + reach_s),
        lag_s=lag_s,
        speed_rad_s=speeds,
        still_after_s=still_s,
        step_rad=step.size_rad,
        settling_s=max(0.0, still_s - delay_s - way_s),
        rms_rad=float(np.sqrt(np.mean(frames.off(fit.x) ** 2))),
    )


def _unpacked(x) -> tuple[float, float, tuple[float, float]]:
    """Delay, lag and speeds of the unknowns."""
    pan, tilt = np.exp(x[3:5]).tolist()
    return float(x[0]), 2.0 * math.exp(x[2] - x[1]), (pan, tilt)


class _Frames:
    """The frames of all steps in a row, and what a timing makes of them.

    Unknowns: the delay, logarithms as USUAL, then how much later than that each step was heard.
    held: whether shafts stay at the farthest point of an overshoot.
    """

    def __init__(self, steps: Sequence[Step], held: bool) -> None:
        self.held = held
        self.count = len(steps)
        self.step = np.concatenate([np.full(len(s.stamps_s), k) for k, s in enumerate(steps)])
        self.since_s = np.concatenate([s.stamps_s - s.commanded_s for s in steps])
        self.turned_rad = np.concatenate([s.turned_rad for s in steps])
        self.size_rad = np.array([s.size_rad for s in steps])
        self.axis = np.array([s.axis for s in steps])
        durations_s = np.array([s.duration_s for s in steps])
        self.ramp_rad_s = np.where(
            durations_s > 0.0, self.size_rad / np.maximum(durations_s, 1e-3), np.inf
        )

    def off(self, x, later_s: float = 0.0) -> np.ndarray:
        """(n,) how far the picture should have turned in each frame, less how far it had."""
        speed = np.minimum(np.exp(x[3 + self.axis]), self.ramp_rad_s)
        way_s = self.size_rad / speed
        constants_s = _time_constants(math.exp(x[1]), math.exp(x[2]))
        since_s = self.since_s - (x[0] + x[5:] + later_s)[self.step]
        if self.held:
            course = _course(WATCHED_S, way_s[:, None], constants_s)
            peak = course.argmax(axis=1)
            since_s = np.minimum(since_s, WATCHED_S[peak][self.step])
            speed = speed * way_s / course.max(axis=1)
        course = _course(since_s, way_s[self.step], constants_s)
        return speed[self.step] * course - self.turned_rad

    def pulls(self, x) -> np.ndarray:
        """All residuals in standard deviations, beliefs included."""
        off = self.off(x)
        noise = np.hypot(NOISE_RAD, self.off(x, STAMP_S) - off)
        return np.concatenate([off / noise, (x[1:5] - USUAL) / USUAL_STD, x[5:] / PERIOD_S])

    def slopes(self, x, high) -> np.ndarray:
        """Derivatives of the pulls by the unknowns, by differences that stay below `high`.

        What a step was heard later does to its frames is what the delay does to all of them.
        """
        count, pulls = len(self.step), self.pulls(x)
        slopes = np.zeros((len(pulls), len(x)))
        for k, apart in enumerate(DIFFERENCE * np.maximum(1.0, np.abs(x[:5]))):
            there = np.array(x)
            there[k] += apart if x[k] + apart <= high[k] else -apart
            slopes[:, k] = (self.pulls(there) - pulls) / (there[k] - x[k])
        slopes[np.arange(count), 5 + self.step] = slopes[:count, 0]
        slopes[count + 4 :, 5:] = np.eye(self.count) / PERIOD_S
        return slopes

    def fitted(self, sharpness: float, damping: float):
        """The best unknowns, from a guess of the lag on."""
        bounds = SHARPNESS, DAMPING, SPEED_RAD_S, SPEED_RAD_S
        late = np.full(self.count, 0.05)
        low = [0.0, *(math.log(least) for least, _ in bounds), *-late]
        high = [LONGEST_DELAY_S, *(math.log(most) for _, most in bounds), *late]
        speed = math.exp(USUAL[2])
        way_s = self.size_rad / np.minimum(speed, self.ramp_rad_s)
        delay_s = np.median(self._half_way_s() - 0.5 * way_s) - 2.0 * damping / sharpness
        start = [max(0.005, delay_s), math.log(sharpness), math.log(damping), *USUAL[2:]]
        return least_squares(
            self.pulls,
            np.concatenate([start, 0.0 * late]),
            jac=lambda x: self.slopes(x, high),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=3.0,
            max_nfev=60,
        )

    def _half_way_s(self) -> np.ndarray:
        """When each step had been done by half, from its command on."""
        return np.array(
            [
                np.interp(0.5 * size, self.turned_rad[those], self.since_s[those])
                for size, those in ((s, self.step == k) for k, s in enumerate(self.size_rad))
            ]
        )


def _standard_error(fit) -> float:
    """Of the delay; larger where the fit is worse than the noise it was weighed by."""
    information = fit.jac.T @ fit.jac
    scale = max(1.0, 2.0 * fit.cost / max(1, len(fit.fun) - len(fit.x)))
    return math.hypot(math.sqrt(scale * np.linalg.inv(information)[0, 0]), SHAPE_S)


def _time_constants(sharpness: float, damping: float) -> tuple[complex, complex]:
    """Both time constants of a lag of second order; a conjugate pair where it rings."""
    root = np.emath.sqrt(damping**2 - 1.0) + 1e-6  # never quite the same
    return 1.0 / (sharpness * (damping - root)), 1.0 / (sharpness * (damping + root))


def _course(t_s, way_s, constants_s) -> np.ndarray:
    """The way gone after t_s at unit speed, through the lag, when it takes way_s without."""
    return _ramp(t_s, *constants_s) - _ramp(t_s - way_s, *constants_s)


def _ramp(t_s: np.ndarray, one_s: complex, other_s: complex) -> np.ndarray:
    """What a lag with two time constants makes of a ramp that begins at 0."""
    t_s = np.maximum(t_s, 0.0)
    fading = one_s**2 * np.exp(-t_s / one_s) - other_s**2 * np.exp(-t_s / other_s)
    return np.real(t_s - one_s - other_s + fading / (one_s - other_s))


def _still(steps) -> tuple[Step, float]:
    """The largest of the fastest moves, and when, after its command, the picture came to rest."""
    fastest_s = min(step.duration_s for step in steps)
    fast = [step for step in steps if step.duration_s == fastest_s]
    rests = [_rest(step) for step in fast]
    worst = int(np.argmax(rests))
    return fast[worst], rests[worst]


def _rest(step: Step) -> float:
    """Seconds from the command until all later frames are near the last, by interpolation."""
    off = np.abs(step.turned_rad - step.size_rad)
    moving = np.flatnonzero(off > STILL_RAD)
    if len(moving) == 0:
        return 0.0
    last = moving[-1]
    if last + 1 == len(off):
        return float(step.stamps_s[-1] - step.commanded_s)
    part = (off[last] - STILL_RAD) / (off[last] - off[last + 1])
    moment = step.stamps_s[last] + part * (step.stamps_s[last + 1] - step.stamps_s[last])
    return float(moment - step.commanded_s)
