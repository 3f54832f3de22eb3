"""What every source of pictures hands out, and how one is held."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from safe_files.errors import FileError
from safe_files.plain import rebuilt

if TYPE_CHECKING:
    import numpy as np

    from edge_rjepa.eye.head import Head
    from edge_rjepa.optics.camera import Camera


class FrameUse(Enum):
    """What a frame is for: in a recording, what it was used for then."""

    UNDECIDED = "undecided"  # whoever reads it decides
    LEARN = "learn"
    SET_ASIDE = "set aside"  # to judge on, never to learn from


class Frame(NamedTuple):
    """One picture and the circumstances it was taken in."""

    image: np.ndarray  # (H, W, 3) uint8 BGR; treat it as read-only
    t_capture_s: float  # when it was taken: live, on time.monotonic(); else on a clock from 0
    head_rad: tuple[float, float]  # (pan, tilt) it was taken at
    sequence: int  # 0, 1, 2 .. as taken; what was never handed out leaves a gap
    use: FrameUse = FrameUse.UNDECIDED
    fixations: int = 0  # how many were planned on it, if it was learned from before


class SourceEnded(Exception):  # noqa: N818 - no error, as StopIteration is none
    """There is no further frame: the last one was handed out."""


class Source(Protocol):
    """A stream of pictures; a context manager that closes itself.

    What a source hands out depends only on what it was opened with, its seed, and its state, unless
    it is live: then pictures come and go whether or not they are read.
    """

    camera: Camera
    live: bool
    head: Head | None  # the head its camera sits on, if it brings one

    def read_next(self, timeout_ms: float) -> Frame | None:
        """The frame after the one handed out last; of a live source, the newest since.

        Waits for it, at most so long; None when there is none by then. Raises SourceEnded after the
        last frame, and SourceError when reading fails for good.
        """

    def held_out(self, count: int) -> list[Frame]:
        """The same `count` frames at each call, or all if fewer: none that read_next() shows.

        They are a stream of their own, in order, numbered from 0; a camera has none. Raises
        SourceError when they cannot be read.
        """

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError if it is from other pictures."""

    def close(self) -> None:
        """Let go of files, devices and threads; reading ends here."""

    def __enter__(self) -> Source: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def digest_of(names: Iterable[str]) -> str:
    """What tells these names, in this order, from others, however many there are."""
    return sha256("\0".join(names).encode(errors="surrogatepass")).hexdigest()


def count_in(state: dict, name: str) -> int:
    """A count that a source's state() gave, come back from a file. Raises KeyError, FileError."""
    count = rebuilt(int, state[name], name)
    if count < 0:
        raise FileError(f"{name} is {count}")
    return count
