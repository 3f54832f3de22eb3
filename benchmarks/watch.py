"""How well `watch` finds what is newly placed, and how often it is wrong, beside MOG2.

    python -m benchmarks.watch [--placements N] [--quiet-hours H] [--plays N] [--only NAME ..] \
        [--streams NAME ..] [--efficientnet DIR] [--processes N] [--docs]

Streams at 10 pictures a second, 320 x 240:

- `camera at rest`, `moving head`: scikit-image's photographs before the simulated camera, with
  light that goes up and down by 10% in two minutes, pixel noise and a fixed pattern. The moving
  head turns every 3 s to somewhere near.
- `rain`, `leaves`: the camera at rest, with drawn streaks of rain that come in showers of half of
  every five minutes, each of another strength; with a drawn bush over a third of the view that
  sways in gusts.
- `vtest.avi` of opencv-doc, people on a campus: the network learns on the first half, which is the
  warm-up, too, and watches the second half again and again, with other objects each time.
- `vtest.avi, 5 min`: the same, but the first half is shown to and fro for 5 minutes of warm-up.
  What is judged is shown once in each play, as before.

Objects, cut from photographs, cover 1 to 5% of the view, come at a random place in view, stay for
12 s (5 s in vtest.avi), and go. Each is to be reported within 3 s, where it is. Quiet streams have
none: what is reported there is a false alarm; so is what is reported elsewhere.

Beside it: the same watch with an untrained network, and OpenCV's MOG2: regions that are foreground
for 1.2 s on end, and as large as they must be for at most one false alarm an hour on the very quiet
streams it is judged by, which is more than it could know. With --efficientnet, PaDiM on the
pretrained EfficientNet-Lite0 (benchmarks/padim.py), as long as a camera is at rest: it learns from
300 pictures of the warm-up and is asked every 0.4 s; what counts is the lowest of three distances
in a row, above a threshold that is chosen as MOG2's. (anomalib's own PaDiM loads its weights from a
hub.) What a picture costs is CPU time, of all its threads.

Below the table: how many false alarms an hour that many quiet hours allow to say, with 95%
confidence, and how often a change is rightly told to be new, or to be something taken away.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import platform
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.stats import chi2

from benchmarks import efficientnet
from benchmarks.padim import STRIDE, Padim
from benchmarks.tables import Table, put
from edge_rjepa.cli import main as command
from edge_rjepa.encoder.opener import learner_embedder, open_encoder
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Camera, Pinhole
from edge_rjepa.run.run import load_run
from edge_rjepa.sources import Frame
from edge_rjepa.sources.scene import CAMERA, SceneSource, skimage_photographs
from edge_rjepa.watch.directions import Directions
from edge_rjepa.watch.novelty import Watch
from edge_rjepa.watch.usual_pictures import UsualPictures

PAGE = Path(__file__).parent.parent / "docs" / "watch.md"
VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
PICTURES_A_SECOND = 10
ALARMS_PER_HOUR = 1.0
LEARNING_FIXATIONS = 100_000
WARM_UP_S = 600.0
STAY_S, PAUSE_S = 12.0, 8.0
VIDEO_STAY_S, VIDEO_PAUSE_S = 5.0, 3.0
TURN_EVERY_S, TURN_STD_RAD = 3.0, 0.07
REACH_RAD = np.array([0.25, 0.15])
SHARE = (0.01, 0.05)  # of the view that an object covers
IN_TIME_S = 3.0
BESIDE_RAD = math.radians(4.0)  # an alarm may lie this far beyond an object's corners
MOST_REMEMBERED = 200_000  # embeddings: those of a film, and of objects in it
SMALLEST_REGION = 0.001  # of the view, that MOG2 is asked for
REGIONS = np.geomspace(SMALLEST_REGION, 1.0, 60)
FOREGROUND_S = 1.2
PADIM_LEARNS_S, PADIM_LOOKS_S, PADIM_LOOKS = 2.0, 0.4, 3
PADIM_APART_PX, PADIM_MOST = 70, 3  # between two things it finds in a picture; of these
DISTANCES = np.geomspace(10.0, 1000.0, 100)  # thresholds

SHOWER_S, SHOWER_SHARE, STREAKS = 300.0, 0.5, (20, 120)  # of the view, at once
STREAK_PX, STREAK_SLANT, STREAK_LIGHT = (8, 20), 0.2, 0.35
BUSH_LEAVES, LEAF_PX, BUSH_SHARE = 700, (4, 12), 0.33  # of the view's width
SWAY_PX, SWAY_S, GUST_S = 5.0, 1.7, 47.0

LONG_WARM_UP_S = 300.0
FILMS = {"vtest.avi": None, "vtest.avi, 5 min": LONG_WARM_UP_S}
VIEWS, CHANGES = 30, 300  # for new against removed

CONTESTANTS = ("watch", "watch, untrained network", "MOG2", "PaDiM")
CHOSEN = {"MOG2": REGIONS, "PaDiM": DISTANCES}  # how strong, chosen on what they are judged by
THRESHOLDS = {"MOG2": ", {:.2%} of the view", "PaDiM": ", distance {:.0f}"}
AT_REST = ("camera at rest", "rain", "leaves")
SCENES = ("camera at rest", "moving head", "rain", "leaves")


class Placed(NamedTuple):
    """An object, upright in the picture."""

    t_s: float
    until_s: float
    angles_rad: np.ndarray  # of its middle
    picture: np.ndarray  # (h, w, 3) uint8

    def put(self, frame: Frame, camera: Camera) -> Frame:
        """The frame with it."""
        height, width = self.picture.shape[:2]
        middle = camera.pixels_of_angles(self.angles_rad, frame.head_rad)
        move = np.float32([[1, 0, middle[0] - width / 2], [0, 1, middle[1] - height / 2]])
        size = camera.width_px, camera.height_px
        seen = cv2.warpAffine(self.picture, move, size)
        where = cv2.warpAffine(np.ones((height, width), np.uint8), move, size)
        return frame._replace(image=np.where(where[..., None] > 0, seen, frame.image))

    def is_at(self, angles_rad, camera: Camera) -> bool:
        """Whether an alarm there is of it."""
        half_rad = 0.5 * math.hypot(*self.picture.shape[:2]) / camera.focal_px
        return math.dist(angles_rad, self.angles_rad) < half_rad + BESIDE_RAD


class Found(NamedTuple):
    """What a contestant reported: when, where, how strongly."""

    t_s: float
    angles_rad: tuple[float, float]
    strength: float


class Outcome(NamedTuple):
    """Of one contestant on one stream."""

    name: str
    delays_s: list[float]  # of all objects; infinite for those that were not found
    false: int
    hours: float


class Play(NamedTuple):
    """What came of one play of one stream, by contestant where it is a dict."""

    found: dict[str, list[Found]]
    objects: list[Placed]
    seconds: float  # after the warm-up
    pictures: int
    cpu_s: dict[str, float]


class Job(NamedTuple):
    """One play of one stream."""

    stream: str
    run: Path
    seed: int
    seconds: float
    placements: int
    contestants: tuple[str, ...]
    python: Path | None = None  # that has EfficientNet-Lite0


class Contestant:
    """Looks at frames."""

    elsewhere_s = 0.0  # of CPU, in other processes

    def look(self, frame: Frame) -> list[Found]:
        """What it finds with this frame."""
        raise NotImplementedError


class OurWatch(Contestant):
    """`watch`. encode: embeds windows."""

    def __init__(self, encode, camera: Camera, window_px: int, warm_up_s: float) -> None:
        self._watch = Watch(encode, camera, window_px, ALARMS_PER_HOUR, warm_up_s)

    def look(self, frame: Frame) -> list[Found]:
        """Its alarms."""
        return [Found(a.t_s, a.angles_rad, a.score) for a in self._watch.look(frame)]


class Mog2(Contestant):
    """OpenCV's background subtraction, and regions that stay foreground."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._mog2 = cv2.createBackgroundSubtractorMOG2()
        self._since = np.zeros((camera.height_px, camera.width_px), np.uint16)

    def look(self, frame: Frame) -> list[Found]:
        """Regions that stay."""
        foreground = self._mog2.apply(frame.image) == 255  # shadows are 127
        self._since = np.where(foreground, self._since + 1, 0).astype(np.uint16)
        stays = (self._since >= FOREGROUND_S * PICTURES_A_SECOND).astype(np.uint8)
        count, _, regions, middles = cv2.connectedComponentsWithStats(stays)
        found = []
        for k in range(1, count):
            share = regions[k, cv2.CC_STAT_AREA] / stays.size
            if share >= SMALLEST_REGION:
                angles_rad = self._camera.angles_of_pixels(middles[k], frame.head_rad)
                found.append(Found(frame.t_capture_s, tuple(angles_rad.tolist()), share))
        return found


class PadimWatch(Contestant):
    """PaDiM, and what is far from usual in three looks in a row."""

    def __init__(self, camera: Camera, python: Path, warm_up_s: float) -> None:
        self._camera, self._warm_up_s = camera, warm_up_s
        self._padim = Padim(python, (camera.width_px, camera.height_px))
        self._due_s = 0.0
        self._last: deque[np.ndarray] = deque(maxlen=PADIM_LOOKS)

    @property
    def elsewhere_s(self) -> float:
        """CPU seconds of its process so far."""
        return self._padim.cost()["seconds"]

    def look(self, frame: Frame) -> list[Found]:
        """The farthest parts of the picture."""
        t_s = frame.t_capture_s
        if t_s < self._due_s - 1e-6:
            return []
        learning = t_s < self._warm_up_s
        self._due_s = t_s + (PADIM_LEARNS_S if learning else PADIM_LOOKS_S)
        if learning:
            self._padim.learn(frame.image)
            return []
        self._last.append(self._padim.judge(frame.image))
        return self._farthest(frame) if len(self._last) == PADIM_LOOKS else []

    def _farthest(self, frame: Frame) -> list[Found]:
        distances = np.min(self._last, axis=0)
        rows, columns = np.indices(distances.shape)
        found = []
        for _ in range(PADIM_MOST):
            row, column = np.unravel_index(distances.argmax(), distances.shape)
            pixel = STRIDE * np.array([column, row]) + STRIDE / 2
            angles_rad = self._camera.angles_of_pixels(pixel, frame.head_rad)
            strength = float(distances[row, column])
            found.append(Found(frame.t_capture_s, tuple(angles_rad.tolist()), strength))
            near = STRIDE * np.hypot(rows - row, columns - column) < PADIM_APART_PX
            distances = np.where(near, 0.0, distances)
        return [each for each in found if each.strength >= DISTANCES[0]]


def distinct(found: list[Found], smallest: float) -> list[Found]:
    """Those that are strong enough and are not the same thing as one before them."""
    first: list[Found] = []
    last: list[Found] = []
    for each in found:
        if each.strength < smallest:
            continue
        last = [other for other in last if each.t_s - other.t_s < 5.0]
        if not any(math.dist(each.angles_rad, o.angles_rad) < math.radians(12) for o in last):
            first.append(each)
        last.append(each)
    return first


# ------------------------------------------------------------------------------------------------
# Streams


class Scenery:
    """A photograph before the simulated camera, under uneven light, with or without objects."""

    camera = CAMERA

    def __init__(self, stream: str, seed: int) -> None:
        self._moving = stream == "moving head"
        self._rng = np.random.default_rng(seed)
        self._objects = np.random.default_rng([seed, 1])
        self._source = SceneSource(skimage_photographs(), seed=seed, frames_a_scene=10**9)
        self._pattern = self._rng.normal(0.0, 2.5, (300, 400, 3)).astype(np.float32)
        self._photographs = [cv2.imread(str(path)) for path in skimage_photographs()]
        weather = {"rain": Rain, "leaves": Leaves}.get(stream)
        self._weather = weather and weather(np.random.default_rng([seed, 2]))

    def frames(self, seconds: float, placements: int) -> Iterator[tuple[Frame, Placed | None]]:
        """The warm-up, then so many seconds, or so many objects; with each, the object in it."""
        placed, due_s, head = None, WARM_UP_S if placements else math.inf, np.zeros(2)
        for k in range(10**9):
            t_s = k / PICTURES_A_SECOND
            if t_s >= WARM_UP_S + seconds and not placements and placed is None:
                return
            if self._moving and k % round(TURN_EVERY_S * PICTURES_A_SECOND) == 0:
                head = np.clip(head + self._rng.normal(0, TURN_STD_RAD, 2), -REACH_RAD, REACH_RAD)
                self._source.head.move(*head.tolist())
            frame = self._source.read_next(0)._replace(t_capture_s=t_s, sequence=k)
            if isinstance(self._weather, Leaves):  # what is placed stands before them
                frame = frame._replace(image=self._weather.over(frame.image, t_s))
            if t_s >= due_s and placements:
                angles_rad, picture = any_object(self._objects, self._photographs, CAMERA, frame)
                placed, placements = Placed(t_s, t_s + STAY_S, angles_rad, picture), placements - 1
                due_s = t_s + STAY_S + PAUSE_S
            if placed is not None:
                frame = placed.put(frame, CAMERA)
                if t_s >= placed.until_s:
                    placed = None
            if isinstance(self._weather, Rain):
                frame = frame._replace(image=self._weather.over(frame.image, t_s))
            yield self.lit(frame, t_s), placed

    def view(self, head_rad: np.ndarray) -> Frame:
        """What is seen there, without noise."""
        self._source.head.move(*head_rad.tolist())
        for _ in range(3):  # until the head is there
            frame = self._source.read_next(0)
        return frame

    def lit(self, frame: Frame, t_s: float) -> Frame:
        """The frame in the light of this time, with noise."""
        x, y = self._rng.integers(0, 60, 2)
        light = 1.0 + 0.1 * math.sin(math.tau * t_s / 120.0)
        image = frame.image * np.float32(light + 0.01 * self._rng.normal())
        image += self._pattern[y : y + 240, x : x + 320]
        return frame._replace(image=np.clip(image, 0, 255).astype(np.uint8))


class Rain:
    """Bright streaks that fall so fast that no two pictures share one; showers come and go."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._shower, self._streaks = -1, 0

    def over(self, image: np.ndarray, t_s: float) -> np.ndarray:
        """The picture with the rain of this time before it."""
        shower, into = divmod(t_s / SHOWER_S, 1.0)
        if shower != self._shower:
            self._shower, self._streaks = shower, int(self._rng.integers(*STREAKS))
        if into >= SHOWER_SHARE:
            return image
        height, width = image.shape[:2]
        drawn = np.zeros((height, width), np.uint8)
        for _ in range(self._rng.poisson(self._streaks)):
            x, y = self._rng.uniform(0, width), self._rng.uniform(-STREAK_PX[1], height)
            long = self._rng.uniform(*STREAK_PX)
            end = round(x + STREAK_SLANT * long), round(y + long)
            cv2.line(drawn, (round(x), round(y)), end, 255, 1, cv2.LINE_AA)
        share = STREAK_LIGHT * drawn[..., None] / np.float32(255)
        return (image + share * (255.0 - image)).astype(np.uint8)


class Leaves:
    """A bush over the left or the right of the view: drawn leaves, with gaps, that sway."""

    def __init__(self, rng: np.random.Generator) -> None:
        height, width = CAMERA.height_px, CAMERA.width_px
        self._leaves = np.zeros((height, width, 3), np.uint8)
        self._there = np.zeros((height, width), np.float32)
        side = width * BUSH_SHARE
        left = 0.0 if rng.random() < 0.5 else width - side
        for _ in range(BUSH_LEAVES):
            at = round(rng.uniform(left, left + side)), round(rng.uniform(0.1, 1.0) * height)
            axes = round(rng.uniform(*LEAF_PX)), round(rng.uniform(2, 5))
            shape = at, axes, rng.uniform(0, 360), 0, 360
            green = rng.uniform(0.4, 1.0) * np.array([50, 140, 80]) + rng.normal(0, 12, 3)
            cv2.ellipse(self._leaves, *shape, np.clip(green, 0, 255).tolist(), -1)
            cv2.ellipse(self._there, *shape, 1.0, -1)
        self._x, self._y = np.meshgrid(np.arange(width), np.arange(height))
        self._x, self._y = self._x.astype(np.float32), self._y.astype(np.float32)
        self._phase = cv2.resize(rng.uniform(0, 2.0, (4, 5)).astype(np.float32), (width, height))

    def over(self, image: np.ndarray, t_s: float) -> np.ndarray:
        """The picture with the bush, as it stands at this time, before it."""
        gust = 0.5 - 0.5 * math.cos(math.tau * t_s / GUST_S)
        swing = np.sin(math.tau * t_s / SWAY_S + self._phase)
        swing += 0.5 * np.sin(math.tau * t_s / (0.37 * SWAY_S) + 3.0 * self._phase)
        off = SWAY_PX * (0.2 + 0.8 * gust) * swing
        x, y = self._x + off, self._y + 0.3 * off
        leaves = cv2.remap(self._leaves, x, y, cv2.INTER_LINEAR)
        there = cv2.remap(self._there, x, y, cv2.INTER_LINEAR)[..., None]
        return (there * leaves + (1.0 - there) * image).astype(np.uint8)


def any_object(rng, photographs: list, camera: Camera, frame: Frame) -> tuple:
    """The angles and the picture of an object that lies within a frame."""
    share, aspect = rng.uniform(*SHARE), rng.uniform(0.7, 1.4)
    side = math.sqrt(share * camera.width_px * camera.height_px)
    width, height = int(side * aspect), int(side / aspect)
    photograph = photographs[rng.integers(len(photographs))]
    top, left = (rng.integers(0, size - 60) for size in photograph.shape[:2])
    part = cv2.resize(photograph[top : top + 60, left : left + 60], (width, height))
    x = rng.integers(4, camera.width_px - width - 4) + width / 2
    y = rng.integers(4, camera.height_px - height - 4) + height / 2
    return camera.angles_of_pixels((x, y), frame.head_rad), part


class Film:
    """vtest.avi: its first half, then its second, with or without objects.

    to_and_fro_s: for so long the first half is shown to and fro; None for once.
    """

    def __init__(self, images: list[np.ndarray], to_and_fro_s: float | None = None) -> None:
        half = len(images) // 2
        first = images[:half]
        if to_and_fro_s is not None:
            once = first + first[-2:0:-1]
            count = round(to_and_fro_s * PICTURES_A_SECOND)
            first = [once[k % len(once)] for k in range(count)]
        self._images = first + images[half:]
        height, width = images[0].shape[:2]
        self.camera = Pinhole(width, height, math.radians(60.0))
        self.warm_up_s = len(first) / PICTURES_A_SECOND
        self._photographs = [cv2.imread(str(path)) for path in skimage_photographs()]

    def frames(self, seed: int | None) -> Iterator[tuple[Frame, Placed | None]]:
        """All frames; objects in the second half by this seed, none for None."""
        rng = np.random.default_rng(seed)
        due_s = math.inf if seed is None else self.warm_up_s + rng.uniform(2.0, 6.0)
        placed, end_s = None, len(self._images) / PICTURES_A_SECOND
        for k, image in enumerate(self._images):
            frame = Frame(image, k / PICTURES_A_SECOND, (0.0, 0.0), k)
            t_s = frame.t_capture_s
            if t_s >= due_s and t_s + VIDEO_STAY_S < end_s:
                angles_rad, picture = any_object(rng, self._photographs, self.camera, frame)
                placed = Placed(t_s, t_s + VIDEO_STAY_S, angles_rad, picture)
                due_s = t_s + VIDEO_STAY_S + VIDEO_PAUSE_S
            if placed is not None and t_s >= placed.until_s:
                placed = None
            yield (placed.put(frame, self.camera) if placed else frame), placed


# ------------------------------------------------------------------------------------------------
# Contestants on a stream


def contestants(job: Job, camera: Camera, warm_up_s: float) -> dict[str, Contestant]:
    """Those that were asked for, by name."""
    run = job.run
    kept = load_run(run)
    untrained = learner_embedder(RJepa(kept.config.network, seed=1), Retina(kept.config.retina))

    def watching(name, encode):
        if job.stream in FILMS:
            encode = remembering(f"{run} {name}", encode)
        return OurWatch(encode, camera, kept.config.retina.window_px, warm_up_s)

    trained = open_encoder(run).patch_embedder()
    make = {
        "watch": lambda: watching("trained", trained),
        "watch, untrained network": lambda: watching("untrained", untrained),
        "MOG2": lambda: Mog2(camera),
    }
    if job.python is not None and job.stream in AT_REST:
        make["PaDiM"] = lambda: PadimWatch(camera, job.python, warm_up_s)
    return {name: make[name]() for name in job.contestants if name in make}


_embedded: dict[str, dict[bytes, np.ndarray]] = {}  # of each encoder in this process


def remembering(name: str, encode):
    """encode, once for each window: a film is shown again and again, the same to the bit."""
    known = _embedded.setdefault(name, {})

    def remembered(windows: np.ndarray) -> np.ndarray:
        keys = [hashlib.blake2b(window, digest_size=16).digest() for window in windows]
        new = [k for k, key in enumerate(keys) if key not in known]
        if len(known) > MOST_REMEMBERED:
            known.clear()
            new = list(range(len(keys)))
        if new:
            known.update(zip((keys[k] for k in new), encode(windows[new]), strict=True))
        return np.array([known[key] for key in keys])

    return remembered


def play(frames, job: Job, camera: Camera, warm_up_s: float) -> Play:
    """All that came after the warm-up."""
    all_of_them = contestants(job, camera, warm_up_s)
    found: dict[str, list[Found]] = {name: [] for name in all_of_them}
    cpu_s = dict.fromkeys(all_of_them, 0.0)
    objects: list[Placed] = []
    t_s, pictures = 0.0, 0
    for frame, placed in frames:
        t_s = frame.t_capture_s
        pictures += t_s > warm_up_s
        if placed is not None and (not objects or objects[-1] is not placed):
            objects.append(placed)
        for name, contestant in all_of_them.items():
            before_s = time.process_time() + contestant.elsewhere_s
            reported = contestant.look(frame)
            if t_s > warm_up_s:
                found[name] += reported
                cpu_s[name] += time.process_time() + contestant.elsewhere_s - before_s
    return Play(found, objects, t_s - warm_up_s, pictures, cpu_s)


def outcome(name: str, plays: list[Play], camera: Camera, smallest: float) -> Outcome:
    """How a contestant did on plays of one stream, where only what is strong enough counts."""
    delays_s, false, seconds = [], 0, 0.0
    for each_play in plays:
        found = each_play.found[name]
        reports = distinct(found, smallest) if name in CHOSEN else found
        right = set()
        for each in each_play.objects:
            mine = [
                k for k, t in enumerate(reports)
                if each.t_s <= t.t_s <= each.until_s + IN_TIME_S
                and each.is_at(t.angles_rad, camera)
            ]  # fmt: skip
            right |= set(mine)
            delays_s.append(reports[mine[0]].t_s - each.t_s if mine else math.inf)
        false += len(reports) - len(right)
        seconds += each_play.seconds
    return Outcome(name, delays_s, false, seconds / 3600.0)


def run_job(job: Job) -> tuple[Job, Play]:
    """Run a job; what came of it."""
    cv2.setNumThreads(1)
    if job.stream in FILMS:
        film = Film(read_video(), FILMS[job.stream])
        frames = film.frames(job.seed if job.placements else None)
        return job, play(frames, job, film.camera, film.warm_up_s)
    scenery = Scenery(job.stream, job.seed)
    return job, play(scenery.frames(job.seconds, job.placements), job, CAMERA, WARM_UP_S)


def read_video() -> list[np.ndarray]:
    """Its pictures, as large as they are."""
    film, images = cv2.VideoCapture(str(VIDEO)), []
    while (read := film.read())[0]:
        images.append(read[1])
    return images


def rows(stream: str, plays: list[tuple[Job, Play]]) -> list[tuple[str, ...]]:
    """A line of the table for each contestant."""
    camera = Film(read_video()).camera if stream in FILMS else CAMERA
    quiet = [played for job, played in plays if not job.placements]
    busy = [played for job, played in plays if job.placements]
    lines = []
    for name in plays[0][1].found:
        smallest = 0.0
        if name in CHOSEN:
            outcomes = ((each, outcome(name, quiet, camera, each)) for each in CHOSEN[name])
            smallest = next((each for each, o in outcomes if o.false <= o.hours), CHOSEN[name][-1])
        calm, found = (outcome(name, each, camera, smallest) for each in (quiet, busy))
        delays_s = np.array(found.delays_s)
        in_time = delays_s <= IN_TIME_S
        lines.append(
            (
                stream,
                name + THRESHOLDS.get(name, "").format(smallest),
                f"{in_time.sum()} of {len(delays_s)}",
                f"{np.median(delays_s[in_time]):.1f} s" if in_time.any() else "-",
                f"{calm.false} in {60 * calm.hours:.0f} min",
                f"{found.false} in {60 * found.hours:.0f} min",
                f"{cost_ms(name, [*quiet, *busy]):.1f}",
            )
        )
    return lines


def cost_ms(name: str, plays: list[Play]) -> float:
    """CPU milliseconds of a picture."""
    return 1e3 * sum(p.cpu_s[name] for p in plays) / sum(p.pictures for p in plays)


def allowed_per_hour(false: int, hours: float) -> float:
    """The highest rate an hour at which so few alarms in so many hours come with 5% chance."""
    return float(chi2.ppf(0.95, 2 * false + 2)) / 2.0 / hours


def told_right(seed: int = 7) -> tuple[int, int]:
    """(how many, of) changes of photographs that are rightly told to be new, or removed.

    Half of the objects are rectangles, half ellipses with soft borders; the light and the noise
    change between the two pictures.
    """
    rng = np.random.default_rng(seed)
    photographs = [cv2.imread(str(path)) for path in skimage_photographs()]
    directions = Directions(CAMERA, RetinaConfig().window_px)
    right = count = 0
    for k in range(VIEWS):
        scenery = Scenery("camera at rest", 1000 + k)
        base = scenery.view(rng.uniform(-REACH_RAD, REACH_RAD))
        for _ in range(CHANGES // VIEWS):
            angles_rad, picture = any_object(rng, photographs, CAMERA, base)
            near = directions_of(directions, base, angles_rad, picture)
            with_it = Placed(0.0, 1.0, angles_rad, picture).put(base, CAMERA)
            if rng.random() < 0.5:
                with_it = base._replace(image=softened(with_it.image, base.image))
            one, other = (
                directions.windows(scenery.lit(frame, rng.uniform(0.0, 120.0)), near)
                for frame in (base, with_it)
            )
            for before, now, what in ((one, other, "new"), (other, one, "removed")):
                pictures = UsualPictures(len(directions.angles_rad))
                pictures.keep(near, before)
                right += pictures.what(near, now) == what
                count += 1
    return right, count


def directions_of(directions: Directions, frame: Frame, angles_rad, picture) -> np.ndarray:
    """The directions that look at an object; it is larger than the lattice is wide."""
    in_view = directions.in_view(frame.head_rad)
    pixels = CAMERA.pixels_of_angles(directions.angles_rad[in_view], frame.head_rad)
    off = np.abs(pixels - CAMERA.pixels_of_angles(angles_rad, frame.head_rad))
    near = (off < np.array(picture.shape[1::-1]) / 2 + 5.0).all(axis=1)
    return in_view[near]


def softened(with_it: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The object as an ellipse with a soft border."""
    rows, columns = np.nonzero((with_it != without).any(axis=-1))
    middle = (int(columns.mean()), int(rows.mean()))
    axes = (int(np.ptp(columns) / 2), int(np.ptp(rows) / 2))
    share = np.zeros(with_it.shape[:2], np.float32)
    cv2.ellipse(share, middle, axes, 0, 0, 360, 1.0, -1)
    share = cv2.GaussianBlur(share, (0, 0), 1.0)[..., None]
    return (share * with_it + (1.0 - share) * without).astype(np.uint8)


def learn(folder: Path, source: str) -> Path:
    """A run that learned from this source."""
    failed = command(
        ["learn", "--source", source, "--fixations", str(LEARNING_FIXATIONS), "--out", str(folder)]
    )
    if failed:
        raise SystemExit("learning failed")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--placements", type=int, default=120, help="of each stream (120)")
    parser.add_argument("--quiet-hours", type=float, default=2.0, help="of each stream (2)")
    parser.add_argument("--plays", type=int, default=4, help="that they are divided into (4)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--streams", nargs="+", choices=SCENES + tuple(FILMS))
    parser.add_argument("--efficientnet", type=Path, help="folder of its environment, for PaDiM")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--docs", action="store_true", help="put the table into docs/watch.md")
    options = parser.parse_args()
    streams = options.streams or [*SCENES, *FILMS]
    streams = [each for each in streams if each not in FILMS or VIDEO.exists()]
    scenes, films = ([s for s in streams if s in kind] for kind in (SCENES, FILMS))
    names = tuple(options.only)
    python = efficientnet.environment(options.efficientnet) if options.efficientnet else None
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        if scenes:
            runs["scenes"] = learn(Path(folder, "scenes"), "scene:")
        if films:
            first_half = Path(folder, "pictures")
            first_half.mkdir()
            images = read_video()
            for k, image in enumerate(images[: len(images) // 2]):
                cv2.imwrite(str(first_half / f"{k:04d}.png"), image)
            runs["vtest.avi"] = learn(Path(folder, "vtest"), str(first_half))
        jobs = [
            Job(stream, runs["scenes"], 100 + seed, seconds, placements, names, python)
            for seed in range(options.plays)
            for stream in scenes
            for seconds, placements in (
                (3600.0 * options.quiet_hours / options.plays, 0),
                (0.0, options.placements // options.plays),
            )
        ]
        if films:
            passes = math.ceil(options.placements / 4)  # four objects fit into the second half
            jobs += [
                Job(film, runs["vtest.avi"], seed, 0.0, int(seed > 0), names)
                for film in films
                for seed in range(passes)
            ]
        plays = []
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for each in pool.imap_unordered(run_job, jobs):
                plays.append(each)
                print(f"[{len(plays)}/{len(jobs)}] {each[0].stream}", flush=True)
    print(f"{platform.machine()}, {time.monotonic() - started_s:.0f} s")
    heading = ("stream", "what", "within 3 s", "median", "false, quiet", "false, with objects",
               "CPU ms a picture")  # fmt: skip
    lines = [line for s in streams for line in rows(s, [p for p in plays if p[0].stream == s])]
    print(Table(heading, lines))
    if "watch" in names:
        quiet = [played for job, played in plays if not job.placements]
        calm = outcome("watch", quiet, CAMERA, 0.0)
        most = allowed_per_hour(calm.false, calm.hours)
        print(f"quiet, watch: {calm.false} in {calm.hours:.1f} h, at most {most:.2f} an hour (95%)")
    right, count = told_right()
    print(f"new or removed: {right} of {count} right")
    if options.docs:
        put(PAGE, "watch", str(Table(heading, lines)))


if __name__ == "__main__":
    main()
