"""Messages of ROS made for tests."""

import numpy as np

from ros2_link.messages import message_class

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO, JOINT_STATE = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/JointState"
TF = "tf2_msgs/msg/TFMessage"


def header(stamp_s=0.0, frame="camera"):
    sec = int(stamp_s)
    stamp = message_class("builtin_interfaces/msg/Time")(sec, round(1e9 * (stamp_s - sec)))
    return message_class("std_msgs/msg/Header")(stamp, frame)


def image(pixels, encoding="bgr8", stamp_s=0.0, big_endian=0, step=None, padding=0):
    """pixels: (H, W, ..) uint8; padding: bytes at the end of each row."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    step = rows.shape[1] if step is None else step
    return message_class(IMAGE)(
        header(stamp_s), height, width, encoding, big_endian, step, rows.ravel()
    )


def compressed(content, form="jpeg", stamp_s=0.0):
    data = np.frombuffer(content, np.uint8)
    return message_class(COMPRESSED)(header(stamp_s), form, data)


def camera_info(
    width, height, model="plumb_bob", distortion=(0.0,) * 5, focal=None, centre=None, p=None,
    binning=(0, 0), roi=(0, 0, 0, 0),
):  # fmt: skip
    """roi: x_offset, y_offset, height, width, as the message has them."""
    fx, fy = focal or (0.9 * width, 0.9 * width)
    cx, cy = centre or (0.5 * (width - 1), 0.5 * (height - 1))
    k = np.array([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0])
    p = np.array(p or [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0])
    return message_class(CAMERA_INFO)(
        header(), height, width, model, np.array(distortion, np.float64), k, np.eye(3).ravel(), p,
        *binning, message_class("sensor_msgs/msg/RegionOfInterest")(*roi, False),
    )  # fmt: skip


def joint_state(positions, stamp_s=0.0):
    values = np.array(list(positions.values()), np.float64)
    none = np.empty(0)
    return message_class(JOINT_STATE)(header(stamp_s), list(positions), values, none, none)


def transforms(of, stamp_s=0.0):
    """of: (parent, child, quaternion x y z w) each."""
    vector = message_class("geometry_msgs/msg/Vector3")(1.0, 2.0, 3.0)
    return message_class(TF)(
        [
            message_class("geometry_msgs/msg/TransformStamped")(
                header(stamp_s, parent),
                child,
                message_class("geometry_msgs/msg/Transform")(
                    vector, message_class("geometry_msgs/msg/Quaternion")(*quaternion)
                ),
            )
            for parent, child, quaternion in of
        ]
    )
