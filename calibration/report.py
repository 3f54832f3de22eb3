"""A page about a camera's calibration: where corners were seen, what they leave, what is known."""

from __future__ import annotations

import math
import os

import cv2
import numpy as np

from calibration.camera import CameraCalibration
from calibration.errors import CalibrationError

WIDTH_PX = 900  # of each of the two pictures
RULE_PX = 44
INK, GREY, RED, BLUE = (40, 40, 40), (190, 190, 190), (40, 40, 200), (180, 110, 30)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def camera_report(calibration: CameraCalibration) -> np.ndarray:
    """The page, (H, W, 3) uint8 BGR: residuals on the left, certainty on the right, words below."""
    residuals, certainty = _residuals(calibration), _certainty(calibration)
    words = calibration.news() + [_views_in_words(calibration)]
    page = np.full((residuals.shape[0] + 40 * len(words) + 80, 2 * WIDTH_PX + 60, 3), 255, np.uint8)
    page[20 : 20 + len(residuals), 20 : 20 + WIDTH_PX] = residuals
    page[20 : 20 + len(certainty), 40 + WIDTH_PX : 40 + 2 * WIDTH_PX] = certainty
    for line, text in enumerate(words):
        place = 20, len(residuals) + 70 + 40 * line
        cv2.putText(page, text, place, FONT, 0.7, INK, 1, cv2.LINE_AA)
    return page


def write_camera_report(calibration: CameraCalibration, path: str | os.PathLike) -> None:
    """Write the page as PNG. Raises CalibrationError when that fails."""
    data = cv2.imencode(".png", camera_report(calibration))[1].tobytes()
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise CalibrationError(f"cannot write report {path}: {error.strerror}") from error


def _canvas(calibration: CameraCalibration, title: str) -> tuple[np.ndarray, float]:
    model = calibration.model
    scale = WIDTH_PX / model.width_px
    canvas = np.full((round(model.height_px * scale) + RULE_PX, WIDTH_PX, 3), 255, np.uint8)
    cv2.rectangle(canvas, (0, RULE_PX), (WIDTH_PX - 1, len(canvas) - 1), GREY)
    cv2.putText(canvas, title, (4, RULE_PX - 14), FONT, 0.6, INK, 1, cv2.LINE_AA)
    return canvas, scale


def _residuals(calibration: CameraCalibration) -> np.ndarray:
    """Where corners were seen and, much enlarged, which way they are off."""
    usual_px = max(calibration.rms_px, 1e-3)
    times = 10.0 ** math.floor(math.log10(0.025 * calibration.model.width_px / usual_px))
    canvas, scale = _canvas(
        calibration,
        f"corners used ({len(calibration.pixels)}) and residuals, {times:g} times as long",
    )
    starts = calibration.pixels * scale + [0, RULE_PX]
    ends = starts + calibration.residuals_px * scale * times
    for start, end in zip(starts.round().astype(int), ends.round().astype(int), strict=True):
        cv2.line(canvas, start.tolist(), end.tolist(), RED, 1, cv2.LINE_AA)
        cv2.circle(canvas, start.tolist(), 2, BLUE, -1, cv2.LINE_AA)
    return canvas


def _certainty(calibration: CameraCalibration) -> np.ndarray:
    """How well the direction of each pixel is known: the darker the worse, in degrees."""
    model = calibration.model
    canvas, scale = _canvas(calibration, "directions are known to (degrees, two standard errors)")
    columns, rows = 9, 7
    x, y = np.meshgrid(
        (np.arange(columns) + 0.5) * model.width_px / columns - 0.5,
        (np.arange(rows) + 0.5) * model.height_px / rows - 0.5,
    )
    pixels = np.stack([x, y], axis=-1)
    known_degrees = np.degrees(2.0 * calibration.angle_std_rad(pixels))
    shade = known_degrees / max(known_degrees.max(), 1e-9)
    half = 0.5 * scale * np.array([model.width_px / columns, model.height_px / rows])
    for at, degrees, dark in zip(
        pixels.reshape(-1, 2), known_degrees.ravel(), shade.ravel(), strict=True
    ):
        middle = at * scale + [0, RULE_PX]
        low, high = (middle - half).round().astype(int), (middle + half).round().astype(int)
        level = int(250 - 110 * dark)
        cv2.rectangle(
            canvas, low.tolist(), high.tolist(), (level, level, 255 - (250 - level) // 3), -1
        )
        place = (middle + [-26, 6]).astype(int).tolist()
        cv2.putText(canvas, f"{degrees:.3f}", place, FONT, 0.5, INK, 1, cv2.LINE_AA)
    return canvas


def _views_in_words(calibration: CameraCalibration) -> str:
    used = [view for view in calibration.views if view.used]
    tilts = [math.degrees(view.tilt_rad) for view in used]
    distances = [view.distance_m for view in used]
    return (
        f"tilted by {min(tilts):.0f} to {max(tilts):.0f} degrees, {min(distances):.2f} to "
        f"{max(distances):.2f} m away, in {100 * calibration.coverage:.0f} % of the picture"
    )
