"""Find the place where a picture was taken: compare its embedding with those of known views.

    edge-rjepa export runs/demo -o encoder.onnx
    python examples/find_place.py encoder.onnx

A simulated camera on a pan-tilt head stands before one photograph after another; the photographs
come with scikit-image. At each it looks in fifteen known directions: that is the map. Then it looks
at any of them in any direction and in dimmer light, and the map has to say which photograph it is,
and in which direction the camera looks.
"""

import math
import sys

import cv2
import numpy as np

from edge_rjepa import FrozenEncoder
from edge_rjepa.eye.scan import scan
from edge_rjepa.sources.scene import Scene, load_texture, render, skimage_photographs

PANS_RAD = np.radians([-12, -6, 0, 6, 12])
TILTS_RAD = np.radians([-6, 0, 6])
QUERIES = 10  # at each place


def embed(encoder: FrozenEncoder, view: np.ndarray) -> np.ndarray:
    """A row of length 1 for a view: the embeddings of 16 fixations on it."""
    scanned = scan(view, fixations=16)
    windows = encoder.retina.windows(scanned.image, scanned.pixels)
    encoder.reset()
    z, _ = encoder.embed(windows, scanned.efference)
    return z.ravel() / np.linalg.norm(z)


def thumbnail(view: np.ndarray) -> np.ndarray:
    """A row of length 1 to compare with: the view as a small picture."""
    row = cv2.resize(view, (16, 12), interpolation=cv2.INTER_AREA).astype(float).ravel()
    row -= row.mean()
    return row / np.linalg.norm(row)


def main() -> None:
    encoder = FrozenEncoder(sys.argv[1])
    rng = np.random.default_rng(0)
    known, asked = [], []  # (place, pan, tilt, view)
    for place, path in enumerate(skimage_photographs()):
        texture = load_texture(path, Scene(place, 0.0, 0.0, 1.0, mirrored=False))
        for pan in PANS_RAD:
            known += [(place, pan, tilt, render(texture, (pan, tilt))) for tilt in TILTS_RAD]
        for _ in range(QUERIES):
            pan, tilt = rng.uniform(PANS_RAD[0], PANS_RAD[-1]), rng.uniform(*TILTS_RAD[[0, -1]])
            view = render(texture, (pan, tilt)) * rng.uniform(0.5, 1.0)  # dimmer
            asked.append((place, pan, tilt, view.astype(np.uint8)))

    print(f"{len(known)} known views of {place + 1} places, {len(asked)} views to find")
    for name, row in (("frozen embedding", lambda v: embed(encoder, v)), ("pixels", thumbnail)):
        likeness = np.array([row(a[3]) for a in asked]) @ np.array([row(k[3]) for k in known]).T
        best = [known[i] for i in likeness.argmax(axis=1)]
        right = [(a, b) for a, b in zip(asked, best, strict=True) if a[0] == b[0]]
        apart = [math.degrees(math.hypot(a[1] - b[1], a[2] - b[2])) for a, b in right]
        print(
            f"{name:<17} right place {len(right) / len(asked):.2f}, "
            f"then {np.median(apart):.1f} degrees off"
        )


if __name__ == "__main__":
    main()
