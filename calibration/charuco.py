"""Charuco boards as people print them: found whatever their markers and the order of their squares.

OpenCV changed its boards in 4.7: one with an even number of squares down now begins with a black
square, with a white one before. Programs that print boards follow the one or the other, and choose
markers of any of some ten dictionaries. Which it is shows in the first picture of the board.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from calibration.errors import CalibrationError

MARKER_SHARE = 0.7  # of a square's side, of boards that we print
OURS = "4X4"
# Of each kind of marker the sizes that a dictionary has; a larger one begins with the smaller.
KINDS = {
    OURS: (50, 100, 250, 1000),
    "5X5": (50, 100, 250, 1000),
    "6X6": (50, 100, 250, 1000),
    "7X7": (50, 100, 250, 1000),
    "ARUCO_ORIGINAL": (1024,),
    "ARUCO_MIP_36h12": (250,),
    "APRILTAG_36h11": (587,),
    "APRILTAG_36h10": (2320,),
    "APRILTAG_25h9": (35,),
    "APRILTAG_16h5": (30,),
}
FEW_MARKERS = 4  # that are seen by chance


class Pattern(NamedTuple):
    """How a board was printed."""

    dictionary: str  # of its markers, as OpenCV names it
    legacy: bool  # as OpenCV had it before 4.7, which differs with an even number of squares down

    def __str__(self) -> str:
        return self.dictionary + (", the pattern of before OpenCV 4.7" if self.legacy else "")


class CharucoFinder:
    """Finds the corners of a board of columns x rows inner corners, and what pattern it has.

    pattern: None until the board is seen; from then on no other is looked for. marker_share: of a
    square's side. Raises CalibrationError where OpenCV is too old.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.pattern: Pattern | None = None
        self.marker_share = MARKER_SHARE
        self._squares = columns + 1, rows + 1
        self._turn = 0
        self._detectors = {pattern: self._detector(pattern) for pattern in self._patterns()}

    def find(self, grey: np.ndarray, least: int, quick: bool) -> tuple[np.ndarray, np.ndarray]:
        """Corners in a picture (H, W) uint8: numbers (n,) int64, rising, and pixels (n, 2).

        least: so many corners show a pattern that is not known yet; with fewer there are none.
        quick: of the markers tries ours and those of one other kind, the next one at each call.
        """
        for pattern, corners, ids, marks in self._seen(grey, quick):
            count = 0 if ids is None else len(ids)
            if count and (self.pattern or count >= least):
                order = np.argsort(ids.ravel())
                found = ids.ravel()[order].astype(np.int64)
                pixels = corners.reshape(-1, 2)[order].astype(np.float64)
                if self.pattern is None:
                    self.pattern = pattern
                    self.marker_share = self._share(found, pixels, marks)
                return found, pixels
        return np.empty(0, np.int64), np.empty((0, 2))

    def _seen(self, grey: np.ndarray, quick: bool) -> Iterator[tuple]:
        """(pattern, corners, ids, markers) of each pattern that may be the board's, as asked for.

        Markers take the time, so they are sought once for both patterns that share them.
        """
        if self.pattern:
            corners, ids, marks, _ = self._detectors[self.pattern].detectBoard(grey)
            yield self.pattern, corners, ids, marks
            return
        for name in self._to_try(quick):
            marks, numbers = _markers(grey, name)
            if numbers is None:
                continue
            for pattern, detector in self._detectors.items():
                if pattern.dictionary == name:
                    corners, ids, *_ = detector.detectBoard(grey, None, None, marks, numbers)
                    yield pattern, corners, ids, marks

    def _to_try(self, quick: bool) -> list[str]:
        """Names of dictionaries."""
        ours, *others = dict.fromkeys(pattern.dictionary for pattern in self._detectors)
        self._turn = (self._turn + 1) % len(others)
        return [ours, others[self._turn]] if quick else [ours, *others]

    def _patterns(self) -> Iterator[Pattern]:
        """What the board may be, the likeliest first."""
        columns, rows = self._squares
        for kind, sizes in KINDS.items():
            fitting = [size for size in sizes if size >= columns * rows // 2]
            name = _name(kind, fitting[0]) if fitting else ""
            if hasattr(aruco(), name):
                yield Pattern(name, legacy=False)
                if rows % 2 == 0:
                    yield Pattern(name, legacy=True)

    def _detector(self, pattern: Pattern):
        markers = dictionary(pattern.dictionary)
        board = aruco().CharucoBoard(self._squares, 1.0, MARKER_SHARE, markers)
        board.setLegacyPattern(pattern.legacy)
        return aruco().CharucoDetector(board)

    def _share(self, ids: np.ndarray, pixels: np.ndarray, marks) -> float:
        """Side of the markers in squares, as they are seen."""
        columns = self._squares[0] - 1
        places = np.stack([ids % columns, ids // columns], axis=-1).astype(np.float64)
        to_board, _ = cv2.findHomography(pixels, places, cv2.RANSAC, 3.0 / len(places))
        if to_board is None or not marks:
            return MARKER_SHARE
        corners = cv2.perspectiveTransform(np.concatenate(marks).astype(np.float64), to_board)
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
        return float(np.clip(np.median(sides), 0.3, 0.95))


def aruco():
    """OpenCV's module of markers. Raises CalibrationError where it is too old for boards."""
    if not hasattr(getattr(cv2, "aruco", None), "CharucoDetector"):
        raise CalibrationError(
            f"OpenCV {cv2.__version__} has no CharucoDetector: use --board chessboard, or OpenCV "
            "4.7 or later"
        )
    return cv2.aruco


def dictionary(name: str):
    """OpenCV's markers of this name."""
    return aruco().getPredefinedDictionary(getattr(aruco(), name))


def markers_in(grey: np.ndarray) -> tuple[str, list[int]] | None:
    """The kind of which most markers are in a picture (H, W) uint8, and their numbers; None if few.

    Raises CalibrationError where OpenCV is too old.
    """
    seen = {}
    for kind, sizes in KINDS.items():
        name = _name(kind, sizes[-1])
        if hasattr(aruco(), name):
            ids = _markers(grey, name)[1]
            seen[kind] = [] if ids is None else sorted(set(ids.ravel().tolist()))
    kind = max(seen, key=lambda kind: len(seen[kind]))
    return (kind, seen[kind]) if len(seen[kind]) >= FEW_MARKERS else None


def _markers(grey: np.ndarray, name: str) -> tuple:
    """Corners and numbers of a dictionary's markers, as OpenCV has them; None for no number."""
    return aruco().ArucoDetector(dictionary(name)).detectMarkers(grey)[:2]


def our_dictionary(markers: int):
    """The markers of boards that we print, at least so many."""
    return dictionary(_name(OURS, next(size for size in KINDS[OURS] if markers <= size)))


def _name(kind: str, size: int) -> str:
    return f"DICT_{kind}_{size}" if len(KINDS[kind]) > 1 else f"DICT_{kind}"
