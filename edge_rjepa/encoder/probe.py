"""What a frozen embedding is worth: how well it tells classes of labelled pictures apart.

Every picture is described (describe.py). It is also seen by the same scan (scan.py) from a reset;
then its row of features is the mean of the embeddings z, or that beside the last and the mean
memory h. A linear and a nearest-neighbour classifier are fitted to two thirds of each class's
pictures and asked about the others; the neighbour of a description is the one nearest by plain
cosine. Beside the encoder stand an untrained network of the same size, PCA of the same width on the
same windows (fitted on pictures for fitting only, averaged over the scan), and raw pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.encoder.classify import nearest, nearest_by_cosine, ridge
from edge_rjepa.encoder.frozen import FrozenEncoder
from edge_rjepa.encoder.names import DESCRIPTOR
from edge_rjepa.encoder.opener import OpenedEncoder, open_encoder
from edge_rjepa.errors import RJepaError
from edge_rjepa.eye.scan import FIXATIONS, Scan, scan
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.sources.decode import named_as_pictures, read_picture, readable

FEWEST_PICTURES = 6  # of a class
ASKED_SHARE = 1 / 3
RAW_PX = 16  # side of the raw pixels' picture
PCA_WINDOWS = 1000  # that PCA is fitted on, at most
PASSES = 5  # over all pictures: described, networks, PCA fitted, PCA used, raw pixels
DESCRIBE = "describe"  # how the names of rows of descriptions end
WILSON_Z = 1.959964  # 95% of a normal distribution lie within


class ProbeError(RJepaError, ValueError):
    """A folder of labelled pictures cannot be probed on."""


class Accuracy(NamedTuple):
    """Share of pictures told right, with its 95% interval (Wilson)."""

    share: float
    low: float
    high: float


class ProbeRow(NamedTuple):
    """What one kind of features is worth."""

    features: str
    width: int
    linear: Accuracy
    neighbours: Accuracy  # five, rows standardised; of a description one, by cosine


class ProbeReport(NamedTuple):
    """All kinds of features on the same pictures."""

    rows: list[ProbeRow]
    classes: list[str]
    fitted: int  # pictures
    asked: int  # pictures
    fixations: int  # of a picture
    seed: int
    chance: float  # share of the commonest class among those asked

    def as_json(self) -> dict:
        """Plain JSON values."""
        rows = [
            row._asdict() | {k: getattr(row, k)._asdict() for k in ("linear", "neighbours")}
            for row in self.rows
        ]
        return self._asdict() | {"rows": rows}

    def table(self) -> str:
        """For people."""
        lines = [
            f"{len(self.classes)} classes, {self.fitted} pictures to fit and {self.asked} to ask "
            f"about, {self.fixations} fixations each; chance {self.chance:.2f}",
            f"{'features':<34}{'width':>6}   {'linear (95%)':<20}{'neighbours (95%)':<20}",
        ]
        for row in self.rows:
            cells = [f"{a.share:.3f} ({a.low:.2f}-{a.high:.2f})" for a in row[2:]]
            lines.append(f"{row.features:<34}{row.width:>6}   {cells[0]:<20}{cells[1]:<20}")
        lines.append(
            f"neighbours: the five nearest; of '{DESCRIBE}' the one nearest by plain cosine"
        )
        return "\n".join(lines)


def probe(
    encoder: str | os.PathLike,
    data: str | os.PathLike,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbeReport:
    """Probe a run folder or an exported encoder on pictures in `data`, a folder a class.

    seed: of the split, of the scan, and of the untrained network. progress: called with how many
    scans were made, of how many. Raises ProbeError for data that do not do, and what open_encoder
    raises.
    """
    opened = open_encoder(Path(encoder))
    fixations = opened.scan_fixations(FIXATIONS)
    paths, labels, classes = _pictures(Path(data))
    asked = _split(labels, seed)
    scans = _Scans(paths, fixations, seed, opened.scales_rad, progress)
    rows = _rows_of_describers(scans.pictures(), opened, seed)
    rows |= _rows_of_networks(scans, opened, fixations, seed)
    rows["PCA of the windows"] = _rows_of_pca(scans, opened, ~asked, seed)
    rows[f"raw pixels, {RAW_PX}x{RAW_PX}"] = [_raw_pixels(scanned) for scanned in scans]
    return ProbeReport(
        [_row(name, np.asarray(each), labels, asked) for name, each in rows.items()],
        classes,
        int((~asked).sum()),
        int(asked.sum()),
        fixations,
        seed,
        float(np.bincount(labels[asked]).max() / asked.sum()),
    )


def _pictures(folder: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """All pictures, their labels (N,), and the names of the labels. Raises ProbeError."""
    if not folder.is_dir():
        raise ProbeError(f"{folder} is no folder: name one with a folder of pictures a class")
    classes = {}
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            found = readable(named_as_pictures(each))
            if found:
                classes[each.name] = found
    if len(classes) < 2:
        only = f"only the class '{next(iter(classes))}'" if classes else "no class"
        raise ProbeError(
            f"{folder} holds {only}: make a folder of pictures for each of two classes or more"
        )
    for name, found in classes.items():
        if len(found) < FEWEST_PICTURES:
            raise ProbeError(
                f"class '{name}' in {folder} has {len(found)} pictures: add some, up to "
                f"{FEWEST_PICTURES} or more"
            )
    paths = [path for found in classes.values() for path in found]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    return paths, labels, list(classes)


def _split(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which pictures (N,) bool are asked about: the same share of each class."""
    rng = np.random.default_rng(seed)
    asked = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        asked[places[: round(ASKED_SHARE * len(places))]] = True
    return asked


class _Scans:
    """The scans of all pictures in order, each time from their files: memory may not hold them."""

    def __init__(
        self,
        paths: list[Path],
        fixations: int,
        seed: int,
        scales_rad: tuple[float, float] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        self._paths, self._progress = paths, progress
        self._arguments = fixations, seed, scales_rad
        self._done = 0

    def __iter__(self) -> Iterator[Scan]:
        for picture in self.pictures():
            yield scan(picture, *self._arguments)

    def pictures(self) -> Iterator[np.ndarray]:
        """The pictures themselves."""
        for path in self._paths:
            yield read_picture(path)
            self._done += 1
            self._progress(self._done, PASSES * len(self._paths))


def _untrained(encoder: OpenedEncoder, fixations: int, seed: int) -> OpenedEncoder:
    """A network of the same size that has seen nothing."""
    network = replace(encoder.network, max_block=max(fixations, encoder.network.max_block))
    return replace(encoder, model=RJepa(network, seed))


def _rows_of_describers(
    pictures: Iterable[np.ndarray], encoder: OpenedEncoder, seed: int
) -> dict[str, list]:
    """Descriptions by the encoder and by an untrained network, by name."""
    encoders = {"encoder": encoder, "untrained": _untrained(encoder, 1, seed)}
    rows: dict[str, list] = {f"{name}: {DESCRIBE}": [] for name in encoders}
    for picture in pictures:
        for name, each in encoders.items():
            rows[f"{name}: {DESCRIBE}"].append(each.describe(picture))
    return rows


def _rows_of_networks(
    scans: Iterable[Scan], encoder: OpenedEncoder, fixations: int, seed: int
) -> dict[str, list]:
    """Rows of the encoder, if it sees fixations, and of an untrained network, by name."""
    networks = {"encoder": encoder, "untrained": _untrained(encoder, fixations, seed)}
    if isinstance(encoder.model, FrozenEncoder) and encoder.model.form == DESCRIPTOR:
        del networks["encoder"]
    rows: dict[str, list] = {}
    for scanned in scans:
        for name, each in networks.items():
            each.model.reset()
            z, h = each.embed(scanned.image, scanned.pixels, scanned.efference)
            mean = z.mean(axis=0)
            rows.setdefault(f"{name}: z", []).append(mean)
            if h.size:
                memory = np.concatenate([mean, h[-1], h.mean(axis=0)])
                rows.setdefault(f"{name}: z and memory", []).append(memory)
    return rows


def _rows_of_pca(
    scans: Iterable[Scan], encoder: OpenedEncoder, fitting: np.ndarray, seed: int
) -> list:
    """Rows of as many components as the embedding has, of the windows of pictures for fitting."""
    rng = np.random.default_rng(seed)
    retina = encoder.retina
    kept = []
    for scanned, fits in zip(scans, fitting, strict=True):
        share = min(1.0, PCA_WINDOWS / (fitting.sum() * len(scanned.pixels)))
        chosen = rng.random(len(scanned.pixels)) < share
        if fits and chosen.any():
            kept.append(_flat(retina.windows(scanned.image, scanned.pixels[chosen])))
    mean, directions = _principal(np.concatenate(kept), encoder.network.n_embedding)
    # Averaged over the scan before it is projected: the same, and less to multiply.
    windows = (_flat(retina.windows(each.image, each.pixels)).mean(axis=0) for each in scans)
    return [(window - mean) @ directions for window in windows]


def _raw_pixels(scanned: Scan) -> np.ndarray:
    return cv2.resize(scanned.image, (RAW_PX, RAW_PX), interpolation=cv2.INTER_AREA).ravel()


def _flat(windows: np.ndarray) -> np.ndarray:
    return windows.reshape(len(windows), -1).astype(np.float32)


def _principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and the `count` directions (d, count) along which rows (N, d) vary most.

    By way of the products of rows with each other, which are fewer than those of columns.
    """
    mean = rows.mean(axis=0)
    centred = rows - mean
    variance, mixing = np.linalg.eigh(centred @ centred.T)
    most = np.argsort(variance)[::-1][: min(count, len(rows) - 1)]
    directions = centred.T @ mixing[:, most]
    return mean, directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-12)


def _row(name: str, rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> ProbeRow:
    fitted = rows[~asked], labels[~asked], rows[asked]
    accuracies = []
    for classify in (ridge, nearest_by_cosine if name.endswith(DESCRIBE) else nearest):
        right = classify(*fitted) == labels[asked]
        accuracies.append(wilson(int(right.sum()), right.size))
    return ProbeRow(name, rows.shape[1], *accuracies)


def wilson(right: int, asked: int) -> Accuracy:
    """The 95% interval of a share after Wilson (1927), which holds for few pictures, too."""
    share, z2 = right / asked, WILSON_Z**2
    middle = (share + z2 / (2 * asked)) / (1 + z2 / asked)
    half = math.sqrt(share * (1 - share) / asked + z2 / (4 * asked**2)) / (1 + z2 / asked)
    half *= WILSON_Z
    return Accuracy(share, max(0.0, middle - half), min(1.0, middle + half))
