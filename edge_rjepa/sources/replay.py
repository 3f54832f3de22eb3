"""What a run recorded, once more: the same frames, as many fixations, the head where it was."""

from __future__ import annotations

from pathlib import Path

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.head import within
from edge_rjepa.sources import recording
from edge_rjepa.sources.frame import Frame, FrameUse, SourceEnded, count_in
from edge_rjepa.sources.kinds import Options, path_of
from firmware_bridge.track import Pose


class RecordedHead:
    """A head that was where it was: it cannot be moved, but tells where a move would have ended."""

    def __init__(self, limits_rad: recording.Limits):
        self.limits_rad = limits_rad
        self.angles_rad = (0.0, 0.0)  # of the frame handed out last

    def move(self, pan_rad: float, tilt_rad: float) -> tuple[float, float]:
        """Do nothing; the angles within the limits."""
        return within(self.limits_rad, (pan_rad, tilt_rad))

    def at(self, t_s: float) -> Pose:
        """Where it was when the frame handed out last was taken: frames of a moving head are not
        recorded, or with the angle that counted."""
        return Pose(*self.angles_rad, moving=False)

    def drain_events(self) -> list[str]:
        """Nothing."""
        return []


class ReplaySource:
    """The frames of a recording, in order, once.

    Each has its time, head angles, sequence and number of fixations of then, so that the same
    configuration (`config`, as dataclasses.asdict made it) learns the same. `digest` is what the
    recorded run said of its end, or None.
    Raises SourceError for a folder that is no recording, of a newer version, or damaged.
    """

    live = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._about = about = recording.about(folder)
        self.camera = about.camera
        self.config = about.config
        self.digest = about.digest
        self.head = RecordedHead(about.head_limits_rad) if about.head_limits_rad else None
        self._reader = recording.open_frames(folder, about)
        self._events = _losses(folder, about, self._reader)

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once. Raises SourceEnded after the last, SourceError for damage."""
        recorded = self._reader.read()
        if recorded is None:
            raise SourceEnded
        if self.head is not None:
            self.head.angles_rad = recorded.head_rad
        use = FrameUse.LEARN if recorded.fixations else FrameUse.SET_ASIDE
        return Frame(*recorded[:4], use, recorded.fixations)

    def held_out(self, count: int) -> list[Frame]:
        """The first `count` frames that the recorded source had set aside, none if it was live."""
        with recording.open_frames(self._folder, self._about, held_out=True) as reader:
            kept = [reader.read() for _ in range(min(count, reader.frames))]
        return [Frame(*recorded[:4]) for recorded in kept if recorded is not None]

    def drain_events(self) -> list[str]:
        """What is missing at the recording's end, once."""
        events, self._events = self._events, []
        return events

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {"recording": self._about.id, "place": self._reader.place}

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for another recording."""
        place = count_in(state, "place")
        if state["recording"] != self._about.id or place > self._reader.frames:
            raise SourceError(
                f"{self._folder} is not the recording the saved run saw, or lost its end; "
                "put that one back, or start a new run"
            )
        self._reader.rewind()
        angles_rad = self._reader.skip(place)
        if self.head is not None:
            self.head.angles_rad = angles_rad or (0.0, 0.0)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> ReplaySource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


def _losses(folder: Path, about: recording.About, reader: recording.Reader) -> list[str]:
    """What is not there of the recording's end, in words."""
    if about.frames is None:
        torn = " and broke off within a frame, which is left out" if reader.torn else ""
        return [f"{folder}: the recording was not closed{torn}; {reader.frames} frames are whole"]
    if reader.frames < about.frames:
        return [
            f"{folder}: the last {about.frames - reader.frames} of {about.frames} recorded frames "
            "are missing or damaged and left out; use another copy if you have one"
        ]
    return []


def open_replay(folder: str, options: Options) -> ReplaySource:
    """What was recorded there: it is as it was then, whatever the options say."""
    return ReplaySource(path_of(folder))


def config_of(folder: str) -> dict:
    """The configuration of the run that recorded it. Raises SourceError."""
    return recording.about(path_of(folder)).config
