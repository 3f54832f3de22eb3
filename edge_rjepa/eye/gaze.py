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
from edge_rjepa.base.jit import jit
from edge_rjepa.errors import InputError
from edge_rjepa.eye.config import GazeConfig, GazePolicy
from edge_rjepa.eye.efference import efference_copy
from edge_rjepa.eye.head import Limits, wandered
from edge_rjepa.eye.image import check_image
from edge_rjepa.optics.camera import Camera, as_values, camera_of
from safe_files.plain import plain, rebuilt

TRIES = 16  # candidates before a random saccade goes just anywhere in the picture

TERMS = {
    GazePolicy.RANDOM: (),
    GazePolicy.SALIENCE: ("salience", "change"),
    GazePolicy.SURPRISE: ("surprise", "progress"),
    GazePolicy.MIXED: ("salience", "change", "surprise", "progress", "neglect"),
}

# Layers of the map.
APPEARANCE = slice(0, 4)  # blue, green, red and contrast as remembered, grey levels
SEEN, USUAL, TRACE, PICTURE, FAST, SLOW, KNOWN = range(4, 11)
N_LAYERS = 11

FEWEST_PIXELS_A_CELL = 3  # across, in the reduced picture that salience and change look at
SURROUNDINGS = 5.0  # cells: the side of what salience is measured against
NOISE = 4.0  # grey levels: less contrast or change than this is none
WHOLE_VIEW = 4.0  # change counts less when all of the view changes: in units of its mean
MOST_PRIORITY = 1e6  # temperatures next to nothing stay finite
SURPRISE_FAST, SURPRISE_SLOW = 0.3, 0.03  # rates of the running means at a place, a fixation
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
    pixels: np.ndarray  # (n, 2) their middles, x and y
    boxes: np.ndarray  # (n, 4) left, top, right, bottom px of their parts inside the margins


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
        _wander(
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
        seen, salience = _appearance(
            image, view.pixels, self.config.cell_rad * view.camera.focal_px
        )
        changed = self._changed(view.cells, seen)
        change = np.maximum(changed - self._map[USUAL, view.cells], 0.0)
        priority = self._priority(view.cells, salience, change)
        places, start = self._places(view.camera, view.head_rad, count)
        attended = np.zeros(len(view.cells))
        _search(
            np.clip(start, low, high),
            (view.pixels, view.boxes),
            priority,
            self._rng.random((count, 4)),
            self.config.free_share,
            (self._amplitude(view.camera), self._inhibition(view.camera)),
            np.empty(len(view.cells)),
            attended,
            places,
        )
        picture = self._weighed({"salience": salience, "change": change * (1.0 - attended)})
        picture = picture - picture.mean()  # what was never seen counts as average
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
        terms = {"salience": salience, "change": change, **self._remembered_terms(cells)}
        priority = self._weighed(terms) / self.config.temperature
        return np.clip(priority, -MOST_PRIORITY, MOST_PRIORITY)

    def _weighed(self, terms: dict[str, np.ndarray]) -> np.ndarray:
        """Sum of those of the terms that count, each times its weight."""
        weighed = [getattr(self.config, f"{n}_weight") * terms[n] for n in terms if n in self.terms]
        return sum(weighed, np.zeros(()))

    def _remembered_terms(self, cells) -> dict[str, np.ndarray]:
        """The terms that do not need a picture."""
        fast, slow, known = self._map[[FAST, SLOW, KNOWN]][:, cells].astype(np.float64)
        _, mean, variance = self._surprise
        known = known / (math.sqrt(variance) + 1e-9)
        return {
            "surprise": np.tanh(known * (fast - mean)),
            "progress": np.tanh(known * (slow - fast)),
            "neglect": 1.0 - self._map[TRACE, cells],
        }

    def _changed(self, cells: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """How much the cells differ from memory, 0 .. 1, beyond what all of the view does."""
        difference = seen - self._map[APPEARANCE, cells].T
        difference -= np.median(difference, axis=0)  # a light, or the camera's exposure
        amount = np.linalg.norm(difference, axis=1) * (self._map[SEEN, cells] > 0.0)
        return amount / (amount + WHOLE_VIEW * amount.mean() + NOISE)

    def _remember(self, cells, seen, changed, picture, attended) -> None:
        """What the picture showed at the cells (n,), and where gaze has been: attended, 0 .. 1.

        seen (n, 4): appearance; changed: see _changed; picture: priority by salience and change.
        """
        config, layers = self.config, self._map
        layers[TRACE] *= 1.0 - 1.0 / config.neglect_frames
        layers[[KNOWN, PICTURE]] *= 1.0 - 1.0 / config.surprise_frames
        layers[TRACE, cells] = np.maximum(layers[TRACE, cells], attended)
        layers[PICTURE, cells] = picture
        layers[USUAL, cells] += (changed - layers[USUAL, cells]) / config.habit_frames
        follow = np.maximum(attended, 1.0 / config.change_frames)
        follow[layers[SEEN, cells] == 0.0] = 1.0
        layers[APPEARANCE, cells] += follow * (seen.T - layers[APPEARANCE, cells])
        layers[SEEN, cells] = 1.0

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
        self._note_surprise(self._view_of(camera, head), pixels[finite], surprise)

    def _note_surprise(self, view: View, pixels: np.ndarray, surprise: np.ndarray) -> None:
        """Running means of surprise at the cells about the pixels (K, 2)."""
        radius_px = self.config.inhibition_radius_rad * view.camera.focal_px
        x, y = (np.subtract.outer(view.pixels[:, i], pixels[:, i]) for i in (0, 1))
        near = np.maximum(1.0 - (x * x + y * y) / radius_px**2, 0.0)  # (n, K)
        total = near.sum(axis=1)
        hit = total > 0.0
        cells, near, total = view.cells[hit], near[hit], total[hit]
        value, weight = near @ surprise / total, np.minimum(total, 1.0)
        fast, slow, known = self._map[[FAST, SLOW, KNOWN]][:, cells].astype(np.float64)
        # What was half forgotten lies half way to the mean, and no progress is known of it.
        fast = self._surprise[1] + known * (fast - self._surprise[1])
        fast += weight * np.maximum(SURPRISE_FAST, 1.0 - known) * (value - fast)
        slow = fast + known * (slow - fast)
        slow += weight * SURPRISE_SLOW * (value - slow)
        known += weight * (1.0 - known)
        self._map[FAST, cells], self._map[SLOW, cells], self._map[KNOWN, cells] = fast, slow, known

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
        kernel = [_odd(side) for side in share * field_rad / cell_rad]
        about = cv2.blur(self._interest(), kernel, borderType=cv2.BORDER_REPLICATE)

        axes = [np.linspace(low, high, GOALS_AN_AXIS) for low, high in limits_rad]
        goals = np.vstack([[head], np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)])
        shares = (goals + [math.pi, 0.5 * math.pi]) / [2.0 * math.pi, math.pi]
        cells = shares * [self._columns, self._rows] - 0.5
        gain = _sample(about, cells, cv2.BORDER_WRAP)
        gain -= TRAVEL_COST * np.hypot(*(goals - head).T)
        best = int(gain.argmax())
        return goals[best].tolist() if gain[best] > gain[0] + LEAST_GAIN else None

    def _interest(self) -> np.ndarray:
        """Priority of all cells as remembered, and neglect, (rows, columns) float32."""
        terms = self._remembered_terms(slice(None))
        interest = self._map[PICTURE] + self._weighed(terms)
        if "neglect" not in self.terms:
            interest = interest + self.config.neglect_weight * terms["neglect"]
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
        return View(camera, head, cells[inside], pixels[inside], boxes[inside])


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


def _appearance(image, pixels, cell_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and contrast (n, 4) in grey levels about the pixels (n, 2), and salience (n,).

    Salience is how far colour and contrast are from those of the surroundings, as a share of that
    and the picture's mean of it.
    """
    shrink = _shrink(image, cell_px)
    height, width = (side // shrink for side in image.shape[:2])
    small = cv2.resize(
        image[: height * shrink, : width * shrink], (width, height), interpolation=cv2.INTER_AREA
    ).astype(np.float32)
    cell = cell_px / shrink
    of_cell, of_surroundings = (_odd(cell),) * 2, (_odd(SURROUNDINGS * cell),) * 2
    near = cv2.blur(small, of_cell)
    contrast = np.sqrt(cv2.blur(_channel_sum(np.square(small - near)), of_cell))
    near = cv2.merge([*cv2.split(near), contrast])
    unlike = _channel_sum(np.abs(near - cv2.blur(near, of_surroundings)))
    salience = unlike / (unlike + unlike.mean() + NOISE)
    layers = cv2.merge([*cv2.split(near), salience])
    found = _sample(layers, (pixels + 0.5) / shrink - 0.5, cv2.BORDER_REPLICATE)
    return found[:, :4].astype(np.float64), found[:, 4].astype(np.float64)


def _sample(picture: np.ndarray, places: np.ndarray, border: int) -> np.ndarray:
    """Values (n, ..) of a picture at places (n, 2), x and y, between pixels linear."""
    x, y = places.astype(np.float32).T[..., None]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border)[:, 0]


def _channel_sum(picture: np.ndarray) -> np.ndarray:
    """(h, w) of (h, w, c), faster than NumPy's over so short an axis."""
    return cv2.transform(picture, np.ones((1, picture.shape[2]), np.float32))


def _shrink(image: np.ndarray, cell_px: float) -> int:
    """A power of two, for which averaging is fastest."""
    most = min(cell_px / FEWEST_PIXELS_A_CELL, *image.shape[:2])
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


@jit
def _refusal(x, y, recent, inhibition):
    """Probability that a saccade to pixel (x, y) is refused, after the places in recent (n, 2)."""
    memory, strength, decay, radius_px = inhibition
    most = 0.0
    for i in range(len(recent) - 1, max(len(recent) - 1 - memory, -1), -1):
        squared = ((x - recent[i, 0]) ** 2 + (y - recent[i, 1]) ** 2) / radius_px**2
        if squared < 1.0:  # never true of a place behind the camera, which is NaN
            most = max(most, strength * (1.0 - squared))
        strength *= decay
    return most


@jit
def _wander(start, bounds, draws, amplitude, inhibition, places):
    """Fill the last K rows of places (n, 2), whose first ones hold the places before.

    bounds: left, top, right, bottom px. draws, for the candidates (K, TRIES): normal lengths,
    turns and chances in 0 to 1; and where to go (K, 2) px when all candidates are refused.
    amplitude: mean and standard deviation of its logarithm, px.
    """
    left, top, right, bottom = bounds
    lengths, turns, chances, anywhere = draws
    log_mean, log_std = amplitude
    count, tries = chances.shape
    before = len(places) - count
    x, y = start
    for k in range(count):
        next_x, next_y = anywhere[k]
        recent = places[: before + k]
        for i in range(tries):
            amplitude_px = math.exp(log_mean + log_std * lengths[k, i])
            direction_rad = 2.0 * math.pi * turns[k, i]
            to_x = x + amplitude_px * math.cos(direction_rad)
            to_y = y + amplitude_px * math.sin(direction_rad)
            if left <= to_x <= right and top <= to_y <= bottom:
                if chances[k, i] >= _refusal(to_x, to_y, recent, inhibition):
                    next_x, next_y = to_x, to_y
                    break
        x, y = next_x, next_y
        places[before + k, 0], places[before + k, 1] = x, y


@jit
def _search(start, cells, priority, draws, free_share, law, weights, attended, places):
    """Fill the last K rows of places (n, 2), whose first ones hold the places before.

    cells: pixels (c, 2) and boxes (c, 4) to choose from, with their priority (c,). Where gaze goes
    priority is taken away, and attended (c,) set, by 1 there and less towards the inhibition's
    radius. draws (K, 4) in 0 to 1: which cell, where in it, and, where below free_share, that the
    priority counts for nothing. law: amplitude as of _wander, and inhibition. weights (c,): room to
    work in.
    """
    pixels, boxes = cells
    (log_mean, log_std), inhibition = law
    radius_px = inhibition[3]
    count = len(draws)
    before = len(places) - count
    x, y = start
    for k in range(count):
        recent = places[: before + k]
        pull = 0.0 if draws[k, 3] < free_share else 1.0
        highest = -np.inf
        for j in range(len(pixels)):
            width, height = boxes[j, 2] - boxes[j, 0], boxes[j, 3] - boxes[j, 1]
            squared = (pixels[j, 0] - x) ** 2 + (pixels[j, 1] - y) ** 2
            # No cell is nearer than a part of itself; the floor is for pictures of one pixel.
            log_length = 0.5 * math.log(max(squared, 0.1 * width * height, 1e-6))
            z = (log_length - log_mean) / log_std
            allowed = 1.0 - _refusal(pixels[j, 0], pixels[j, 1], recent, inhibition)
            area = allowed * max(width, 1e-3) * max(height, 1e-3)
            # A log-normal length in any direction has this density in the plane.
            weights[j] = pull * priority[j] - 0.5 * z * z - 2.0 * log_length + math.log(area)
            highest = max(highest, weights[j])
        total = 0.0
        for j in range(len(pixels)):
            weights[j] = math.exp(weights[j] - highest)
            total += weights[j]
        left = draws[k, 0] * total
        chosen = 0
        while chosen < len(pixels) - 1 and left >= weights[chosen]:
            left -= weights[chosen]
            chosen += 1
        x = boxes[chosen, 0] + draws[k, 1] * (boxes[chosen, 2] - boxes[chosen, 0])
        y = boxes[chosen, 1] + draws[k, 2] * (boxes[chosen, 3] - boxes[chosen, 1])
        places[before + k, 0], places[before + k, 1] = x, y
        for j in range(len(pixels)):
            near = 1.0 - ((pixels[j, 0] - x) ** 2 + (pixels[j, 1] - y) ** 2) / radius_px**2
            if near > 0.0:
                priority[j] *= 1.0 - near
                attended[j] = max(attended[j], near)
