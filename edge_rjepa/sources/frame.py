"""What every source of pictures hands out, and how one is held."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np

from edge_rjepa.optics import Pinhole


class Frame(NamedTuple):
    """One picture and the circumstances it was taken in."""

    image: np.ndarray  # (H, W, 3) uint8 BGR; treat it as read-only
    t_capture_s: float  # when it was taken, on the source's own clock, which starts at 0
    head: tuple[float, float]  # (pan_rad, tilt_rad) it was taken at
    sequence: int  # 0, 1, 2 .. in the order handed out


class Source(Protocol):
    """A stream of pictures; a context manager that closes itself.

    What a source hands out depends only on what it was opened with, its seed, and its state.
    """

    camera: Pinhole

    def read(self) -> Frame | None:
        """The next frame, or None when there is no more. Raises SourceError when reading fails."""

    def held_out(self, count: int) -> list[Frame]:
        """The same `count` frames at each call, or all there are if fewer: none that read() shows.

        They are a stream of their own, in order, numbered from 0. Raises SourceError when they
        cannot be read.
        """

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError if it is from other pictures."""

    def close(self) -> None:
        """Let go of files and devices; reading ends here."""

    def __enter__(self) -> Source: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
