"""Where the head was when the pictures of a bag were taken."""

from __future__ import annotations

from collections import deque

from edge_rjepa.sources.bags.stored import Stored, message_of
from edge_rjepa.sources.ros_messages import (
    JOINTS,
    TF,
    Pair,
    TfFrames,
    Topics,
    angles_of,
    stamp_s_of,
    wrapped,
)

SAMPLES = 1024  # that are remembered
LONGEST_GAP_S = 1.0  # between two head angles: in a longer one it is not known where the head is
HELD_S = 0.1  # before the first head angles and after the last: so long they hold


class HeadTrack:
    """Where the head was, by messages that tell it; between two of them, in between."""

    topics: tuple[str, ...]  # whose messages it takes

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Pair]] = deque(maxlen=SAMPLES)

    def add(self, stored: Stored) -> None:
        """Take a message that tells of the head. Raises BadMessage."""
        raise NotImplementedError

    def reaches(self, t_s: float) -> bool:
        """Whether it is known where the head was after that time."""
        return bool(self._samples) and self._samples[-1][0] >= t_s

    def at(self, t_s: float) -> Pair | None:
        """(pan_rad, tilt_rad) at that time; None where they are not known."""
        after = None
        for sample in reversed(self._samples):
            if sample[0] <= t_s:
                return _between(sample, after, t_s)
            after = sample
        return after[1] if after and after[0] - t_s <= HELD_S else None

    def _add_sample(self, t_s: float, angles_rad: Pair) -> None:
        if self._samples and self._samples[-1][0] >= t_s:
            if self._samples[-1][0] - t_s <= LONGEST_GAP_S:
                return  # out of order, or the same once more
            self._samples.clear()  # the robot's clock was set
        self._samples.append((t_s, angles_rad))


class JointTrack(HeadTrack):
    """By the angles of two joints."""

    def __init__(self, topic: str, names: tuple[str, str]) -> None:
        super().__init__()
        self.topics = (topic,)
        self._names = names

    def add(self, stored: Stored) -> None:
        message = message_of(stored, (JOINTS,))
        angles_rad = angles_of(message, self._names)
        if angles_rad is not None:
            stamp_s = stamp_s_of(message.header)
            self._add_sample(1e-9 * stored.log_ns if stamp_s is None else stamp_s, angles_rad)


class TfTrack(HeadTrack):
    """By where the frame of the camera looks."""

    def __init__(self, topic: str, names: tuple[str, str]) -> None:
        super().__init__()
        self.topics = topic, f"{topic}_static"
        self._frames = TfFrames(*names)

    def add(self, stored: Stored) -> None:
        t_s = self._frames.add(message_of(stored, (TF,)))
        angles_rad = self._frames.angles_rad()
        if t_s is not None and angles_rad is not None and stored.topic == self.topics[0]:
            self._add_sample(t_s or 1e-9 * stored.log_ns, angles_rad)


def track_of(topics: Topics) -> HeadTrack | None:
    """What takes down the head angles that are asked for; None if none are."""
    if topics.joints:
        return JointTrack(*topics.joints)
    return TfTrack(*topics.tf) if topics.tf else None


def _between(
    before: tuple[float, Pair], after: tuple[float, Pair] | None, t_s: float
) -> Pair | None:
    """Angles at a time between two samples, the short way round; just after the last, its own."""
    if after is None:
        return before[1] if t_s - before[0] <= HELD_S else None
    gap_s = after[0] - before[0]
    if gap_s > LONGEST_GAP_S:
        return None
    part = (t_s - before[0]) / gap_s
    pan_rad, tilt_rad = (
        wrapped(a + part * wrapped(b - a)) for a, b in zip(before[1], after[1], strict=True)
    )
    return pan_rad, tilt_rad
