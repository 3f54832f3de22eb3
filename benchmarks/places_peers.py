"""What else tells places apart, on the sequences of benchmarks/places.py, at what cost.

Each peer turns the 16 fixations of a sequence into one row, and the same two classifiers are asked.
Peers that learn without labels (PCA, k-means, slow features) see left halves only, as the network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks import efficientnet, photographs
from benchmarks.places import FIXATIONS, Places, Sequences, accuracies
from edge_rjepa import RJepa, RJepaConfig

N_COMPONENTS = RJepaConfig().n_embedding  # of PCA and slow features: as wide as z
HSV_BINS = (12, 4, 4)
PATCH_PX = 8
N_WORDS = 256  # of the bag of patches
SLOW_INPUTS = 32  # whitened retina features whose products slow features are made of
SLOW_BLOCKS = 10_000  # frames they are learned from
CROP_PX = 224
SMALLEST_CROP = 0.7  # share of the half's shorter side
EFFICIENTNET_WINDOW_PX = 96

Describe = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Peer(NamedTuple):
    """A way to describe a frame: of image, pixels (16, 2) and efference (16, 4) a row (d,)."""

    name: str
    describe: Describe
    operations: int  # multiply-adds a frame


def table(places: Places, python_folder: Path | None = None) -> str:
    """All peers as a table in Markdown; each row is printed as JSON as it comes."""
    rows = []
    for row in measured(places, python_folder or photographs.default_folder().parent / "effnet"):
        print(json.dumps(row), flush=True)
        rows.append(row)
    scores = [f"{kind}{few}" for few in ("", ", 5", ", 1") for kind in ("ridge", "neighbours")]
    lines = [
        f"| features | width | {' | '.join(scores)} | CPU ms a frame | M multiply-adds a frame |",
        f"|{'---|' * (4 + len(scores))}",
    ]
    for row in rows:
        cells = [f"{row[score]:.3f}" for score in scores]
        cost = f"{row['ms']:.2f} | {row['operations'] / 1e6:.2f}"
        lines.append(f"| {row['features']} | {row['width']} | {' | '.join(cells)} | {cost} |")
    return "\n".join(lines)


def measured(places: Places, python_folder: Path) -> Iterator[dict]:
    """A row for each peer."""
    for peer in peers(places):
        rows, ms = described(places, peer.describe)
        yield scored(places, peer.name, rows, ms, peer.operations)
    both = places.fitted, places.asked
    looks = (
        (f"windows at {EFFICIENTNET_WINDOW_PX} px", windows_of, EFFICIENTNET_WINDOW_PX, FIXATIONS),
        (f"one crop at {CROP_PX} px", crops_of, CROP_PX, 1),
    )
    for name, pictures_of, side_px, group in looks:
        pictures = np.concatenate([pictures_of(places, part) for part in both])
        try:
            rows, ms, operations = efficientnet.features(python_folder, pictures, group, side_px)
        except OSError as error:
            print(f"EfficientNet-Lite0 is left out: {error}", flush=True)
            return
        split = [rows[: len(places.fitted)], rows[len(places.fitted) :]]
        yield scored(places, f"EfficientNet-Lite0, {name}", split, ms, operations)


def scored(places: Places, name: str, rows: list[np.ndarray], ms: float, operations: int) -> dict:
    """A row of the table, of rows fitted and asked."""
    found = accuracies(rows[0], places.fitted.labels, rows[1], places.asked.labels)
    cost = {"ms": round(ms, 3), "operations": operations}
    return {"features": name, "width": rows[0].shape[1], **cost, **found}


def described(places: Places, describe: Describe) -> tuple[list[np.ndarray], float]:
    """Rows fitted and asked of a peer, and the CPU milliseconds of a frame."""
    rows, seconds = [], 0.0
    for part in (places.fitted, places.asked):
        first = part.views[0].image, part.pixels[0], part.efference[0]
        describe(*first)  # compiled, caches filled
        started = time.process_time()
        looks = zip(part.labels, part.pixels, part.efference, strict=True)
        rows.append(np.array([describe(part.views[v].image, *look) for v, *look in looks]))
        seconds += time.process_time() - started
    return rows, 1e3 * seconds / (len(rows[0]) + len(rows[1]))


def peers(places: Places) -> Iterator[Peer]:
    """All that are described in this process."""
    retina = places.retina
    side = retina.config.window_px
    pixels = FIXATIONS * side * side * 3
    seeing = FIXATIONS * retina_operations(places)

    def mean_picture(image, at, _):
        mean = retina.windows(image, at).mean(axis=0)
        return cv2.resize(mean, (16, 16), interpolation=cv2.INTER_AREA).ravel()

    yield Peer("averaged pixels, 16 x 16", mean_picture, pixels)
    yield Peer("averaged retina", lambda image, at, _: retina(image, at).mean(axis=0), seeing)
    yield Peer(
        "averaged retina and its spread",
        lambda image, at, _: mean_and_spread(retina(image, at)),
        seeing,
    )
    yield pca_of_windows(places)
    yield Peer("HSV histogram", lambda image, at, _: hsv(retina.windows(image, at)), 12 * pixels)
    yield bag_of_patches(places)
    yield slow_features(places, seeing)

    model = RJepa(RJepaConfig(n_features=places.n_features))
    weights = model.parameters()
    used = sum(weights[name].size for name in weights if name.startswith("W"))

    def untrained(image, at, efference):
        model.reset()
        z, h = model.embed(retina(image, at), efference)
        return np.concatenate([z.mean(axis=0), h[-1], h.mean(axis=0)])

    yield Peer("the network, untrained", untrained, seeing + FIXATIONS * used)


def retina_operations(places: Places) -> int:
    """Multiply-adds of a fixation: averaging the window, the DCT of each group, the codes."""
    retina = places.retina
    operations = 3 * retina.config.window_px**2
    for bank in retina.banks:
        n, orders = bank.basis.shape
        pictures = bank.groups.stop - bank.groups.start
        operations += pictures * (n * n * orders + n * orders * orders)
    if retina.config.colour_codes:  # each cell on three axes, then shared out among eight colours
        operations += retina.config.surround_cells**2 * (3 + 8 * 2)
    for scale in range(retina.config.orientation_scales):  # two differences, four sizes, six sums
        operations += 12 * (retina.config.window_px // 2**scale) ** 2
    return operations


def mean_and_spread(rows: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over rows (K, d), (2 d,)."""
    return np.concatenate([rows.mean(axis=0), rows.std(axis=0)])


def hsv(windows: np.ndarray) -> np.ndarray:
    """Roots of the shares of pixels (K, n, n, 3) in bins of hue, saturation and value."""
    pixels = cv2.cvtColor(windows.reshape(1, -1, 3), cv2.COLOR_BGR2HSV)
    limits = [0, 180, 0, 256, 0, 256]
    return np.sqrt(cv2.calcHist([pixels], [0, 1, 2], None, HSV_BINS, limits).ravel() / pixels.size)


def pca_of_windows(places: Places) -> Peer:
    """As many principal components of windows as z has values, averaged, and their spread."""
    from sklearn.decomposition import PCA

    windows = some_windows(places, 3000)
    flat = windows.reshape(len(windows), -1).astype(np.float32)
    count = min(N_COMPONENTS, len(flat) - 1)
    pca = PCA(count, svd_solver="randomized", random_state=0).fit(flat)
    mean, directions = pca.mean_, pca.components_.T

    def describe(image, at, _):
        rows = places.retina.windows(image, at).reshape(len(at), -1).astype(np.float32)
        return mean_and_spread((rows - mean) @ directions)

    name = "PCA of windows, averaged and its spread"
    return Peer(name, describe, FIXATIONS * directions.size)


def bag_of_patches(places: Places) -> Peer:
    """Which of N_WORDS prototypes (k-means) the patches of all windows are nearest to."""
    from sklearn.cluster import MiniBatchKMeans

    patches = np.concatenate([patches_of(window[None]) for window in some_windows(places, 1500)])
    few = patches[np.random.default_rng(4).permutation(len(patches))[:50_000]]
    kmeans = MiniBatchKMeans(min(N_WORDS, len(few)), random_state=0, n_init=1, batch_size=4096)
    words = kmeans.fit(few).cluster_centers_.astype(np.float32)
    half_squares = 0.5 * (words**2).sum(axis=1)

    def describe(image, at, _):
        found = patches_of(places.retina.windows(image, at))
        nearest = (found @ words.T - half_squares).argmax(axis=1)
        return np.sqrt(np.bincount(nearest, minlength=len(words)) / len(nearest))

    count = FIXATIONS * (places.retina.config.window_px // PATCH_PX) ** 2
    return Peer("k-means bag of 8 x 8 patches", describe, count * words.size)


def patches_of(windows: np.ndarray) -> np.ndarray:
    """Patches (N, 192) float32 in grey levels of windows (K, n, n, 3), side by side."""
    k, n = windows.shape[:2]
    cells = windows.reshape(k, n // PATCH_PX, PATCH_PX, n // PATCH_PX, PATCH_PX, 3)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH_PX * PATCH_PX * 3).astype("f4")


def slow_features(places: Places, seeing: int) -> Peer:
    """Slow feature analysis (Wiskott & Sejnowski, 2002) of products of retina features.

    Incremental: visits come once, and only sums of products are kept.
    """
    blocks = places.blocks(np.random.default_rng(5))
    first = np.concatenate([next(blocks).features for _ in range(1000)])
    mean = first.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(first, rowvar=False))
    count = min(SLOW_INPUTS, len(variance))
    inputs = directions[:, -count:] / np.sqrt(np.maximum(variance[-count:], 1e-6))
    upper = np.triu_indices(count)

    def expanded(features: np.ndarray) -> np.ndarray:
        x = np.clip((features - mean) @ inputs, -4.0, 4.0)
        return np.hstack([x, x[:, upper[0]] * x[:, upper[1]]])

    width = count + len(upper[0])
    total, products, changes = np.zeros(width), np.zeros((width, width)), np.zeros((width, width))
    seen, last = 0, np.zeros((0, width))
    for _ in range(SLOW_BLOCKS):
        block = next(blocks)
        rows = expanded(block.features)
        steps = np.diff(rows if block.reset_before else np.vstack([last, rows]), axis=0)
        total += rows.sum(axis=0)
        products += rows.T @ rows
        changes += steps.T @ steps
        seen, last = seen + len(rows), rows[-1:]
    centre = total / seen
    slow = slowest(products / seen - np.outer(centre, centre), changes / seen)

    def describe(image, at, _):
        return ((expanded(places.retina(image, at)) - centre) @ slow).mean(axis=0)

    work = FIXATIONS * (inputs.size + len(upper[0]) + slow.size)
    return Peer("slow features of the retina's", describe, seeing + work)


def slowest(covariance: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Directions (d, N_COMPONENTS) of unit variance that change least, the slowest first."""
    variance, directions = np.linalg.eigh(covariance)
    kept = variance > 1e-6 * variance[-1]
    white = directions[:, kept] / np.sqrt(variance[kept])
    _, turned = np.linalg.eigh(white.T @ changes @ white)
    return white @ turned[:, :N_COMPONENTS]


def some_windows(places: Places, count: int) -> np.ndarray:
    """Windows (N, n, n, 3) of left halves, `count` or a few more, from all places alike."""
    every = max(1, len(places.fitted) * FIXATIONS // count)
    part = places.fitted
    return np.concatenate(
        [
            places.retina.windows(part.views[label].image, pixels[start % every :: every])
            for start, (label, pixels) in enumerate(zip(part.labels, part.pixels, strict=True))
            if start % every < FIXATIONS
        ]
    )


def windows_of(places: Places, part: Sequences) -> np.ndarray:
    """All windows (N * 16, n, n, 3) of sequences."""
    looks = zip(part.labels, part.pixels, strict=True)
    return np.concatenate(
        [places.retina.windows(part.views[label].image, pixels) for label, pixels in looks]
    )


def crops_of(_: Places, part: Sequences) -> np.ndarray:
    """One square crop (N, 224, 224, 3) for each sequence, at random in the same half."""
    rng = np.random.default_rng(6)
    crops = []
    for label in part.labels:
        image, left, right = part.views[label]
        shorter = min(right - left, image.shape[0])
        side = math.floor(shorter * rng.uniform(SMALLEST_CROP, 1.0))
        x = rng.integers(left, right - side + 1)
        y = rng.integers(0, image.shape[0] - side + 1)
        crop = image[y : y + side, x : x + side]
        crops.append(cv2.resize(crop, (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA))
    return np.array(crops)
