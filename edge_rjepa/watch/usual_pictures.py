"""Whether a thing is new or was taken away, told by the pictures of before and of now.

A thing ends in an outline: across it the picture jumps. Where something was placed, the picture of
now jumps along the border of what has changed; where something was taken away, that of before does.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE_PX = 32  # of the pictures that are kept: each shows a window
CHANGED = 0.15  # of the strongest change in a window: from then on it is part of what has changed
LEAST_CHANGE = 10.0  # grey levels, and so much is no jump either
CLOSED_PX = 4  # gaps in what has changed: parts of a thing may look like what is behind it
BORDER_STD_PX = 1.5  # over which the direction of the border is smoothed


class UsualPictures:
    """For each of n directions the window in which it last looked as usual."""

    def __init__(self, n_directions: int) -> None:
        self._pictures = np.zeros((n_directions, SIDE_PX, SIDE_PX, 3), np.uint8)
        self._known = np.zeros(n_directions, bool)

    def keep(self, directions: np.ndarray, windows: np.ndarray) -> None:
        """Directions (K,) look as usual in windows (K, side, side, 3) uint8 BGR."""
        for direction, window in zip(directions, windows, strict=True):
            self._pictures[direction] = _small(window)
        self._known[directions] = True

    def what(self, directions: np.ndarray, windows: np.ndarray) -> str:
        """ "new" or "removed": what has changed at directions (K,), as windows show it now."""
        known = self._known[directions]
        both = zip(windows[known], self._pictures[directions[known]], strict=True)
        evidence = sum(_outlined(_small(now), before) for now, before in both)
        return "removed" if evidence < 0.0 else "new"

    def kept(self, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Those of directions (K,), as `restore` takes them."""
        return {"picture": self._pictures[directions], "pictured": self._known[directions]}

    def restore(self, directions: np.ndarray, kept: dict[str, np.ndarray]) -> None:
        """Know what `kept` was made of."""
        self._pictures[directions] = kept["picture"]
        self._known[directions] = kept["pictured"]


def _small(window: np.ndarray) -> np.ndarray:
    return cv2.resize(window, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def _outlined(now: np.ndarray, before: np.ndarray) -> float:
    """How much more it is now that the picture jumps along the border of what has changed."""
    now, before = now.astype(np.float32), before.astype(np.float32)
    change = now - before
    light = np.median(change, axis=(0, 1))
    change = np.abs(change - light).max(axis=-1)
    changed = (change > max(LEAST_CHANGE, CHANGED * float(change.max()))).astype(np.uint8)
    around = np.ones((3, 3), np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, around, iterations=CLOSED_PX)
    border = cv2.dilate(changed, around) != changed
    margin = 2  # the window's own border is no outline
    rows, columns = np.nonzero(border[margin:-margin, margin:-margin])
    at = np.stack([rows, columns]) + margin
    smooth = cv2.GaussianBlur(changed.astype(np.float32), (0, 0), BORDER_STD_PX)
    across = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 0, 1), cv2.Sobel(smooth, cv2.CV_32F, 1, 0)])
    across = across[:, at[0], at[1]]
    across = across / (np.linalg.norm(across, axis=0) + 1e-6)
    inside, outside = (at + across).round().astype(int), (at - across).round().astype(int)
    jumps = [np.abs(each[tuple(inside)] - each[tuple(outside)]).sum(-1) for each in (now, before)]
    return float(((jumps[0] - jumps[1]) / (jumps[0] + jumps[1] + LEAST_CHANGE)).sum())
