"""What a picture is like, as a row of numbers: the same place gives nearly the same row.

    reduce        to DESCRIBED_PX on the longer side
    even light    each channel times what makes its mean EVEN_LEVEL, as if light never changed
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
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from edge_rjepa.errors import InputError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.eye.scan import Scan, scan, scanned_size

if TYPE_CHECKING:
    from edge_rjepa.learner.rjepa import RJepa

DESCRIBED_FIXATIONS = 16
DESCRIBED_PX = 192  # longer side of the picture as it is scanned

# Gains are whole GAIN_STEPS-ths, so that every reader of a graph rounds each pixel alike. The nudge
# keeps usual gains, such as 1, away from where a last digit decides.
EVEN_LEVEL, DARKEST_LEVEL = 110.0, 4.0  # of 255; means below the latter count as it
GAIN_STEPS, GAIN_NUDGE = 64.0, 1.0 / 1024.0


class Describer(NamedTuple):
    """What describes pictures, in two parts.

    see: what is looked at in a picture (H, W, 3) uint8 BGR, as rows (K, w) float32. whiten: what
    the weights make of such rows (.., w): whitened embeddings (.., n_z). Of a learner the rows are
    the retina's features: who keeps them can whiten them anew once the weights have changed.
    """

    see: Callable[[np.ndarray], np.ndarray]
    whiten: Callable[[np.ndarray], np.ndarray]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The description (n_z,) float32 of length 1."""
        return pool(self.whiten(self.see(picture)))

    def by_place(self, picture: np.ndarray) -> np.ndarray:
        """What is at each place of the scan, side by side (16 n_z,) float32, of length 1.

        Unlike the description it tells where in the picture things are. Raises InputError for an
        exported `descriptor`, which has pooled its places already.
        """
        white = self.whiten(self.see(picture))
        if len(white) < DESCRIBED_FIXATIONS:
            raise InputError("a descriptor has no places any more: use the run, or the form step")
        return (white / max(float(np.linalg.norm(white)), 1e-12)).astype(np.float32).ravel()


def scan_to_describe(picture: np.ndarray) -> Scan:
    """A picture (H, W, 3) uint8 BGR in even light, and where it is looked at.

    Raises InputError for any other.
    """
    seen = scan(picture, DESCRIBED_FIXATIONS, longer_px=DESCRIBED_PX)
    return seen._replace(image=in_even_light(seen.image))


def in_even_light(image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 as if its light were grey, and as strong as in any other."""
    height, width = image.shape[:2]
    level = np.maximum(np.array(cv2.sumElems(image)[:3]) / (height * width), DARKEST_LEVEL)
    gain = np.floor(GAIN_STEPS * EVEN_LEVEL / level + GAIN_NUDGE) / GAIN_STEPS
    levels = np.arange(256)[:, None]  # each is worked out once, and pixels look theirs up
    evened = np.minimum(np.floor(levels * gain + 0.5), 255.0).astype(np.uint8)
    return cv2.LUT(image, evened[None])


def described_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height that a picture of this width and height is scanned at."""
    return scanned_size(width_px, height_px, DESCRIBED_PX)


def pool(whitened: np.ndarray) -> np.ndarray:
    """The description (n_z,) float32 of length 1 from whitened embeddings (K, n_z) of a scan."""
    mean = whitened.mean(axis=0, dtype=np.float64)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def learner_describer(learner: RJepa, retina: Retina) -> Describer:
    """What describes pictures with the weights a learner has now: a snapshot.

    Raises InputError for a learner that diverged.
    """
    encode = learner.patch_encoder()
    matrix, mean = learner.whitening()
    if not (np.isfinite(matrix).all() and np.isfinite(mean).all()):
        raise InputError("the learner holds NaN or infinity: describe with an earlier checkpoint")

    def see(picture: np.ndarray) -> np.ndarray:
        seen = scan_to_describe(picture)
        return retina(seen.image, seen.pixels)

    def whiten(features: np.ndarray) -> np.ndarray:
        return (encode(features) - mean) @ matrix.T

    return Describer(see, whiten)
