"""Fixations on the picture they were made in: for the page, the window and the report."""

from __future__ import annotations

import cv2
import numpy as np

EXPECTED_BGR = np.array([235, 190, 90])
SURPRISING_BGR = np.array([60, 90, 250])
PATH_BGR = 235, 235, 235
BORDER_BGR = 30, 30, 30
FINE_PX = 640  # wide: fewer are too coarse to draw on
SCALE_STD = 2.0  # standard deviations above the mean: there the scale of colours ends


def surprise_scale(surprise: np.ndarray) -> tuple[float, float]:
    """Where the scale of colours begins, and how long it is, in nats: for these fixations."""
    known = surprise[np.isfinite(surprise)]
    if not known.size:
        return 0.0, SCALE_STD
    return float(known.mean()), SCALE_STD * max(float(known.std()), 1e-9)


def colours(share: np.ndarray) -> np.ndarray:
    """BGR (.., 3) float64 for shares (..) of the scale: the warmer the more surprising."""
    share = np.nan_to_num(np.clip(share, 0.0, 1.0))[..., None]
    return EXPECTED_BGR + share * (SURPRISING_BGR - EXPECTED_BGR)


def draw(image: np.ndarray, pixels: np.ndarray, surprise: np.ndarray) -> np.ndarray:
    """A copy of the picture, of about FINE_PX or more, with its fixations and the saccades between.

    image: (H, W, 3) uint8 BGR. pixels: (K, 2) x, y in order. surprise: (K,) nats.
    """
    times = max(1, round(FINE_PX / image.shape[1]))  # a small picture is drawn on enlarged
    size = times * image.shape[1], times * image.shape[0]
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if times > 1 else image.copy()
    points = (times * np.asarray(pixels)).round().astype(int).reshape(-1, 2)
    radius = max(3, round(drawn.shape[1] / 160))
    if len(points) > 1:
        for colour, wide in ((BORDER_BGR, 3), (PATH_BGR, 1)):
            cv2.polylines(drawn, [points.reshape(-1, 1, 2)], False, colour, wide, cv2.LINE_AA)
    surprise = np.asarray(surprise, dtype=np.float64)
    begin, length = surprise_scale(surprise)
    dots = colours((surprise - begin) / length).round().tolist()
    for (x, y), colour in zip(points.tolist(), dots, strict=True):
        cv2.circle(drawn, (x, y), radius + 1, BORDER_BGR, -1, cv2.LINE_AA)
        cv2.circle(drawn, (x, y), radius, colour, -1, cv2.LINE_AA)
    return drawn
