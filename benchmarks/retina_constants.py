"""The measured constants of the retina's codes, as they stand in eye/colour_codes.py and others.

    python -m benchmarks.retina_constants FOLDER ...

FOLDER: pictures that no benchmark is judged by. Each of them gives up to WINDOWS windows at random
places; of pictures with transparent parts, windows without any. What is printed depends on the
pictures alone.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.eye.colour_codes import LEAST_SPREAD, POINTS, ColourCodes
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.oriented_codes import CENTRE, OrientedCodes
from edge_rjepa.eye.retina import COLOUR

WINDOWS = 40
COLOURS = RetinaConfig().colour_codes
PER_LINE = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="+", type=Path)
    windows = read_windows(parser.parse_args().folder)
    print(f"# {len(windows)} windows")
    print_colour_codes(windows)
    print_oriented_codes(windows)


def read_windows(folders: list[Path]) -> np.ndarray:
    """(N, side, side, 3) uint8 BGR."""
    side, rng = RetinaConfig().window_px, np.random.default_rng(0)
    windows = []
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None or picture.ndim != 3 or min(picture.shape[:2]) < side:
            continue
        hidden = picture[..., 3] < 255 if picture.shape[2] == 4 else np.zeros(picture.shape[:2])
        until = np.subtract(picture.shape[:2], side)
        found = []
        for y, x in rng.integers(0, until, (20 * WINDOWS, 2), endpoint=True):
            if not hidden[y : y + side, x : x + side].any():
                found.append(picture[y : y + side, x : x + side, :3])
        windows += found[:WINDOWS]
    return np.array(windows)


def print_colour_codes(windows: np.ndarray) -> None:
    """The commonest colours of the lattice: their places, and centre and spread of the roots."""
    lattice = ColourCodes.of_points(np.indices(POINTS).reshape(3, -1).T)
    roots = np.empty((len(windows), math.prod(POINTS)), np.float32)
    lattice(colours_of(windows), roots)
    common = np.argsort(-np.square(roots).mean(axis=0), kind="stable")[:COLOURS]
    print(f"# {np.square(roots).mean(axis=0)[common].sum():.4f} of all that was seen")
    print("CODES = (")
    codes = [
        f"({', '.join(str(int(i)) for i in lattice.points[code])}, {roots[:, code].mean():.3f}, "
        f"{max(LEAST_SPREAD, roots[:, code].std()):.3f}),"
        for code in common
    ]
    for start in range(0, len(codes), PER_LINE):
        print("   ", " ".join(codes[start : start + PER_LINE]))
    print(")  # fmt: skip")


def colours_of(windows: np.ndarray) -> np.ndarray:
    """(N, cells, 3) float32: what Retina hands to its colour codes."""
    n = RetinaConfig().surround_cells
    cells = windows.reshape(len(windows), n, windows.shape[1] // n, n, -1, 3)
    return (cells.mean(axis=(2, 4)).reshape(len(windows), -1, 3) @ COLOUR.T).astype(np.float32)


def print_oriented_codes(windows: np.ndarray) -> None:
    """Centre and spread of the logarithms without what they share, by scale."""
    scales = len(CENTRE)
    codes = OrientedCodes(scales, RetinaConfig().orientation_parts)
    grey = (windows @ np.array([29, 150, 77])).astype(np.int32)
    logs = np.empty((len(windows), codes.count), np.float32)
    codes(grey, logs)
    logs = (logs * codes.spread + codes.centre).reshape(len(windows), scales, -1)
    for name, values in (("CENTRE", logs.mean(axis=(0, 2))), ("SPREAD", logs.std(axis=(0, 2)))):
        print(f"{name} = np.array([{', '.join(f'{value:.2f}' for value in values)}])")


if __name__ == "__main__":
    main()
