"""Rooms that a small encoder tells apart, and the encoder."""

from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa

RETINA = Retina()


def small_learner(seed: int = 0) -> RJepa:
    """Untrained, which is enough to tell pictures apart."""
    sizes = {"n_embedding": 64, "n_hidden": 24, "n_predictor": 16, "n_gain": 4}
    return RJepa(RJepaConfig(n_features=RETINA.n_features, **sizes), seed=seed)


def opened(learner: RJepa) -> OpenedEncoder:
    return OpenedEncoder(Path("run"), learner, RETINA, learner.config, None)


def room(number: int) -> np.ndarray:
    """The panorama (300, 500, 3) uint8 of a room."""
    rng = np.random.default_rng([number, 7])
    noise = rng.integers(0, 256, (6 + 3 * (number % 3), 10, 3), dtype=np.uint8)
    return cv2.resize(noise, (500, 300), interpolation=cv2.INTER_CUBIC)


def look(number: int, seed: int) -> np.ndarray:
    """A view (120, 160, 3) uint8 of a room."""
    rng = np.random.default_rng([number, seed])
    x, y = rng.integers(0, (500 - 320, 300 - 240))
    return cv2.resize(room(number)[y : y + 240, x : x + 320], (160, 120))


def looks(number: int, seeds: range) -> list[np.ndarray]:
    return [look(number, seed) for seed in seeds]
