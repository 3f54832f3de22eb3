"""What messages of ROS mean here: pictures, times, lenses and head angles, checked.

Messages come as `ros2_link.messages.decode` made them, from a bag (bags/) or from a robot that
runs (ros2.py). Whatever is wrong with one is a BadMessage; a source skips it and counts it with
`Skipped`.

Frames. ROS has x ahead, y to the left and z up, and angles turn by the right hand (REP 103): a head
that pans about z and tilts about y turns left and down with positive angles. Here pan is positive
to the right and tilt positive up, so both change their sign. Frames named ..._optical_frame look
along z with x to the right and y down, as cameras do here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import cv2
import numpy as np

from calibration.errors import CalibrationError
from calibration.model import CameraModel
from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Camera, Lens
from edge_rjepa.sources.decode import MOST_PIXELS, decode
from edge_rjepa.sources.images import LEAST_PX

Pair = tuple[float, float]

PICTURE_TYPES = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, JOINTS = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/JointState"
TF = "tf2_msgs/msg/TFMessage"

MOST_NANOSECONDS = 1_000_000_000
MOST_TF_FRAMES = 4096  # of a robot; whoever sends more names is no robot
WORST_FIT_PX = (
    1.0  # by which a lens that is none of ours may differ from the one that stands for it
)
FIT_POINTS = 256


class BadMessage(SourceError):  # noqa: N818 - a message is bad, and reading goes on
    """A message that cannot be used.

    kind: the reason in a few words, the same for all messages that it is the reason for.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind = kind


class Skipped:
    """How many messages of a source were skipped, by the reason; the first of each is told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._events: list[str] = []

    def add(self, topic: str, why: BadMessage) -> None:
        """A message on this topic was skipped."""
        self.counts[why.kind] += 1
        if self.counts[why.kind] == 1:
            self._events.append(f"{topic}: a message is skipped: {why}; more like it are counted")

    def drain_events(self) -> list[str]:
        """The reasons that are new since the last call, in words."""
        events, self._events = self._events, []
        return events


# -- names of sources -----------------------------------------------------------------------------


class HeadTopic(NamedTuple):
    """Where head angles come from: two joints of joint states, or two frames of tf."""

    topic: str
    names: tuple[str, str]  # of pan and tilt joint, or of the base and the camera


class Topics(NamedTuple):
    """What of a bag or of a robot a source's name asks for."""

    pictures: str  # "" where the name says none
    info: str | None = None  # of sensor_msgs/CameraInfo
    joints: HeadTopic | None = None  # of sensor_msgs/JointState
    tf: HeadTopic | None = None  # of tf2_msgs/TFMessage
    more: dict[str, str] = {}  # noqa: RUF012 - what only this kind of source knows


def topics_of(text: str, more: Collection[str] = ()) -> Topics:
    """The topics that are named: `/image?info=/camera_info&joints=/joint_states:pan,tilt`.

    joints: the topic, and after a colon the joints that pan and tilt; one may be left empty, and a
    minus before a name is for a joint that turns the other way round. `tf=/tf:base,camera` takes
    the angles at which the frame `camera` looks, seen from the frame `base`.
    more: names of what else may be asked for. Raises SourceError for what is not understood.
    """
    pictures, _, query = text.partition("?")
    asked: dict[str, str] = {}
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name not in {"info", "joints", "tf", *more} or name in asked:
            known = ", ".join(["info", "joints", "tf", *more])
            raise SourceError(f"{text}: {name!r} is unknown or named twice; use {known}")
        asked[name] = value
    if "joints" in asked and "tf" in asked:
        raise SourceError(f"{text}: head angles come from joints or from tf: leave one out")
    joints = _head_topic(text, "joints", "PAN,TILT", asked)
    tf = _head_topic(text, "tf", "BASE,CAMERA", asked)
    if joints and not any(joints.names):
        raise SourceError(f"{text}: joints=TOPIC:PAN,TILT needs the name of a joint")
    if tf and not all(tf.names):
        raise SourceError(f"{text}: tf=TOPIC:BASE,CAMERA needs the names of both frames")
    rest = {name: value for name, value in asked.items() if name in more}
    return Topics(pictures, asked.get("info"), joints, tf, rest)


def info_beside(pictures: str) -> str:
    """The topic that tells the lens of these pictures, by ROS's rules of naming."""
    raw = pictures.removesuffix("/compressed")
    return f"{raw.rpartition('/')[0]}/camera_info"


def _head_topic(text: str, name: str, form: str, asked: dict[str, str]) -> HeadTopic | None:
    if name not in asked:
        return None
    topic, _, names = asked[name].partition(":")
    parts = names.split(",")
    if not topic or len(parts) > 2:
        raise SourceError(
            f"{text}: {name}={asked[name]} is not understood; use {name}=TOPIC:{form}"
        )
    return HeadTopic(topic, (parts[0].strip(), parts[1].strip() if len(parts) == 2 else ""))


# -- times ----------------------------------------------------------------------------------------


def stamp_s_of(header: Any) -> float | None:
    """The header's time in seconds; None where it was not set, is negative or is no time."""
    sec, nanosec = header.stamp.sec, header.stamp.nanosec
    if sec < 0 or nanosec >= MOST_NANOSECONDS or sec == nanosec == 0:
        return None
    return float(sec + 1e-9 * nanosec)


# -- pictures -------------------------------------------------------------------------------------


class Encoding(NamedTuple):
    """How the pixels of sensor_msgs/Image are stored."""

    bytes: int  # of a pixel
    to_bgr: int | None  # OpenCV's conversion


# OpenCV names a Bayer pattern by the second and third pixel of the second row.
ENCODINGS = {
    "bgr8": Encoding(3, None),
    "8UC3": Encoding(3, None),
    "rgb8": Encoding(3, cv2.COLOR_RGB2BGR),
    "bgra8": Encoding(4, cv2.COLOR_BGRA2BGR),
    "rgba8": Encoding(4, cv2.COLOR_RGBA2BGR),
    "mono8": Encoding(1, cv2.COLOR_GRAY2BGR),
    "8UC1": Encoding(1, cv2.COLOR_GRAY2BGR),
    "mono16": Encoding(2, cv2.COLOR_GRAY2BGR),  # the upper byte is kept
    "yuyv": Encoding(2, cv2.COLOR_YUV2BGR_YUY2),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2BGR_YUY2),
    "uyvy": Encoding(2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422": Encoding(2, cv2.COLOR_YUV2BGR_UYVY),
    "bayer_rggb8": Encoding(1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": Encoding(1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": Encoding(1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": Encoding(1, cv2.COLOR_BayerGB2BGR),
}


def picture_of(message: Any) -> np.ndarray:
    """The picture (H, W, 3) uint8 BGR of a sensor_msgs Image or CompressedImage, a copy.

    Raises BadMessage.
    """
    if hasattr(message, "encoding"):
        return _raw_picture(message)
    if hasattr(message, "format"):
        return _compressed_picture(message)
    raise BadMessage("not a picture", type(message).__name__)


def _raw_picture(message: Any) -> np.ndarray:
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise BadMessage("encoding that is not read here", f"{message.encoding!r:.40}")
    width, height, step = message.width, message.height, message.step
    _check_size(width, height)
    row_bytes = width * encoding.bytes
    if step < row_bytes:
        raise BadMessage("step too short", f"{step} bytes for {width} px of {message.encoding}")
    if len(message.data) != step * height:
        expected = f"{len(message.data):,} bytes for {height} rows of {step:,}"
        raise BadMessage("data of the wrong size", expected)
    if width % 2 and encoding.to_bgr in {cv2.COLOR_YUV2BGR_YUY2, cv2.COLOR_YUV2BGR_UYVY}:
        raise BadMessage("odd width", f"{width} px of {message.encoding}, which has them in pairs")
    rows = np.asarray(message.data).reshape(height, step)[:, :row_bytes]
    pixels = rows.reshape(height, width, encoding.bytes)
    if message.encoding == "mono16":
        pixels = np.ascontiguousarray(pixels[..., 0 if message.is_bigendian else 1])
    return pixels.copy() if encoding.to_bgr is None else cv2.cvtColor(pixels, encoding.to_bgr)


def _compressed_picture(message: Any) -> np.ndarray:
    if "compressedDepth" in message.format:
        raise BadMessage("encoding that is not read here", f"{message.format!r:.40}")
    image = decode(bytes(message.data))
    if image is None:
        size = f"{len(message.data):,} bytes"
        raise BadMessage("no whole picture", f"{size} of {message.format!r:.40}")
    _check_size(image.shape[1], image.shape[0])
    return image


def _check_size(width: int, height: int) -> None:
    """Raises BadMessage for a picture too large, or too small to decide the size of all others."""
    if width * height > MOST_PIXELS:
        raise BadMessage("too many pixels", f"{width} x {height}")
    if min(width, height) < LEAST_PX:
        raise BadMessage("too few pixels", f"{width} x {height}")


# -- lenses ---------------------------------------------------------------------------------------


def lens_of(info: Any, rectified: bool = False) -> Lens | None:
    """The lens that a sensor_msgs/CameraInfo tells; None where the camera is not calibrated.

    rectified: whether its pictures are those of an image_rect topic, which have no distortion.
    The lens takes pictures of every size of the same shape, and raises CalibrationError for others.
    plumb_bob and equidistant lenses are as they are; of rational_polynomial the nearest plumb_bob
    is taken. Raises BadMessage for any other lens and for values that make none.
    """
    matrix = np.asarray(info.p if rectified else info.k, dtype=np.float64)
    width = matrix.size // 3
    focal_x, centre_x, focal_y, centre_y = matrix[[0, 2, width + 1, width + 2]].tolist()
    if focal_x == 0.0:
        return None
    place = focal_x, focal_y, centre_x, centre_y
    try:
        kind, distortion = ("pinhole", [0.0] * 5) if rectified else _distortion(info, place)
        whole = CameraModel.of_parameters(kind, (info.width, info.height), (*place, *distortion))
        camera = _as_sent(whole, info)
    except CalibrationError as error:
        raise BadMessage("camera_info of no lens", str(error)) from error
    if not camera.covers_picture:
        raise BadMessage("camera_info of no lens", "it does not reach the corners of the picture")
    return _lens(camera)


def is_rectified(topic: str) -> bool:
    """Whether pictures of this topic have no distortion, by the names that image_proc gives."""
    return any(part.startswith("image_rect") for part in topic.split("/"))


def _lens(camera: CameraModel) -> Lens:
    def of_size(width_px: int, height_px: int) -> Camera:
        return camera.resized(width_px, height_px)

    return of_size


def _as_sent(camera: CameraModel, info: Any) -> CameraModel:
    """The camera of the pictures sent: of a part of the sensor, pixels put together."""
    part = info.roi
    if part.width and part.height:
        camera = camera.cropped(part.x_offset, part.y_offset, part.width, part.height)
    across, down = max(1, info.binning_x), max(1, info.binning_y)
    if across == down == 1:
        return camera
    return camera.resized(camera.width_px // across, camera.height_px // down)


def _distortion(info: Any, place: tuple[float, ...]) -> tuple[str, list[float]]:
    """The kind of lens and its distortion, as calibration/model.py has them."""
    given = np.asarray(info.d, dtype=np.float64).tolist()
    if info.distortion_model in {"equidistant", "fisheye"} and len(given) == 4:
        return "fisheye", given
    if info.distortion_model in {"plumb_bob", ""} and len(given) <= 5:
        return "pinhole", given + [0.0] * (5 - len(given))
    if info.distortion_model == "rational_polynomial" and 8 <= len(given) <= 14:
        if any(given[8:]):
            raise BadMessage("camera_info of no lens", "a thin prism or a tilted sensor")
        return "pinhole", _without_divisor(given, info, place)
    raise BadMessage(
        "camera_info of no lens", f"{info.distortion_model!r:.40} with {len(given)} coefficients"
    )


def _without_divisor(given: list[float], info: Any, place: tuple[float, ...]) -> list[float]:
    """Distortion (k1 k2 p1 p2 k3) nearest to that with a divisor (1 + k4 r^2 + k5 r^4 + k6 r^6).

    OpenCV's rational model; least squares over the picture, where both may differ by WORST_FIT_PX.
    """
    k1, k2, p1, p2, k3, k4, k5, k6 = given[:8]
    if not any((k4, k5, k6)):
        return [k1, k2, p1, p2, k3]
    focal_x, focal_y, centre_x, centre_y = place
    # As far as the corners, were there no distortion; a little more, as it may pull them in.
    corner = math.hypot(
        max(centre_x, info.width - centre_x) / focal_x,
        max(centre_y, info.height - centre_y) / focal_y,
    )
    r = np.linspace(0.0, 1.0, FIT_POINTS) * corner * 1.1
    r2 = r * r
    with np.errstate(all="ignore"):
        ratio = (1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1.0 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    powers = np.stack([r * r2, r * r2**2, r * r2**3], axis=1)
    if not np.isfinite(ratio).all():
        raise BadMessage("camera_info of no lens", "a divisor of zero")
    fitted, *_ = np.linalg.lstsq(powers, r * (ratio - 1.0), rcond=None)
    seen = r * ratio <= corner
    off_px = np.abs(powers @ fitted - r * (ratio - 1.0))[seen].max() * max(focal_x, focal_y)
    if not off_px <= WORST_FIT_PX:
        raise BadMessage("camera_info of no lens", f"{off_px:.1f} px from the nearest known here")
    return [float(fitted[0]), float(fitted[1]), p1, p2, float(fitted[2])]


# -- head angles ----------------------------------------------------------------------------------


def angles_of(joint_state: Any, names: tuple[str, str]) -> Pair | None:
    """(pan_rad, tilt_rad) of a sensor_msgs/JointState; None if it is about other joints.

    names: of the joints that pan and tilt, as HeadTopic has them. Pan is about z and tilt about y,
    as REP 103 has them; a minus before a name turns that round. Raises BadMessage.
    """
    if len(joint_state.name) != len(joint_state.position):
        raise BadMessage("joints without positions")
    positions = dict(zip(joint_state.name, joint_state.position, strict=True))
    angles_rad = []
    for name in names:
        joint = name.removeprefix("-")
        if joint and joint not in positions:
            return None
        value = float(positions[joint]) if joint else 0.0
        if not math.isfinite(value):
            raise BadMessage("joint angle that is no number", f"{joint} at {value}")
        angles_rad.append(wrapped(value if name.startswith("-") else -value))
    return angles_rad[0], angles_rad[1]


def wrapped(angle_rad: float) -> float:
    """The same angle from -pi to pi."""
    return math.remainder(angle_rad, 2.0 * math.pi)


class TfFrames:
    """The newest rotations of tf, and where from a base a camera looks."""

    def __init__(self, base: str, camera: str) -> None:
        self._base, self._camera = _frame(base), _frame(camera)
        self._ahead = np.array([0.0, 0.0, 1.0] if _is_optical(camera) else [1.0, 0.0, 0.0])
        self._parents: dict[str, tuple[str, np.ndarray]] = {}

    def add(self, message: Any) -> float | None:
        """Take a tf2_msgs/TFMessage; the time of what it tells of the way from base to camera.

        None if it tells nothing of that way. Raises BadMessage.
        """
        told: dict[str, float] = {}
        for each in message.transforms:
            child = _frame(each.child_frame_id)
            if len(self._parents) >= MOST_TF_FRAMES and child not in self._parents:
                raise BadMessage("too many frames of tf")
            turned = _rotation(each.transform.rotation)
            self._parents[child] = _frame(each.header.frame_id), turned
            told[child] = stamp_s_of(each.header) or 0.0
        on_way = [told[child] for child in self._way() or [] if child in told]
        return max(on_way) if on_way else None

    def angles_rad(self) -> Pair | None:
        """(pan_rad, tilt_rad) at which the camera looks; None while the way to it is not known."""
        way = self._way()
        if way is None:
            return None
        ahead = self._ahead
        for child in way:
            ahead = self._parents[child][1] @ ahead
        x, y, z = ahead.tolist()
        return -math.atan2(y, x), math.atan2(z, math.hypot(x, y))

    def _way(self) -> list[str] | None:
        """The frames from the camera up to below the base."""
        way: list[str] = []
        at = self._camera
        while at != self._base:
            if at not in self._parents or len(way) > len(self._parents):
                return None
            way.append(at)
            at = self._parents[at][0]
        return way


def _frame(name: str) -> str:
    return name.strip().removeprefix("/")  # as the first tf had them


def _is_optical(name: str) -> bool:
    return name.endswith(("_optical_frame", "_optical"))


def _rotation(quaternion: Any) -> np.ndarray:
    """Rotation (3, 3) from child to parent."""
    q = np.array([quaternion.x, quaternion.y, quaternion.z, quaternion.w], dtype=np.float64)
    length = float(np.linalg.norm(q))
    if not (math.isfinite(length) and length > 1e-6):
        raise BadMessage("rotation that is none", f"{q.tolist()}")
    x, y, z, w = (q / length).tolist()
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
            [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
            [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )
