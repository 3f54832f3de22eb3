"""The one door for pictures from outside: nothing else here calls imread, imdecode, VideoCapture.

Of files only regular ones are opened, whatever bytes their names are made of. A picture that is
torn, too large or of no known kind is None or a SourceError; a cv2.error never leaves this module.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import jpeg
from safe_files.errors import FileError, why
from safe_files.reading import open_regular, read_bytes

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm"}
MOST_PIXELS = 2**25  # of a JPEG, before it is decoded; OpenCV has it for all other pictures
if (allowed := os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", "")).isdecimal():
    MOST_PIXELS = int(allowed)
MOST_FILE_BYTES = 2**29  # of one picture: it holds MOST_PIXELS of any kind
MOST_SAID = 1e9  # frames of a file, or a second: a number beyond that is none
SPARE = 0.05  # of a file's frames, that seeking may be off by: it is where the rate varies
PARTS = {  # of its width and height that OpenCV reads of a picture, which is quick for JPEGs
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


# -- pictures -------------------------------------------------------------------------------------


def decode(content: bytes, part: int = 1) -> np.ndarray | None:
    """The picture (H, W, 3) uint8 BGR that these bytes are; None if they are no whole picture.

    part: one of PARTS; a picture too small to be reduced is read as it is.
    """
    if content[:3] == jpeg.START and not jpeg.is_whole(content, MOST_PIXELS):
        return None
    image = _decoded(content, PARTS[part])
    return _decoded(content, cv2.IMREAD_COLOR) if image is None and part > 1 else image


def read_picture(path: Path, part: int = 1) -> np.ndarray:
    """The picture (H, W, 3) uint8 BGR in a file, as `decode` reads it. Raises SourceError."""
    image = _picture_in(path, part)
    if isinstance(image, str):
        raise SourceError(f"{path}: cannot be read as a picture ({image}); remove or replace it")
    return image


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name; unreadable ones are left out with a warning.

    Raises SourceError when there is no such folder or no readable picture in it.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder of pictures")
    named = named_as_pictures(folder)
    if not named:
        raise SourceError(
            f"{folder}: holds no picture; put some there ({' '.join(sorted(SUFFIXES))})"
        )
    found = readable(named)
    if not found:
        raise SourceError(f"{named[0]}: cannot be read as a picture, nor can any beside it")
    return found


def named_as_pictures(folder: Path) -> list[Path]:
    """What a folder has with the suffix of a picture, sorted; hidden files are none of a person's.

    Raises SourceError when the folder cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"cannot read folder {folder}: {why(error)}") from error
    return [p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]


def readable(paths: Sequence[Path]) -> list[Path]:
    """Those that are pictures; the others are left out with a warning."""
    found = []
    for path in paths:
        image = _picture_in(path, max(PARTS))  # cheap for large JPEGs
        if isinstance(image, str):
            warnings.warn(f"{path}: cannot be read as a picture ({image}); left out", stacklevel=2)
        else:
            found.append(path)
    return found


def _picture_in(path: Path, part: int) -> np.ndarray | str:
    """The picture, or why there is none."""
    try:
        content = read_bytes(path, MOST_FILE_BYTES)
    except OSError as error:
        return error.strerror or str(error)
    except FileError as error:
        return str(error)
    image = decode(content, part)
    if image is not None:
        return image
    return f"damaged, more than {MOST_PIXELS:,} pixels, or of a kind unknown to OpenCV"


def _decoded(content: bytes, how: int) -> np.ndarray | None:
    hush_opencv()
    if not content:
        return None
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), how)
    except cv2.error:  # too large, or too small for what was asked
        return None


# -- videos and cameras ---------------------------------------------------------------------------


def open_video_file(path: Path) -> cv2.VideoCapture:
    """The video in a regular file, from its first frame on. Raises SourceError."""
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such video file") from None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {why(error)}") from error
    with opened:
        # OpenCV takes names of UTF-8 only, and FFmpeg knows what to read by other names than a
        # path's, such as concat:a. A file that is open has a plain name, but no suffix by it.
        name = str(path.absolute())
        plain = name if name.isprintable() else f"/proc/self/fd/{opened.fileno()}"
        try:
            return open_capture(plain)
        except SourceError as error:
            raise SourceError(
                f"{path}: OpenCV cannot read it as a video ({error}); convert it, e.g. to .mp4"
            ) from error


def open_capture(
    name: str, backend: int = cv2.CAP_ANY, options: Sequence[int] = ()
) -> cv2.VideoCapture:
    """What OpenCV opens by this name. Raises SourceError."""
    if not is_utf_8(name):  # it would end the process
        raise SourceError("cannot be opened: a byte of its name is no UTF-8")
    hush_opencv()
    try:
        capture = cv2.VideoCapture(name, backend, list(options))
    except cv2.error as error:
        raise SourceError(f"cannot be opened ({error.err})") from error
    if not capture.isOpened():
        raise SourceError("cannot be opened")
    pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if pixels > MOST_PIXELS:
        capture.release()
        raise SourceError(f"pictures of more than {MOST_PIXELS:,} pixels")
    return capture


def is_utf_8(name: str) -> bool:
    """Whether the name, as the system gave it, has no other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def next_picture(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The next picture as OpenCV has it; None when there is none."""
    try:
        return capture.read()[1]
    except cv2.error:
        return None


def skip_pictures(capture: cv2.VideoCapture, most: float) -> int:
    """Pass over `most` pictures, or all there are; how many that was."""
    count = 0
    try:
        while count < most and capture.grab():
            count += 1
    except cv2.error:
        pass
    return count


def said_of(capture: cv2.VideoCapture) -> tuple[int, float]:
    """How many frames a file says it has, and how many a second; 0 for what it does not say."""
    said = (capture.get(which) for which in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
    frames, rate = (value if 0.0 < value < MOST_SAID else 0.0 for value in said)
    return int(frames), rate


def reaches(path: Path, frames: int) -> bool:
    """Whether a file ends about at its `frames`th frame, as far as seeking tells. SourceError."""
    if frames < 1:
        return False
    capture, spare = open_video_file(path), 1 + round(SPARE * frames)
    try:
        capture.set(cv2.CAP_PROP_POS_FRAMES, frames - 1)
        off = abs(capture.get(cv2.CAP_PROP_POS_FRAMES) - (frames - 1))
        return off <= spare and 1 <= skip_pictures(capture, spare + 1) <= spare
    except cv2.error:
        return False
    finally:
        capture.release()


@functools.cache
def hush_opencv() -> None:
    """Errors tell what goes wrong; whoever sets these variables wants to hear it all."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        of_opencv_5 = getattr(cv2.utils, "logging", None)
        (of_opencv_5 or cv2).setLogLevel(0)
    # Whole seconds a read waits for a video device; 10 unless set, with the thread held up.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
