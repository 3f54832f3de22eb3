"""Whether a thing is new or was taken away, told by the pictures of before and of now.

A thing ends in an outline. Where something was placed, the outline is in the picture of now; where
something was taken away, it is in the picture of before. So the edges along the border of what has
changed decide: in which of the two they are stronger.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE_PX = 32  # of the pictures that are kept, grey: each shows a window
CHANGED = 0.35  # of the strongest change in a window: the thing itself, not its shadow
LEAST_CHANGE = 10.0  # grey levels


class UsualPictures:
    """For each of n directions the window in which it last looked as usual."""

    def __init__(self, n_directions: int) -> None:
        self._pictures = np.zeros((n_directions, SIDE_PX, SIDE_PX), np.uint8)
        self._known = np.zeros(n_directions, bool)

    def keep(self, directions: np.ndarray, windows: np.ndarray) -> None:
        """Directions (K,) look as usual in windows (K, side, side, 3) uint8 BGR."""
        for direction, window in zip(directions, windows, strict=True):
            self._pictures[direction] = _small(window)
        self._known[directions] = True

    def what(self, directions: np.ndarray, windows: np.ndarray) -> str:
        """ "new" or "removed": what has changed at directions (K,), as windows show it now."""
        placed = taken = 0.0
        for direction, window in zip(directions, windows, strict=True):
            if self._known[direction]:
                now, before = _outlines(_small(window), self._pictures[direction])
                placed, taken = placed + now, taken + before
        return "removed" if taken > placed else "new"

    def kept(self, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Those of directions (K,), as `restore` takes them."""
        return {"picture": self._pictures[directions], "pictured": self._known[directions]}

    def restore(self, directions: np.ndarray, kept: dict[str, np.ndarray]) -> None:
        """Know what `kept` was made of."""
        self._pictures[directions] = kept["picture"]
        self._known[directions] = kept["pictured"]


def _small(window: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(window, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def _outlines(now: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """How strong the edges are along the border of what has changed, now and before."""
    now, before = (cv2.GaussianBlur(each.astype(np.float32), (0, 0), 0.8) for each in (now, before))
    change = now - before
    change = np.abs(change - np.median(change))  # the light may have changed, too
    changed = (change > max(LEAST_CHANGE, CHANGED * float(change.max()))).astype(np.uint8)
    around = np.ones((3, 3), np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, around, iterations=2)
    border = cv2.dilate(changed, around) != cv2.erode(changed, around)
    border[[0, -1]], border[:, [0, -1]] = False, False  # the window's own border is no outline
    return float(_edges(now)[border].sum()), float(_edges(before)[border].sum())


def _edges(picture: np.ndarray) -> np.ndarray:
    return np.hypot(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1))
