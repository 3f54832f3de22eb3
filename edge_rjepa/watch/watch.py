"""Novelty: a frozen encoder looks at a place again and again, and says where it stays surprising.

The weights are frozen; what a place usually looks like is not. Gaze goes over a lattice of
directions, all that are in view every ROUND_S seconds, and cuts each window as if its direction
were in the middle of the picture, so that it is the same window from wherever the head looks. For
every direction the usual embeddings are kept (averages, of up to WAYS ways that it looks), and a
look at it has the

    surprise = 1/2 e' S^-1 e nats,    e = z - the nearest of them

with S the covariance of e over all directions: the surprise of a Gaussian that foresees what was
there before. Leaves move, walls do not, so a direction's score is how far the logarithm of its
surprise lies above the usual one there, in standard deviations. From all scores the median of a
round is taken away: what all directions share is the light, or a head that stopped elsewhere.

Something new has to stay. A look counts only as far as it is more surprising than it is unlike the
look before it (what passes is as unlike itself as it is unlike the place), the lowest of LOOKS
looks on end counts, and it is averaged with those of the nearest directions.

The threshold is one number, the false alarms an hour that are to be expected. The highest of these
averages is taken from each block of BLOCK_S seconds of the warm-up. They are about normal, and so
the level that is passed once an hour follows from what minutes have shown. It stays; what is seen
later gives a running estimate of how often it is passed for nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree
from scipy.special import stdtr, stdtrit

from calibration.angles import rays_of_angles
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Camera
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import load_run
from edge_rjepa.sources import Frame

WIDTH_PX = 320  # that pictures are reduced to: windows of 64 px then span a fifth of any camera's
STEP_SHARE = 1 / 16  # of the picture's width, between neighbouring directions
MARGIN_SHARE = 0.03  # of the picture's width, along its border, where nothing is looked at
ROUND_S = 0.4  # in which every direction in view is looked at once
LOOKS = 3  # on end that must be surprising
NEAREST = 9  # directions, itself among them, whose looks are averaged
STILL = 2.0  # a look must be this many times as surprising as it is unlike the look before
WARM_UP_S = 300.0  # in which nothing new is taken to come
LEAST_WARM_UP_S = 30.0
SETTLING, COUNTING = 0.5, 1 / 3  # parts of it until S stays, and from which on blocks count
VISITS = 150  # of a direction in the warm-up, at most: looks nearer in time say the same again
WAYS = 4  # that a direction may usually look: a door open, a door closed
ENOUGH_VISITS = 8  # of a direction before it is judged
ADAPT = 0.02  # part of a visit in what is usual, once there are 1 / ADAPT of them
RELUCTANT = 0.1  # part of that, where it is surprising just now
FLOOR = 0.05  # of the mean variance of z, added to S
REFRESH = 50  # frames between two inverses of S
LOG_VARIANCE = 0.5  # of a direction's log surprise, before it is measured
VARIANCE_RATE, CAP = 0.03, 9.0  # CAP: what a look adds at most
COMMON = 200  # looks whose median is taken away
BLOCK_S = 2.0
BLOCKS = 2000  # remembered, an hour
FEWEST_BLOCKS = 8  # before there is a threshold
LEAST_PER_HOUR = 1e-3
LEAST_STD = 0.1  # of the blocks' scores
LOWEST_THRESHOLD = 2.7  # standard deviations: minutes show too little of what else there can be
UNCALM = 1.5  # above it a direction is not taken as usual
SAME_STEPS = 3.0  # directions this near, at about the same time, are of one thing
SAME_S = 5.0
CLEARLY = 0.7  # of the highest score of a thing: what is less is around it
CHANGED = 3.0  # standard deviations that all is more surprising than usual: another light, or place

Encode = Callable[[np.ndarray], np.ndarray]


class Alarm(NamedTuple):
    """Something that was not there before."""

    t_s: float  # when that was certain, on the clock of the frames
    frame: Frame  # in which it is seen
    pixel: tuple[float, float]  # (x, y) of its middle there
    box: tuple[int, int, int, int]  # (x, y, width, height) about it
    angles_rad: tuple[float, float]  # azimuth, elevation in the base frame
    surprise: float  # nats, at its most surprising direction
    usual: float  # nats, what is usual there
    score: float  # standard deviations
    per_hour: float  # how often as much is to be expected with nothing new


class Watch:
    """Looks at frames and returns alarms; the same frames give the same alarms.

    encode: embeddings z (K, n_z) of windows (K, window_px, window_px, 3) uint8 BGR. camera: of the
    frames. alarms_per_hour: false ones to be expected. warm_up_s: for so long nothing is reported.
    Raises ConfigError for alarms_per_hour not above 0, and warm_up_s below LEAST_WARM_UP_S.
    """

    def __init__(
        self,
        encode: Encode,
        camera: Camera,
        window_px: int = 64,
        alarms_per_hour: float = 1.0,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        if not (math.isfinite(alarms_per_hour) and alarms_per_hour > 0.0):
            raise ConfigError(f"alarms_per_hour = {alarms_per_hour}: must be a number above 0")
        if not (math.isfinite(warm_up_s) and warm_up_s >= LEAST_WARM_UP_S):
            raise ConfigError(f"warm_up_s = {warm_up_s}: must be {LEAST_WARM_UP_S:.0f} at least")
        self.alarms_per_hour, self.warm_up_s = alarms_per_hour, warm_up_s
        self._encode = encode
        self.directions = Directions(camera, window_px)
        self._camera = camera
        self._events: list[str] = []
        self.tail = Tail()
        self._begin()

    def _begin(self) -> None:
        """Know nothing of the place, but how high scores go with nothing new."""
        count = len(self.directions.angles_rad)
        self.usual = Usual(count, self.warm_up_s / VISITS)
        self._scores = np.full((count, LOOKS), -np.inf)
        self._common: deque[float] = deque(maxlen=COMMON)
        self._last_s = np.full(count, -np.inf)  # when each was looked at
        self._things: list[Thing] = []
        self.threshold = math.inf  # the score above which something is reported, once it is known
        self._begun_s: float | None = None
        self._now_s = -math.inf

    @property
    def expected_per_hour(self) -> float:
        """False alarms an hour at the present threshold, from what was seen; NaN if not known."""
        return self.tail.per_hour(self.threshold)

    @property
    def warming_up_s(self) -> float:
        """How long it will still report nothing."""
        if self._begun_s is None:
            return self.warm_up_s
        return max(0.0, self._begun_s + self.warm_up_s - self._now_s)

    def drain_events(self) -> list[str]:
        """What happened to the watch itself since the last call, in words, oldest first."""
        events, self._events = self._events, []
        return events

    def look(self, frame: Frame) -> list[Alarm]:
        """Look at a frame; what is new in it."""
        cells = self._due(frame)
        if not len(cells):
            return []
        z = np.asarray(self._encode(self.directions.windows(frame, cells)), np.float64)
        return self._judge(frame, cells, z)

    def _due(self, frame: Frame) -> np.ndarray:
        """The directions to look at now, those first that were not looked at for longest."""
        t_s = frame.t_capture_s
        if self._begun_s is None:
            self._begun_s = t_s
        cells = self.directions.in_view(frame.head_rad)
        gone_s = min(max(t_s - self._now_s, 0.0), ROUND_S)
        self._now_s = t_s
        count = math.ceil(len(cells) * gone_s / ROUND_S - 1e-6)
        cells = cells[np.argsort(self._last_s[cells], kind="stable")[:count]]
        self._last_s[cells] = t_s
        return cells

    def _judge(self, frame: Frame, cells: np.ndarray, z: np.ndarray) -> list[Alarm]:
        t_s = frame.t_capture_s
        age = (t_s - self._begun_s) / self.warm_up_s
        looks = self.usual.judge(cells, z)
        score = looks.score
        self._common.extend(score[np.isfinite(score)].tolist())
        common = float(np.median(self._common)) if self._common else 0.0
        if common > CHANGED and len(self._common) == COMMON and age > 1.0:
            self._events.append(
                "all of the view has changed, the light or the place: what is usual is learned "
                f"anew for {self.warm_up_s:.0f} s, in which nothing is reported"
            )
            self._begin()
            return []
        self._scores[cells] = np.column_stack([self._scores[cells, 1:], score - common])
        stays = self._stays(cells)
        if age > 1.0:
            if math.isinf(self.threshold):
                self.threshold = max(LOWEST_THRESHOLD, self.tail.height(self.alarms_per_hour))
            self._note(frame, cells, stays, z, looks)
        elif age > COUNTING:
            self._see_tail(stays, looks, t_s)
        self.usual.learn(cells, z, looks, frame, age, (stays > UNCALM) & (age > SETTLING))
        return self._alarms(t_s)

    def _stays(self, cells: np.ndarray) -> np.ndarray:
        """The lowest scores of the last looks, averaged with those of the nearest directions."""
        lowest = self._scores[self.directions.nearest[cells]].min(axis=2)
        known = np.isfinite(lowest)
        some = np.maximum(known.sum(axis=1), (NEAREST + 1) // 2)
        mean = np.where(known, lowest, 0.0).sum(axis=1) / some
        return np.where(known[:, 0], mean, -np.inf)

    def _see_tail(self, stays: np.ndarray, looks: Looks, t_s: float) -> None:
        """How high scores go where what is usual is well known."""
        well_known = stays[looks.visits >= 2 * ENOUGH_VISITS]
        if not self._things and len(well_known):
            self.tail.see(float(well_known.max()), t_s)

    def _note(self, frame: Frame, cells, stays, z, looks: Looks) -> None:
        """Take down which directions are above the threshold, and how high the rest went."""
        t_s = frame.t_capture_s
        for k in np.flatnonzero(stays > UNCALM):
            near = (thing for thing in self._things if self._is_near(cells[k], thing))
            thing = next(near, None)
            if thing is None and stays[k] > self.threshold:
                thing = Thing(t_s)
                self._things.append(thing)
            if thing is not None:  # what is near it is of it, if only somewhat surprising
                sign = Sign(frame, int(cells[k]), float(stays[k]), z[k], float(looks.surprise[k]))
                thing.add(sign)
        self._see_tail(stays, looks, t_s)
        self._things = [t for t in self._things if not t.told or t_s - t.last_s < SAME_S]

    def _alarms(self, t_s: float) -> list[Alarm]:
        """What was noticed a round ago: only now have all its directions been looked at."""
        alarms = []
        for thing in self._things:
            if not thing.told and t_s - thing.first_s >= ROUND_S - 1e-6:
                for other in self._beside(thing):  # began apart, and grew together
                    thing.told |= other.told
                    thing.signs |= other.signs
                    other.told, other.signs = True, {}
                if not thing.told:
                    alarms.append(self._alarm(thing, t_s))
                thing.told = True
            if thing.told:  # what is there now is usual: it is told once
                for sign in thing.take_signs():
                    self.usual.adopt(sign.cell, sign.z, t_s)
                    self._scores[sign.cell] = -np.inf
        return alarms

    def _beside(self, thing: Thing) -> list[Thing]:
        """The other things that are near it."""
        return [
            other
            for other in self._things
            if other is not thing and any(self._is_near(cell, other) for cell in thing.cells)
        ]

    def _is_near(self, cell: int, thing: Thing) -> bool:
        angles_rad, near_rad = self.directions.angles_rad, SAME_STEPS * self.directions.step_rad
        here = angles_rad[cell]
        return any(math.dist(angles_rad[other], here) < near_rad for other in thing.cells)

    def _alarm(self, thing: Thing, t_s: float) -> Alarm:
        signs = list(thing.signs.values())
        weight = np.array([sign.score for sign in signs])
        cells = np.array([sign.cell for sign in signs])
        most = signs[int(weight.argmax())]
        angles_rad = weight @ self.directions.angles_rad[cells] / weight.sum()
        frame = most.frame
        clearly = cells[weight >= CLEARLY * weight.max()]
        return Alarm(
            t_s,
            frame,
            tuple(self._camera.pixels_of_angles(angles_rad, frame.head_rad).tolist()),
            self.directions.box(frame, clearly),
            tuple(angles_rad.tolist()),
            most.surprise,
            float(np.exp(self.usual.log_surprise[most.cell])),
            most.score,
            self.tail.per_hour(most.score),
        )


class Sign(NamedTuple):
    """A look that was surprising, as those before it and beside it."""

    frame: Frame
    cell: int
    score: float
    z: np.ndarray
    surprise: float


@dataclass
class Thing:
    """Directions near each other that became surprising at about the same time."""

    first_s: float
    last_s: float = 0.0
    told: bool = False
    signs: dict[int, Sign] = field(default_factory=dict)  # by direction, since the last were taken
    cells: set[int] = field(default_factory=set)  # of all signs ever

    def add(self, sign: Sign) -> None:
        """One more of its directions, or one of them again."""
        self.last_s = sign.frame.t_capture_s
        self.signs[sign.cell] = sign
        self.cells.add(sign.cell)

    def take_signs(self) -> list[Sign]:
        """The signs since the last call."""
        signs, self.signs = self.signs, {}
        return list(signs.values())


class Directions:
    """Directions all around, and the windows about those that are in a picture."""

    def __init__(self, camera: Camera, window_px: int) -> None:
        self._camera, self._window_px = camera, window_px
        self._scale = min(1.0, WIDTH_PX / camera.width_px)
        self.step_rad = STEP_SHARE * camera.width_px / camera.focal_px
        self.angles_rad = lattice(self.step_rad)
        rays = rays_of_angles(self.angles_rad)
        self.nearest = cKDTree(rays).query(rays, NEAREST)[1]  # (n, NEAREST), itself first
        self._corners = _corners(self.angles_rad, 0.5 * window_px / (self._scale * camera.focal_px))
        side = float(window_px)
        self._square = np.float32([[0, 0], [side, 0], [side, side], [0, side]])
        self._view: tuple = (None, None)

    def in_view(self, head: tuple[float, float]) -> np.ndarray:
        """The directions (n,) that are in a picture."""
        if self._view[0] != head:
            camera = self._camera
            margin = MARGIN_SHARE * camera.width_px
            highest = np.array([camera.width_px, camera.height_px]) - 1.0 - margin
            pixels = camera.pixels_of_angles(self.angles_rad, head)
            inside = ((pixels >= margin) & (pixels <= highest)).all(axis=1)
            cells = np.flatnonzero(inside)
            seen = np.isfinite(self._pixels_of_corners(cells, head)).all(axis=(1, 2))
            self._view = head, cells[seen]
        return self._view[1]

    def windows(self, frame: Frame, cells: np.ndarray) -> np.ndarray:
        """The windows (K, window_px, window_px, 3) uint8 about directions (K,).

        Each as a camera would see it that looks straight there: exact for a pinhole, since four
        corners tell all of a plane's perspective.
        """
        size = self._window_px, self._window_px
        windows = np.empty((len(cells), *size, 3), np.uint8)
        corners = self._pixels_of_corners(cells, frame.head_rad)
        corners = ((corners + 0.5) * self._scale - 0.5).astype(np.float32)
        image = frame.image
        if self._scale < 1.0:
            height = max(1, round(self._scale * image.shape[0]))
            image = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
        for k in range(len(cells)):
            cv2.warpPerspective(
                image,
                cv2.getPerspectiveTransform(self._square, corners[k]),
                size,
                dst=windows[k],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return windows

    def box(self, frame: Frame, cells: np.ndarray) -> tuple[int, int, int, int]:
        """An upright box (x, y, width, height) in the picture: directions, and a step beyond."""
        pixels = self._camera.pixels_of_angles(self.angles_rad[cells], frame.head_rad)
        height, width = frame.image.shape[:2]
        step = STEP_SHARE * width
        left, top = np.clip(pixels.min(axis=0) - step, 0, [width - 2, height - 2]).astype(int)
        right, low = np.clip(pixels.max(axis=0) + step, [left + 1, top + 1], [width, height])
        return int(left), int(top), int(right) - int(left), int(low) - int(top)

    def _pixels_of_corners(self, cells: np.ndarray, head) -> np.ndarray:
        """Pixels (K, 4, 2) of the windows' corners."""
        return self._camera.pixels_of_rays(self._corners[cells] @ self._camera.rotation(head))


class Looks(NamedTuple):
    """What K looks at directions came to."""

    way: np.ndarray  # (K,) which of the usual ways is nearest,
    visits: np.ndarray  # (K,) and in how many it was learned
    error: np.ndarray  # (K, n_z) z - what is usual there
    surprise: np.ndarray  # (K,) nats
    score: np.ndarray  # (K,) standard deviations above what is usual, -inf where that is not known


class Usual:
    """What each direction usually looks like, in up to WAYS ways, and how surprising it usually is.

    What is kept of a direction is all there from the start. visit_s: looks from one place within
    it count as one visit, since they say the same again.
    """

    def __init__(self, count: int, visit_s: float) -> None:
        self._visit_s = visit_s
        self._visits = np.zeros((count, WAYS), np.int64)
        self._used_s = np.full((count, WAYS), -np.inf)  # when each way was seen last
        self._place = np.full((count, 2), np.nan)  # of the head at the last visit,
        self._time_s = np.full(count, -np.inf)  # and when that was
        self._levels = np.zeros(count, np.int64)  # visits whose surprise was learned from
        self.log_surprise = np.zeros(count)  # median
        self._variance = np.full(count, LOG_VARIANCE)  # of that logarithm
        self._updates = 0
        self._z: np.ndarray | None = None  # (count, WAYS, n_z), made at the first look

    def _begin(self, n_z: int) -> None:
        count = len(self._visits)
        self._z = np.zeros((count, WAYS, n_z))
        self._before = np.full((count, n_z), np.nan)  # of the look before
        self._spread = 0.05 * np.eye(n_z)  # S
        self._between = np.ones(n_z)  # variance of z
        self._precision = np.linalg.inv(self._spread)

    def judge(self, cells: np.ndarray, z: np.ndarray) -> Looks:
        """How surprising embeddings z (K, n_z) of looks at cells (K,) are."""
        if self._z is None:
            self._begin(z.shape[1])
        errors = z[:, None] - self._z[cells]
        surprises = self._surprise(errors)
        visits = self._visits[cells]
        surprises[(visits == 0) & (np.arange(WAYS) > 0)] = np.inf  # the first may be empty, too
        rows, way = np.arange(len(cells)), surprises.argmin(axis=1)
        surprise = surprises[rows, way]
        change = self._surprise(np.nan_to_num(z - self._before[cells]))
        self._before[cells] = z
        level = np.maximum(self.log_surprise[cells], _log(STILL * change))
        score = (_log(surprise) - level) / np.sqrt(self._variance[cells])
        known = (visits.max(axis=1) >= ENOUGH_VISITS) & (self._levels[cells] >= ENOUGH_VISITS)
        return Looks(
            way, visits[rows, way], errors[rows, way], surprise, np.where(known, score, -np.inf)
        )

    def learn(self, cells, z, looks: Looks, frame: Frame, age: float, uncalm: np.ndarray) -> None:
        """Take looks as usual where they are visits; hardly, where they are `uncalm` (K,).

        age: of the watch, in parts of the warm-up. S is learned until SETTLING.
        """
        t_s = frame.t_capture_s
        fresh = (self._place[cells] != frame.head_rad).any(axis=1)
        fresh |= t_s - self._time_s[cells] > self._visit_s
        self._place[cells[fresh]], self._time_s[cells[fresh]] = frame.head_rad, t_s
        cells, z, way, error = cells[fresh], z[fresh], looks.way[fresh], looks.error[fresh]
        trust = np.where(uncalm[fresh], RELUCTANT, 1.0)
        visits = self._visits[cells, way]
        known = visits >= ENOUGH_VISITS
        # What passes is not usual: it weighs less, the more surprising it is (an M-estimate).
        weight = np.minimum(1.0, z.shape[1] / np.maximum(looks.surprise[fresh], 1e-9))
        if age < SETTLING and known.any():
            self._learn_spread(error[known], z[known], weight[known])
        if age > 0.2:
            self._learn_levels(cells[known], _log(looks.surprise[fresh][known]), trust[known])
        part = trust * np.maximum(1.0 / (visits + 1.0), ADAPT)
        part *= np.where(known, weight, 1.0)
        self._z[cells, way] += part[:, None] * error
        self._visits[cells, way] += trust == 1.0
        self._used_s[cells, way] = t_s

    def adopt(self, cell: int, z: np.ndarray, t_s: float) -> None:
        """This is a usual way, too, in place of the one that was seen longest ago."""
        way = int(self._used_s[cell].argmin())
        self._z[cell, way] = z
        self._visits[cell, way] = ENOUGH_VISITS
        self._used_s[cell, way] = t_s

    def _learn_spread(self, error: np.ndarray, z: np.ndarray, weight: np.ndarray) -> None:
        self._updates += 1
        rate = max(1.0 / (self._updates + 1.0), 0.1 * ADAPT)
        found = (weight[:, None] * error).T @ error / len(error)
        self._spread += rate * (found - self._spread)
        self._between += rate * (z.var(axis=0) - self._between)
        if self._updates % REFRESH == 1:
            floor = FLOOR * max(float(self._between.mean()), 1e-6)
            self._precision = np.linalg.inv(self._spread + floor * np.eye(len(self._between)))

    def _learn_levels(self, cells: np.ndarray, log: np.ndarray, trust: np.ndarray) -> None:
        """The running median of the logarithm, and its variance, as far as it is not passers-by."""
        off = log - self.log_surprise[cells]
        std = np.sqrt(self._variance[cells])
        levels = self._levels[cells]
        rate = trust * np.maximum(1.0 / (levels + 1.0), ADAPT)
        step = np.where(levels == 0, off, 2.0 * rate * std * np.sign(off))
        self.log_surprise[cells] += step
        settled = levels >= ENOUGH_VISITS // 2  # before it, the median is still far off
        rate = VARIANCE_RATE * trust * settled
        self._variance[cells] += rate * (np.minimum(off**2, CAP) - self._variance[cells])
        self._levels[cells] += 1

    def _surprise(self, error: np.ndarray) -> np.ndarray:
        """1/2 e' S^-1 e (...) nats of e (..., n_z)."""
        return 0.5 * ((error @ self._precision) * error).sum(axis=-1)


class Patrol:
    """Where a head looks: stop by stop, there and back, half a view apart, for stay_s at each.

    limits_rad: (lowest, highest) pan and tilt.
    """

    def __init__(self, limits_rad, camera: Camera, stay_s: float) -> None:
        views_rad = camera.width_px / camera.focal_px, camera.height_px / camera.focal_px
        pans, tilts = (
            np.linspace(low, high, 1 + math.ceil((high - low) / (0.5 * view_rad) - 1e-9))
            if high > low
            else np.array([low])
            for (low, high), view_rad in zip(limits_rad, views_rad, strict=True)
        )
        rows = [[(float(pan), float(tilt)) for pan in pans] for tilt in tilts]
        there = [stop for k, row in enumerate(rows) for stop in (row[::-1] if k % 2 else row)]
        self.stops = there + there[-2:0:-1]
        self._stay_s = stay_s
        self._next, self._since_s = 0, -math.inf

    def due(self, t_s: float) -> tuple[float, float] | None:
        """Where to turn now (pan_rad, tilt_rad), or None to stay.

        To be asked at each frame that the head stood still for.
        """
        if t_s - self._since_s < self._stay_s:
            return None
        self._since_s = t_s
        stop = self.stops[self._next % len(self.stops)]
        self._next += 1
        return stop


class Tail:
    """How high scores go with nothing new: the highest of each block of BLOCK_S seconds.

    Being averages of lowest scores of many looks, the blocks' are about normal; another one is
    foreseen by Student's t, which allows for how few there were.
    """

    def __init__(self) -> None:
        self._blocks: deque[float] = deque(maxlen=BLOCKS)
        self._block, self._highest = -math.inf, -math.inf
        self._mean, self._std, self._freedom = math.nan, math.nan, 1

    def see(self, score: float, t_s: float) -> None:
        """The highest score of a frame in which nothing is new."""
        block = t_s // BLOCK_S
        if block != self._block:
            if math.isfinite(self._highest):
                self._blocks.append(self._highest)
                self._fit()
            self._block, self._highest = block, -math.inf
        self._highest = max(self._highest, score)

    @property
    def hours(self) -> float:
        """How much of the stream the distribution is fitted to."""
        return len(self._blocks) * BLOCK_S / 3600.0

    def per_hour(self, score: float) -> float:
        """In how many blocks an hour a score is passed with nothing new; NaN if not known.

        LEAST_PER_HOUR at least: minutes or hours say nothing of what comes once a month.
        """
        t = (score - self._mean) / self._std
        return max(3600.0 / BLOCK_S * float(stdtr(self._freedom, -t)), LEAST_PER_HOUR)

    def height(self, per_hour: float) -> float:
        """The score that is passed so many times an hour; infinite before it is known."""
        if math.isnan(self._mean):
            return math.inf
        share = min(per_hour * BLOCK_S / 3600.0, 0.5)
        return self._mean - self._std * float(stdtrit(self._freedom, share))

    def _fit(self) -> None:
        count = len(self._blocks)
        if count >= FEWEST_BLOCKS:
            highest = np.array(self._blocks)
            self._mean, self._freedom = float(highest.mean()), count - 1
            std = float(highest.std(ddof=1)) * math.sqrt(1.0 + 1.0 / count)
            self._std = max(std, LEAST_STD)


def _log(surprise: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(surprise, 1e-9))


def embedder(learner: RJepa, retina: Retina) -> Encode:
    """What embeds windows with a learner, whose weights stay."""
    block = learner.config.max_block
    efference = np.zeros((block, learner.config.n_efference), np.float32)

    def embed(windows: np.ndarray) -> np.ndarray:
        count, side = windows.shape[:2]
        middles = np.column_stack([np.full(count, side / 2), side * (np.arange(count) + 0.5)])
        # A column of windows is a picture, too, and the retina is fastest on pictures.
        seen = retina(windows.reshape(-1, side, 3), middles)
        parts = (seen[i : i + block] for i in range(0, count, block))
        return np.concatenate([learner.embed(part, efference[: len(part)])[0] for part in parts])

    return embed


class Encoder(NamedTuple):
    """What embeds windows."""

    embed: Encode
    window_px: int  # their side
    config: RunConfig | None  # of the run it is from; an ONNX file tells none


def encoder_of(path: Path) -> Encoder:
    """The encoder of a run folder or of an ONNX file.

    Raises what `load_run` and FrozenEncoder raise, and ConfigError for a file that takes features,
    or several fixations at a time.
    """
    if path.is_dir():
        kept = load_run(path)
        retina = Retina(kept.config.retina)
        return Encoder(embedder(kept.learner, retina), retina.config.window_px, kept.config)
    encoder = FrozenEncoder(path)
    if encoder.retina is None or encoder.fixations != 1:
        raise ConfigError(
            f"{path} takes features, or {encoder.fixations} fixations at a time: export the form "
            "patches or step, with its retina"
        )
    width = encoder.metadata["config"]["n_efference"]

    def embed(windows: np.ndarray) -> np.ndarray:
        return encoder.embed(windows, np.zeros((len(windows), width), np.float32))[0]

    return Encoder(embed, encoder.retina.config.window_px, None)


def lattice(step_rad: float) -> np.ndarray:
    """Directions (n, 2) all around, azimuth and elevation, about step_rad from each other."""
    rows = max(1, round(math.pi / step_rad))
    angles = []
    for elevation in (np.arange(rows) + 0.5) * math.pi / rows - 0.5 * math.pi:
        columns = max(1, round(math.tau * math.cos(elevation) / step_rad))
        azimuth = (np.arange(columns) + 0.5) * math.tau / columns - math.pi
        angles.append(np.column_stack([azimuth, np.full(columns, elevation)]))
    return np.concatenate(angles)


def _corners(angles_rad: np.ndarray, half: float) -> np.ndarray:
    """Rays (n, 4, 3) to the corners of squares about directions, `half` their side on a plane at 1.

    Upright: the upper and lower sides are level.
    """
    rays = rays_of_angles(angles_rad)
    azimuth = angles_rad[:, 0]
    right = np.column_stack([np.cos(azimuth), np.zeros_like(azimuth), -np.sin(azimuth)])
    down = np.cross(rays, right)
    turns = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([rays + half * (x * right + y * down) for x, y in turns], axis=1)
