"""What a picture is like, as a row of numbers: the same place gives nearly the same row.

    scan          DESCRIBED_FIXATIONS windows, at the same places in every picture (eye/scan.py)
    embed         each by itself: no past, so any thread may ask, in any order
    whiten        by mean and covariance that learning keeps (RJepa.whitening)
    pool          the mean over the scan, to length 1

The likeness of two pictures is the product of their rows, a plain cosine: whitening has made all
directions of the embedding count alike that learning did not take for noise. One function for
learner, exported file and graph; `encoder.describe(picture)` of OpenedEncoder and FrozenEncoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edge_rjepa.errors import InputError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.eye.scan import Scan, scan, scanned_size

if TYPE_CHECKING:
    from edge_rjepa.learner.rjepa import RJepa

DESCRIBED_FIXATIONS = 16
DESCRIBED_PX = 192  # longer side of the picture as it is scanned

Describe = Callable[[np.ndarray], np.ndarray]  # picture (H, W, 3) uint8 BGR -> (n_z,) float32


def scan_to_describe(picture: np.ndarray) -> Scan:
    """Where a picture (H, W, 3) uint8 BGR is looked at. Raises InputError for any other."""
    return scan(picture, DESCRIBED_FIXATIONS, longer_px=DESCRIBED_PX)


def described_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height that a picture of this width and height is scanned at."""
    return scanned_size(width_px, height_px, DESCRIBED_PX)


def pool(whitened: np.ndarray) -> np.ndarray:
    """The description (n_z,) float32 of length 1 from whitened embeddings (K, n_z) of a scan."""
    mean = whitened.mean(axis=0, dtype=np.float64)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def learner_describer(learner: RJepa, retina: Retina) -> Describe:
    """What describes pictures with the weights a learner has now: a snapshot.

    Raises InputError for a learner that diverged.
    """
    encode = learner.patch_encoder()
    matrix, mean = learner.whitening()
    if not (np.isfinite(matrix).all() and np.isfinite(mean).all()):
        raise InputError("the learner holds NaN or infinity: describe with an earlier checkpoint")

    def describe(picture: np.ndarray) -> np.ndarray:
        seen = scan_to_describe(picture)
        return pool((encode(retina(seen.image, seen.pixels)) - mean) @ matrix.T)

    return describe
