"""Where to look next: saccades towards what is worth looking at, and moves of the head.

Pure: what is planned depends on the configuration, the seed, and the calls made before.

Two things rule every policy. Saccades have log-normal amplitudes, short ones most, and any
direction. And a place near one looked at lately is refused with some probability:

    P(refused) = strength * max_i decay^age_i * max(0, 1 - (distance_i / radius)^2)

where age_i = 0 for the place gaze is at, 1 for the one before, and so on. It stays below 1, so a
revisit is made unlikely for a while and never ruled out. Amplitudes and distances are measured in
the picture, by the pixels a radian has in its middle. `random` knows nothing more and ignores the
picture. The other policies draw from the cells of a map that lie in the picture,

    P(cell) ~ exp(priority / temperature) * p(saccade that long) * (1 - P(refused)) * area

    priority = sum of weight * term over the terms that count (config.py, GazePolicy)

    salience   colour and texture unlike the surroundings
    change     other than remembered of that place, beyond what the whole view and the place usually
               do: a light switched on and a flickering screen are no news for long
    surprise   the learner's surprise there, above its mean
    progress   surprise that is falling there: slow minus fast running mean
    neglect    not looked at for long

each within -1 .. 1, and then anywhere in the cell. A fixation takes the priority of what lies
around it for the rest of the frame, and what it saw there is no longer news. A share of all
fixations, free_share, is drawn without priority, so that what is seen stays like what there is.

The map covers the whole sphere in cells of cell_rad, by azimuth and elevation in the head's base
frame. So what is remembered of a place survives a movement of the head, and memory is fixed.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

from calibration.angles import rays_of_angles
from edge_rjepa.errors import InputError
from edge_rjepa.eye import gaze_kernels as kernels
from edge_rjepa.eye.config import GazeConfig, GazePolicy
from edge_rjepa.eye.efference import efference_copy
from edge_rjepa.eye.gaze_kernels import N_LAYERS, NOISE, PICTURE, USUAL
from edge_rjepa.eye.head import Limits, wandered
from edge_rjepa.eye.image import as_rows, check_image
from edge_rjepa.optics.camera import Camera, as_values, camera_of
from safe_files.plain import plain, rebuilt

TRIES = 16  # candidates before a random saccade goes just anywhere in the picture

ALL_TERMS = ("salience", "change", "surprise", "progress", "neglect")
PICTURED, REMEMBERED = slice(0, 2), slice(2, 5)  # what a picture is needed for, and what not
TERMS = {
    GazePolicy.RANDOM: (),
    GazePolicy.SALIENCE: ("salience", "change"),
    GazePolicy.SURPRISE: ("surprise", "progress"),
    GazePolicy.MIXED: ALL_TERMS,
}

FEWEST_PIXELS_A_CELL = 3  # across, in the reduced picture that salience and change look at
SURROUNDINGS = 5.0  # cells: the side of what salience is measured against
MOST_PRIORITY = 1e6  # temperatures next to nothing stay finite
MOST_SURPRISE = 1e6  # nats: a learner gone wild counts as no more
SURPRISE_HORIZON = 5000  # fixations over which surprise has its overall mean and spread

GOALS_AN_AXIS = 25  # head angles that are weighed against each other
TRAVEL_COST = 0.5  # in priority, a radian
LEAST_GAIN = 0.05  # in priority: for less the head stays


class GazePlan(NamedTuple):
    """K fixations of one frame."""

    gaze_rad: np.ndarray  # (K, 2) azimuth, elevation in the base frame
    pixels: np.ndarray  # (K, 2) x, y in the frame, not rounded
    efference: np.ndarray  # (K, 4) float32: saccade and gaze, see Gaze.plan


class View(NamedTuple):
    """The n cells that lie in a picture, less its margins."""

    camera: Camera
    head_rad: tuple[float, float]
    cells: np.ndarray  # (n,) their numbers in the map
    middles: np.ndarray  # (2, n) px, x and y
    boxes: np.ndarray  # (4, n) left, top, right, bottom px of their parts inside the margins


class _KeptPlan(NamedTuple):
    camera: dict[str, object]
    head: tuple[float, float]
    pixels: np.ndarray


class _Kept(NamedTuple):
    """What Gaze.state gives."""

    visited: list[tuple[float, float]]
    rng: dict[str, object]
    map: str
    surprise: tuple[float, float, float]
    planned: _KeptPlan | None
    goal: tuple[float, float] | None
    steps: int
    frames_here: int


class Gaze:
    """Plans fixations one frame at a time; the same seed and calls give the same plans."""

    def __init__(self, config: GazeConfig | None = None, seed: int = 0) -> None:
        self.config = config = config or GazeConfig()
        self.terms = TERMS[GazePolicy(config.policy)]
        weights = [getattr(config, f"{name}_weight") * (name in self.terms) for name in ALL_TERMS]
        self._weights = np.array(weights)
        self._rng = np.random.default_rng(seed)
        # Gaze angles, the latest last.
        self._visited: deque[list[float]] = deque(maxlen=config.inhibition_memory)
        self._rows = math.ceil(math.pi / config.cell_rad)
        self._columns = math.ceil(2.0 * math.pi / config.cell_rad)
        self._angles_rad = _middles(self._rows, self._columns)
        self._rays = rays_of_angles(self._angles_rad)
        self._map = np.zeros((N_LAYERS, self._rows * self._columns), np.float32)
        self._surprise = np.zeros(3)  # fixations, mean, variance
        self._planned: tuple[Camera, tuple[float, float], np.ndarray] | None = None
        self._view: View | None = None  # of the plan before: heads mostly stand still
        self._goal: list[float] | None = None  # head angles it is on its way to ..
        self._steps = 0  # .. in so many moves
        self._frames_here = 0  # since the head was commanded to move

    # -- fixations --------------------------------------------------------------------------------

    def plan(self, camera: Camera, image: np.ndarray, head, count: int) -> GazePlan:
        """The next `count` fixations, in a frame taken with the head at (pan_rad, tilt_rad).

        image: (H, W, 3) uint8 BGR, as large as the camera says.

        Efference copy of a fixation: (d_azimuth, d_elevation) / saccade_scale_rad of the saccade
        from the fixation before, and (azimuth, elevation) / gaze_scale_rad of where gaze is, all in
        the base frame: a saccade includes what the head has moved. The very first comes from the
        middle of the picture. Raises InputError for a count below 1, a head that is not finite or
        any other image; nothing changes then.
        """
        _check(camera, image, head, count)
        head = float(head[0]), float(head[1])
        before_rad = self._visited[-1] if self._visited else list(head)
        view = self._view_of(camera, head) if self.terms else None
        if view is None or not len(view.cells):
            pixels = self._wander(camera, head, count)
        else:
            pixels = self._search(view, image, count)
        gaze_rad = camera.angles_of_pixels(pixels, head)
        self._visited.extend(gaze_rad.tolist())
        self._planned = camera, head, pixels
        self._frames_here += 1

        config = self.config
        efference = efference_copy(
            gaze_rad, before_rad, config.saccade_scale_rad, config.gaze_scale_rad
        )
        return GazePlan(gaze_rad, pixels, efference)

    def _wander(self, camera: Camera, head, count: int) -> np.ndarray:
        """`count` pixels (x, y), each a random saccade from the one before."""
        rng, (low, high) = self._rng, _bounds(camera, self.config)
        # As many numbers for each plan, so that the draws do not depend on what is refused.
        lengths = rng.standard_normal((count, TRIES))
        turns, chances = rng.random((2, count, TRIES))
        anywhere = rng.uniform(low, high, (count, 2))
        places, start = self._places(camera, head, count)
        kernels.wander(
            np.clip(start, low, high),
            (low[0], low[1], high[0], high[1]),
            (lengths, turns, chances, anywhere),
            self._amplitude(camera),
            self._inhibition(camera),
            places,
        )
        return places[-count:]

    def _search(self, view: View, image: np.ndarray, count: int) -> np.ndarray:
        """`count` pixels (x, y), each drawn from the cells by priority; the map is brought up."""
        low, high = _bounds(view.camera, self.config)
        cell_px = self.config.cell_rad * view.camera.focal_px
        seen, salience = _appearance(image, view.middles, cell_px)
        changed, attended = kernels.changes(self._map, view.cells, seen), np.zeros(len(salience))
        change = np.maximum(changed - self._map[USUAL, view.cells], 0.0)
        priority = self._priority(view.cells, salience, change)
        places, start = self._places(view.camera, view.head_rad, count)
        kernels.search(
            np.clip(start, low, high),
            view.middles,
            view.boxes,
            priority,
            self._rng.random((count, 4)),
            self.config.free_share,
            (self._amplitude(view.camera), self._inhibition(view.camera)),
            np.empty((3, len(salience))),
            attended,
            places,
        )
        picture = self._pictured(salience, change * (1.0 - attended))
        picture -= picture.mean()  # what was never seen counts as average
        self._remember(view.cells, seen, changed, picture, attended)
        return places[-count:]

    def _places(self, camera: Camera, head, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the places visited and room for `count` more, (n + count, 2), and the last."""
        places = np.empty((len(self._visited) + count, 2))
        start = np.array(camera.centre_px)
        if self._visited:
            places[:-count] = camera.pixels_of_angles(self._visited, head)
            start = np.where(np.isfinite(places[-count - 1]), places[-count - 1], start)
        return places, start

    def _amplitude(self, camera: Camera) -> tuple[float, float]:
        median_px = self.config.saccade_median_rad * camera.focal_px
        return math.log(median_px), self.config.saccade_log_std

    def _inhibition(self, camera: Camera) -> tuple[int, float, float, float]:
        config = self.config
        radius_px = config.inhibition_radius_rad * camera.focal_px
        return (
            config.inhibition_memory,
            config.inhibition_strength,
            config.inhibition_decay,
            radius_px,
        )

    # -- what is worth looking at -----------------------------------------------------------------

    def _priority(self, cells: np.ndarray, salience: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Weighed sum of the terms that count, of the cells, in units of the temperature."""
        priority = self._pictured(salience, change)
        weights = self._weights[REMEMBERED]
        kernels.add_remembered(self._map, cells, self._surprise, weights, priority)
        return np.clip(priority / self.config.temperature, -MOST_PRIORITY, MOST_PRIORITY)

    def _pictured(self, salience: np.ndarray, change: np.ndarray) -> np.ndarray:
        """What the picture adds to the priority."""
        by_salience, by_change = self._weights[PICTURED]
        return by_salience * salience + by_change * change

    def _remember(self, cells, seen, changed, picture, attended) -> None:
        """What the picture showed at the cells (n,), and where gaze has been."""
        config = self.config
        rates = (
            1.0 / config.neglect_frames,
            1.0 / config.surprise_frames,
            1.0 / config.change_frames,
            1.0 / config.habit_frames,
        )
        kernels.remember(self._map, cells, seen, changed, picture, attended, rates)

    def learned(self, surprise: np.ndarray) -> None:
        """Take note of the surprise (K,), in nats, of the fixations planned last.

        What is not finite counts for nothing. Raises InputError for another number of them.
        """
        surprise = np.asarray(surprise, dtype=np.float64)
        planned = 0 if self._planned is None else len(self._planned[2])
        if surprise.shape != (planned,):
            raise InputError(f"surprise is {surprise.shape}: {planned} fixations were planned last")
        finite = np.isfinite(surprise)
        if self._planned is None or not self.terms or not finite.any():
            return
        camera, head, pixels = self._planned
        surprise = np.clip(surprise[finite], -MOST_SURPRISE, MOST_SURPRISE)
        self._surprise = _running(self._surprise, surprise)
        view = self._view_of(camera, head)
        radius_px = self.config.inhibition_radius_rad * camera.focal_px
        mean = float(self._surprise[1])
        kernels.note_surprise(
            self._map, view.cells, view.middles, pixels[finite], surprise, mean, radius_px
        )

    # -- the head ---------------------------------------------------------------------------------

    def aim(self, limits_rad: Limits) -> tuple[float, float] | None:
        """Head angles (pan_rad, tilt_rad) to move to after this frame; None to stay.

        The head stays for dwell_frames at least. Then a random policy lets it wander; any other
        sends it, no further than head_step_rad at once, to where most interest would lie in the
        central region. Once under way it goes there before another goal is looked for, and it sets
        out only where there is more to be had than here. A head that does not do as commanded is
        not asked more often than the way needs: then another goal has its turn.
        """
        if self._planned is None or self._frames_here < self.config.dwell_frames:
            return None
        camera, head, _ = self._planned
        if not self.terms:
            self._frames_here = 0
            return wandered(self._rng, head, limits_rad)
        if self._goal is None:
            self._goal = self._best_goal(camera, head, limits_rad)
        if self._goal is None:
            return None
        way_rad = np.clip(self._goal, *np.transpose(limits_rad)) - head
        parts = max(1.0, float(np.hypot(*way_rad)) / self.config.head_step_rad)
        self._steps = (self._steps or math.ceil(parts)) - 1
        if not self._steps:
            self._goal = None
        self._frames_here = 0
        pan_rad, tilt_rad = (head + way_rad / parts).tolist()
        return pan_rad, tilt_rad

    def _best_goal(self, camera: Camera, head, limits_rad: Limits) -> list[float] | None:
        """The head angles with most interest in the central region; None if that is here."""
        share, cell_rad = self.config.central_share, self.config.cell_rad
        field_rad = np.array([camera.width_px, camera.height_px]) / camera.focal_px
        field_rad = np.minimum(field_rad, [2.0 * math.pi, math.pi])  # there is no more around
        kernel = [_odd(side) for side in share * field_rad / cell_rad]
        about = cv2.blur(self._interest(), kernel, borderType=cv2.BORDER_REPLICATE)

        axes = [np.linspace(low, high, GOALS_AN_AXIS) for low, high in limits_rad]
        goals = np.vstack([[head], np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)])
        shares = (goals + [math.pi, 0.5 * math.pi]) / [2.0 * math.pi, math.pi]
        cells = shares * [self._columns, self._rows] - 0.5
        gain = _sample(about, cells.T, cv2.BORDER_WRAP)
        gain -= TRAVEL_COST * np.hypot(*(goals - head).T)
        best = int(gain.argmax())
        return goals[best].tolist() if gain[best] > gain[0] + LEAST_GAIN else None

    def _interest(self) -> np.ndarray:
        """Priority of all cells as remembered, and neglect, (rows, columns) float32."""
        interest = self._map[PICTURE].astype(np.float64)
        weights = self._weights[REMEMBERED].copy()
        weights[-1] = self.config.neglect_weight  # the head turns to it under any policy
        cells = np.arange(len(interest))
        kernels.add_remembered(self._map, cells, self._surprise, weights, interest)
        return interest.astype(np.float32).reshape(self._rows, self._columns)

    # -- keeping ----------------------------------------------------------------------------------

    def state(self) -> dict:
        """All that is remembered and the random generator, as plain JSON values."""
        planned = self._planned
        return {
            "visited": list(self._visited),
            "rng": self._rng.bit_generator.state,
            "map": base64.b64encode(zlib.compress(self._map.tobytes(), 1)).decode(),
            "surprise": self._surprise.tolist(),
            "planned": planned
            and {
                "camera": as_values(planned[0]),
                "head": list(planned[1]),
                "pixels": planned[2].tolist(),
            },
            "goal": self._goal,
            "steps": self._steps,
            "frames_here": self._frames_here,
        }

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises ValueError, or KeyError, for anything else."""
        kept = rebuilt(_Kept, plain(state), "gaze")
        if kept.surprise[2] < 0.0:
            raise ValueError(f"gaze.surprise: a variance of {kept.surprise[2]:g}")
        self._visited.clear()
        self._visited.extend(map(list, kept.visited))
        self._rng.bit_generator.state = kept.rng
        unpacked = zlib.decompressobj().decompress(base64.b64decode(kept.map), self._map.nbytes)
        layers = np.frombuffer(unpacked, np.float32)
        self._map = layers.reshape(self._map.shape).copy()
        self._surprise = np.array(kept.surprise)
        self._planned = None
        if kept.planned:
            pixels = kept.planned.pixels.reshape(-1, 2)
            self._planned = camera_of(kept.planned.camera), kept.planned.head, pixels
        self._goal = list(kept.goal) if kept.goal else None
        self._steps, self._frames_here = kept.steps, kept.frames_here

    # -- geometry ---------------------------------------------------------------------------------

    def _view_of(self, camera: Camera, head: tuple[float, float]) -> View:
        if self._view is None or self._view[:2] != (camera, head):
            self._view = self._cells_in_view(camera, head)
        return self._view

    def _cells_in_view(self, camera: Camera, head) -> View:
        low, high = _bounds(camera, self.config)
        rays = self._rays @ camera.rotation(head)
        pixels = camera.pixels_of_rays(rays)
        about = (np.abs(pixels - 0.5 * (low + high)) < high).all(axis=1)  # never where it is NaN
        cells, rays, pixels = np.flatnonzero(about), rays[about], pixels[about]
        # Half a cell in the picture; meridians draw together.
        half = 0.5 * self.config.cell_rad * camera.px_per_rad(rays)[:, None].repeat(2, axis=1)
        half[:, 0] *= np.cos(self._angles_rad[cells, 1])
        boxes = np.hstack([np.maximum(pixels - half, low), np.minimum(pixels + half, high)])
        inside = (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)
        middles, boxes = (np.ascontiguousarray(each[inside].T) for each in (pixels, boxes))
        return View(camera, head, cells[inside], middles, boxes)


def _middles(rows: int, columns: int) -> np.ndarray:
    """(azimuth_rad, elevation_rad) (rows columns, 2) of the cells' middles."""
    azimuth_rad = (np.arange(columns) + 0.5) * (2.0 * math.pi / columns) - math.pi
    elevation_rad = (np.arange(rows) + 0.5) * (math.pi / rows) - 0.5 * math.pi
    return np.stack(np.meshgrid(azimuth_rad, elevation_rad), axis=-1).reshape(-1, 2)


def _check(camera: Camera, image: np.ndarray, head, count: int) -> None:
    if count < 1:
        raise InputError(f"{count} fixations asked for: must be at least 1")
    if not np.isfinite(head).all():
        raise InputError(f"head angles are {tuple(head)}: must be finite")
    check_image(image, size=(camera.width_px, camera.height_px))


def _bounds(camera: Camera, config: GazeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest (x, y) that gaze goes to."""
    size = np.array([camera.width_px, camera.height_px]) - 1.0
    low = np.minimum(config.margin_px, 0.5 * size)
    return low, size - low


def _appearance(image, middles, cell_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and contrast (4, n) in grey levels about the pixels (2, n), and salience (n,).

    Salience is how far colour and contrast are from those of the surroundings, as a share of that
    and the picture's mean of it.
    """
    shrink = _shrink(image, cell_px)
    small = kernels.shrunk(as_rows(image), shrink)
    cell = cell_px / shrink
    of_cell, of_surroundings = (_odd(cell),) * 2, (_odd(SURROUNDINGS * cell),) * 2
    colour = cv2.blur(small, of_cell)
    contrast = np.sqrt(cv2.blur(_channel_sum(np.square(small - colour)), of_cell))
    layers = colour, contrast
    by_colour, by_contrast = (cv2.absdiff(each, cv2.blur(each, of_surroundings)) for each in layers)
    unlike = _channel_sum(by_colour) + by_contrast
    salience = unlike / (unlike + unlike.mean() + NOISE)
    places = (middles + 0.5) / shrink - 0.5
    found = [_sample(each, places, cv2.BORDER_REPLICATE) for each in (*layers, salience)]
    seen = np.empty((4, len(found[1])))  # one layout, for one cell too: Numba compiles for each
    seen[:3], seen[3] = found[0].T, found[1]
    return seen, found[2].astype(np.float64)


def _sample(picture: np.ndarray, places: np.ndarray, border: int) -> np.ndarray:
    """Values (n, ..) of a picture at places (2, n), x and y, between pixels linear."""
    x, y = places.astype(np.float32)[..., None]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border)[:, 0]


ONES = np.ones((1, 3), np.float32)


def _channel_sum(picture: np.ndarray) -> np.ndarray:
    """(h, w) of (h, w, 3), faster than NumPy's over so short an axis."""
    return cv2.transform(picture, ONES)


def _shrink(image: np.ndarray, cell_px: float) -> int:
    """A power of two, for which averaging is fastest."""
    most = min(cell_px / FEWEST_PIXELS_A_CELL, *image.shape[:2], kernels.MOST_SHRINK)
    return 2 ** max(0, math.floor(math.log2(most)))


def _odd(side: float) -> int:
    """The odd whole number nearest to a length."""
    return 2 * math.floor(side / 2.0) + 1


def _running(statistics: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Count, mean and variance with more values; old ones fade after SURPRISE_HORIZON."""
    count, mean, variance = statistics
    count = min(count + len(values), SURPRISE_HORIZON)
    rate = min(1.0, len(values) / count)
    mean += rate * (values.mean() - mean)
    variance += rate * (np.square(values - mean).mean() - variance)
    return np.array([count, mean, variance])
