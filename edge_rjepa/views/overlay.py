"""Fixations on the picture they were made in: for the page, the window and the report."""

from __future__ import annotations

import cv2
import numpy as np

CALM, KEEN = np.array([235, 190, 90]), np.array([60, 90, 250])  # BGR: as expected, surprising
PATH = 235, 235, 235
BORDER = 30, 30, 30
FINE_PX = 640  # wide: fewer are too coarse to draw on
USUAL_SURPRISE = 2.0  # standard deviations above the mean that count as most surprising


def colours(surprise) -> np.ndarray:
    """A colour (K, 3) uint8 BGR for each of K fixations: the warmer the more surprising."""
    surprise = np.asarray(surprise, dtype=np.float64)
    if not len(surprise):
        return np.empty((0, 3), np.uint8)
    spread = max(float(surprise.std()), 1e-9)
    share = np.clip((surprise - surprise.mean()) / (USUAL_SURPRISE * spread), 0.0, 1.0)[:, None]
    return (CALM + share * (KEEN - CALM)).round().astype(np.uint8)


def draw(image: np.ndarray, pixels, surprise) -> np.ndarray:
    """A copy of the picture, of about FINE_PX or more, with its fixations and the saccades between.

    image: (H, W, 3) uint8 BGR. pixels: (K, 2) x, y in order. surprise: (K,) nats.
    """
    times = max(1, round(FINE_PX / image.shape[1]))  # a small picture is drawn on enlarged
    size = times * image.shape[1], times * image.shape[0]
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if times > 1 else image.copy()
    points = (times * np.asarray(pixels)).round().astype(int).reshape(-1, 2)
    small = max(3, round(drawn.shape[1] / 160))
    if len(points) > 1:
        for colour, wide in ((BORDER, 3), (PATH, 1)):
            cv2.polylines(drawn, [points.reshape(-1, 1, 2)], False, colour, wide, cv2.LINE_AA)
    for (x, y), colour in zip(points.tolist(), colours(surprise).tolist(), strict=True):
        cv2.circle(drawn, (x, y), small + 1, BORDER, -1, cv2.LINE_AA)
        cv2.circle(drawn, (x, y), small, colour, -1, cv2.LINE_AA)
    return drawn
