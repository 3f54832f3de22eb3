"""A node of a robot, as a program of its own: a camera, joints, a controller, or a listener.

    python peer.py rclpy|cyclonedds camera|compressed|joints|controller|listen|say TOPIC [flags]

By rclpy it is ROS's own code with ROS's own classes of messages, and imports nothing of this
project. By cyclonedds it stands on ros2_link, as the only thing to be had without a ROS.
It prints lines of JSON, and goes on until it is killed.
"""

import argparse
import array
import json
import math
import time
from importlib import import_module

import numpy as np

MOST_SHOWN = 40  # items of a list


class ByRclpy:
    """ROS 2's own."""

    def __init__(self, name):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        rclpy.init()
        self._node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def message(self, type_name, **fields):
        package, _, name = type_name.partition("/msg/")
        made = getattr(import_module(f"{package}.msg"), name)()
        for field, value in fields.items():
            if isinstance(value, np.ndarray) and value.dtype == np.uint8:
                value = array.array("B", value.tobytes())
            elif isinstance(value, np.ndarray):
                value = value.tolist()
            setattr(made, field, value)
        return made

    def publisher(self, topic, type_name, options):
        kind = type(self.message(type_name))
        return self._node.create_publisher(kind, topic, self._qos(options)).publish

    def listen(self, topic, type_name, options, on_message):
        kind = type(self.message(type_name))
        self._node.create_subscription(kind, topic, on_message, self._qos(options))

    def spin(self, timeout_s):
        self._executor.spin_once(timeout_s)

    def _qos(self, options):
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

        reliability = ReliabilityPolicy.BEST_EFFORT
        durability = DurabilityPolicy.VOLATILE
        if not options.best_effort:
            reliability = ReliabilityPolicy.RELIABLE
        if options.latched:
            durability = DurabilityPolicy.TRANSIENT_LOCAL
        return QoSProfile(depth=options.depth, reliability=reliability, durability=durability)


class ByCyclone:
    """Ours, on Cyclone DDS."""

    def __init__(self, name):
        from ros2_link import messages
        from ros2_link.link import open_link

        self._link = open_link(name)
        self._messages = messages

    def message(self, type_name, **fields):
        return self._messages.message_class(type_name)(**fields)

    def publisher(self, topic, type_name, options):
        publish = self._link.advertise(topic, type_name, self._qos(options))
        return lambda message: publish(self._messages.encode(message, type_name))

    def listen(self, topic, type_name, options, on_message):
        self._link.subscribe(
            topic, type_name, self._qos(options),
            lambda cdr: on_message(self._messages.decode(cdr, type_name)),
        )  # fmt: skip

    def spin(self, timeout_s):
        self._link.spin(timeout_s)

    def _qos(self, options):
        from ros2_link.link import Qos

        return Qos(not options.best_effort, options.depth, options.latched)


def header(peer, stamp_s, frame="camera_optical_frame"):
    sec = int(stamp_s)
    stamp = peer.message("builtin_interfaces/msg/Time", sec=sec, nanosec=int(1e9 * (stamp_s - sec)))
    return peer.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def on_time(peer, rate_hz):
    """The numbers from 0, one a tick; whatever comes meanwhile is handed out."""
    started_s, number = time.monotonic(), 0
    while True:
        yield number
        number += 1
        while (left_s := started_s + number / rate_hz - time.monotonic()) > 0.0:
            peer.spin(left_s)


def camera(peer, options):
    """Pictures of a texture that moves; the camera's lens beside them."""
    type_name = "sensor_msgs/msg/Image"
    publish = peer.publisher(options.topic, type_name, options)
    tell_lens = peer.publisher(
        options.topic + "/camera_info", "sensor_msgs/msg/CameraInfo", options
    )
    width, height = (int(each) for each in options.size.split("x"))
    texture = np.random.default_rng(0).integers(30, 220, (height // 8 + 1, width // 8 + 65, 3))
    texture = np.kron(texture.astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    for number in on_time(peer, options.rate):
        at = number % 512
        pixels = np.ascontiguousarray(texture[:height, at : at + width])
        stamp_s = time.time() + options.ahead
        top = header(peer, stamp_s)
        encoding = options.encoding
        publish(
            peer.message(
                type_name, header=top, height=height, width=width, encoding=encoding,
                is_bigendian=0, step=3 * width, data=pixels.ravel(),
            )
        )  # fmt: skip
        tell_lens(camera_info(peer, top, width, height))
        if number % max(1, round(options.rate)) == 0:
            print(json.dumps({"pictures": number + 1}), flush=True)


def camera_info(peer, top, width, height):
    focal, centre_x, centre_y = float(width), 0.5 * (width - 1), 0.5 * (height - 1)
    k = [focal, 0.0, centre_x, 0.0, focal, centre_y, 0.0, 0.0, 1.0]
    p = [focal, 0.0, centre_x, 0.0, 0.0, focal, centre_y, 0.0, 0.0, 0.0, 1.0, 0.0]
    roi = peer.message(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
    )  # fmt: skip
    return peer.message(
        "sensor_msgs/msg/CameraInfo", header=top, height=height, width=width,
        distortion_model="plumb_bob", d=np.zeros(5), k=np.array(k), r=np.eye(3).ravel(),
        p=np.array(p), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def joint_states(peer, stamp_s, names, positions, velocities):
    return peer.message(
        "sensor_msgs/msg/JointState", header=header(peer, stamp_s, ""), name=names,
        position=np.array(positions), velocity=np.array(velocities), effort=np.empty(0),
    )  # fmt: skip


def joints(peer, options):
    """Joints that swing: the first to 0.5 rad, the second half as far."""
    publish = peer.publisher(options.topic, "sensor_msgs/msg/JointState", options)
    for _ in on_time(peer, options.rate):
        stamp_s = time.time()
        swing = 0.5 * math.sin(stamp_s)
        publish(
            joint_states(peer, stamp_s, options.joints.split(","), [swing, 0.5 * swing], [0.0, 0.0])
        )


def controller(peer, options):
    """Turns two joints to where trajectories on the topic send them, and tells joint states."""
    names = options.joints.split(",")
    goal, here = np.zeros(2), np.zeros(2)

    def obey(message):
        nonlocal goal
        if options.positions:
            goal = np.array(message.data, float)
        else:
            assert list(message.joint_names) == names
            goal = np.array(message.points[-1].positions, float)
        print(json.dumps({"goal": goal.tolist()}), flush=True)

    commands = "std_msgs/msg/Float64MultiArray" if options.positions else TRAJECTORY
    peer.listen(options.topic, commands, options, obey)
    publish = peer.publisher(options.states, "sensor_msgs/msg/JointState", options)
    for _ in on_time(peer, options.rate):
        step = np.clip(goal - here, -options.speed / options.rate, options.speed / options.rate)
        here = here + step
        publish(joint_states(peer, time.time(), names, here, step * options.rate))


def say(peer, options):
    """A count, as floats."""
    publish = peer.publisher(options.topic, "std_msgs/msg/Float32", options)
    for number in on_time(peer, options.rate):
        if options.count and number == options.count:
            break
        publish(peer.message("std_msgs/msg/Float32", data=float(number)))
    while True:
        peer.spin(0.1)


def listen(peer, options):
    """Prints what comes."""

    def show(message):
        print(json.dumps(plain(message)), flush=True)

    peer.listen(options.topic, options.type, options, show)
    while True:
        peer.spin(1.0)


def plain(value):
    """A message as values of JSON."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if hasattr(value, "__dataclass_fields__"):
        names = [name for name in value.__dataclass_fields__ if not name.startswith("__")]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, bytes):  # how ROS has one byte
        return value[0]
    if isinstance(value, (list, tuple, array.array, np.ndarray)):
        return [plain(each) for each in list(value)[:MOST_SHOWN]]
    return value.item() if isinstance(value, np.generic) else value


TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
WORK = {each.__name__: each for each in (camera, joints, controller, say, listen)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("by", choices=("rclpy", "cyclonedds"))
    parser.add_argument("work", choices=WORK)
    parser.add_argument("topic")
    parser.add_argument("--type", help="of what listen listens to")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--size", default="160x120")
    parser.add_argument("--encoding", default="bgr8")
    parser.add_argument("--ahead", type=float, default=0.0, help="of its clock, in seconds")
    parser.add_argument("--joints", default="pan_joint,tilt_joint")
    parser.add_argument("--states", default="/joint_states")
    parser.add_argument("--speed", type=float, default=1.0, help="of its joints in rad/s")
    parser.add_argument("--positions", action="store_true", help="commands are Float64MultiArray")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--best-effort", action="store_true")
    parser.add_argument("--latched", action="store_true")
    parser.add_argument("--depth", type=int, default=10)
    options = parser.parse_args()
    peer = ByRclpy("peer") if options.by == "rclpy" else ByCyclone("peer")
    print(json.dumps({"ready": True}), flush=True)
    WORK[options.work](peer, options)


main()
