"""Fixations that learning never had: what learners are judged on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, TypedDict

import numpy as np

from edge_rjepa.eye.eye import Eye
from edge_rjepa.eye.gaze import Gaze
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.objective import information
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Camera
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.monitor import Health, health
from edge_rjepa.sources import Frame

# Fewer fixations than this many times n_embedding say nothing about a covariance of that size.
FEWEST_A_DIMENSION = 4
SHOWN = 3  # frames of a sample
RIVALS = 60  # views among which one is to be known again

# Of a live source the last SET_ASIDE_S of every SET_ASIDE_EVERY_S are held out, a frame at least:
# seen, not learned. By the clock, so that a slow camera is judged as soon as any other: its frames
# are looked at several times. ENOUGH_S of being held out are enough to judge on.
SET_ASIDE_EVERY_S, SET_ASIDE_S = 10.0, 0.5
ENOUGH_S = 1.0


class SetAside:
    """Which frames of a live source are held out, by their times of capture."""

    def __init__(self, config: RunConfig) -> None:
        self._looks_a_second = _fewest(config) / config.fixations_per_frame / ENOUGH_S
        self._first_s: float | None = None  # when the first frame was taken
        self._last_s = 0.0  # .. and the last

    def looks(self, t_s: float) -> int:
        """How often to look at the next frame, taken at t_s, if it is held out; else 0."""
        if self._first_s is None:
            self._first_s = self._last_s = t_s
        last_s, self._last_s = self._last_s, t_s
        turn, within_s = self._place(t_s)
        if within_s >= SET_ASIDE_S and turn <= self._place(last_s)[0]:
            return 0
        return max(1, math.ceil(self._looks_a_second * min(t_s - last_s, SET_ASIDE_S)))

    def _place(self, t_s: float) -> tuple[float, float]:
        """How often frames began to be held out by then, and how long ago they did."""
        return divmod(t_s - (self._first_s or 0.0) + SET_ASIDE_S, SET_ASIDE_EVERY_S)


class Judged(NamedTuple):
    """What a learner is worth on fixations that it never learned from."""

    information: float  # nats, predictive information
    effective_rank: float  # 1 .. n_z
    embedding_std: float  # root mean variance of the embedding's values, 0 .. 1
    known_again: float  # share of views, 0 .. 1: see HeldOut.known_again

    @property
    def health(self) -> Health:
        """All that a monitor looks at."""
        return Health(*self[:3])


class HeldOutFrame(NamedTuple):
    """What is kept of one frame: its fixations."""

    features: np.ndarray  # (K, f) float32
    efference: np.ndarray  # (K, A) float32
    pixels: np.ndarray  # (K, 2)
    image: np.ndarray | None  # of some frames only: there can be hundreds


class Sample(TypedDict):
    """N frames that were held out, and what surprised a learner in them."""

    image: np.ndarray  # (N, H, W, 3) uint8 BGR
    pixels: np.ndarray  # (N, K, 2)
    surprise: np.ndarray  # (N, K) nats


class HeldOut:
    """The last `held_out_frames` frames added, seen with a gaze of its own.

    That gaze is random whatever the run's is: all learners are judged on the same looks.
    """

    def __init__(self, config: RunConfig):
        gaze = Gaze(replace(config.gaze, policy="random"), config.seed + 1)
        self._eye = Eye(gaze, Retina(config.retina))
        # Of one fixation there are no two descriptions of a view, by which it is known again.
        self._fixations = max(2, config.fixations_per_frame)
        self._noise_floor = config.network.noise_floor
        self._fewest = _fewest(config)
        self._looks: deque[HeldOutFrame] = deque(maxlen=config.held_out_frames)
        # One more than shown: the first look has no past, and what surprises there says little.
        self._image_every = max(1, config.held_out_frames // (SHOWN + 1))
        self._added = 0

    def add(self, camera: Camera, frames: Iterable[Frame]) -> None:
        """Look at these frames of a camera."""
        for frame in frames:
            plan, features = self._eye.look(camera, frame.image, frame.head_rad, self._fixations)
            image = None if self._added % self._image_every else frame.image
            self._looks.append(HeldOutFrame(features, plan.efference, plan.pixels, image))
            self._added += 1

    def fill(self, camera: Camera, frames: list[Frame]) -> None:
        """Look at these frames; if they are few, again until there is enough to judge on.

        There may never be, where the configuration keeps too few looks.
        """
        most = len(self._looks) + (self._looks.maxlen or 0)
        while frames and not self.enough and most > 0:
            self.add(camera, frames)
            most -= len(frames)

    @property
    def enough(self) -> bool:
        """Whether there is enough to judge on."""
        return sum(len(look.features) for look in self._looks) >= self._fewest

    def judge(self, learner: RJepa) -> Judged:
        """What it is worth on them; the learner stays as it was."""
        z, z_hat = self._seen(learner)
        finite = np.isfinite(z).all() and np.isfinite(z_hat).all()
        gained = information(z, z_hat, self._noise_floor) if finite else math.nan
        return Judged(*health(gained, np.cov(z, rowvar=False)), self.known_again(learner))

    def known_again(self, learner: RJepa) -> float:
        """The share of views that are known again, 0 .. 1: what the embedding is good for.

        Every second fixation of a frame makes one description of it, the others make another: the
        mean embedding, whitened as in `RJepa.whitening`. A view is known again if its two are
        nearest to each other by cosine, among those of RIVALS views or of as many as there are.
        Frames in a row see nearly the same, so the views of a group are taken from far apart.
        NaN for a learner that diverged.
        """
        matrix, mean = learner.whitening()
        encode = learner.patch_encoder()
        halves = []
        for look in self._looks:
            white = (encode(look.features) - mean) @ matrix.T
            halves.append([white[half::2].mean(axis=0) for half in (0, 1)])
        pairs = np.asarray(halves, np.float64)  # (N, 2, n_z)
        if not np.isfinite(pairs).all():
            return math.nan
        pairs /= np.maximum(np.linalg.norm(pairs, axis=2, keepdims=True), 1e-12)
        groups = -(-len(pairs) // RIVALS)
        right = [_right(pairs[group::groups]) for group in range(groups)]
        return float(np.concatenate(right).mean())

    def sample(self, learner: RJepa) -> Sample:
        """The last frames kept with their pictures, SHOWN at most, the oldest first."""
        z, z_hat = self._seen(learner)
        surprise = learner.surprise(z, z_hat).reshape(len(self._looks), -1)
        images = {i: look.image for i, look in enumerate(self._looks) if look.image is not None}
        shown = list(images)[-SHOWN:]
        return {
            "image": np.stack([images[i] for i in shown]),
            "pixels": np.stack([self._looks[i].pixels for i in shown]),
            "surprise": surprise[shown],
        }

    def _seen(self, learner: RJepa) -> tuple[np.ndarray, np.ndarray]:
        learner = learner.copy()
        learner.reset()
        seen = [learner.predict(look.features, look.efference) for look in self._looks]
        return np.concatenate([s.z for s in seen]), np.concatenate([s.z_hat for s in seen])


def _right(pairs: np.ndarray) -> np.ndarray:
    """Which of N views (N, 2, n_z) the one half finds by the other, and that one by the first."""
    alike = pairs[:, 0] @ pairs[:, 1].T
    itself = np.arange(len(pairs))
    return np.concatenate([alike.argmax(axis) == itself for axis in (0, 1)])


def _fewest(config: RunConfig) -> int:
    """Fixations that say something about the embedding's covariance."""
    return FEWEST_A_DIMENSION * config.network.n_embedding
