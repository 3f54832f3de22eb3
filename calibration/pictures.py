"""The board in picture files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from calibration.board import Board, Sighting
from calibration.errors import CalibrationError
from safe_files.errors import FileError, why
from safe_files.reading import read_bytes

MOST_FILE_BYTES = 2**29
LOOKED_AT = 5  # pictures, for why the board is in none


class Pictures(NamedTuple):
    """Sightings in files."""

    names: list[str]  # of the files with the board
    sightings: list[Sighting]
    size: tuple[int, int]  # width and height in pixels
    without: list[str]  # files in which the board was not found


def sightings_in(paths: Sequence[str | os.PathLike], board: Board) -> Pictures:
    """The board in picture files, in their order.

    Raises CalibrationError when there is no file, one is no picture, sizes differ, or none shows
    the board: then it says why, as far as the pictures tell.
    """
    found, without, folder_of = {}, [], {}
    size, first = (0, 0), ""  # of the first picture, once it is read
    for path in map(Path, paths):
        image, folder_of[path.name] = _read(path), path
        height, width = image.shape
        if not first:
            size, first = (width, height), path.name
        if (width, height) != size:
            raise CalibrationError(
                f"{path.name} is {width} x {height} px, {first} {size[0]} x {size[1]}: "
                "take pictures of one resolution, a calibration is for one"
            )
        sighting = board.find(image)
        if sighting is None:
            without.append(path.name)
        else:
            found[path.name] = sighting
    if not found:
        looked_at = [folder_of[name] for name in without[:: max(1, len(without) // LOOKED_AT)]]
        trouble = next(filter(None, (board.trouble(_read(path)) for path in looked_at)), "")
        cure = trouble or "give its kind and its number of inner corners"
        raise CalibrationError(f"no {board} in {len(without)} pictures: {cure}")
    return Pictures(list(found), list(found.values()), size, without)


def _read(path: Path) -> np.ndarray:
    """A picture (H, W) uint8 as it was taken: turned pictures would be of another camera."""
    try:
        data = np.frombuffer(read_bytes(path, MOST_FILE_BYTES), np.uint8)
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {why(error)}") from error
    except FileError as error:
        raise CalibrationError(f"{path} is {error}: take it out of the folder") from error
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:  # of a size that OpenCV refuses
        image = None
    if image is None:
        raise CalibrationError(f"{path} is no picture: take it out of the folder")
    return image
