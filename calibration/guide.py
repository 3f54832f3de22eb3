"""Taking views of a board by itself: which frame to keep, and what to ask for next.

A state machine without a camera, a screen or a clock: frames go in, advice comes out, and frames
that are sharp, still and unlike those kept are kept. It ends when nothing is missing: the board was
seen all over the picture, tilted to all four sides, near and far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from calibration.board import Board, Sighting
from calibration.bundle import poses_of_plane
from calibration.camera import GRID, coverage
from calibration.errors import CalibrationError

ENOUGH_VIEWS = 15
MOST_VIEWS = 40
ENOUGH_COVERAGE = 0.88  # of the picture's cells: three of 25 may be missing
ENOUGH_TILT_RAD = math.radians(20.0)
ENOUGH_NEARER = 1.5  # squares of the nearest view over those of the farthest
BLUR = 1.5  # edges so many times as wide as the sharpest yet are blurred ..
SHARP_PX = 3.0  # .. but edges this narrow never are
STILL_SHARE = 0.003  # of the picture's width that corners may move between two frames
SOON_S = 0.5  # frames farther apart say nothing of stillness
EXAMINE_EVERY_S = 3.0  # why no board is found
ROUGH_FOCAL_SHARE = 0.9  # of the width: a webcam of 58 degrees, good enough to tell tilts by
# Views this far apart are different: in the picture, in log size, in tilt.
APART = np.array([0.12, 0.12, 0.2, math.radians(12.0), math.radians(12.0)])
SIDES = ("left side", "right side", "upper side", "lower side")


class Advice(NamedTuple):
    """What became of a frame, and what to do now."""

    kept: bool
    done: bool
    progress: float  # 0 to 1
    text: str  # one line for who holds the board; left and right are the picture's
    sighting: Sighting | None  # the board, where it was found


class Guide:
    """Collects views; `sightings` and `size` are what calibrate_camera takes."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.size = (0, 0)  # width and height in pixels, once there is a frame
        self.sightings: list[Sighting] = []
        self._views: list[np.ndarray] = []  # (5,) of each: x, y, log size, tilt right, tilt down
        self._last: tuple[float, Sighting] | None = None
        self._sharpest_px = math.inf
        self._examined_s = math.nan
        self.trouble = ""  # why no board was found when the picture was last examined for it

    def offer(self, image: np.ndarray, t_s: float) -> Advice:
        """Look at a frame (H, W) or (H, W, 3) uint8, taken at t_s, later than the one before.

        Raises CalibrationError for another size than before, or what is no picture.
        """
        sighting = self.board.find(image, quick=True)
        size = image.shape[1], image.shape[0]
        if self.size not in ((0, 0), size):
            raise CalibrationError(
                f"a frame is {size[0]} x {size[1]} px, those before {self.size[0]} x "
                f"{self.size[1]}: keep the camera at one resolution"
            )
        self.size = size
        still = self._is_still(sighting, t_s)
        if sighting is None:
            return self._advice(False, self._why_unseen(image, t_s), None)
        self._sharpest_px = min(self._sharpest_px, sighting.edge_px)
        if sighting.edge_px > max(BLUR * self._sharpest_px, SHARP_PX):
            return self._advice(
                False, "blurred: hold the board still, or make more light", sighting
            )
        if not still:
            return self._advice(False, "hold still", sighting)
        kept = not self.done and self._adds(sighting)
        if kept:
            self.sightings.append(sighting)
            self._views.append(self._view(sighting))
        return self._advice(kept, self._wish(), sighting)

    def _why_unseen(self, image: np.ndarray, t_s: float) -> str:
        """What to do where no board is found; the picture is examined now and then, as it takes
        long."""
        if not t_s - self._examined_s < EXAMINE_EVERY_S:
            self._examined_s, self.trouble = t_s, self.board.trouble(image)
        return self.trouble or "show the board to the camera, flat and well lit"

    @property
    def done(self) -> bool:
        """Whether nothing is missing, or so many views were kept that waiting on is no use."""
        return not self.missing() or len(self.sightings) >= MOST_VIEWS

    def missing(self) -> list[str]:
        """What to show, in words, the most important first."""
        if not self.sightings:
            return ["show the board to the camera"]
        wishes = []
        if coverage(self._pixels(), self.size) < ENOUGH_COVERAGE:
            wishes.append(f"move the board to the {self._empty_part()} of the picture")
        tilts = np.array(self._views)[:, 3:]
        turned = [tilts[:, 0].max(), -tilts[:, 0].min(), tilts[:, 1].max(), -tilts[:, 1].min()]
        side = int(np.argmin(turned))
        if turned[side] < ENOUGH_TILT_RAD:
            wishes.append(f"tilt the board, its {SIDES[side]} away from the camera")
        if np.ptp(np.array(self._views)[:, 2]) < math.log(ENOUGH_NEARER):
            middle = np.mean([view[2] for view in self._views])
            wishes.append("hold it nearer" if middle < math.log(0.06) else "hold it farther away")
        if len(self.sightings) < ENOUGH_VIEWS:
            wishes.append("a few more, each held another way")
        return wishes

    def _wish(self) -> str:
        return "enough views" if self.done else self.missing()[0]

    def _advice(self, kept: bool, text: str, sighting: Sighting | None) -> Advice:
        if self.done:
            return Advice(kept, True, 1.0, "enough views", sighting)
        return Advice(kept, False, self._progress(), text, sighting)

    def _progress(self) -> float:
        """How much of everything is there, 0 to 1."""
        if not self.sightings:
            return 0.0
        views = np.array(self._views)
        tilts = np.concatenate([views[:, 3:].max(axis=0), -views[:, 3:].min(axis=0)])
        shares = [
            len(views) / ENOUGH_VIEWS,
            coverage(self._pixels(), self.size) / ENOUGH_COVERAGE,
            *(tilts / ENOUGH_TILT_RAD),
            np.ptp(views[:, 2]) / math.log(ENOUGH_NEARER),
        ]
        return float(np.clip(shares, 0.0, 1.0).mean())

    def _is_still(self, sighting: Sighting | None, t_s: float) -> bool:
        """Whether the corners are where they were in the frame before."""
        before, self._last = self._last, (t_s, sighting) if sighting is not None else None
        if before is None or sighting is None or not 0.0 < t_s - before[0] <= SOON_S:
            return False
        common, here, there = np.intersect1d(sighting.ids, before[1].ids, return_indices=True)
        if not len(common):
            return False
        moved_px = np.hypot(*(sighting.pixels[here] - before[1].pixels[there]).T)
        return bool(np.median(moved_px) < STILL_SHARE * self.size[0])

    def _adds(self, sighting: Sighting) -> bool:
        """Whether a view is unlike those kept, or shows the board where it was not yet."""
        if not self._views:
            return True
        apart = (np.array(self._views) - self._view(sighting)) / APART
        if (apart**2).sum(axis=1).min() < 1.0:
            return False
        seen = coverage(self._pixels(), self.size)
        more = coverage(np.vstack([self._pixels(), sighting.pixels]), self.size)
        return (
            more > seen or len(self._views) < ENOUGH_VIEWS or self._fills_tilt_or_distance(sighting)
        )

    def _fills_tilt_or_distance(self, sighting: Sighting) -> bool:
        """Whether it is more tilted, nearer or farther than all before, where that is missing."""
        views, view = np.array(self._views), self._view(sighting)
        low, high = views[:, 2:].min(axis=0), views[:, 2:].max(axis=0)
        enough = np.array([math.log(ENOUGH_NEARER), ENOUGH_TILT_RAD, ENOUGH_TILT_RAD])
        wanted_low = np.array([np.ptp(views[:, 2]) < enough[0], *(-low[1:] < enough[1:])])
        wanted_high = np.array([np.ptp(views[:, 2]) < enough[0], *(high[1:] < enough[1:])])
        view = view[2:]
        return bool((wanted_low & (view < low) | wanted_high & (view > high)).any())

    def _view(self, sighting: Sighting) -> np.ndarray:
        """(5,) x and y of the middle in pictures, log of a square in pictures, tilts in radians.

        A positive tilt has the left, or the upper, side of the board farther away.
        """
        width, height = self.size
        slopes = (sighting.pixels - 0.5 * np.array([width - 1, height - 1])) / (
            ROUGH_FOCAL_SHARE * width
        )
        rays = np.concatenate([slopes, np.ones_like(slopes[:, :1])], axis=1)
        points = self.board.points[sighting.ids]
        rotations, places = poses_of_plane(points, rays[None], np.ones((1, len(rays)), bool))
        at = rotations[0] @ points.mean(axis=0) + places[0]
        tilt = (rotations[0][:, 2] - at / np.linalg.norm(at))[:2]
        spread = [np.linalg.det(np.cov(x.T)) for x in (sighting.pixels, points[:, :2])]
        square_px = self.board.square_m * (spread[0] / spread[1]) ** 0.25
        middle = sighting.pixels.mean(axis=0) / [width, height]
        return np.array(
            [*middle, math.log(square_px / width), *np.arcsin(np.clip(tilt, -1.0, 1.0))]
        )

    def _pixels(self) -> np.ndarray:
        return np.vstack([sighting.pixels for sighting in self.sightings])

    def _empty_part(self) -> str:
        """Where in the picture the board was seen least, in words."""
        cells = np.clip(self._pixels() * GRID / np.array(self.size), 0, GRID - 1).astype(int)
        empty = np.ones((GRID, GRID))
        empty[cells[:, 1], cells[:, 0]] = 0.0
        parts = np.array_split(np.arange(GRID), [2, 3])  # 2, 1 and 2 rows or columns
        shares = np.array(
            [[empty[np.ix_(rows, columns)].mean() for columns in parts] for rows in parts]
        )
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        if row == column == 1:
            return "middle"
        if 1 in (row, column):
            return ("left side", "", "right side")[column] or ("top", "", "bottom")[row]
        return f"{('upper', '', 'lower')[row]} {('left', '', 'right')[column]} corner"
