"""The learning protocol `places`: does a robot know a place again by a part it has never seen?

49 photographs stand for places. The eye learns from the left half of each, without labels. It is
then asked about fixations of the right halves, after two classifiers were fitted to fresh fixations
of the left ones. No window crosses the middle. docs/learning.md describes it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks import photographs
from benchmarks.protocols import DRAWS, Block, draw, held_out_scores
from edge_rjepa.encoder.classify import NEIGHBOURS, commonest, ridge
from edge_rjepa.eye.config import GazeConfig, RetinaConfig
from edge_rjepa.eye.efference import efference_copy
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import Prediction
from edge_rjepa.optics.camera import Pinhole

FIXATIONS = 16  # of a frame, which is a block, and of a labelled sequence
VISIT_FRAMES = 20
FITTED, ASKED = 40, 25  # sequences of a place
FEW_LABELS = (1, 5)  # labelled sequences of a place, beside FITTED
SHRINKAGES = (0.1, 0.01, 1e-3, 0.3, 1.0, 3.0)  # of whitening; where labels cannot tell, the first
PICTURE_PX = 1024  # longer side of the pictures of elsewhere, as of the monuments

FOCAL_PX = Pinhole(320, 240, math.radians(60.0)).focal_px  # the camera that GazeConfig is made for
SACCADE_MEDIAN_PX = 30.0
SACCADE_LOG_STD = 0.7
CANDIDATES = 64  # saccades drawn for a frame; once they are used up, gaze goes just anywhere

# What a sequence is known by: from a Prediction of (N, 16, n_z) and (N, 16, n_h), rows (N, d).
POOLINGS: dict[str, Callable[[Prediction], np.ndarray]] = {
    "z": lambda seen: seen.z.mean(axis=1),
    "z and spread": lambda seen: np.hstack([seen.z.mean(axis=1), seen.z.std(axis=1)]),
    "all": lambda seen: np.hstack([seen.z.mean(axis=1), seen.h[:, -1], seen.h.mean(axis=1)]),
}


class View(NamedTuple):
    """What the eye sees of a picture: a part of it, as a camera in the middle of that would."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    left: int  # px, the part's first column ..
    right: int  # .. and the one after its last


class Walk:
    """Gaze over one view: saccades of log-normal length in any direction, windows wholly inside."""

    def __init__(self, view: View, window_px: int, rng: np.random.Generator):
        height = view.image.shape[0]
        self.view, self._rng = view, rng
        self._low = np.array([view.left, 0.0]) + window_px // 2
        self._high = np.array([view.right, height]) - window_px // 2
        self._camera = Pinhole(
            view.right - view.left,
            height,
            2.0 * math.atan(0.5 * (view.right - view.left) / FOCAL_PX),
        )
        self._px = rng.uniform(self._low, self._high)
        self._before_rad = np.zeros(2)  # the first saccade comes from the middle, as the runtime's

    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """The next FIXATIONS: pixels (16, 2) as x, y, and efference copies (16, 4) float32."""
        pixels = self._saccades()
        gaze_rad = self._camera.angles_of_pixels(pixels - (self.view.left, 0))
        usual = GazeConfig()
        efference = efference_copy(
            gaze_rad, self._before_rad, usual.saccade_scale_rad, usual.gaze_scale_rad
        )
        self._before_rad = gaze_rad[-1]
        return pixels, efference

    def _saccades(self) -> np.ndarray:
        rng = self._rng
        length = SACCADE_MEDIAN_PX * np.exp(SACCADE_LOG_STD * rng.standard_normal(CANDIDATES))
        angle = rng.uniform(0.0, 2.0 * math.pi, CANDIDATES)
        steps = iter((length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).tolist())
        (left, top), (right, bottom) = self._low.tolist(), self._high.tolist()
        x, y = self._px.tolist()
        pixels = []
        for _ in range(FIXATIONS):
            for dx, dy in steps:
                if left <= x + dx <= right and top <= y + dy <= bottom:
                    x, y = x + dx, y + dy
                    break
            else:
                x, y = rng.uniform(self._low, self._high).tolist()
            pixels.append((x, y))
        self._px = np.array(pixels[-1])
        return np.array(pixels)


@dataclass(frozen=True)
class Sequences:
    """Labelled sequences of fixations of some views, place by place."""

    views: list[View]
    labels: np.ndarray  # (N,) which view
    pixels: np.ndarray  # (N, 16, 2) x, y
    efference: np.ndarray  # (N, 16, 4) float32

    def __len__(self) -> int:
        return len(self.labels)


def sequences(views: list[View], each: int, window_px: int, seed: int) -> Sequences:
    """`each` fresh sequences of every view."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(views)), each)
    frames = [Walk(views[label], window_px, rng).frame() for label in labels]
    pixels, efference = (np.array(part) for part in zip(*frames, strict=True))
    return Sequences(views, labels, pixels, efference)


class Places:
    """The protocol. folder: of photographs; elsewhere: learn from paintings and drawings only.

    visit_frames: fewest and most frames of a visit, log-uniform between them. retina: names and
    values of RetinaConfig, in place of its defaults. few_labels: labelled sequences of a place that
    are asked with, beside all. poolings: of POOLINGS.
    """

    n_efference = 4

    def __init__(
        self,
        folder: Path | None = None,
        elsewhere: bool = False,
        visit_frames: tuple[int, int] = (VISIT_FRAMES, VISIT_FRAMES),
        retina: tuple[tuple[str, object], ...] = (),
        pictures: Callable[[str], list[np.ndarray]] | None = None,
        few_labels: tuple[int, ...] = FEW_LABELS,
        poolings: tuple[str, ...] = tuple(POOLINGS),
    ):
        self.few_labels, self.poolings = few_labels, poolings
        pictures = pictures or (lambda name: photographs.load(name, folder))
        self.retina = Retina(RetinaConfig(**dict(retina)))
        self.n_features = self.retina.n_features
        self.visit_frames = visit_frames
        left, right = halves(pictures("monuments"))
        self.fitted, self.asked = self.probe_sequences(left, right)
        self.visited = left
        if elsewhere:
            self.visited = [
                whole(picture) for name in ("paintings", "words") for picture in pictures(name)
            ]

    def probe_sequences(self, left, right) -> tuple[Sequences, Sequences]:
        """To fit to and to ask about: the same for every learner and every peer."""
        side = self.retina.config.window_px
        return sequences(left, FITTED, side, seed=2), sequences(right, ASKED, side, seed=3)

    def blocks(self, rng: np.random.Generator) -> Iterator[Block]:
        """Visits without an end, a frame a block; the past is forgotten before each visit."""
        yield from self.blocks_of(self.visited, rng)

    def blocks_of(self, views: list[View], rng: np.random.Generator) -> Iterator[Block]:
        """The same, of visits to these views only."""
        fewest, most = self.visit_frames
        while True:
            view = views[rng.integers(len(views))]
            walk = Walk(view, self.retina.config.window_px, rng)
            frames = fewest if fewest == most else log_uniform(fewest, most, rng)
            for frame in range(frames):
                pixels, efference = walk.frame()
                yield Block(self.retina(view.image, pixels), efference, frame == 0)

    def score(self, model) -> dict[str, float]:
        """Accuracies for every pooling, classifier and number of labels; held-out scores."""
        model = model.copy()
        seen = [
            _seen(model, features, part.efference)
            for features, part in zip(self.features, (self.fitted, self.asked), strict=True)
        ]
        scores = {}
        for name in self.poolings:
            rows = [POOLINGS[name](each) for each in seen]
            found = accuracies(
                rows[0], self.fitted.labels, rows[1], self.asked.labels, self.few_labels
            )
            scores |= {f"{name} {classifier}": share for classifier, share in found.items()}
        return scores | held_out_scores(model, [_flat(seen[1])])

    @functools.cached_property
    def features(self) -> list[np.ndarray]:
        """Of the sequences to fit to, and of those to ask about: (N, 16, f)."""
        return [self._features(part) for part in (self.fitted, self.asked)]

    def _features(self, part: Sequences) -> np.ndarray:
        looks = zip(part.labels, part.pixels, strict=True)
        return np.array([self.retina(part.views[label].image, pixels) for label, pixels in looks])


def halves(pictures: Iterable[np.ndarray]) -> tuple[list[View], list[View]]:
    """Left and right halves of pictures, as views."""
    left, right = [], []
    for picture in pictures:
        width = picture.shape[1]
        left.append(View(picture, 0, width // 2))
        right.append(View(picture, width // 2, width))
    return left, right


def whole(picture: np.ndarray) -> View:
    """All of a picture, enlarged or reduced until its longer side has PICTURE_PX."""
    height, width = picture.shape[:2]
    scale = PICTURE_PX / max(height, width)
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    picture = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=how)
    return View(picture, 0, picture.shape[1])


def log_uniform(fewest: int, most: int, rng: np.random.Generator) -> int:
    """A whole number in fewest .. most, as likely between a and 2a as between 2a and 4a."""
    return min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))


def accuracies(
    fitted: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    truth: np.ndarray,
    few_labels: tuple[int, ...] = FEW_LABELS,
) -> dict[str, float]:
    """Shares of rows asked (M, d) told right by what was fitted to rows (N, d).

    With all labels, and with few of them a place: means over DRAWS. Whitening needs no labels, so
    it is of all rows; how much of it, the labelled rows say.
    """
    whitened = [(unit(fitted), unit(asked)) for unit in whitenings(fitted)]

    def told(chosen: np.ndarray) -> tuple[float, float]:
        known = labels[chosen]
        by_ridge = ridge(fitted[chosen], known, asked)
        best = max(whitened, key=lambda each: left_out_accuracy(each[0][chosen], known))
        by_neighbours = nearest(best[0][chosen], known, best[1])
        return float((by_ridge == truth).mean()), float((by_neighbours == truth).mean())

    found = dict(zip(("ridge", "neighbours"), told(np.arange(len(labels))), strict=True))
    for count in few_labels:
        if count < np.unique(labels, return_counts=True)[1].min():
            rng = np.random.default_rng(count)
            shares = [told(draw(labels, count, rng)) for _ in range(DRAWS)]
            for name, share in zip(("ridge", "neighbours"), np.mean(shares, axis=0), strict=True):
                found[f"{name}, {count}"] = float(share)
    return found


def whitenings(rows: np.ndarray) -> list[Callable[[np.ndarray], np.ndarray]]:
    """For each of SHRINKAGES, to unit vectors of whitened coordinates of rows (N, d).

    The cosine of two is then their product. A direction of variance v is divided by the root of
    v + shrinkage * the mean of all v: what hardly varies is not blown up.
    """
    mean = rows.mean(axis=0)
    _, s, directions = np.linalg.svd(rows - mean, full_matrices=False)
    variance = s**2 / len(rows)

    def with_shrinkage(shrinkage: float) -> Callable[[np.ndarray], np.ndarray]:
        matrix = directions.T / np.sqrt(variance + shrinkage * variance.mean() + 1e-12)

        def unit(asked: np.ndarray) -> np.ndarray:
            along = (asked - mean) @ matrix
            return along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)

        return unit

    return [with_shrinkage(shrinkage) for shrinkage in SHRINKAGES]


def left_out_accuracy(rows: np.ndarray, labels: np.ndarray) -> float:
    """Of `nearest`, each of the rows asked about in turn and left out then."""
    alike = rows @ rows.T
    np.fill_diagonal(alike, -np.inf)
    return float((_vote(alike, labels) == labels).mean())


def nearest(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The commonest label (M,) among the NEIGHBOURS rows (N, d) with the largest cosine.

    Of equally common ones the nearest decides.
    """
    return _vote(asked @ rows.T, labels)


def _vote(alike: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels (M,) by the NEIGHBOURS most alike of N, alike (M, N)."""
    k = min(NEIGHBOURS, alike.shape[1])
    near = np.argsort(-alike, axis=1, kind="stable")[:, :k]
    return commonest(labels[near], labels.max() + 1)


def _seen(model, features: np.ndarray, efference: np.ndarray) -> Prediction:
    """All sequences (N, 16, ..), each from a reset."""
    found = []
    for block in zip(features, efference, strict=True):
        model.reset()
        found.append(model.predict(*block))
    return Prediction(*(np.array(part) for part in zip(*found, strict=True)))


def _flat(seen: Prediction) -> Prediction:
    return Prediction(*(part.reshape(-1, part.shape[-1]) for part in seen))
