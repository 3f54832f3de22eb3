"""Pictures of a folder, one after the other, over and over."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Lens
from edge_rjepa.sources.decode import PARTS, pictures_in, read_picture
from edge_rjepa.sources.frame import Frame, count_in, digest_of
from edge_rjepa.sources.images import LEAST_PX, LONGEST, crop_resize, size_within
from edge_rjepa.sources.kinds import Options, path_of
from edge_rjepa.sources.recording import ABOUT

FRAMES_A_PICTURE = 4
FRAMES_A_SECOND = 30.0


class PictureSource:
    """Every picture for 4 frames, in another order each round; a fifth of them is held out.

    paths: of at least two pictures, in an order that stays. seed: of the orders and of which are
    held out. lens: of the camera that took them.

    The first picture that is neither tiny nor a strip decides the size, at most 640 px wide: of the
    others the middle is cut to its shape and scaled. The head stays at (0, 0); time runs on at 30
    frames a second. Raises SourceError for fewer than two pictures, for an unreadable one before
    that first, or if there is no such picture.
    """

    live = False
    head = None

    def __init__(self, paths: list[Path], seed: int, lens: Lens) -> None:
        if len(paths) < 2:
            raise SourceError(
                f"{paths[0] if paths else 'no picture'}: a folder needs at least two pictures, "
                "one to learn from and one to hold out; add another"
            )
        self._names = [path.name for path in paths]
        self._seed = seed
        shuffled = [paths[i] for i in np.random.default_rng([seed, 0]).permutation(len(paths))]
        n_held = min(max(2, len(paths) // 5), len(paths) // 2)
        self._held_out, self._shown = shuffled[:n_held], shuffled[n_held:]
        self._sequence = 0

        self.camera = lens(*size_within(*_usual_size(paths)))

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once. Raises SourceError when its picture can no longer be read."""
        turn, place = divmod(self._sequence // FRAMES_A_PICTURE, len(self._shown))
        order = np.random.default_rng([self._seed, 1, turn]).permutation(len(self._shown))
        frame = self._framed(self._shown[order[place]], self._sequence)
        self._sequence += 1
        return frame

    def held_out(self, count: int) -> list[Frame]:
        """`count` frames of the pictures set aside, again and again. Raises SourceError."""
        pictures = [i // FRAMES_A_PICTURE % len(self._held_out) for i in range(count)]
        return [self._framed(self._held_out[p], i) for i, p in enumerate(pictures)]

    def drain_events(self) -> list[str]:
        """Nothing: a picture that cannot be read ends the stream."""
        return []

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {"pictures": digest_of(self._names), "seed": self._seed, "sequence": self._sequence}

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for other pictures or seed."""
        if state["pictures"] != digest_of(self._names) or state["seed"] != self._seed:
            raise SourceError(
                "the folder's pictures or the seed are not those of the saved run; "
                "put the same pictures back, or start a new run"
            )
        self._sequence = count_in(state, "sequence")

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> PictureSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _framed(self, path: Path, sequence: int) -> Frame:
        image = _fitting(path, (self.camera.width_px, self.camera.height_px))
        return Frame(image, sequence / FRAMES_A_SECOND, (0.0, 0.0), sequence)


def open_pictures(folder: str, options: Options) -> PictureSource:
    """The pictures of a folder. Raises SourceError as pictures_in and PictureSource do."""
    path = path_of(folder)
    if (path / ABOUT).exists():
        raise SourceError(f"{folder} is a recording: name it replay:{folder}")
    if (path / "meta" / "info.json").exists():
        raise SourceError(f"{folder} is a LeRobot dataset: name it lerobot:{folder}")
    return PictureSource(pictures_in(path), options.seed, options.lens)


@lru_cache(maxsize=32)  # reading takes longer than all else; a small folder stays in memory
def _fitting(path: Path, size: tuple[int, int]) -> np.ndarray:
    return crop_resize(_read(path, size), size)


def _usual_size(paths: list[Path]) -> tuple[int, int]:
    """Width and height of the first picture that all may be cut to."""
    for path in paths:
        height, width = _read(path).shape[:2]
        if min(width, height) >= LEAST_PX and max(width, height) <= LONGEST * min(width, height):
            return width, height
        warnings.warn(
            f"{path}: {width} x {height} px, which is no size for the others; the next decides",
            stacklevel=2,
        )
    raise SourceError(
        f"{paths[0]}: {LEAST_PX} px on each side is the least, and a side {LONGEST} times as long "
        "as the other the most, and no picture here has that; add one"
    )


def _read(path: Path, enough: tuple[int, int] | None = None) -> np.ndarray:
    """The picture (H, W, 3) uint8; a reduced one, if that is still as large as `enough` (w, h)."""
    small = read_picture(path, 8)
    # Reduced sizes are rounded up: the whole picture is at least so large.
    height, width = (8 * (length - 1) for length in small.shape[:2])
    spare = min(width / enough[0], height / enough[1]) if enough else 1.0
    part = next(part for part in PARTS if part <= max(spare, 1.0))
    return small if part == 8 else read_picture(path, part)
