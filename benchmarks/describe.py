"""Of many pictures, which is this a part of? `describe` beside what needs no learning.

    python -m benchmarks.describe RUN --pictures DIR [DIR ..]

Each picture is a place. Known are views of its middle and of four parts about it; asked are three
views of parts anywhere in it, nearer or further, in light of other strength and colour. The nearest
known view by plain cosine tells the place. The tables of docs/encoder.md have these figures. With
`--scans` it also compares how large a picture is scanned, and by how many fixations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.encoder import describe as describing
from edge_rjepa.encoder.describe import in_even_light, learner_describer
from edge_rjepa.encoder.opener import open_encoder
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.sources.decode import pictures_in
from examples.simulated import histogram, thumbnail

WIDTH_PX, HEIGHT_PX = 320, 240
PLACES = [(0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)]  # of known views
KNOWN_SIZE, ASKED_SIZES = 0.7, (0.5, 0.8)  # of the largest view that fits into the picture
ASKED = 3  # of a picture
SCANS = [(px, fixations) for px in (192, 240, 320, 448) for fixations in (9, 16, 25)]


def part(picture: np.ndarray, x: float, y: float, size: float) -> np.ndarray:
    """A view (240, 320, 3); x, y: where, in shares of the play that there is."""
    height, width = picture.shape[:2]
    wide = min(width, height * WIDTH_PX / HEIGHT_PX) * size
    scale = wide / WIDTH_PX
    matrix = np.array(
        [[scale, 0, x * (width - wide)], [0, scale, y * (height - scale * HEIGHT_PX)]], np.float32
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        picture, matrix, (WIDTH_PX, HEIGHT_PX), flags=how, borderMode=cv2.BORDER_REFLECT_101
    )


def views(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Known views (P, 5, 240, 320, 3) and those asked about (P, 3, 240, 320, 3)."""
    rng, known, asked = np.random.default_rng(0), [], []
    for path in paths:
        picture = cv2.imread(str(path))
        larger = max(1.0, 640 / max(picture.shape[:2]))
        picture = cv2.resize(picture, None, fx=larger, fy=larger, interpolation=cv2.INTER_CUBIC)
        known.append([part(picture, *place, KNOWN_SIZE) for place in PLACES])
        seen = []
        for _ in range(ASKED):
            view = part(picture, *rng.uniform(0, 1, 2), rng.uniform(*ASKED_SIZES))
            light = rng.uniform(0.5, 1.0) * np.array(
                [rng.uniform(0.7, 1.0), rng.uniform(0.85, 1.0), 1.0]
            )
            seen.append((view * light).astype(np.uint8))
        asked.append(seen)
    return np.array(known), np.array(asked)


def shares_right(
    row_of: Callable[[np.ndarray], np.ndarray], known: np.ndarray, asked: np.ndarray
) -> list[float]:
    """With one and with five known views of each picture."""

    def rows(pictures: np.ndarray) -> np.ndarray:
        made = np.array([[row_of(view) for view in each] for each in pictures], float)
        return made / np.maximum(np.linalg.norm(made, axis=-1, keepdims=True), 1e-12)

    likeness = np.einsum("ajd,pkd->ajpk", rows(asked), rows(known))
    own = np.arange(len(known))[:, None]
    return [
        float((likeness[..., :count].max(axis=-1).argmax(axis=-1) == own).mean())
        for count in (1, len(PLACES))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--scans", action="store_true", help="compare sizes and fixations, too")
    options = parser.parse_args()
    encoder = open_encoder(options.run)
    if not isinstance(encoder.model, RJepa):
        parser.error("give the folder of a run, not a file")
    known, asked = views([path for folder in options.pictures for path in pictures_in(folder)])
    untrained = RJepa(encoder.network, seed=0)
    print(
        f"{len(known)} pictures, {asked.shape[0] * ASKED} views; share right with 1, 5 known views"
    )
    for name, row_of in (
        ("description", encoder.describe),
        ("description, untrained", learner_describer(untrained, encoder.retina)),
        ("pixels, 16x12", thumbnail),
        ("pixels, even light", lambda view: thumbnail(in_even_light(view))),
        ("histogram", histogram),
        ("histogram, even light", lambda view: histogram(in_even_light(view))),
    ):
        print(f"{name:<26}" + "".join(f"{s:>7.3f}" for s in shares_right(row_of, known, asked)))
    if options.scans:
        for px, fixations in SCANS:
            describing.DESCRIBED_PX, describing.DESCRIBED_FIXATIONS = px, fixations
            shares = shares_right(encoder.describe, known, asked)
            print(f"{px} px, {fixations:>2} fixations     " + "".join(f"{s:>7.3f}" for s in shares))


if __name__ == "__main__":
    main()
