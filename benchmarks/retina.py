"""What the retina's groups of features tell of a place, before anything is learned.

    python -m benchmarks.retina FOLDER [--fit N] [--ask N] [--seed N]

Each picture in FOLDER is a place. The eye sees FIXATIONS fixations (saccades of log-normal length,
median SACCADE_PX) of the left half of a picture, again and again, and two classifiers are fitted to
what the retina says of them, averaged over the fixations, or its mean and spread. They are then
asked about fixations of the right half. No window crosses the middle. The ridge classifier picks
its penalty on the left halves alone; the other takes the 5 nearest neighbours by cosine, whitened.
The time is that of a retina with these groups, of a call of 16 fixations on a picture of 320 x 240.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.timing import Contender, take_turns
from edge_rjepa.encoder.classify import NEIGHBOURS, ridge
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina

FIXATIONS = 16
SACCADE_PX, SACCADE_LOG_STD = 30.0, 0.7
SHRINKAGE = 0.05  # of the variances that whitening divides by; features have about 1

PATTERNS = ("pattern", "level", "contrast")
CODES = ("colour codes", "oriented codes")
TABLE = {
    "patterns, levels, contrasts": PATTERNS,
    "colour codes": CODES[:1],
    "oriented codes": CODES[1:],
    "patterns .. and colour codes": (*PATTERNS, CODES[0]),
    "patterns .. and oriented codes": (*PATTERNS, CODES[1]),
    "both codes": CODES,
    "all": (*PATTERNS, *CODES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit", type=int, default=40, help="sequences of each left half")
    parser.add_argument("--ask", type=int, default=25, help="sequences of each right half")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    retina, rng = Retina(), np.random.default_rng(options.seed)
    fitted, asked, places = [], [], 0
    for picture in read_pictures(options.folder, 2 * retina.config.window_px):
        middle = picture.shape[1] // 2
        fitted.append(sequences(retina, picture[:, :middle], options.fit, rng))
        asked.append(sequences(retina, picture[:, middle:], options.ask, rng))
        places += 1
    print(f"{places} places, chance {1 / places:.3f}")
    print(f"{'':32}{'f':>4}{'us':>6}   mean: ridge, neighbours   with spread: ridge, neighbours")
    microseconds = times()
    for name, kinds in TABLE.items():
        kept = np.concatenate([np.r_[retina.parts[kind]] for kind in kinds])
        scores = [
            score([each[:, :, kept] for each in fitted], [each[:, :, kept] for each in asked], also)
            for also in (False, True)
        ]
        cost = microseconds[tuple(kind in kinds for kind in ("pattern", *CODES))]
        told = "   ".join(f"{a:16.3f} {b:8.3f}" for a, b in scores)
        print(f"{name:32}{len(kept):4}{cost:6.1f}{told}", flush=True)


def read_pictures(folder: Path, least_px: int) -> Iterable[np.ndarray]:
    """(H, W, 3) uint8 BGR of each picture that is wide and high enough, in the order of names."""
    for path in sorted(folder.iterdir()):
        picture = cv2.imread(str(path))
        if picture is not None and picture.shape[1] > least_px and 2 * picture.shape[0] > least_px:
            yield picture


def sequences(retina: Retina, image: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Features (n, FIXATIONS, f) of so many walks of gaze, all windows within the image."""
    image, edge = np.ascontiguousarray(image), retina.config.window_px // 2
    low, high = np.full(2, edge), np.subtract(image.shape[1::-1], edge)
    seen = np.empty((n, FIXATIONS, retina.n_features), np.float32)
    for features in seen:
        retina(image, walk(low, high, rng), out=features)
    return seen


def walk(low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaze (FIXATIONS, 2) px; a saccade out of the box is drawn again, in the end from anywhere."""
    gaze = [rng.uniform(low, high)]
    while len(gaze) < FIXATIONS:
        angle = rng.uniform(0.0, 2.0 * np.pi, 100)
        length = rng.lognormal(np.log(SACCADE_PX), SACCADE_LOG_STD, 100)[:, None]
        ends = gaze[-1] + length * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        within = ((low <= ends) & (ends <= high)).all(axis=1)
        gaze.append(ends[within.argmax()] if within.any() else rng.uniform(low, high))
    return np.array(gaze)


def score(fitted: list[np.ndarray], asked: list[np.ndarray], spread: bool) -> tuple[float, float]:
    """Shares of right answers of the ridge and of the neighbour classifier."""
    rows, labels = pooled(fitted, spread)
    questions, truth = pooled(asked, spread)
    return (
        float((ridge(rows, labels, questions) == truth).mean()),
        float((nearest(rows, labels, questions) == truth).mean()),
    )


def nearest(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels of the rows asked: the commonest among the NEIGHBOURS nearest rows by cosine.

    Rows are whitened. A vote counts a little more than all that are further away can, and less than
    two.
    """
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    rows, asked = (rows - centre) / scale, (asked - centre) / scale
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    white = axes / np.sqrt(np.maximum(variance, 0.0) + SHRINKAGE)
    rows, asked = unit(rows @ white), unit(asked @ white)
    near = np.argsort(-asked @ rows.T, axis=1)[:, :NEIGHBOURS]
    votes = np.zeros((len(asked), labels.max() + 1))
    for place in range(NEIGHBOURS):
        votes[np.arange(len(asked)), labels[near[:, place]]] += 1.0 + 0.5 ** (place + 1)
    return votes.argmax(axis=1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pooled(places: list[np.ndarray], spread: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, d) and the places (N,) they are of."""
    rows = [each.mean(axis=1) for each in places]
    if spread:
        rows = [np.hstack([row, p.std(axis=1)]) for row, p in zip(rows, places, strict=True)]
    labels = np.repeat(np.arange(len(places)), [len(each) for each in rows])
    return np.vstack(rows).astype(np.float64), labels


def times() -> dict[tuple[bool, ...], float]:
    """Microseconds a fixation by whether there are patterns, colour codes, oriented codes.

    The patterns cannot be left out: without them, what they take is taken off.
    """
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    pixels = np.random.default_rng(1).uniform((16, 16), (304, 224), (FIXATIONS, 2))
    contenders = {}
    for colours, edges in np.ndindex(2, 2):
        config = RetinaConfig()
        config = RetinaConfig(
            colour_codes=config.colour_codes * colours,
            orientation_scales=config.orientation_scales * edges,
        )
        retina = Retina(config)
        out = np.empty((FIXATIONS, retina.n_features), np.float32)
        call = lambda retina=retina, out=out: retina(image, pixels, out=out)  # noqa: E731
        contenders[bool(colours), bool(edges)] = Contender(call, FIXATIONS)
    turns = take_turns(contenders, 4.0)
    found = {}
    base = turns.time((False, False)).median
    for codes in contenders:
        seconds = turns.time(codes).median
        found[(True, *codes)], found[(False, *codes)] = 1e6 * seconds, 1e6 * (seconds - base)
    return found


if __name__ == "__main__":
    main()
