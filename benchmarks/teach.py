"""Taught by a few looks at a place: is it known again by parts never seen, and in other light?

    python -m benchmarks.teach [--seeds N] [--budgets 0,0.1M,..] [--pictures DIR]
        [--efficientnet DIR] [--docs]

49 photographs of sights stand for places. A camera of 320 x 240 shows views of their left halves,
nearer and further; the eye goes over them as in learning, without labels, in visits of 20 frames in
which the view moves four times. Then every place is taught by some looks, each a fresh view of the
left half, and asked about by fresh views of the left halves, and of the right ones, of which
nothing was ever seen. The views that are asked about are also shown in other light (CHANGES).

Every row has the same head, the windows of a look beside each other (teach/likeness.py), and must
name one of the places. `unknown` is another question: 9 of the places are not taught, and a look
may be answered "unknown". The last column has seen parts after five looks once more, had the looks
kept the description of the first budget. The head, its threshold and the size of a scan were chosen
on paintings and drawings, never on these photographs.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks import efficientnet, photographs
from benchmarks.describe import part
from benchmarks.learning import budgets_of
from benchmarks.places import View, Walk
from benchmarks.places_peers import hsv
from benchmarks.protocols import Block
from benchmarks.tables import Table, put
from edge_rjepa.encoder.describe import learner_describer, scan_to_describe
from edge_rjepa.encoder.opener import OpenedEncoder
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.teach.likeness import directions, likeness
from edge_rjepa.teach.recogniser import Recogniser

PAGE = Path(__file__).parent.parent / "docs" / "teach.md"
BUDGETS = (0, 100_000, 400_000, 1_600_000, 4_000_000)
SIZES = (0.6, 0.95)  # of a view, of the largest that fits into the half
VISIT_FRAMES, STAY_FRAMES = 20, 5
WANDER, ZOOM = 0.15, 0.08  # standard deviations of a view's moves
TAUGHT, ASKED = (1, 2, 5, 10), 8  # looks a place
STRANGERS = 9  # places that are not taught, of `unknown`
CHANGES = ("plain", "gamma", "cast", "noise", "blur", "half the light")
SIDE_PX = 224  # that EfficientNet-Lite0 is made for


class Views(NamedTuple):
    """Looks, (P, n, 240, 320, 3) uint8: P places."""

    taught: np.ndarray
    asked: dict[str, np.ndarray]  # by what is asked


class Row(NamedTuple):
    """What one way to describe pictures comes to. shares: by (what is asked, looks taught)."""

    name: str
    shares: dict[tuple[str, int], float]
    ms: float | None  # a picture, on one core, the comparison included
    megabytes: float  # of weights and ten looks at each place


# -- pictures -------------------------------------------------------------------------------------


def halves(folder: Path | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Left and right halves of the monuments."""
    pictures = photographs.load("monuments", folder)
    middles = [picture.shape[1] // 2 for picture in pictures]
    both = list(zip(pictures, middles, strict=True))
    return [p[:, :m] for p, m in both], [p[:, m:] for p, m in both]


def fresh_view(half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return part(half, *rng.uniform(0.0, 1.0, 2), rng.uniform(*SIZES))


def views(folder: Path | None) -> Views:
    """All looks, the same for every row."""
    rng = np.random.default_rng(7)
    left, right = halves(folder)

    def looks(of: list[np.ndarray], count: int) -> np.ndarray:
        return np.array([[fresh_view(half, rng) for _ in range(count)] for half in of])

    taught = looks(left, max(TAUGHT))
    asked = {"seen part": looks(left, ASKED)}
    plain = looks(right, ASKED)
    for change in CHANGES:
        asked[change] = np.array([[changed(v, change, rng) for v in each] for each in plain])
    return Views(taught, asked)


def changed(view: np.ndarray, change: str, rng: np.random.Generator) -> np.ndarray:
    """A view (H, W, 3) uint8 in other light, or through a worse camera."""
    image = view.astype(np.float64)
    if change == "gamma":
        image = 255.0 * (image / 255.0) ** math.exp(rng.uniform(math.log(0.5), math.log(2.0)))
    elif change == "cast":
        image = image * rng.uniform(0.6, 1.1, 3)
    elif change == "noise":
        image = image + rng.normal(0.0, 15.0, image.shape)
    elif change == "blur":
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 2.5))
    elif change == "half the light":
        image = 0.5 * image
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def blocks(left: list[np.ndarray], window_px: int, see: Retina, seed: int) -> Iterator[Block]:
    """Unlabelled looking without an end, a frame a block."""
    rng = np.random.default_rng([seed, 11])
    while True:
        half = left[rng.integers(len(left))]
        place, size = rng.uniform(0.0, 1.0, 2), rng.uniform(*SIZES)
        for frame in range(VISIT_FRAMES):
            if frame % STAY_FRAMES == 0:
                place = np.clip(place + rng.normal(0.0, WANDER, 2), 0.0, 1.0)
                size = np.clip(size + rng.normal(0.0, ZOOM), *SIZES)
                view = View(part(half, *place, size), 0, 320)
                walk = Walk(view, window_px, rng)
            pixels, efference = walk.frame()
            yield Block(see(view.image, pixels), efference, frame == 0)


# -- describing -----------------------------------------------------------------------------------


def pixel_windows(picture: np.ndarray) -> np.ndarray:
    """The windows of a scan as 8 x 8 pixels each, less their mean: (K, 192)."""
    seen = scan_to_describe(picture)
    windows = Retina(RetinaConfig()).windows(seen.image, seen.pixels)
    small = np.array([cv2.resize(w, (8, 8), interpolation=cv2.INTER_AREA) for w in windows])
    rows = small.reshape(len(small), -1).astype(np.float32)
    return rows - rows.mean(axis=1, keepdims=True)


def histogram_windows(picture: np.ndarray) -> np.ndarray:
    """The windows of a scan as their histograms of hues, saturations and values."""
    seen = scan_to_describe(picture)
    windows = Retina(RetinaConfig()).windows(seen.image, seen.pixels)
    return directions(np.array([hsv(window[None]) for window in windows]))


def compare(taught: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    """Likeness (P, n, P) of looks asked about (P, n, K, d) to places taught by `count` looks."""
    windows = taught[:, :count].reshape(-1, taught.shape[-1])
    starts = np.arange(len(taught)) * count * taught.shape[2]
    return np.array([[likeness(look, windows, starts) for look in each] for each in asked])


def shares_right(taught: np.ndarray, asked: dict[str, np.ndarray]) -> dict[tuple[str, int], float]:
    """For every question and number of looks; rows are (P, n, K, d) of length 1."""
    own = np.arange(len(taught))[:, None]
    return {
        (what, count): float((compare(taught, rows, count).argmax(axis=2) == own).mean())
        for what, rows in asked.items()
        for count in TAUGHT
    }


class Described(NamedTuple):
    """All looks, described: (P, n, K, d) of length 1."""

    taught: np.ndarray
    asked: dict[str, np.ndarray]


def described(rows: Callable, seen: Views) -> Described:
    """rows: of a picture, (K, d)."""

    def all_rows(pictures: np.ndarray) -> np.ndarray:
        return np.array([[directions(rows(picture)) for picture in each] for each in pictures])

    return Described(all_rows(seen.taught), {w: all_rows(p) for w, p in seen.asked.items()})


def row_of(name: str, rows: Callable, seen: Views, looks: Described, megabytes: float = 0.0) -> Row:
    """looks: described by rows. megabytes: of weights."""
    taught, picture = looks.taught, seen.taught[0, 0]
    windows = taught.reshape(-1, taught.shape[-1])
    starts = np.arange(len(taught)) * max(TAUGHT) * taught.shape[2]
    started_s, times = time.process_time(), 50
    for _ in range(times):
        likeness(directions(rows(picture)), windows, starts)
    ms = 1e3 * (time.process_time() - started_s) / times
    ten = taught.nbytes / 2e6  # as float16, as looks are kept
    return Row(name, shares_right(*looks), ms, megabytes + ten)


def rows_of_efficientnet(folder: Path, seen: Views) -> list[Row]:
    """Its mean over a picture, and its 7 x 7 parts as windows; both less their mean over looks."""
    groups = [seen.taught, *seen.asked.values()]
    pictures = np.concatenate([group.reshape(-1, *group.shape[2:]) for group in groups])
    found = []
    for name, whole in (("EfficientNet-Lite0, mean", False), ("EfficientNet-Lite0, parts", True)):
        rows, ms, _ = efficientnet.features(folder, pictures, 1, SIDE_PX, whole)
        rows = rows.reshape(len(pictures), -1, rows.shape[-1]).astype(np.float32)
        count = seen.taught.shape[0] * seen.taught.shape[1]
        rows = directions(rows - rows[:count].mean(axis=(0, 1)))
        at, parts = 0, []
        for group in groups:
            size = group.shape[0] * group.shape[1]
            parts.append(rows[at : at + size].reshape(*group.shape[:2], *rows.shape[1:]))
            at += size
        shares = shares_right(parts[0], dict(zip(seen.asked, parts[1:], strict=True)))
        found.append(Row(name, shares, ms, 4.65 * 4 + parts[0].nbytes / 2e6))
    return found


# -- learning -------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """After so many fixations, of one seed."""

    budget: int
    row: Row
    unknown: tuple[float, float, float]  # right, unknown, of known places; names given to strangers
    stale: float  # right of seen parts, five looks, that were described when it had learned first


def learn(
    seed: int, budgets: tuple[int, ...], folder: Path | None, progress: bool
) -> list[Learned]:
    """Look around without labels, and be asked at each budget."""
    seen, left = views(folder), halves(folder)[0]
    retina = Retina(RetinaConfig())
    learner = RJepa(RJepaConfig(n_features=retina.n_features), seed=seed)
    stream = blocks(left, retina.config.window_px, retina, seed)
    found: list[Learned] = []
    first = None
    for budget in sorted(budgets):
        while learner.fixations < budget:
            block = next(stream)
            if block.reset_before:
                learner.reset()
            learner.learn_block(block.features, block.efference)
        describer = learner_describer(learner, retina)

        def rows(picture, describer=describer):
            return describer.whiten(describer.see(picture))

        looks = described(rows, seen)
        first = looks.taught if first is None and budget else first
        stale = shares_right(first if budget else looks.taught, {"": looks.asked["seen part"]})
        weights = sum(array.nbytes for array in learner.parameters().values()) / 1e6
        row = row_of("ours", rows, seen, looks, weights)
        found.append(Learned(budget, row, unknown(learner, retina, seen), stale["", 5]))
        if progress:
            print(f"seed {seed}: {found[-1]}", flush=True)
    return found


def unknown(learner: RJepa, retina: Retina, seen: Views) -> tuple[float, float, float]:
    """Five looks at each of 40 places: shares of looks at seen parts of all 49.

    Right and unknown of those at places that were taught; named of those at the others.
    """
    encoder = OpenedEncoder(Path("benchmark"), learner, retina, learner.config, None)
    recogniser = Recogniser(encoder)
    taught = len(seen.taught) - STRANGERS
    for place in range(taught):
        for look in seen.taught[place, :5]:
            recogniser.teach(f"place {place}", look)
    right = nothing = named = 0
    for place, looks in enumerate(seen.asked["seen part"]):
        for look in looks:
            name = recogniser.recognise(look).name
            if place >= taught:
                named += name is not None
            else:
                right += name == f"place {place}"
                nothing += name is None
    return (
        right / (taught * ASKED), nothing / (taught * ASKED), named / (STRANGERS * ASKED),
    )  # fmt: skip


# -- the table ------------------------------------------------------------------------------------


def mean_row(name: str, rows: list[Row]) -> Row:
    shares = {key: float(np.mean([row.shares[key] for row in rows])) for key in rows[0].shares}
    return Row(name, shares, rows[0].ms, rows[0].megabytes)


def table(rows: list[Row]) -> Table:
    """Seen parts and unseen ones by looks, then unseen ones in other light after five looks."""
    columns = [(what, n) for what in ("seen part", "plain") for n in TAUGHT]
    columns += [(change, 5) for change in CHANGES[1:]]
    heading = ("", *(f"{what}, {n}" for what, n in columns), "ms a picture", "MB")
    lines = [
        (
            row.name,
            *(f"{row.shares[column]:.3f}" for column in columns),
            "" if row.ms is None else f"{row.ms:.1f}",
            f"{row.megabytes:.1f}",
        )
        for row in rows
    ]
    return Table(heading, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=budgets_of, default=BUDGETS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder of the photographs")
    parser.add_argument("--efficientnet", type=Path, help="folder of its environment")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/teach.md")
    options = parser.parse_args()
    photographs.require(options.pictures)
    one = partial(learn, budgets=options.budgets, folder=options.pictures, progress=True)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        by_seed = pool.map(one, range(options.seeds), chunksize=1)
    seen = views(options.pictures)
    rows = [
        row_of(name, windows, seen, described(windows, seen))
        for name, windows in (
            ("raw pixels", pixel_windows),
            ("histogram of colours", histogram_windows),
        )
    ]
    tables = []
    for index, budget in enumerate(sorted(options.budgets)):
        name = f"after {budget / 1e6:g} M fixations" if budget else "untrained network"
        rows.append(mean_row(name, [learned[index].row for learned in by_seed]))
        each = [(*learned[index].unknown, learned[index].stale) for learned in by_seed]
        tables.append((name, *(f"{share:.3f}" for share in np.mean(each, axis=0))))
    if options.efficientnet:
        rows += rows_of_efficientnet(options.efficientnet, seen)
    unknowns = Table(("", "right", "unknown", "strangers named", "not described again"), tables)
    print(table(rows), unknowns, sep="\n\n")
    if options.docs:
        put(PAGE, "teach", f"{table(rows)}\n\n{unknowns}")


if __name__ == "__main__":
    main()
