"""Pictures of a robot that runs ROS 2: a topic of a camera, and beside it its lens and its head."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from edge_rjepa.errors import SourceError
from edge_rjepa.eye.head import within
from edge_rjepa.optics.camera import Camera, Lens
from edge_rjepa.sources.camera import CameraSource
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.grabber import Capture
from edge_rjepa.sources.kinds import Options
from edge_rjepa.sources.ros_messages import (
    INFO,
    JOINTS,
    PICTURE_TYPES,
    TF,
    BadMessage,
    Pair,
    Skipped,
    TfFrames,
    Topics,
    angles_of,
    info_beside,
    is_rectified,
    lens_of,
    picture_of,
    stamp_s_of,
    topics_of,
)
from firmware_bridge.track import UNKNOWN, Pose, Sample, Track
from ros2_link.clock import on_our_clock
from ros2_link.errors import MessageError, Ros2Error
from ros2_link.link import LATCHED, SENSOR, STATES, Link, domain_id, full_name, open_link, which
from ros2_link.messages import decode, is_known

WAIT_S = 0.1  # for a message, until it is looked whether to end
LENS_S = 5.0  # from the first picture to the first camera_info that is named ..
LENS_BESIDE_S = 1.0  # .. or that may be beside it
SETTLE_S = 0.1  # for so long after it arrived the head still counts as moving
STILL_RAD_PER_S = 0.05  # sensors of joints flicker
SPEED_OVER_S = 0.05  # shorter differences say nothing of a speed
SILENT_S = 1.0  # without joint states it is not known where the head is
MOST_SHOWN = 5  # topics that a message names


class Ros2Source(CameraSource):
    """The newest picture of a robot's camera, always; a context manager.

    name: what follows `ros2:`, as `topics_of` has it, and `domain=` and `qos=reliable` beside it.

    As CameraSource; a robot whose camera is silent is joined again from anew, for ever. Time of
    capture is the header's, as far as it lies within the last second; else when the picture came.
    Messages that are damaged or make no sense are skipped: `faults` counts them, by the reason.

    Raises SourceError when there is no picture, or no camera_info where one is named.
    """

    def __init__(self, name: str, options: Options) -> None:
        self._robot = Robot(name, options.camera)
        try:
            lens = options.lens if options.measured else self._robot.lens(options.lens)
            super().__init__(f"ros2:{name}", self._robot, options.camera, lens)
        except BaseException:
            self._robot.close()
            raise
        self.head = self._robot.head

    @property
    def faults(self) -> dict[str, int]:
        """As CameraSource, and the messages that were skipped, by the reason."""
        return super().faults | self._robot.skipped()

    @property
    def frame_id(self) -> str:
        """The frame of coordinates that the camera's pictures are in, as their headers have it."""
        return self._robot.frame_id

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        return super().drain_events() + self._robot.drain_events()

    def close(self) -> None:
        """Leave the robot, within half a second."""
        self._robot.close()
        super().close()


def open_ros2(name: str, options: Options) -> Ros2Source:
    """A camera of a robot."""
    return Ros2Source(name, options)


class Robot:
    """The topics of a robot, an Opener; what came on them, for any thread.

    head: where joint states or tf have it; None where none are named. Raises SourceError for a
    name that is not understood.
    """

    def __init__(self, name: str, config: CameraConfig) -> None:
        _check_installed()
        self._topics = topics_of(name, more=("domain", "qos"))
        self._domain = _domain_of(self._topics)
        self._reliable = _is_reliable(self._topics)
        self._first_picture_s = config.first_picture_s
        joints, tf = self._topics.joints, self._topics.tf
        self.head = ObservedHead() if joints or tf else None
        self._frames = TfFrames(*tf.names) if tf else None
        self._lock = threading.Lock()  # guards the two below
        self._skipped = Skipped()
        self._events: deque[str] = deque(maxlen=100)
        self._info_topic = self._topics.info or info_beside(self._topics.pictures)
        self._info = threading.Event()  # the first camera_info came ..
        self._lens: Lens | None = None  # .. and told a lens
        self._capture: RosCapture | None = None
        self._shows_none = False  # the topic is there, and no pictures are on it
        self.frame_id = ""  # of the newest picture's header

    def open(self) -> Capture:
        """Join the graph, find the topic and read it. Raises SourceError."""
        self._end()
        try:
            link = open_link("edge_rjepa", domain=self._domain)
            try:
                return self._read(link)
            except BaseException:
                link.close()
                raise
        except Ros2Error as error:
            raise SourceError(str(error)) from error

    def cure(self) -> str:
        """Why it may not open, and what to do."""
        if self._shows_none:
            return "name the topic of a camera; `ros2 topic list -t` shows the types of all"
        found, where = self._found(), self._capture.where if self._capture else ""
        if where and any(event.startswith(f"{where}: ") for event in found):  # somebody is there
            return "; ".join(found)
        is_running = (
            f"is the camera's node running, and in domain {self._domain} as this is "
            "(ROS_DOMAIN_ID)? `ros2 topic hz` shows what comes"
        )
        return "; ".join([*found, is_running])

    def _found(self) -> list[str]:
        """What a link has told, and nobody has drained."""
        with self._lock:
            return list(self._events)

    def close(self) -> None:
        """End the reading that goes on, soon."""
        self._end()

    def lens(self, usual: Lens) -> Lens:
        """What tells the camera: its camera_info, where that comes and is one; else the usual lens.

        Call it when pictures come. Where camera_info is named, its lens must be had: raises
        SourceError, CalibrationError.
        """

        def of_size(width_px: int, height_px: int) -> Camera:
            if self._topics.info is not None:
                if not self._info.wait(LENS_S):
                    none = f"no camera_info comes on {self._topics.info}: check its name, or leave"
                    raise SourceError("; ".join([*self._found(), f"{none} info= out"]))
                return (self._lens or usual)(width_px, height_px)
            self._info.wait(LENS_BESIDE_S)
            try:
                return (self._lens or usual)(width_px, height_px)
            except CalibrationError as error:
                self.note([f"{self._info_topic} is not used: {error}"])
                return usual(width_px, height_px)

        return of_size

    def skipped(self) -> dict[str, int]:
        """How many messages were skipped, by the reason."""
        with self._lock:
            return dict(self._skipped.counts)

    def drain_events(self) -> list[str]:
        """What was skipped or does not fit, in words, each once."""
        with self._lock:
            events = [*self._events, *self._skipped.drain_events()]
            self._events.clear()
        return events

    def skip(self, topic: str, why: BadMessage | MessageError) -> None:
        """A message on this topic cannot be used."""
        if not isinstance(why, BadMessage):
            why = BadMessage("damaged message", str(why))
        with self._lock:
            self._skipped.add(topic, why)

    def note(self, events: list[str]) -> None:
        """What a link has told."""
        with self._lock:
            self._events.extend(events)

    def _end(self) -> None:
        if self._capture is not None:
            self._capture.over = True

    def _read(self, link: Link) -> RosCapture:
        topic = full_name(self._topics.pictures)
        capture = self._capture = RosCapture(link, topic, self)
        type_name = self._type_of(topic, link, capture)
        qos = SENSOR._replace(reliable=self._reliable)
        link.subscribe(topic, type_name, qos, capture.taker(type_name))
        self._read_beside(link)
        return capture

    def _read_beside(self, link: Link) -> None:
        """Read what else is named: the lens, and where the head is."""
        topics, frames = self._topics, self._frames
        link.subscribe(self._info_topic, INFO, SENSOR, self._use(INFO, self._take_info))
        if topics.joints is not None:
            joints = full_name(topics.joints.topic)
            link.subscribe(joints, JOINTS, STATES, self._use(JOINTS, self._take_joints))
        if topics.tf is not None and frames is not None:
            tf, take = full_name(topics.tf.topic), self._use(TF, self._take_tf)
            link.subscribe(tf, TF, STATES, take)
            link.subscribe(f"{tf}_static", TF, LATCHED, take)

    def _type_of(self, topic: str, link: Link, capture: RosCapture) -> str:
        """The type of the pictures, by their topic's name or as it is found."""
        raw, compressed = PICTURE_TYPES
        if topic.endswith("/compressed"):
            return compressed
        until_s = time.monotonic() + self._first_picture_s
        while not (types := link.topics().get(topic, set())):
            if capture.over or time.monotonic() > until_s:
                others = _others(link) or ", or any other pictures"
                raise SourceError(f"nobody publishes {topic}{others}")
            link.spin(WAIT_S)
        found = types & {raw, compressed}
        self._shows_none = not found
        if not found:
            raise SourceError(
                f"{topic} has {' and '.join(sorted(types))}, and pictures have {raw} or "
                f"{compressed}{_others(link)}"
            )
        return raw if raw in found else compressed

    def _use(self, type_name: str, take: Callable[[Any], None]) -> Callable[[bytes], None]:
        """Takes the bytes of a message; skips what cannot be used."""

        def use(cdr: bytes) -> None:
            try:
                take(decode(cdr, type_name))
            except (BadMessage, MessageError) as error:
                self.skip(type_name, error)

        return use

    def _take_info(self, message: Any) -> None:
        if not self._info.is_set():
            self._lens = lens_of(message, is_rectified(self._topics.pictures))
            if self._lens is None:
                self.note([f"{self._info_topic} says that the camera is not calibrated"])
            self._info.set()

    def _take_joints(self, message: Any) -> None:
        assert self._topics.joints is not None and self.head is not None
        angles_rad = angles_of(message, self._topics.joints.names)
        if angles_rad is not None:
            self.head.was(angles_rad, on_our_clock(stamp_s_of(message.header)))

    def _take_tf(self, message: Any) -> None:
        assert self._frames is not None and self.head is not None
        stamp_s = self._frames.add(message)
        angles_rad = self._frames.angles_rad()
        if stamp_s is not None and angles_rad is not None:
            self.head.was(angles_rad, on_our_clock(stamp_s))


class RosCapture:
    """A topic that is read, as grabber.py has it. over: set it from any thread to end it soon."""

    def __init__(self, link: Link, topic: str, robot: Robot) -> None:
        self.where = topic
        self.over = False
        self._link, self._robot = link, robot
        self._newest: tuple[Any, float] | None = None  # a message, and when it was captured
        self._captured_s = -math.inf  # of the picture before

    def taker(self, type_name: str) -> Callable[[bytes], None]:
        """Takes the bytes of a picture; skips what cannot be used."""

        def take(cdr: bytes) -> None:
            try:
                message = decode(cdr, type_name)
                captured_s = on_our_clock(stamp_s_of(message.header))
                if captured_s <= self._captured_s:
                    raise BadMessage("time that does not go on")
            except (BadMessage, MessageError) as error:
                self._robot.skip(self.where, error)
            else:
                self._captured_s = captured_s
                self._robot.frame_id = message.header.frame_id
                self._newest = message, captured_s

        return take

    def grab(self) -> bool:
        """Wait for the next picture; False when it is over."""
        self._newest = None
        while self._newest is None and not self.over:
            self._link.spin(WAIT_S)
            self._robot.note(self._link.drain_events())
        return not self.over

    def retrieve(self) -> np.ndarray | None:
        """The picture (H, W, 3) uint8 BGR; None where it makes no sense."""
        assert self._newest is not None  # there is one after grab()
        try:
            return picture_of(self._newest[0])
        except BadMessage as error:
            self._robot.skip(self.where, error)
            return None

    def captured_s(self, grabbed_s: float) -> float:
        """When the picture was captured."""
        assert self._newest is not None
        return self._newest[1]

    def release(self) -> None:
        """Leave the graph."""
        self._link.close()


class ObservedHead:
    """A head that others move: where it is comes from the robot. For any thread."""

    limits_rad = (-math.pi, math.pi), (-0.5 * math.pi, 0.5 * math.pi)  # all that angles can be

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._track = Track(SETTLE_S)
        self._told: deque[tuple[float, Pair]] = deque(maxlen=64)

    def was(self, angles_rad: Pair, t_s: float) -> None:
        """It was at these angles at t_s, on time.monotonic(); what is older than known is left."""
        with self._lock:
            if self._told and t_s <= self._told[-1][0]:
                return
            self._told.append((t_s, angles_rad))
            sample = Sample(t_s, t_s, angles_rad, angles_rad, 0.0, self._moves())
            self._track.add(sample)

    def at(self, t_s: float) -> Pose:
        """Where the head was at t_s: between two reports, or at the last if that is not old."""
        with self._lock:
            if not self._told or t_s > self._told[-1][0] + SILENT_S:
                return Pose(*UNKNOWN, moving=False)
            return self._track.at(t_s)

    def move(self, pan_rad: float, tilt_rad: float) -> Pair:
        """Do nothing: whoever moves it is not asked."""
        return within(self.limits_rad, (pan_rad, tilt_rad))

    def drain_events(self) -> list[str]:
        """Nothing: that its angles are not known is told with the pictures."""
        return []

    def _moves(self) -> bool:
        """Whether it turned, by the newest report and one that is not too near."""
        now_s, now_rad = self._told[-1]
        before = next(
            (each for each in reversed(self._told) if now_s - each[0] >= SPEED_OVER_S), None
        )
        if before is None:
            return False
        way_rad = max(abs(a - b) for a, b in zip(now_rad, before[1], strict=True))
        return way_rad > STILL_RAD_PER_S * (now_s - before[0])


def _check_installed() -> None:
    """Raise SourceError where what it needs is not installed, or asked for and not known."""
    try:
        which()
        is_known(INFO)
    except Ros2Error as error:
        raise SourceError(str(error)) from error


def _domain_of(topics: Topics) -> int:
    """The domain that is named, or that of the environment. Raises SourceError."""
    named = topics.more.get("domain")
    try:
        return domain_id(named)
    except Ros2Error as error:
        raise SourceError(str(error)) from error


def _is_reliable(topics: Topics) -> bool:
    qos = topics.more.get("qos", "best_effort")
    if qos not in {"best_effort", "reliable"}:
        raise SourceError(f"qos={qos}: use best_effort or reliable")
    return qos == "reliable"


def _others(link: Link) -> str:
    """Where pictures are instead, in words; "" if there are none."""
    pictures = [name for name, types in link.topics().items() if types & set(PICTURE_TYPES)]
    shown = ", ".join(sorted(pictures)[:MOST_SHOWN])
    return f"; there are pictures on {shown}" if shown else ""
