"""What is learned and seen, on topics of ROS 2: for whoever drives, records or draws the robot.

Who learns, watches or recognises hands over references and never waits. A thread of its own makes
the messages that somebody listens to and publishes them; when that fails it joins the graph anew,
for as long as it takes. Needs the extra `ros2`, or a ROS 2.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from calibration.angles import rays_of_angles
from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Camera
from edge_rjepa.run.loop import FixationBatch
from ros2_link.errors import Ros2Error
from ros2_link.link import LATCHED, USUAL, Link, Publish, Qos, full_name, open_link
from ros2_link.messages import encode, message_class
from safe_files.errors import printable

FRAME_ID = "camera_optical_frame"  # of a camera that does not tell its own
DIAGNOSTICS_S = 1.0
LATE_S, SILENT_S = 2.0, 10.0  # without a frame: a warning, an error
OK, WARN, ERROR = 0, 1, 2  # levels of diagnostic_msgs
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before the graph is joined again; doubled each time
CLOSE_S = 3.0  # for the thread to end
MOST_WORDS = 100  # alarms and names that wait for the thread
KEPT = LATCHED._replace(depth=1)  # told to who comes late

STRING, FLOAT = "std_msgs/msg/String", "std_msgs/msg/Float32"
ARRAY, DIMENSION = "std_msgs/msg/Float32MultiArray", "std_msgs/msg/MultiArrayDimension"
VECTOR = "geometry_msgs/msg/Vector3Stamped"
DIAGNOSTICS, STATUS = "diagnostic_msgs/msg/DiagnosticArray", "diagnostic_msgs/msg/DiagnosticStatus"


class Topic(NamedTuple):
    """What is published under a name."""

    type_name: str
    qos: Qos


TOPICS = {
    "embedding": Topic(ARRAY, USUAL),  # (K, n_z) of the frame's fixations
    "memory": Topic(ARRAY, USUAL),  # (n_r,) after them
    "surprise": Topic(FLOAT, USUAL),  # their mean, in nats
    "gaze_target": Topic(VECTOR, USUAL),  # unit vector to the last of them, from the camera
    "novelty": Topic(FLOAT, USUAL),  # the most in view, 1 where an alarm begins
    "alarm": Topic(STRING, LATCHED._replace(depth=10)),  # the line of JSON that --json prints
    "recognised": Topic(STRING, KEPT),  # the name; empty for nothing that was taught
    "recognised_probability": Topic(FLOAT, KEPT),
    "/diagnostics": Topic(DIAGNOSTICS, USUAL),
}
OF_A_FRAME = {"embedding", "memory", "surprise", "gaze_target"}


class Mind(Protocol):
    """What is asked of a learner, by the thread that learns: RJepa has it."""

    @property
    def state(self) -> np.ndarray:
        """The memory (n_r,), a copy."""

    def patch_encoder(self) -> Callable[[np.ndarray], np.ndarray]:
        """What embeds features (.., f) as z (.., n_z) with the weights of now."""


class Shown(NamedTuple):
    """A frame that was learned from, as far as somebody listens."""

    batch: FixationBatch
    taken_s: float  # by the wall clock
    encode: Callable[[np.ndarray], np.ndarray] | None
    memory: np.ndarray | None


class Ros2View:
    """Publishes from construction to `close`; a context manager.

    doing: "learning", say, for diagnostics. namespace: of the topics. camera: of the frames, seen
    from the frame of coordinates frame_id. report: takes what went wrong or right, in words, from
    any thread. mind: who learns; None where nobody does. source: its name, for diagnostics.

    Raises ConfigError where there is no ROS 2 to be had, or for what is no namespace.
    """

    def __init__(
        self,
        doing: str,
        namespace: str,
        camera: Camera,
        report: Callable[[str], None],
        mind: Callable[[], Mind] | None = None,
        source: str = "",
        frame_id: str = FRAME_ID,
    ) -> None:
        self._doing, self._camera, self._report = doing, camera, report
        self._mind, self._frame_id = mind, frame_id
        self._source = printable(source)  # ROS 2 knows no text but UTF-8
        self._namespace = namespace
        self._encoder: Callable[[np.ndarray], np.ndarray] | None = None
        self._newest: Shown | None = None
        self._words: deque[tuple[str, Any]] = deque(maxlen=MOST_WORDS)  # topic and message
        self._novelty: float | None = None
        self._seen_s: float | None = None  # when the last frame was
        self._values: dict[str, float] = {}
        self._event = ""
        self._open_alarms: set[int] = set()
        self._wanted: frozenset[str] = frozenset()  # topics that somebody listens to
        self._wake, self._ended = threading.Event(), threading.Event()
        self._down = False  # publishing fails
        try:
            self._graph = Graph(namespace)
        except Ros2Error as error:
            raise ConfigError(f"--ros2: {error}") from error
        self._thread = threading.Thread(target=self._run, name="ros2 view", daemon=True)
        self._thread.start()

    @property
    def topics(self) -> str:
        """Where it publishes, in words."""
        return full_name(self._namespace) + "/.."

    # -- who learns, watches or recognises --------------------------------------------------------

    def observe(self, batch: FixationBatch) -> None:
        """The newest frame with its fixations; the learning thread calls it."""
        self._seen_s = time.monotonic()
        wanted = self._wanted
        if not (wanted & OF_A_FRAME and len(batch.surprise)):
            return
        memory = None
        if self._mind is not None:
            mind = self._mind()
            if "embedding" in wanted and self._encoder is None:
                self._encoder = mind.patch_encoder()
            if "memory" in wanted:
                memory = mind.state
        self._newest = Shown(batch, _wall_s(batch.frame.t_capture_s), self._encoder, memory)
        self._wake.set()

    def look(self, novelty: float) -> None:
        """A watch has looked at a frame. novelty: its highest score, in shares of the threshold."""
        self._seen_s = time.monotonic()
        self._novelty = novelty
        self._wake.set()

    def tell(self, line: dict, _jpeg: bytes | None = None) -> None:
        """A watch's line of kind alarm, gone or fine."""
        if line["kind"] == "alarm":
            self._open_alarms.add(line["number"])
        else:
            self._open_alarms.discard(line["number"])
        self._say("alarm", _string(json.dumps(line)))

    def recognise(self, name: str | None, probability: float) -> None:
        """What a picture shows: a name that was taught, or None."""
        self._seen_s = time.monotonic()
        self._say("recognised", _string(name or ""))
        self._say("recognised_probability", _float(probability))

    def on_frame(self) -> None:
        """There was a frame, of which there is nothing new to say."""
        self._seen_s = time.monotonic()

    def on_metrics(self, values: Mapping[str, float]) -> None:
        """The newest measures, by names with units; also the moment to take the weights of now."""
        self._values = dict(values)
        self._encoder = None

    def on_event(self, text: str) -> None:
        """Something happened."""
        self._event = printable(text)

    def close(self) -> None:
        """Say what waits, and leave the graph."""
        self._ended.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def __enter__(self) -> Ros2View:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _say(self, topic: str, message: Any) -> None:
        self._words.append((topic, message))
        self._wake.set()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            try:
                if self._graph.closed:
                    self._graph = Graph(self._namespace)
                self._publish_until_ended()
            except Ros2Error as error:
                self._graph.close()
                if not self._down:
                    self._report(f"ros2: {error}; it is tried again and again")
                    pause_s = FIRST_PAUSE_S
                self._down = True
                self._ended.wait(pause_s)
                pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
        self._graph.close()

    def _publish_until_ended(self) -> None:
        due_s = time.monotonic()
        while not self._ended.is_set():
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + DIAGNOSTICS_S
                self._look_after()
            self._publish_all()
            self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._wake.clear()
        self._publish_all()

    def _look_after(self) -> None:
        """Once a second: diagnostics, and who listens."""
        for event in self._graph.drain_events():
            self._report(f"ros2: {event}")
        self._wanted = self._graph.wanted()
        self._diagnose()
        if self._down:
            self._down = False
            self._report("ros2: it is published again")

    def _publish_all(self) -> None:
        """Publish what is new."""
        while self._words:
            topic, message = self._words[0]  # it stays there if publishing fails
            self._graph.publish(topic, message)
            self._words.popleft()
        novelty, self._novelty = self._novelty, None
        if novelty is not None:
            self._graph.publish("novelty", _float(novelty))
        shown, self._newest = self._newest, None
        if shown is not None:
            self._publish_frame(shown)

    def _publish_frame(self, shown: Shown) -> None:
        batch = shown.batch
        if shown.encode is not None:
            z = shown.encode(batch.features)
            self._graph.publish("embedding", _array(z, ("fixation", "z")))
        if shown.memory is not None:
            self._graph.publish("memory", _array(shown.memory.reshape(-1), ("memory",)))
        self._graph.publish("surprise", _float(float(batch.surprise.mean())))
        ray = rays_of_angles(self._camera.angles_of_pixels(batch.pixels[-1]))
        if np.isfinite(ray).all():
            vector = message_class("geometry_msgs/msg/Vector3")(*map(float, ray))
            top = _header(shown.taken_s, self._frame_id)
            self._graph.publish("gaze_target", message_class(VECTOR)(top, vector))

    def _diagnose(self) -> None:
        level, words = self._level()
        values = {name: f"{value:.6g}" for name, value in self._values.items()}
        values["last event"] = self._event
        key_value = message_class("diagnostic_msgs/msg/KeyValue")
        status = message_class(STATUS)(
            level,
            f"edge_rjepa: {self._doing}",
            words,
            self._source,
            [key_value(name, value) for name, value in values.items()],
        )
        top = _header(time.time(), "")
        self._graph.publish("/diagnostics", message_class(DIAGNOSTICS)(top, [status]))

    def _level(self) -> tuple[int, str]:
        """How it stands, as a level of diagnostic_msgs and in words."""
        if self._seen_s is None:
            return WARN, "no frame yet"
        silent_s = time.monotonic() - self._seen_s
        if silent_s > LATE_S:
            return ERROR if silent_s > SILENT_S else WARN, f"no frame for {silent_s:.0f} s"
        alarms = len(self._open_alarms)
        if alarms:
            return WARN, f"{alarms} alarm{'s' * (alarms > 1)} not over"
        return OK, self._doing


class Graph:
    """The graph of ROS 2 with all TOPICS advertised. Raises Ros2Error, as everything does here."""

    def __init__(self, namespace: str) -> None:
        self.closed = False
        self._names = {topic: full_name(topic, namespace) for topic in TOPICS}
        self._link: Link = open_link("edge_rjepa", namespace)
        try:
            self._publish: dict[str, Publish] = {
                topic: self._link.advertise(self._names[topic], *kind)
                for topic, kind in TOPICS.items()
            }
        except BaseException:
            self._link.close()
            raise

    def publish(self, topic: str, message: Any) -> None:
        """Publish a message, by the topic's name in TOPICS."""
        self._publish[topic](encode(message, TOPICS[topic].type_name))

    def wanted(self) -> frozenset[str]:
        """The topics that somebody listens to."""
        return frozenset(topic for topic, name in self._names.items() if self._link.listeners(name))

    def drain_events(self) -> list[str]:
        """What went wrong, in words."""
        self._link.spin(0.0)
        return self._link.drain_events()

    def close(self) -> None:
        """Leave it; closing again does nothing."""
        self.closed = True
        self._link.close()


def _wall_s(t_s: float) -> float:
    """A time of time.monotonic() by the wall clock; now for any other."""
    age_s = time.monotonic() - t_s
    return time.time() - (age_s if 0.0 <= age_s < LATE_S else 0.0)


def _header(stamp_s: float, frame_id: str) -> Any:
    part_s, whole_s = math.modf(stamp_s)
    stamp = message_class("builtin_interfaces/msg/Time")(int(whole_s), int(1e9 * part_s))
    return message_class("std_msgs/msg/Header")(stamp, frame_id)


def _string(text: str) -> Any:
    return message_class(STRING)(text)


def _float(value: float) -> Any:
    return message_class(FLOAT)(value)


def _array(values: np.ndarray, labels: tuple[str, ...]) -> Any:
    """An array whose axes have these labels."""
    dimension = message_class(DIMENSION)
    strides = [math.prod(values.shape[axis:]) for axis in range(values.ndim)]
    layout = message_class("std_msgs/msg/MultiArrayLayout")(
        [dimension(*each) for each in zip(labels, values.shape, strides, strict=True)], 0
    )
    return message_class(ARRAY)(layout, np.ascontiguousarray(values, np.float32).ravel())
