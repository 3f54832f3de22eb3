"""The head solver: pulses and measured rotations in, servos and mount out, and how well known.

Pure. A view is a picture taken with the servos at rest; between views rotations were measured
(rotation.py). Unknown are the curve and backlash of each servo, how the axes stand (Mount), by how
much the camera's focal length and centre are off (a camera that turns by angles that must fit
together measures itself), and where each shaft really came to rest: a hobby servo does not stop
twice at the same place. How far it scatters is estimated from the same views, by the fixed point
of MacKay (1992), and so is part of the confidence of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import chi2
from scipy.stats import t as student

from calibration.errors import CalibrationError
from calibration.head_model import (
    AXES,
    DEGREE,
    MOST_PULSE,
    MOST_TURN_RAD,
    HeadCamera,
    HeadModel,
    Mount,
    Servo,
    chained,
)
from calibration.model import CameraModel
from calibration.rotation import Rotation, measured, nudged
from calibration.timing import HeadTiming

WAYS = {"pan": ("left", "right"), "tilt": ("down", "up")}
NAMES = (
    *(
        f"{axis}_{name}"
        for axis in AXES
        for name in (*(f"curve_{k + 1}" for k in range(DEGREE)), "backlash")
    ),
    *("elevation", "roll", "lean", "yaw"),
    *("focal_share", "centre_x_px", "centre_y_px", "k1"),
)
SERVO = DEGREE + 1  # unknowns of a servo
MOUNT = slice(2 * SERVO, 2 * SERVO + 4)
NUDGE = slice(2 * SERVO + 4, 2 * SERVO + 8)

# What is believed of a servo before anything is measured (standard deviations): the line is free.
CURVE_STD_RAD = np.radians([1e3, 3.0, 3.0, 1.0, 1.0])
CAMERA_STD = 0.003, 3.0, 3.0, 0.01  # of a calibrated camera: focal share, centre px, k1
OVERSHOOT_RAD = math.radians(0.02)  # of the backlash: what servos overshoot even when they creep
LEVEL = 0.95
LOOSE_RAD = math.radians(0.5)  # an axis that scatters more is not in order
LEAST_VIEWS = 16
LEAST_TURN_RAD = math.radians(5.0)  # between the farthest views, about each axis
SCATTER_RAD = np.radians([0.005, 3.0])  # smallest and largest it may be
ROUNDS = 12
CAMERA_ROUNDS = 2
FAR_OFF = 6.0  # standard deviations at which a rotation, or a view, is dropped


class Estimate(NamedTuple):
    """A value and the interval that holds the truth 95 times in 100."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HeadCalibration:
    """A head, how it was found and how far it is to be trusted. Angles in radians.

    values (G,) and covariance (G, G) are of NAMES: curves and backlash of both servos in rad, the
    mount in rad, then the camera's nudge. `camera` is the one handed in, nudged.
    """

    model: HeadModel
    camera: CameraModel
    values: np.ndarray
    covariance: np.ndarray
    factor: float  # an interval of LEVEL reaches so many standard errors to either side
    scatter_rad: tuple[float, float]  # standard deviation of where a shaft comes to rest
    residuals_rad: np.ndarray  # (P,) angle between each rotation used and the model's
    pulses: np.ndarray  # (M, 2) of the views
    off_rad: np.ndarray  # (M, 2) where shafts stood, less where the model has them
    dropped: tuple[str, ...]  # what was left out, and why
    unit: str = "us"  # of pulses
    timing: HeadTiming | None = None  # where moves were timed

    def __post_init__(self) -> None:
        count, views = len(NAMES), np.shape(self.pulses)
        shapes = np.shape(self.values), np.shape(self.covariance), np.shape(self.off_rad)
        if shapes != ((count,), (count, count), views) or len(views) != 2 or views[1] != 2:
            raise CalibrationError(
                f"a head's values, covariance and views have shapes {shapes}, {views}; they should "
                f"have ({count},), ({count}, {count}) and twice (M, 2)"
            )
        near = np.abs(self.pulses) <= MOST_PULSE, np.abs(self.off_rad) <= MOST_TURN_RAD
        if not np.all(near):
            raise CalibrationError(
                f"a head's views have pulses beyond {MOST_PULSE:g}, or shafts more than a turn "
                "from where they should be: no head does"
            )

    @property
    def view(self) -> HeadCamera:
        """Camera and head together: pixels to angles and back."""
        return HeadCamera(self.camera, self.model)

    @property
    def rms_rad(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt(np.mean(self.residuals_rad**2)))

    def estimate(self, name: str) -> Estimate:
        """One of NAMES, with its interval."""
        return self._within(self.values[NAMES.index(name)], np.eye(len(NAMES))[NAMES.index(name)])

    def gain(self, axis: str) -> Estimate:
        """Radians a pulse unit, at home, of "pan" or "tilt"."""
        per_reach = self.estimate(f"{axis}_curve_1")
        reach = getattr(self.model, axis).reach
        return Estimate(*(value / reach for value in per_reach))

    def shaft(self, axis: str, pulse: float) -> Estimate:
        """Where a shaft stands at a pulse, in the middle of its backlash."""
        servo, first = getattr(self.model, axis), AXES.index(axis) * SERVO
        weights = np.zeros(len(NAMES))
        weights[first : first + DEGREE] = _powers(np.array(pulse), servo)
        return self._within(float(servo.angle(pulse)), weights)

    def summary_lines(self) -> list[str]:
        """What was found, in words."""
        lines = [line for axis in AXES for line in self._news_of(axis)]
        tilts = np.degrees(self.model.mount).round(1)
        lines.append(
            f"at home the camera looks up by {tilts[0]:+.1f} degrees, rolled by {tilts[1]:+.1f}; "
            f"the tilt axis leans by {tilts[2]:+.1f} and is turned by {tilts[3]:+.1f}"
        )
        grown, right_px, down_px, _ = self.values[NUDGE]
        lines.append(
            f"by its turns the camera's focal length is {grown:+.2%} and its centre "
            f"({right_px:+.1f}, {down_px:+.1f}) px off what was said; taken as measured"
        )
        if self.timing:
            lines.append(self.timing.in_words)
        if self.dropped:
            lines.append(
                f"{len(self.dropped)} comparisons of views do not fit in, and were left out"
            )
        return lines

    def _news_of(self, axis: str) -> list[str]:
        servo, gain = getattr(self.model, axis), math.degrees(self.gain(axis).value)
        scatter_rad = self.scatter_rad[AXES.index(axis)]
        low, high = np.degrees(servo.range_rad)
        lines = [
            f"{axis}: longer pulses turn it {WAYS[axis][int(gain > 0.0)]}, {abs(gain):.4f} degrees "
            f"a {self.unit} at home; {low:+.1f} to {high:+.1f} degrees; backlash "
            f"{math.degrees(servo.backlash_rad):.2f}; stops within {math.degrees(scatter_rad):.2f}"
        ]
        if scatter_rad > LOOSE_RAD:
            lines.append(
                f"the {axis} axis stops at a different place each time: tighten its horn, check "
                "its supply, and see that the base stands still"
            )
        return lines

    def _within(self, value: float, weights: np.ndarray) -> Estimate:
        reach = self.factor * math.sqrt(max(0.0, weights @ self.covariance @ weights))
        return Estimate(float(value), float(value - reach), float(value + reach))


class Views(NamedTuple):
    """What the servos were commanded for each picture, and what was measured between pictures.

    pulses (M, 2), as commanded. sides (M, 2): +1 where the axis came from shorter pulses, -1 from
    longer ones. holds (M, 2) int: a number that changes when the axis was moved; views with the
    same one share where the shaft came to rest. pairs (P, 2) int and rotations: between views
    pairs[k, 0] (before) and pairs[k, 1] (after).
    """

    pulses: np.ndarray
    sides: np.ndarray
    holds: np.ndarray
    pairs: np.ndarray
    rotations: Sequence[Rotation]


def solve_head(
    views: Views,
    camera: CameraModel,
    limits,
    home,
    camera_std=CAMERA_STD,
) -> HeadCalibration:
    """The head that explains the views best.

    limits: ((low, high), (low, high)) and home (pan, tilt) in pulses; camera_std (4,): standard
    errors of the camera's nudge. Raises CalibrationError when the views do not determine a head, or
    when they show a servo that does not move, or two that are swapped.
    """
    _check(views)
    gains = _gains(views)
    prior = np.zeros(4)
    for again in range(CAMERA_ROUNDS):
        if again:  # by the camera just found, the same pixels have other rays
            views = views._replace(
                rotations=[
                    measured(r.matrix, r.pixels_before, r.pixels_after, camera, r.share)
                    for r in views.rotations
                ]
            )
        problem = _Problem(views, limits, home, np.asarray(camera_std), prior)
        fit = _fitted(problem, gains)
        prior = prior - fit.x[NUDGE]
        camera = nudged(camera, fit.x[NUDGE])
    return _calibration(problem, fit, camera, views, -prior)


def _check(views: Views) -> None:
    count = len(views.pulses)
    if count < LEAST_VIEWS:
        raise CalibrationError(
            f"{count} views of the head are too few: at least {LEAST_VIEWS} are needed"
        )
    if not (np.isfinite(views.pulses).all() and np.isin(views.sides, (-1, 1)).all()):
        raise CalibrationError("views of the head: pulses must be finite, sides +1 or -1")
    if len(views.rotations) != len(views.pairs) or len(views.pairs) < 0.6 * count:
        raise CalibrationError(
            f"{len(views.rotations)} rotations between {count} views do not connect them: "
            "point the camera at something with more texture"
        )


def turns_by_pulses(pulse_steps, vectors_rad) -> np.ndarray:
    """Rotation vector (3, 2) of the camera a pulse of pan and of tilt, by least squares.

    pulse_steps (P, 2), vectors_rad (P, 3). Small next to a radian they add up; nearly, they do.
    """
    return np.linalg.lstsq(np.asarray(pulse_steps), np.asarray(vectors_rad), rcond=None)[0].T


def _gains(views: Views) -> np.ndarray:
    """A first guess (2,) of radians a pulse. Refuses what is no pan-tilt head."""
    steps = views.pulses[views.pairs[:, 1]] - views.pulses[views.pairs[:, 0]]
    turns = turns_by_pulses(steps, [rotation.vector_rad for rotation in views.rotations])
    refuse_strange(turns, np.ptp(views.pulses, axis=0))
    return np.array([turns[1, 0], turns[0, 1]])


def refuse_strange(turns: np.ndarray, pulse_range, least_rad: float = LEAST_TURN_RAD) -> None:
    """Raises CalibrationError for a servo that does not move, or two that are swapped.

    turns (3, 2): as from turns_by_pulses, over pulse_range (2,).
    """
    for k, axis in enumerate(AXES):
        refuse_still(axis, turns[:, k], pulse_range[k], least_rad)
    sideways, upward = np.abs(turns[1]), np.abs(turns[0])
    if sideways[1] > upward[1] and upward[0] > sideways[0]:
        raise CalibrationError(
            "pan tilts and tilt pans: swap the two plugs, or turn the camera upright"
        )
    for axis, other, right in zip(AXES, (upward, sideways), (sideways, upward), strict=True):
        which = AXES.index(axis)
        if other[which] > right[which]:
            raise CalibrationError(
                f"the {axis} servo turns the picture the other way than {axis} should: "
                "mount the camera upright, the pan axis along its picture's columns"
            )


def refuse_still(
    axis: str, turn: np.ndarray, pulses: float, least_rad: float = LEAST_TURN_RAD
) -> None:
    """Raises CalibrationError for a servo that does not move. turn (3,): of a pulse."""
    angle_rad = float(np.linalg.norm(turn)) * pulses
    if angle_rad < least_rad:
        raise CalibrationError(
            f"the {axis} servo does not move: {pulses:.0f} units turned the picture by "
            f"{math.degrees(angle_rad):.1f} degrees; check its plug, its supply and its horn"
        )


class _Problem:
    """Residuals and their slopes.

    Unknowns are those of NAMES, then how far each hold is off, in units of the scatter.
    """

    def __init__(self, views: Views, limits, home, camera_std, nudge_prior) -> None:
        self.views, self.limits, self.home = views, limits, home
        self.camera_std, self.nudge_prior = camera_std, nudge_prior
        self.holds = [np.unique(views.holds[:, k], return_inverse=True) for k in (0, 1)]
        self.counts = [len(unique) for unique, _ in self.holds]
        self.size = len(NAMES) + sum(self.counts)
        self.design = np.stack([self._shaft_design(k) for k in (0, 1)], axis=1)  # (M, 2, size)
        self.matrices = np.array([rotation.matrix for rotation in views.rotations])
        count_once = _counted_once(views.pairs)[:, None]
        information = np.array([rotation.information for rotation in views.rotations])
        information *= count_once[..., None]
        ridge = 1e-9 * np.trace(information, axis1=1, axis2=2)[:, None, None] * np.eye(7)
        self.roots = np.linalg.cholesky(information + ridge)
        gradient = count_once * np.array([rotation.gradient for rotation in views.rotations])
        self.offsets = np.linalg.solve(self.roots, gradient[..., None])[..., 0]

    def _shaft_design(self, k: int) -> np.ndarray:
        """(M, size): how the angle of shaft k depends, linearly, on the unknowns."""
        design = np.zeros((len(self.views.pulses), self.size))
        x = (self.views.pulses[:, k] - self.home[k]) / self.reach(k)
        first = k * SERVO
        design[:, first : first + DEGREE] = x[:, None] ** np.arange(1, DEGREE + 1)
        return design

    def reach(self, k: int) -> float:
        low, high = self.limits[k]
        return max(high - self.home[k], self.home[k] - low)

    def design_of(self, scatter, turning) -> np.ndarray:
        """The design with backlash, by the way each servo turns, and the holds by their scatter."""
        design = self.design.copy()
        start = len(NAMES)
        for k in (0, 1):
            design[:, k, k * SERVO + DEGREE] = -0.5 * turning[k] * self.views.sides[:, k]
            design[np.arange(len(design)), k, start + self.holds[k][1]] = scatter[k]
            start += self.counts[k]
        return design

    def vectors(self, x, design) -> tuple[np.ndarray, np.ndarray]:
        """(P, 3) how far the model is from each rotation, and (P, 3, size) its slopes."""
        rotations, rates = chained(design @ x, x[MOUNT])
        slopes = rates[..., :2] @ design
        slopes[..., MOUNT] += rates[..., 2:]
        before, after = self.views.pairs.T
        between = np.swapaxes(rotations[before], -1, -2) @ rotations[after]
        vectors = _logarithms(np.swapaxes(self.matrices, -1, -2) @ between)
        return vectors, slopes[after] - np.swapaxes(between, -1, -2) @ slopes[before]

    def residuals(self, x, design, weights) -> tuple[np.ndarray, np.ndarray]:
        """(R,) residuals in standard deviations and (R, size) their slopes, priors included."""
        vectors, by_unknown = self.vectors(x, design)
        nudges = np.broadcast_to(x[NUDGE], (len(vectors), 4))
        both = np.concatenate([vectors, nudges], axis=-1)
        slopes = np.zeros((len(vectors), 7, self.size))
        slopes[:, :3] = by_unknown
        slopes[:, 3:, NUDGE] = np.eye(4)
        roots = np.swapaxes(self.roots, -1, -2)
        pulls = (np.einsum("pij,pj->pi", roots, both) + self.offsets) * weights[:, None]
        slopes = (roots @ slopes) * weights[:, None, None]
        prior, by_prior = self._prior(x)
        return (
            np.concatenate([pulls.ravel(), prior]),
            np.concatenate([slopes.reshape(-1, self.size), by_prior]),
        )

    def _prior(self, x) -> tuple[np.ndarray, np.ndarray]:
        std = np.full(self.size, 1.0)
        for k in (0, 1):
            std[k * SERVO : k * SERVO + DEGREE] = CURVE_STD_RAD
            std[k * SERVO + DEGREE] = math.radians(5.0)
        std[NUDGE] = self.camera_std
        middle = np.zeros(self.size)
        middle[NUDGE] = self.nudge_prior
        return (x - middle) / std, np.diag(1.0 / std)


def _counted_once(pairs: np.ndarray) -> np.ndarray:
    """(P,) by how much each rotation counts less, since a corner's error is in several of them.

    Where n views share their corners, all n (n - 1) / 2 rotations between them tell n / 2 times
    what they would if they were independent.
    """
    sharing = 1 + np.bincount(pairs.ravel())
    return 2.0 / np.mean(sharing[pairs], axis=1)


class _Fit(NamedTuple):
    """What explains the views best."""

    x: np.ndarray  # (size,) the unknowns
    covariance: np.ndarray  # (size, size)
    scatter_rad: np.ndarray  # (2,)
    design: np.ndarray  # (M, 2, size)
    kept: np.ndarray  # (P,) bool: which rotations fit in with the others


def _fitted(problem: _Problem, gains) -> _Fit:
    """The fit that starts from gains (2,), in radians a pulse."""
    turning = np.sign(gains)
    x = np.zeros(problem.size)
    x[[0, SERVO]] = [gain * problem.reach(k) for k, gain in enumerate(gains)]
    scatter, weights = np.radians([0.5, 0.5]), np.ones(len(problem.views.pairs))
    for _ in range(ROUNDS):
        design = problem.design_of(scatter, turning)
        x = least_squares(
            lambda x, d=design, w=weights: problem.residuals(x, d, w)[0],
            x,
            jac=lambda x, d=design, w=weights: problem.residuals(x, d, w)[1],
            method="lm",
            x_scale="jac",
            max_nfev=30,
        ).x
        inverse = _inverse(problem.residuals(x, design, weights)[1])
        before = scatter
        scatter = _scatter(problem, x, inverse, scatter)
        start = len(NAMES)
        for k in (0, 1):  # what the holds are off by stays the same; its unit does not
            x[start : start + problem.counts[k]] *= before[k] / scatter[k]
            start += problem.counts[k]
        weights = _weights(problem, x, problem.design_of(scatter, turning))
        if np.allclose(scatter, before, rtol=0.02):
            break
    design = problem.design_of(scatter, turning)
    inverse = _inverse(problem.residuals(x, design, weights)[1])
    return _Fit(x, inverse, scatter, design, weights > 0.0)


def _inverse(slopes: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(slopes, axis=0)
    scaled = slopes / scale
    return np.linalg.pinv(scaled.T @ scaled, hermitian=True) / np.outer(scale, scale)


def _scatter(problem: _Problem, x, inverse, scatter) -> np.ndarray:
    """The scatter (2,) rad: how far holds are off, by their squares over how many are free."""
    start, found = len(NAMES), []
    for k in (0, 1):
        those = slice(start, start + problem.counts[k])
        free = problem.counts[k] - np.trace(inverse[those, those])
        # A hold far off, as of a servo that slipped, is no measure of the others.
        squares = np.minimum(x[those] ** 2, 9.0 * np.median(x[those] ** 2) / chi2.median(1))
        found.append(scatter[k] * math.sqrt(squares.sum() / max(free, 1.0)))
        start += problem.counts[k]
    return np.clip(found, *SCATTER_RAD)


def _weights(problem: _Problem, x, design) -> np.ndarray:
    """1 for each rotation that fits in with the others, 0 for one that cannot be right."""
    ones = np.ones(len(problem.views.pairs))
    pulls = problem.residuals(x, design, ones)[0][: 7 * len(ones)].reshape(-1, 7)
    misfit = np.sum(pulls**2, axis=1)
    usual = max(1.0, float(np.median(misfit)) / chi2.median(7))
    return (misfit < FAR_OFF**2 * usual * 2.0).astype(np.float64)


def _calibration(problem, fit: _Fit, camera, views, nudge) -> HeadCalibration:
    values = fit.x[: len(NAMES)].copy()
    values[NUDGE] = nudge
    servos = []
    for k in (0, 1):
        curve = values[k * SERVO : k * SERVO + DEGREE]
        backlash = values[k * SERVO + DEGREE] = max(0.0, values[k * SERVO + DEGREE])
        low, high = problem.limits[k]
        servos.append(Servo(low, high, problem.home[k], tuple(curve), backlash))
    middle = 0.5 * (camera.width_px - 1), 0.5 * (camera.height_px - 1)
    right, down, forward = camera.rays_of_pixels(middle).tolist()
    pan, tilt = servos
    model = HeadModel(pan, tilt, Mount(*values[MOUNT].tolist()), (right, down, forward))
    vectors, _ = problem.vectors(fit.x, fit.design)
    off, start = np.empty_like(views.pulses), len(NAMES)
    for k in (0, 1):
        off[:, k] = fit.scatter_rad[k] * fit.x[start + problem.holds[k][1]]
        start += problem.counts[k]
    dropped = [
        f"the rotation from view {i} to view {j} does not fit in with the others"
        for (i, j), used in zip(views.pairs, fit.kept, strict=True)
        if not used
    ]
    covariance = fit.covariance[: len(NAMES), : len(NAMES)].copy()
    covariance[[DEGREE, SERVO + DEGREE], [DEGREE, SERVO + DEGREE]] += OVERSHOOT_RAD**2
    freedom = min(problem.counts) - 4
    return HeadCalibration(
        model,
        camera,
        values,
        covariance,
        float(student.ppf(0.5 + 0.5 * LEVEL, freedom)),
        tuple(fit.scatter_rad.tolist()),
        np.linalg.norm(vectors[fit.kept], axis=-1),
        views.pulses,
        off,
        tuple(dropped),
    )


def _logarithms(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors (..., 3) of rotations (..., 3, 3) by less than half a turn."""
    skew = 0.5 * np.stack(
        [
            rotations[..., 2, 1] - rotations[..., 1, 2],
            rotations[..., 0, 2] - rotations[..., 2, 0],
            rotations[..., 1, 0] - rotations[..., 0, 1],
        ],
        axis=-1,
    )
    sine = np.linalg.norm(skew, axis=-1)
    cosine = 0.5 * (np.trace(rotations, axis1=-2, axis2=-1) - 1.0)
    angle = np.arctan2(sine, cosine)
    return skew * (angle / np.maximum(sine, 1e-12))[..., None]


def _powers(pulses: np.ndarray, servo: Servo) -> np.ndarray:
    """(..., DEGREE): x, x^2 .. of pulses (...)."""
    x = (pulses - servo.home) / servo.reach
    return x[..., None] ** np.arange(1, DEGREE + 1)
