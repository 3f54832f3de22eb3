"""What is seen and learned, as messages that Foxglove shows: for a live view and for recordings.

Messages are Foxglove's own, as protobuf, and JSON with a schema for what Foxglove has no message
of. Angles and frames follow REP 103 and 105, which are not those of the rest of this package:

    base_link              x forward, y left, z up: what the camera sees at head angles (0, 0)
    camera_link            the same axes, turned with the head
    camera_optical_frame   the camera's own: z forward, x right, y down

so that a positive pan_joint turns to the left and a positive tilt_joint down. Needs the extra
`foxglove`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from calibration.head_model import HeadCamera
from calibration.model import CameraModel
from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Camera
from edge_rjepa.sources.recording import Taken

try:
    from foxglove import messages as fox
except ModuleNotFoundError as error:
    if error.name != "foxglove":
        raise
    raise ConfigError(
        'Foxglove\'s messages need foxglove-sdk: pip install "edge-rjepa[foxglove]"'
    ) from error

PICTURE, FIXATIONS, CALIBRATION = "/camera/image", "/camera/fixations", "/camera/calibration"
TRANSFORMS, JOINTS = "/tf", "/head/joint_states"
SURPRISE, METRICS = "/surprise", "/metrics"
EVENTS, ALARMS, ALARM_BOXES = "/events", "/alarms", "/camera/alarms"

BASE, LINK, OPTICAL = "base_link", "camera_link", "camera_optical_frame"
BODY_OF_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
PAN, TILT = "pan_joint", "tilt_joint"

METRIC_NAMES = {  # of /metrics, each with its unit in its name, and what it says
    "frames": "frames learned from or set aside",
    "fixations": "fixations learned from",
    "fixations_per_s": "fixations learned from a second",
    "fixations_per_frame": "fixations learned from a frame",
    "information_nats": "predictive information",
    "effective_rank": "directions in which the embedding varies",
    "embedding_std": "root mean variance of the embedding's values",
    "surprise_nats": "mean surprise since the last message",
    "loss_nats": "mean loss since the last message",
    "latency_median_s": "from capture to learned, of a live source",
    "latency_p95_s": "the same: 95 % are quicker",
    "skipped": "frames that were of no use",
    "faults": "of the source",
    "rollbacks": "returns to the last good state",
    "expected_false_alarms_per_hour": "of a watch, at its threshold",
    "threshold": "of a watch, in standard deviations of what is usual; absent while it learns",
}

USUAL_PART = 0.02  # of each picture in what counts as usual surprise
WORST_SHARE = 2.0  # of the usual surprise: there colours and sizes end
CIRCLE_PX, THICKNESS_PX, FONT_PX = 10.0, 2.0, 14.0  # in a picture of FINE_PX
FINE_PX = 640
CALM_RGB, SURPRISED_RGB = np.array([0.35, 0.75, 0.92]), np.array([0.98, 0.35, 0.24])
PATH = fox.Color(r=0.92, g=0.92, b=0.92, a=0.6)
BORDER = fox.Color(r=0.1, g=0.1, b=0.1, a=1.0)
WHITE = fox.Color(r=1.0, g=1.0, b=1.0, a=1.0)
NS = 1_000_000_000
MOST_S = 2.0**32 - 1.0  # that a message's time can hold


def _schema_of(title: str, properties: Mapping[str, str]) -> dict:
    numbers = {name: {"type": "number", "description": says} for name, says in properties.items()}
    return {"title": f"edge_rjepa.{title}", "type": "object", "properties": numbers}


# Each topic with its message class, or its JSON schema.
TOPICS: dict[str, Any] = {
    PICTURE: fox.CompressedImage,
    FIXATIONS: fox.ImageAnnotations,
    CALIBRATION: fox.CameraCalibration,
    TRANSFORMS: fox.FrameTransforms,
    JOINTS: fox.JointStates,
    SURPRISE: _schema_of(
        "Surprise",
        {
            "mean_nats": "over the picture's fixations",
            "highest_nats": "of a fixation",
            "fixations": "on this picture",
        },
    ),
    METRICS: _schema_of("Metrics", METRIC_NAMES),
    EVENTS: fox.Log,
    ALARMS: fox.Log,
    ALARM_BOXES: fox.ImageAnnotations,
}


class Message(NamedTuple):
    """One message of a topic: a Foxglove message, or a dict for JSON."""

    topic: str
    time_ns: int  # since 1970
    content: Any

    def encode(self) -> bytes:
        """As it stands in a file."""
        if isinstance(self.content, dict):
            return json.dumps(self.content, allow_nan=False).encode()
        content: bytes = self.content.encode()
        return content


class Fixated(Protocol):
    """A frame with its fixations, as far as they are shown."""

    @property
    def frame(self) -> Taken:
        """The frame."""

    @property
    def pixels(self) -> np.ndarray:
        """(K, 2) x, y."""

    @property
    def surprise(self) -> np.ndarray:
        """(K,) nats."""


class Clock:
    """Times of a source in nanoseconds since 1970, as Foxglove's timeline wants them.

    The system's clock is read once: if it is set later, times of this process stay in order. A
    source that is not live has a clock from 0, which begins when this is made.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._start_s = time.time() - (time.monotonic() if live else 0.0)
        self._newest_ns = self.at(time.monotonic() if live else 0.0)

    def at(self, t_s: float) -> int:
        """The time of a frame that was taken at t_s."""
        self._newest_ns = int(min(max(0.0, self._start_s + t_s), MOST_S) * NS)
        return self._newest_ns

    def now(self) -> int:
        """Now; of a source that is not live, the time of its newest frame."""
        return self.at(time.monotonic()) if self._live else self._newest_ns


class Messages:
    """Makes messages of frames, fixations, measures and events.

    camera: gives the camera of the frames. live: whether the source is. turns: whether a head turns
    the camera.
    """

    def __init__(self, camera: Camera, live: bool, turns: bool) -> None:
        self.clock = Clock(live)
        self._camera, self._turns = camera, turns
        self._usual_nats = math.nan
        self._boxes: dict[int, Sequence[float]] = {}  # of the alarms that are still there

    def of_picture(self, frame: Taken, picture: bytes, kind: str) -> Message:
        """The picture. kind: `png` or `jpeg`."""
        time_ns = self.clock.at(frame.t_capture_s)
        stamp = stamp_of(time_ns)
        content = fox.CompressedImage(timestamp=stamp, frame_id=OPTICAL, data=picture, format=kind)
        return Message(PICTURE, time_ns, content)

    def of_place(self, frame: Taken) -> Iterator[Message]:
        """Where the head and the camera were, and the camera itself."""
        time_ns = self.clock.at(frame.t_capture_s)
        stamp = stamp_of(time_ns)
        rotation = BODY_OF_OPTICAL @ self._camera.rotation(frame.head_rad) @ BODY_OF_OPTICAL.T
        turned = [(BASE, LINK, rotation), (LINK, OPTICAL, BODY_OF_OPTICAL)]
        transforms = [
            fox.FrameTransform(
                timestamp=stamp, parent_frame_id=parent, child_frame_id=child,
                translation=fox.Vector3(), rotation=quaternion(matrix),
            )
            for parent, child, matrix in turned
        ]  # fmt: skip
        yield Message(TRANSFORMS, time_ns, fox.FrameTransforms(transforms=transforms))
        if self._turns:
            angles = zip((PAN, TILT), frame.head_rad, strict=True)
            joints = [fox.JointState(name=name, position=-angle) for name, angle in angles]
            yield Message(JOINTS, time_ns, fox.JointStates(timestamp=stamp, joints=joints))

    def of_camera(self) -> Message:
        """The camera's calibration."""
        time_ns = self.clock.now()
        return Message(CALIBRATION, time_ns, calibration_of(self._camera, stamp_of(time_ns)))

    def of_fixations(self, fixated: Fixated) -> Iterator[Message]:
        """Circles over the picture, the redder and larger the more surprising, in order on a line.

        They have the time of the picture, so that Foxglove lays them over it.
        """
        frame, surprise = fixated.frame, np.asarray(fixated.surprise, np.float64)
        known = surprise[np.isfinite(surprise)]
        over = self.of_shares(frame, fixated.pixels, self._shares(surprise))
        yield over
        if known.size:
            values = {
                "mean_nats": float(known.mean()),
                "highest_nats": float(known.max()),
                "fixations": len(surprise),
            }
            yield Message(SURPRISE, over.time_ns, values)

    def of_shares(self, frame: Taken, pixels: np.ndarray, shares: np.ndarray) -> Message:
        """Circles at pixels (K, 2), coloured by shares (K,) 0..1 of a scale, with frame's time."""
        time_ns = self.clock.at(frame.t_capture_s)
        content = circles_over(frame.image.shape[1], pixels, shares, stamp_of(time_ns))
        return Message(FIXATIONS, time_ns, content)

    def _shares(self, surprise: np.ndarray) -> np.ndarray:
        """Shares 0..1 of the scale, which follows what is usual in this stream."""
        known = surprise[np.isfinite(surprise)]
        if known.size:
            mean = float(known.mean())
            usual = mean if math.isnan(self._usual_nats) else self._usual_nats
            self._usual_nats = usual + USUAL_PART * (mean - usual)
        return surprise / max(WORST_SHARE * self._usual_nats, 1e-9)

    def of_metrics(self, values: Mapping[str, float]) -> Message:
        """Measures by names of METRIC_NAMES; what is not finite is left out."""
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        return Message(METRICS, self.clock.now(), known)

    def of_event(self, text: str) -> Message:
        """What happened to the camera, the head, the run or the watch."""
        return self._log(EVENTS, text, fox.LogLevel.Info)

    def of_alarm(self, line: Mapping[str, Any]) -> Iterator[Message]:
        """A watch's alarm, its end, or that it counts as usual; and boxes about what is there now.

        Where a head turns the camera there are no boxes: what they are about moves in the picture.
        """
        number, kind = line["number"], line["kind"]
        level = fox.LogLevel.Warning if kind == "alarm" else fox.LogLevel.Info
        if kind == "alarm":
            words = "something was taken away" if line["what"] == "removed" else "something new"
            self._boxes[number] = line["box"]
        else:
            words = "is over" if kind == "gone" else "counts as usual"
            self._boxes.pop(number, None)
        yield self._log(ALARMS, f"alarm {number}: {words}", level)
        if not self._turns:
            time_ns = self.clock.now()
            yield Message(ALARM_BOXES, time_ns, boxes_over(self._boxes, stamp_of(time_ns)))

    def _log(self, topic: str, text: str, level: fox.LogLevel) -> Message:
        time_ns = self.clock.now()
        text = text.encode(errors="replace").decode()  # a name may have bytes that are no UTF-8
        log = fox.Log(timestamp=stamp_of(time_ns), level=level, message=text, name="edge_rjepa")
        return Message(topic, time_ns, log)


def stamp_of(time_ns: int) -> fox.Timestamp:
    """As Foxglove's messages have it."""
    return fox.Timestamp(time_ns // NS, time_ns % NS)


def quaternion(rotation: np.ndarray) -> fox.Quaternion:
    """Of a rotation (3, 3)."""
    turn = cv2.Rodrigues(rotation)[0].ravel()  # axis times angle
    angle = float(np.linalg.norm(turn))
    x, y, z = (math.sin(0.5 * angle) / angle * turn if angle > 1e-12 else 0.5 * turn).tolist()
    return fox.Quaternion(x=x, y=y, z=z, w=math.cos(0.5 * angle))


def calibration_of(camera: Camera, stamp: fox.Timestamp) -> fox.CameraCalibration:
    """The lens, as far as Foxglove knows its kind."""
    (x, y), fx, fy = camera.centre_px, camera.focal_px, camera.focal_px
    model, distortion = "plumb_bob", [0.0] * 5
    lens = camera.camera if isinstance(camera, HeadCamera) else camera
    if isinstance(lens, CameraModel):
        fx, fy = lens.focal_x_px, lens.focal_y_px
        x, y = lens.centre_x_px, lens.centre_y_px
        distortion = list(lens.distortion)
        model = "plumb_bob" if lens.lens == "pinhole" else "kannala_brandt"
    return fox.CameraCalibration(
        timestamp=stamp, frame_id=OPTICAL, width=camera.width_px, height=camera.height_px,
        distortion_model=model, D=distortion,
        K=[fx, 0.0, x, 0.0, fy, y, 0.0, 0.0, 1.0],
        R=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        P=[fx, 0.0, x, 0.0, 0.0, fy, y, 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip


def circles_over(
    width_px: int, pixels: np.ndarray, shares: np.ndarray, stamp: fox.Timestamp
) -> fox.ImageAnnotations:
    """Circles at pixels (K, 2), coloured by shares (K,) of a scale; NaN pixels are left out."""
    inside = np.isfinite(pixels).all(axis=1)
    size = max(1.0, width_px / FINE_PX)
    shares = np.clip(np.nan_to_num(shares[inside]), 0.0, 1.0)
    points = [fox.Point2(x=x, y=y) for x, y in pixels[inside].tolist()]
    colours = CALM_RGB + shares[:, None] * (SURPRISED_RGB - CALM_RGB)
    circles = [
        fox.CircleAnnotation(
            timestamp=stamp, position=point, diameter=size * CIRCLE_PX * (0.8 + share),
            thickness=1.0, fill_color=fox.Color(r=r, g=g, b=b, a=0.9), outline_color=BORDER,
        )
        for point, share, (r, g, b) in zip(points, shares.tolist(), colours.tolist(), strict=True)
    ]  # fmt: skip
    path = fox.PointsAnnotation(
        timestamp=stamp, type=fox.PointsAnnotationType.LineStrip, points=points,
        outline_color=PATH, thickness=THICKNESS_PX * size,
    )  # fmt: skip
    return fox.ImageAnnotations(
        timestamp=stamp, circles=circles, points=[path] if len(points) > 1 else []
    )


def boxes_over(boxes: Mapping[int, Sequence[float]], stamp: fox.Timestamp) -> fox.ImageAnnotations:
    """Boxes (x, y, width, height) in pixels, each with its number at its corner."""
    red, green, blue = SURPRISED_RGB.tolist()
    colour = fox.Color(r=red, g=green, b=blue, a=1.0)
    frames, labels = [], []
    for number, (x, y, width, height) in boxes.items():
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        points = [fox.Point2(x=float(each), y=float(other)) for each, other in corners]
        frames.append(
            fox.PointsAnnotation(
                timestamp=stamp, type=fox.PointsAnnotationType.LineLoop, points=points,
                outline_color=colour, thickness=THICKNESS_PX,
            )
        )  # fmt: skip
        labels.append(
            fox.TextAnnotation(
                timestamp=stamp, position=points[0], text=f"{number}", font_size=FONT_PX,
                text_color=WHITE, background_color=colour,
            )
        )  # fmt: skip
    return fox.ImageAnnotations(timestamp=stamp, points=frames, texts=labels)
