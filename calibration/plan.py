"""How a head is calibrated: which moves, which pictures, and what is solved from them.

`calibrate_head` needs a head that is commanded in pulses and something that hands out pictures,
real or simulated. It goes through four stages:

1. Rest. Is there texture to measure a turn by, and does most of the scene stand still?
2. Steps of each axis, recorded frame by frame: does each servo move, which way, how soon and fast.
3. Views all over the range, in a zigzag of both axes at once, so that every part is come to from
   both sides. A turn much shorter than expected means that a servo binds: it stops there.
4. Home; rotations between all views that overlap, and the solvers.

However it ends, the head is sent home.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from calibration.angles import Limits, Pair
from calibration.errors import CalibrationError
from calibration.head import (
    AXES,
    CAMERA_STD,
    HeadCalibration,
    Views,
    refuse_still,
    refuse_strange,
    solve_head,
    turns_by_pulses,
)
from calibration.model import CameraModel
from calibration.rotation import (
    WIDTH_PX,
    Features,
    Rotation,
    features_of,
    rotation_between,
    turn_between,
)
from calibration.timing import HeadTiming, Step, solve_timing

UNITS = "us", "steps"  # of pulses
LEAST_FEATURES = 60
COARSE_PX = 320  # width of the picture that is enough to time a move
STEP_RAD = math.radians(10.0)
SLOW_S = 0.25  # what a slow step takes
# Steps of an axis: directions alternate, each goes on as the axis came.
STEPS_S = 0.0, SLOW_S, SLOW_S, 0.0, SLOW_S, SLOW_S
SWING_S = 1.5  # after which any head stands still, so far as is known before it is timed
SLOWEST_RAD_S = 0.3  # so that it does, and a step is over within WATCH_S
WATCH_S = 0.9  # how long a step is recorded beyond its duration
VIEWS = 60
VIEW_SPEED_RAD_S = math.radians(60.0)  # between views, but for the end of the way:
CREEP_RAD, CREEP_SPEED_RAD_S = math.radians(2.5), math.radians(8.0)  # no overshoot there
MARGIN_S = 0.05  # beyond the moment when the picture should stand still
STRIDE = 0.28  # of the field of view: between one view and the next, each way
EDGE, DITHER = 0.02, 0.2  # of the range kept clear at its ends; of a stride
PARTNERS = 6  # other views a view is compared with
LEAST_OVERLAP = 0.4  # of the pictures
CLOSE_RAD, LOOSE_RAD = math.radians(1.5), math.radians(8.0)  # where a turn is looked for
LOOKS, LOOK_AGAIN_S = 3, 0.3  # how often, and how soon after, what looks wrong is looked at
# A servo binds that turns less than it should by more than its backlash and curve may well be.
SHORT_RAD, SHORT_SHARE = math.radians(3.0), 0.25
MOVED_RAD = math.radians(0.5)  # between pictures that should be the same, when all stays in place
WAIT_S = 0.5  # between those


class Commanded(NamedTuple):
    """The pulses a head was really sent, and when."""

    pan: float
    tilt: float
    t_s: float


class Picture(Protocol):
    """A frame: (H, W, 3) uint8 BGR and its time stamp, on the clock of Commanded.t_s."""

    @property
    def image(self) -> np.ndarray: ...

    @property
    def t_s(self) -> float: ...


class PulseHead(Protocol):
    """A head that is commanded in pulses, in whatever unit its servos have."""

    @property
    def unit(self) -> str:
        """Of pulses: "us" or "steps"."""

    @property
    def limits(self) -> Limits:
        """(low, high) of pan and tilt."""

    @property
    def home_position(self) -> Pair:
        """Where it goes on `home`."""

    @property
    def per_rad(self) -> Pair:
        """Pulses a radian, about; for the sizes of the first moves."""

    @property
    def speed(self) -> Pair:
        """Pulses a second of pan and tilt at their fastest, so far as the head limits them."""

    def drive(self, pan: float, tilt: float, duration_s: float = 0.0) -> Commanded:
        """Set out, to be there after duration_s or as soon as it can; return at once."""

    def home(self) -> None:
        """Set out for home, slowly; return at once."""


def calibrate_head(
    head: PulseHead,
    next_frame: Callable[[], Picture | None],
    camera: CameraModel,
    camera_std=CAMERA_STD,
    views: int = VIEWS,
    report: Callable[[float, str], None] = lambda done, what: None,
    look: Callable[[Picture, int], Features] | None = None,
    seed: int = 0,
) -> HeadCalibration:
    """Calibrate a head with its camera, moving it. Sends it home whatever happens.

    next_frame waits for the next picture and returns it, or None if there is none. report(share
    done, what is being done) is called as it goes on. look(picture, width_px) finds the corners of
    a picture made no wider than that; features_of does, if none is given. Raises CalibrationError
    where it cannot be done, with what to do, and lets through what head and next_frame raise.
    """
    if head.unit not in UNITS:  # as joints of a robot, in rad
        raise CalibrationError(
            f"a head that is commanded in {head.unit} is not calibrated, only servos in "
            f"{' or '.join(UNITS)}: use it as it is, with `calibrate camera` alone"
        )
    _refuse_slow(head)
    with threadpool_limits(limits=1, user_api="blas"):  # matrices are small: threads only wait
        seen, timing = _observed(head, next_frame, camera, views, report, look, seed)
        report(0.85, "comparing views")
        found = _solve(seen, camera, head.limits, head.home_position, camera_std, seed)
    report(1.0, "done")
    return replace(found, timing=timing, unit=head.unit)


def _refuse_slow(head: PulseHead) -> None:
    """Raises CalibrationError for servos that would still turn when they are looked at."""
    for axis, speed, per_rad in zip(AXES, head.speed, head.per_rad, strict=True):
        least = SLOWEST_RAD_S * per_rad
        if speed < least:
            raise CalibrationError(
                f"the {axis} servo is held to {speed:g} {head.unit}/s, too slow to be measured: "
                f"allow {math.ceil(least)} or more while it is calibrated"
            )


def _observed(head, next_frame, camera, views, report, look, seed) -> tuple[_Seen, HeadTiming]:
    """All that moves: what was seen, the rotation vectors (3, 2) of a pulse, and the timing."""
    session = _Session(head, next_frame, camera, look)
    try:
        report(0.0, "looking for texture")
        session.check_scene()
        steps, steps_turned = [], []
        for axis in (0, 1):
            report(0.02 + 0.15 * axis, f"timing the {AXES[axis]} servo")
            of_axis, turn = session.steps(axis)
            refuse_still(AXES[axis], turn, 2.0 * session.step_pulses(axis)[axis])
            steps += of_axis
            steps_turned.append(turn)
        turns = np.stack(steps_turned, axis=1)
        refuse_strange(turns, 2.0 * np.array([session.step_pulses(axis)[axis] for axis in (0, 1)]))
        timing = solve_timing(steps)
        gains = np.abs([turns[1, 0], turns[0, 1]])
        path = planned_views(head, camera, gains, views, seed)
        seen = session.views(path, turns, timing, report)
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what is reported
            head.home()
        raise
    head.home()
    return seen, timing


def planned_views(head: PulseHead, camera: CameraModel, gains, count: int, seed: int) -> np.ndarray:
    """Pulses (count, 2) within the limits: a zigzag of both axes, from home on.

    gains (2,): radians a pulse, about, above 0. Each axis goes up and down its range in strides of
    STRIDE of the picture or less, dithered, so that no two are at the same place.
    """
    across, down = _field_of_view(camera)
    low, high = np.transpose(head.limits)
    low, high = low + EDGE * (high - low), high - EDGE * (high - low)
    strides = np.maximum(2, np.ceil((high - low) * gains / (STRIDE * np.array([across, down]))))
    if math.gcd(*strides.astype(int).tolist()) > 1:
        strides[1] += 1.0  # else the zigzag would come back to where it was too soon
    stride = (high - low) / strides
    begin = np.round((np.array(head.home_position) - low) / stride)
    place = (begin + np.arange(1, count + 1)[:, None]) % (2.0 * strides)
    place = np.where(place > strides, 2.0 * strides - place, place)
    place += np.random.default_rng(seed).uniform(-DITHER, DITHER, place.shape)
    return low + np.clip(place, 0.0, strides) * stride


def _field_of_view(camera: CameraModel) -> tuple[float, float]:
    """Of the picture, across and down, in rad."""
    x, y = camera.centre_px
    edges = (0, y), (camera.width_px - 1, y), (x, 0), (x, camera.height_px - 1)
    left, right, top, bottom = camera.rays_of_pixels(edges)
    return math.acos(left @ right), math.acos(top @ bottom)


class _Seen(NamedTuple):
    """Views as taken: pulses (M, 2), sides (M, 2), corners, and turns since the one before."""

    pulses: np.ndarray
    sides: np.ndarray
    features: list[Features]
    since: list[Rotation | None]


class _Session:
    """The moves and pictures of a calibration."""

    def __init__(self, head, next_frame, camera, look) -> None:
        self.head, self.camera = head, camera
        self._next_frame, self._look = next_frame, look or self._features
        self._t_s = -math.inf

    def frame(self) -> Picture:
        """The next picture. Raises CalibrationError when there is none."""
        picture = self._next_frame()
        if picture is None:
            raise CalibrationError("the camera stopped sending pictures: check it, and start again")
        if not picture.t_s > self._t_s:
            raise CalibrationError("the camera's pictures do not get newer: check it")
        self._t_s = picture.t_s
        return picture

    def frames_until(self, t_s: float) -> list[Picture]:
        """The pictures up to the first that is stamped t_s or later."""
        pictures = [self.frame()]
        while pictures[-1].t_s < t_s:
            pictures.append(self.frame())
        return pictures

    def picture_at(self, t_s: float) -> Picture:
        """The first picture that is stamped t_s or later."""
        while (picture := self.frame()).t_s < t_s:
            pass
        return picture

    def features(self, picture: Picture, width_px: int = WIDTH_PX) -> Features:
        return self._look(picture, width_px)

    def _features(self, picture: Picture, width_px: int) -> Features:
        features = features_of(picture.image, width_px)
        height, width = picture.image.shape[:2]
        if (width, height) != (self.camera.width_px, self.camera.height_px):
            raise CalibrationError(
                f"pictures are {width} x {height} px, the camera's calibration is for "
                f"{self.camera.width_px} x {self.camera.height_px}: give one for this resolution"
            )
        return features

    def move(self, pulses, duration_s: float = 0.0) -> Commanded:
        return self.head.drive(float(pulses[0]), float(pulses[1]), duration_s)

    def check_scene(self) -> None:
        """Stands at home and looks. Raises CalibrationError when no turn could be measured here."""
        low, high = np.transpose(self.head.limits)
        rest = np.array(self.head.home_position)
        way_s = max(1.0, (np.maximum(high - rest, rest - low) / self.head.speed).max())
        home = self.move(rest, 1.0)
        picture = self.picture_at(home.t_s + way_s + SWING_S)
        first = self.features(picture)
        if len(first) < LEAST_FEATURES:
            raise CalibrationError(
                f"the scene has too little texture ({len(first)} corners, {LEAST_FEATURES} are "
                "needed): take the lens cap off, make light, or point it at furniture or shelves"
            )
        later = self.features(self.picture_at(picture.t_s + WAIT_S))
        still = rotation_between(first, later, self.camera)
        if still is None or still.angle_rad > MOVED_RAD:
            raise CalibrationError(
                "most of the picture moves while the head stands still: "
                "point the camera at something at rest"
            )

    def steps(self, axis: int) -> tuple[list[Step], np.ndarray]:
        """Recorded moves of one axis, and the rotation vector (3,) that one pulse turns it by."""
        middle, size = self.step_middle(axis), self.step_pulses(axis)
        self._swing(middle - size)
        steps, moves, turns = [], [], []
        direction = 1.0
        for duration_s in STEPS_S:
            before = self._swing(middle)  # the first picture after the command may show it
            commanded = self.move(middle + direction * size, duration_s)
            pictures = [before, *self.frames_until(commanded.t_s + duration_s + WATCH_S)]
            step, vector = self._timed(axis, commanded.t_s, duration_s, pictures)
            moves.append(direction * size)
            turns.append(vector)
            if step is not None:
                steps.append(step)
            direction = -direction
        self._swing(self.head.home_position)
        turn = turns_by_pulses(np.array(moves)[:, axis, None], turns)[:, 0]
        return steps, turn

    def step_pulses(self, axis: int) -> np.ndarray:
        """(2,) from the middle to the end of a step."""
        low, high = self.head.limits[axis]
        size = np.zeros(2)
        size[axis] = min(STEP_RAD * abs(self.head.per_rad[axis]), 0.5 * (high - low))
        return size

    def step_middle(self, axis: int) -> np.ndarray:
        """(2,) about which an axis steps: home, or as near to it as leaves room to both sides."""
        (low, high), room = self.head.limits[axis], self.step_pulses(axis)[axis]
        middle = np.array(self.head.home_position, dtype=np.float64)
        middle[axis] = np.clip(middle[axis], low + room, high - room)
        return middle

    def _swing(self, pulses) -> Picture:
        """Go somewhere, slowly enough that no overshoot takes up backlash; a picture at rest."""
        return self.picture_at(self.move(pulses, SWING_S / 3.0).t_s + SWING_S)

    def _timed(self, axis, commanded_s, duration_s, pictures) -> tuple[Step | None, np.ndarray]:
        """What a step's pictures show: when it turned how far, and the whole turn (3,)."""

        @cache
        def coarse(k: int) -> Features:
            return self.features(pictures[k], COARSE_PX)

        def vector(k: int) -> np.ndarray:
            turn = turn_between(coarse(0), coarse(k), self.camera)
            return np.full(3, np.nan) if turn is None else turn

        whole = vector(len(pictures) - 1)
        if np.isnan(whole).any():
            raise CalibrationError(
                f"pictures before and after a move of the {AXES[axis]} servo have too little in "
                "common: point the camera at a scene with texture all over, at rest"
            )
        size = float(np.linalg.norm(whole))
        along = whole / max(size, 1e-9)
        turned = _filled(lambda k: float(vector(k) @ along), len(pictures))
        stamps = np.array([picture.t_s for picture in pictures])
        known = np.isfinite(turned)
        return Step(axis, commanded_s, duration_s, size, stamps[known], turned[known]), whole

    def _approach(self, goal, before: Commanded, turns, timing) -> tuple[Commanded, float]:
        """Goes near, then creeps up. Returns the last command and when after it all is at rest."""
        per_pulse = np.linalg.norm(turns, axis=0)
        way = goal - np.array([before.pan, before.tilt])
        near_rad = np.maximum(np.abs(way) * per_pulse - CREEP_RAD, 0.0)
        near_s = float((near_rad / np.minimum(timing.speed_rad_s, VIEW_SPEED_RAD_S)).max())
        near = self.move(goal - way + np.sign(way) * near_rad / per_pulse, near_s)
        self.picture_at(near.t_s + near_s)
        creep_s = CREEP_RAD / CREEP_SPEED_RAD_S
        return self.move(goal, creep_s), timing.rest_after_s(CREEP_RAD, creep_s) + MARGIN_S

    def views(self, path, turns, timing: HeadTiming, report) -> _Seen:
        """Goes along a path (M, 2) of pulses and takes a picture at each."""
        pan, tilt = self.head.home_position
        before = Commanded(pan, tilt, 0.0)
        features: list[Features] = []
        pulses, sides, since = [], [], []
        for k, goal in enumerate(path):
            report(0.3 + 0.55 * k / len(path), f"view {k + 1} of {len(path)}")
            at, rest_s = self._approach(goal, before, turns, timing)
            step = np.array([at.pan - before.pan, at.tilt - before.tilt])
            found, rotation = self._looked(at, rest_s, features[-1:], turns, step)
            features.append(found)
            since += [rotation] if k else []
            pulses.append((at.pan, at.tilt))
            sides.append(np.sign(step))
            before = at
        return _Seen(np.array(pulses), np.array(sides), features, since)

    def _looked(self, at, rest_s, last, turns, step) -> tuple[Features, Rotation | None]:
        """The corners seen at rest, and how far the picture turned since the last ones.

        Something that moves may look like a servo that does not: so that is looked at again.
        """
        looks: list[_Bound] = []
        for again in range(LOOKS):
            found = self.features(self.picture_at(at.t_s + rest_s + LOOK_AGAIN_S * again))
            if not last:
                return found, None
            rotation = self._turn_by(_turned(turns, step), last[0], found)
            bound = _bound(rotation or self._shorter_turn(turns, step, last[0], found), turns, step)
            if bound is None:
                return found, rotation
            looks.append(bound)
        axis, turned_rad, due_rad = looks[-1]
        if any(
            look.axis != axis or abs(look.turned_rad - turned_rad) > MOVED_RAD for look in looks
        ):
            return found, None
        raise CalibrationError(
            f"the {AXES[axis]} servo binds near {at[axis]:.0f}: it turned "
            f"{math.degrees(turned_rad):.1f} degrees and should {math.degrees(due_rad):.1f}; set "
            "its limits so that it moves freely, and calibrate again"
        )

    def _turn_by(self, expected, before: Features, after: Features) -> Rotation | None:
        return rotation_between(before, after, self.camera, expected, LOOSE_RAD)

    def _shorter_turn(self, turns, step, before: Features, after: Features) -> Rotation | None:
        """The rotation if one of the axes went half as far as it should, or thereabouts."""
        for share in ((0.5, 1.0), (1.0, 0.5)):
            rotation = self._turn_by(_turned(turns, share * step), before, after)
            if rotation is not None:
                return rotation
        return None


class _Bound(NamedTuple):
    """An axis that turned much less than it should."""

    axis: int
    turned_rad: float
    due_rad: float


def _filled(turn: Callable[[int], float], count: int) -> np.ndarray:
    """turn(k) for k < count, worked out only where it changes; NaN where it was not."""
    turned = np.full(count, np.nan)
    todo = [(k, min(k + 4, count - 1)) for k in range(0, count - 1, 4)]
    while todo:
        low, high = todo.pop()
        for k in (low, high):
            if np.isnan(turned[k]):
                turned[k] = turn(k)
        changed = not abs(turned[high] - turned[low]) < math.radians(0.1)  # or is not known
        if changed and high - low > 1:
            middle = (low + high) // 2
            todo += [(low, middle), (middle, high)]
    return turned


def _turned(turns, step) -> np.ndarray:
    """Rotation (3, 3), about, of a step (2,) of pulses; turns (3, 2): that of a pulse."""
    pan, tilt = (cv2.Rodrigues(turns[:, axis] * step[axis])[0] for axis in (0, 1))
    return pan @ tilt


def _bound(rotation: Rotation | None, turns, step) -> _Bound | None:
    """The axis that turned much less than it should for a step (2,) of pulses, if one did."""
    if rotation is None:
        return None
    per_pulse = np.linalg.norm(turns, axis=0)
    due_rad = np.abs(step) * per_pulse
    really = np.linalg.lstsq(turns, rotation.vector_rad, rcond=None)[0]
    turned_rad = really * np.sign(step) * per_pulse
    short = due_rad - turned_rad > SHORT_RAD + SHORT_SHARE * due_rad
    if not short.any():
        return None
    axis = int(np.argmax(short))
    return _Bound(axis, float(turned_rad[axis]), float(due_rad[axis]))


def _solve(seen, camera, limits, home, camera_std, seed: int = 0) -> HeadCalibration:
    """The head that explains what was seen: first from neighbours, then from all that overlap."""
    near = [k for k, rotation in enumerate(seen.since) if rotation is not None]
    if len(near) < 0.7 * len(seen.since):
        raise CalibrationError(
            f"only {len(near)} of {len(seen.since)} neighbouring pictures could be compared: point "
            "the camera at a scene with texture all over, at rest"
        )
    holds = _holds(seen.pulses)
    neighbours = np.array([(k, k + 1) for k in near])
    views = Views(seen.pulses, seen.sides, holds, neighbours, [seen.since[k] for k in near])
    rough = solve_head(views, camera, limits, home, camera_std)
    rotations = rough.model.rotation(_stood_rad(rough, seen))
    pairs, measured = [], []
    for i, j in overlapping(rotations, camera, seed):
        expected = rotations[i].T @ rotations[j]
        rotation = rotation_between(seen.features[i], seen.features[j], camera, expected, CLOSE_RAD)
        if rotation is not None:
            pairs.append((i, j))
            measured.append(rotation)
    return solve_head(
        Views(seen.pulses, seen.sides, holds, np.array(pairs), measured),
        camera,
        limits,
        home,
        camera_std,
    )


def _stood_rad(rough: HeadCalibration, seen: _Seen) -> np.ndarray:
    """Where the shafts stood in each view (M, 2): behind the motors by half the backlash."""
    servos = rough.model.servos
    half_rad = [0.5 * math.copysign(s.backlash_rad, float(s.slope(s.home))) for s in servos]
    return rough.model.shafts(seen.pulses) + rough.off_rad - seen.sides * half_rad


def _holds(pulses: np.ndarray) -> np.ndarray:
    """(M, 2): counts how often each axis was moved."""
    moved = np.diff(pulses, axis=0, prepend=pulses[:1] - 1.0) != 0.0
    return np.cumsum(moved, axis=0)


def overlapping(rotations: np.ndarray, camera: CameraModel, seed: int = 0) -> list:
    """Pairs (i, j), i < j, of views with rotations (M, 3, 3) that show much of the same.

    Of each view's partners PARTNERS are drawn at random.
    """
    pixels = np.stack(
        np.meshgrid(
            np.linspace(0, camera.width_px - 1, 8), np.linspace(0, camera.height_px - 1, 6)
        ),
        axis=-1,
    ).reshape(-1, 2)
    rays = camera.rays_of_pixels(pixels) @ np.swapaxes(rotations, -1, -2)  # (M, 48, 3)
    there = camera.pixels_of_rays(rays[:, None] @ rotations)  # (M, M, 48, 2)
    inside = ((there >= 0) & (there <= np.array([camera.width_px, camera.height_px]) - 1)).all(-1)
    shared = inside.mean(axis=-1) >= LEAST_OVERLAP
    rng, chosen = np.random.default_rng(seed), set()
    for i, row in enumerate(shared):
        partners = np.flatnonzero(row & (np.arange(len(row)) != i))
        for j in rng.permutation(partners)[:PARTNERS].tolist():
            chosen.add((min(i, j), max(i, j)))
    return sorted(chosen)
