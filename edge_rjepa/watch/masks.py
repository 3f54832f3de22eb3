"""Masks: parts of the picture where nothing is watched, such as a road behind the fence.

A mask is a list of polygons, each a list of corners [x, y]: fractions of the picture's width and
height, from its left upper corner. It belongs to the picture, wherever a head looks.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.errors import ConfigError
from edge_rjepa.sources.decode import read_picture
from safe_files.errors import FileError, why
from safe_files.plain import rebuilt
from safe_files.reading import read_json
from safe_files.writing import write_atomic

FILE = "mask.json"  # in the folder of a watch
MOST_BYTES = 1 << 20
MOST_POLYGONS, MOST_CORNERS = 2000, 200
CELLS = 64, 48  # columns and rows, to which a black and white picture is reduced
DRAWN_PX = 480, 640  # rows and columns of a mask that is drawn
GRID = 8  # points across a window at which it is asked whether they are masked
COVERED_SHARE = 0.15  # of a window: from then on it is not looked at

Polygons = list[list[list[float]]]


class Masks:
    """The mask of a watch, kept in its folder.

    initial: takes the place of what is kept there. Raises ConfigError for a file that holds no
    mask.
    """

    def __init__(self, folder: Path, initial: Polygons | None = None) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._changed = True
        self.polygons: Polygons = []
        if initial is not None:
            self.set(initial)
        elif self._path.exists():
            self.polygons = read_polygons(self._path)

    def set(self, polygons: Polygons) -> None:
        """Watch with another mask from now on, and keep it; from any thread.

        Raises ConfigError for what is no mask, and where it cannot be kept.
        """
        polygons = checked(polygons, "the mask")
        try:
            write_atomic(self._path, json.dumps({"polygons": polygons}).encode())
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {why(error)}") from error
        with self._lock:
            self.polygons, self._changed = polygons, True

    def take_change(self) -> Polygons | None:
        """The mask, if it is another one than at the last call."""
        with self._lock:
            changed, self._changed = self._changed, False
            return self.polygons if changed else None


def read_mask(path: str | os.PathLike) -> Polygons:
    """The mask of a JSON file, or of a picture: what is dark in it is not watched.

    Raises ConfigError for a file that holds none.
    """
    if Path(path).suffix.lower() == ".json":
        return read_polygons(path)
    picture = cv2.cvtColor(read_picture(Path(path)), cv2.COLOR_BGR2GRAY)
    dark = cv2.resize(picture, CELLS, interpolation=cv2.INTER_AREA) < 128
    return _rectangles(dark)


def read_polygons(path: str | os.PathLike) -> Polygons:
    """What a file {"polygons": [[[x, y], ..], ..]} holds. Raises ConfigError."""
    try:
        value = read_json(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the mask {path}: {why(error)}") from error
    except FileError as error:
        raise ConfigError(f"{path} is no mask: {error}") from error
    polygons = value.get("polygons") if isinstance(value, dict) else value
    return checked(polygons, str(path))


def checked(value: object, where: str) -> Polygons:
    """The polygons that this is. Raises ConfigError."""
    try:
        polygons: Polygons = rebuilt(list[list[list[float]]], value, "polygons")
        if len(polygons) > MOST_POLYGONS:
            raise FileError(f"{len(polygons)} polygons, {MOST_POLYGONS} at most")
        for n, polygon in enumerate(polygons):
            if not 3 <= len(polygon) <= MOST_CORNERS:
                raise FileError(f"polygon {n} has {len(polygon)} corners, not 3 to {MOST_CORNERS}")
            if not all(len(c) == 2 and 0.0 <= min(c) and max(c) <= 1.0 for c in polygon):
                raise FileError(f"polygon {n} has a corner that is not [x, y] within 0 to 1")
    except FileError as error:
        raise ConfigError(
            f'{where} is no mask: {error}; write {{"polygons": [[[x, y], ..], ..]}} with fractions '
            "of the picture's width and height"
        ) from error
    return polygons


def drawn(polygons: Polygons) -> np.ndarray:
    """Where polygons lie: DRAWN_PX rows and columns, bool, for a picture of any size."""
    picture = np.zeros(DRAWN_PX, np.uint8)
    height, width = DRAWN_PX
    for polygon in polygons:
        corners = np.array(polygon) * (width, height) - 0.5
        cv2.fillPoly(picture, [corners.round().astype(np.int32)], 1)
    return picture.astype(bool)


def covered(mask: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which windows (K,) show too much of what is `drawn`; corners: (K, 4, 2) in fractions."""
    share = (np.arange(GRID) + 0.5) / GRID
    x, y = (each.ravel() for each in np.meshgrid(share, share))
    weights = np.stack([(1 - x) * (1 - y), x * (1 - y), x * y, (1 - x) * y], axis=-1)
    height, width = mask.shape
    points = np.clip(weights @ corners, 0.0, 1.0 - 1e-9) * (width, height)  # (K, GRID^2, 2)
    columns, rows = points.astype(int).transpose(2, 0, 1)
    return mask[rows, columns].mean(axis=1) > COVERED_SHARE


def _rectangles(dark: np.ndarray) -> Polygons:
    """Dark cells (rows, columns) as rectangles: runs in a row, and rows with the same runs."""
    rows, columns = dark.shape
    polygons: Polygons = []
    top = 0
    while top < rows:
        low = top + 1
        while low < rows and (dark[low] == dark[top]).all():
            low += 1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], dark[top], [0]]).astype(int)))
        for left, right in edges.reshape(-1, 2).tolist():
            x1, x2, y1, y2 = left / columns, right / columns, top / rows, low / rows
            polygons.append([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        top = low
    return polygons
