"""What the two Python examples share: views as a robot has them, and what to compare with."""

import math
import sys
from collections.abc import Callable

import cv2
import numpy as np

from edge_rjepa import RJepaError, open_encoder
from edge_rjepa.encoder.describe import in_even_light
from edge_rjepa.sources.scene import Scene, load_texture, render, skimage_photographs

Rows = Callable[[np.ndarray], np.ndarray]


def photographs() -> list[np.ndarray]:
    """scikit-image's photographs, each as a wall that the simulated camera stands before."""
    return [
        load_texture(path, Scene(place, 0.0, 0.0, 1.0, mirrored=False))
        for place, path in enumerate(skimage_photographs())
    ]


def view(
    wall: np.ndarray, pan_deg: float, tilt_deg: float, closer: float = 1.0, light: tuple = (1, 1, 1)
) -> np.ndarray:
    """What the camera sees (240, 320, 3) uint8 BGR: `closer` times as large, in light (b, g, r)."""
    seen = render(wall, (math.radians(pan_deg), math.radians(tilt_deg)))
    height, width = seen.shape[:2]
    seen = cv2.getRectSubPix(
        seen, (round(width / closer), round(height / closer)), (width / 2, height / 2)
    )
    seen = cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(seen * np.asarray(light), 0, 255).astype(np.uint8)


def dim_and_warm(rng: np.random.Generator) -> np.ndarray:
    """Evening light: half to all of it, of blue the least."""
    return rng.uniform(0.5, 1.0) * np.array([rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.0), 1.0])


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A row of pixels: the picture reduced to 16 x 12, without its mean."""
    row = cv2.resize(picture, (16, 12), interpolation=cv2.INTER_AREA).astype(float).ravel()
    return row - row.mean()


def histogram(picture: np.ndarray) -> np.ndarray:
    """A row of how often each colour occurs: hue, saturation and value in 8 x 4 x 4 bins."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
    return np.sqrt(counts.ravel())


def kinds_of_rows() -> dict[str, Rows]:
    """What makes a row of numbers of length 1 from a picture, by name.

    The command line names the encoder: a run folder or a file. Where it names none, the program
    ends with a line that says so.
    `describe` evens the light by itself; to be fair, so do two of the others.
    """
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN|encoder.onnx")
    try:
        describe = open_encoder(sys.argv[1]).describe
    except RJepaError as error:
        sys.exit(str(error))
    kinds = {
        "description": describe,
        "pixels": thumbnail,
        "pixels, even light": lambda picture: thumbnail(in_even_light(picture)),
        "histogram": histogram,
        "histogram, even light": lambda picture: histogram(in_even_light(picture)),
    }
    return {name: lambda picture, of=of: of_length_1(of(picture)) for name, of in kinds.items()}


def of_length_1(row: np.ndarray) -> np.ndarray:
    return row / max(float(np.linalg.norm(row)), 1e-12)
