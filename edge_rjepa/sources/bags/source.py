"""Pictures of a ROS 2 bag, over and over, with its lens and its head where it tells them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from calibration.errors import CalibrationError
from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Camera, Lens
from edge_rjepa.sources.bags.bag import Bag
from edge_rjepa.sources.bags.clock import Clock
from edge_rjepa.sources.bags.head import HeadTrack, track_of
from edge_rjepa.sources.bags.stored import Stored, message_of
from edge_rjepa.sources.frame import Frame, SourceEnded, count_in
from edge_rjepa.sources.images import crop_resize, size_within
from edge_rjepa.sources.kinds import Options, path_of
from edge_rjepa.sources.recording import FRAME_TOPIC
from edge_rjepa.sources.ros_messages import (
    INFO,
    PICTURE_TYPES,
    BadMessage,
    Pair,
    Skipped,
    Topics,
    info_beside,
    is_rectified,
    lens_of,
    picture_of,
    stamp_s_of,
    topics_of,
)

FEWEST_PICTURES = 20
MOST_INFOS = 100  # messages about the camera, until one tells its lens
MOST_WAITING = 8  # pictures that wait for the head angles after them


class BagSource:
    """The first nine tenths of a bag's pictures in a loop; the last tenth is held out.

    topics: of pictures, lens and head; the only topic of pictures if none is named. lens: of the
    camera, where the bag tells none; `measured` says that it is that of a calibration, which counts
    for more than what the bag tells. once: as in open_source.

    Pictures wider than 640 px are scaled down to that. They come by the time they were recorded;
    time of capture is that of their header where it makes sense, on a clock from 0 that runs on
    through the loops. What is wrong with a message is told once for each reason, and counted in
    `faults`. Raises SourceError when the bag cannot be read or has fewer than 20 pictures.
    """

    live = False
    head = None

    def __init__(
        self, path: Path, topics: Topics, lens: Lens, measured: bool = False, once: bool = False
    ) -> None:
        self._path, self._once = path, once
        self._skipped = Skipped()
        self._bag = Bag(path, self._skipped.add)
        try:
            self._events = self._bag.events
            self._topics = topics = topics._replace(pictures=self._topic_of_pictures(topics))
            self._pictures = self._bag.count({topics.pictures})
            if self._pictures < FEWEST_PICTURES:
                raise SourceError(
                    f"{path}: has {self._pictures} pictures on {topics.pictures}; at least "
                    f"{FEWEST_PICTURES} are needed: use a longer bag, or a whole copy of it"
                )
            self._shown = self._pictures if once else self._pictures * 9 // 10
            self._first_ns, size = self._first_picture()
            self.camera = self._camera_of(size, lens, measured)
        except BaseException:
            self.close()
            raise
        self._sequence = 0
        self._clock = Clock()
        self._begin(0)

    @property
    def faults(self) -> dict[str, int]:
        """How many messages were skipped since this was opened, by the reason."""
        return dict(self._skipped.counts)

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once; after the last one SourceEnded, or the first one again.

        Raises SourceError where no message is a picture any more.
        """
        frame = self._next(self._reading, self._clock)
        if frame is None:
            if self._once:
                raise SourceEnded
            self._clock.begin_again()
            self._begin(0)
            frame = self._next(self._reading, self._clock)
        if frame is None:
            raise SourceError(f"{self._path}: none of its messages is a picture any more")
        frame = frame._replace(sequence=self._sequence)
        self._sequence += 1
        return frame

    def held_out(self, count: int) -> list[Frame]:
        """The first `count` frames of the last tenth, or all of it. Raises SourceError."""
        frames: list[Frame] = []
        reading, clock = self._read(self._shown, self._pictures), Clock()
        while len(frames) < count and (frame := self._next(reading, clock)) is not None:
            frames.append(frame._replace(sequence=len(frames)))
        return frames

    @property
    def duration_s(self) -> float:
        """How long it takes to show it once, by the recorder's clock."""
        last = next(self._bag.messages({self._topics.pictures}, self._shown - 1), None)
        return max(0.0, 1e-9 * (last.log_ns - self._first_ns)) if last else 0.0

    def drain_events(self) -> list[str]:
        """What is odd about the bag, and each reason for which messages are skipped, once."""
        events, self._events = self._events, []
        return events + self._skipped.drain_events()

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {
            "pictures": self._pictures,
            "first_ns": self._first_ns,
            "place": self._place,
            "sequence": self._sequence,
            "clock": self._clock.state(),
        }

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for another bag."""
        if (state["pictures"], state["first_ns"]) != (self._pictures, self._first_ns):
            raise SourceError(
                f"{self._path}: {self._topics.pictures} does not hold the pictures that the saved "
                "run saw; name the same bag and topic, or start a new run"
            )
        self._sequence = count_in(state, "sequence")
        self._clock.restore(state["clock"])
        self._begin(count_in(state, "place"))

    def close(self) -> None:
        """Close the files."""
        self._bag.close()

    def __enter__(self) -> BagSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    # -- what the bag has -------------------------------------------------------------------------

    def _topic_of_pictures(self, topics: Topics) -> str:
        known = {topic for topic, _ in self._bag.topics}
        for asked in filter(None, (topics.info, *(each and each.topic for each in topics[2:4]))):
            if asked not in known:
                raise SourceError(f"{self._path}: has no topic {asked}; it has {_listed(known)}")
        found = {topic for topic, kind in self._bag.topics if kind in PICTURE_TYPES}
        if topics.pictures in found:
            return topics.pictures
        if FRAME_TOPIC in known:
            raise SourceError(f"{self._path}: is a recording of edge_rjepa: replay:{self._path}")
        if not found:
            raise SourceError(
                f"{self._path}: has no topic of sensor_msgs Image or CompressedImage; it has "
                f"{_listed(known)}"
            )
        if topics.pictures or len(found) > 1:
            wrong = f"has no pictures on {topics.pictures}" if topics.pictures else "has several"
            raise SourceError(
                f"{self._path}: {wrong}; name one of its topics of pictures, as "
                f"bag:{self._path}#{min(found)}: {_listed(found)}"
            )
        return min(found)

    def _first_picture(self) -> tuple[int, tuple[int, int]]:
        """When the first message was recorded, and width and height of the first that is a picture.

        Raises SourceError when none is.
        """
        first_ns, skipped = None, Skipped()  # they are read again, and told then
        for stored in self._bag.messages({self._topics.pictures}):
            first_ns = stored.log_ns if first_ns is None else first_ns
            try:
                height, width = picture_of(message_of(stored, PICTURE_TYPES)).shape[:2]
            except BadMessage as error:
                skipped.add(stored.topic, error)
            else:
                return first_ns, (width, height)
        reasons = ", ".join(skipped.counts)
        raise SourceError(
            f"{self._path}: no message on {self._topics.pictures} is a picture ({reasons})"
        )

    def _camera_of(self, size: tuple[int, int], lens: Lens, measured: bool) -> Camera:
        """The camera of the pictures handed out; by the bag's own account of it, if it has one."""
        size = size_within(*size)
        named = self._topics.info
        topic = named or info_beside(self._topics.pictures)
        if measured or (topic, INFO) not in self._bag.topics:
            if named and not measured:
                raise SourceError(f"{self._path}: {named} is no topic of sensor_msgs CameraInfo")
            return lens(*size)
        try:
            told = self._lens_told(topic)
            camera = told(*size)
        except (BadMessage, CalibrationError) as error:
            if named:
                raise SourceError(f"{self._path}: {named}: {error}; leave info= out") from error
            self._events.append(f"{topic}: is not used: {error}")
            return lens(*size)
        degrees = math.degrees(camera.field_of_view_rad)
        self._events.append(f"{topic}: the lens is {degrees:.0f} degrees wide")
        return camera

    def _lens_told(self, topic: str) -> Lens:
        """The first lens that is told on this topic. Raises BadMessage."""
        why = BadMessage("nothing is told on it")
        for i, stored in enumerate(self._bag.messages({topic})):
            try:
                lens = lens_of(message_of(stored, (INFO,)), is_rectified(self._topics.pictures))
            except BadMessage as error:
                why = error
            else:
                if lens is not None:
                    return lens
                why = BadMessage("the camera was not calibrated")
            if i == MOST_INFOS:
                break
        raise why

    # -- reading ----------------------------------------------------------------------------------

    def _begin(self, place: int) -> None:
        self._place = place  # of the next message with a picture
        self._reading = self._read(place, self._shown)

    def _next(self, reading: Iterator[_Taken], clock: Clock) -> Frame | None:
        """The next frame, whatever has to be skipped before it; None after the last."""
        for taken in reading:
            if reading is self._reading:
                self._place = taken.place + 1
            try:
                if isinstance(taken.message, BadMessage):
                    raise taken.message
                image = picture_of(taken.message)
                t_s = clock.read(taken.stamp_s, taken.logged_s)
                if taken.head_rad is None:
                    raise BadMessage("head angle that is not known")
            except BadMessage as error:
                self._skipped.add(self._topics.pictures, error)
                continue
            image = crop_resize(image, (self.camera.width_px, self.camera.height_px))
            return Frame(image, t_s, taken.head_rad, 0)
        return None

    def _read(self, begin: int, end: int) -> Iterator[_Taken]:
        """The messages with pictures from place `begin` up to `end`, with the head's angles."""
        pictures = self._topics.pictures
        track = track_of(self._topics)
        if track is None:
            stored_ones = self._bag.messages({pictures}, begin)
            for place, stored in zip(range(begin, end), stored_ones, strict=False):
                yield _taken(place, stored)._replace(head_rad=(0.0, 0.0))
            return
        place = 0
        waiting: deque[_Taken] = deque()
        for stored in self._bag.messages({pictures, *track.topics}):
            if stored.topic != pictures:
                self._follow(track, stored)
            elif place < end:
                if place >= begin:
                    waiting.append(_taken(place, stored))
                place += 1
            while waiting and (track.reaches(waiting[0].t_s) or len(waiting) > MOST_WAITING):
                yield _placed(waiting.popleft(), track)
            if place == end and not waiting:
                return
        for taken in waiting:
            yield _placed(taken, track)

    def _follow(self, track: HeadTrack, stored: Stored) -> None:
        try:
            track.add(stored)
        except BadMessage as error:
            self._skipped.add(stored.topic, error)


def open_bag(name: str, options: Options) -> BagSource:
    """The bag at `PATH` or `PATH#/topic?..`. Raises SourceError."""
    path, mark, topics = name.rpartition("#/")
    if not mark or path_of(name).exists():
        path, mark, topics = name, "", ""
    return BagSource(
        path_of(path), topics_of(mark[1:] + topics), options.lens, options.measured, options.once
    )


def _listed(topics: set[str]) -> str:
    some = sorted(topics)[:20]
    return ", ".join(some) + (f" and {len(topics) - len(some)} more" if len(topics) > 20 else "")


class _Taken(NamedTuple):
    """A message with a picture, which is not looked at yet."""

    place: int  # among those of its topic
    message: Any  # or the BadMessage that it is
    stamp_s: float | None
    logged_s: float
    head_rad: Pair | None = None

    @property
    def t_s(self) -> float:
        """By which pictures and head angles are compared."""
        return self.logged_s if self.stamp_s is None else self.stamp_s


def _taken(place: int, stored: Stored) -> _Taken:
    logged_s = 1e-9 * stored.log_ns
    try:
        message = message_of(stored, PICTURE_TYPES)
    except BadMessage as error:
        return _Taken(place, error, None, logged_s)
    return _Taken(place, message, stamp_s_of(message.header), logged_s)


def _placed(taken: _Taken, track: HeadTrack) -> _Taken:
    """The same picture, with the angles that the head had then."""
    return taken._replace(head_rad=track.at(taken.t_s))
