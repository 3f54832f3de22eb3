"""A controller of two joints as a graph in virtual time: what a driver sees of a robot."""

import math

import numpy as np

from firmware_bridge.ros_joints import STATE, Joint, RosJoints
from ros2_link.errors import GraphError
from ros2_link.messages import decode, encode, message_class

COMMANDS, STATES = "/pan_tilt/joint_trajectory", "/joint_states"
STATE_EVERY_S = 0.02
NAMES = ["pan_joint", "tilt_joint"]


class Robot:
    """Goes straight and evenly to where the newest trajectory, or position, sends it."""

    def __init__(self):
        self.now_s = 0.0
        self.is_there = True  # else it is switched off
        self.listens = True
        self.received = []
        self._way = (0.0, 0.0, np.zeros(2), np.zeros(2))  # from when to when, from where to where

    def at(self, t_s):
        begin_s, end_s, start, goal = self._way
        part = 1.0 if t_s >= end_s else (t_s - begin_s) / (end_s - begin_s)
        return start + part * (goal - start)

    def obey(self, cdr, type_name):
        message = decode(cdr, type_name)
        self.received.append(message)
        if type_name.endswith("JointTrajectory"):
            assert message.joint_names == NAMES and len(message.points) == 1
            point = message.points[0]
            lasts_s = point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec
            goal = point.positions
        else:
            goal, lasts_s = message.data, 0.0
            lasts_s = float(np.abs(goal - self.at(self.now_s)).max())  # at 1 rad/s
        here = self.at(self.now_s)
        self._way = (self.now_s, self.now_s + lasts_s, here, np.array(goal))

    def state(self, t_s):
        none = np.empty(0)
        stamp = message_class("builtin_interfaces/msg/Time")(0, 0)  # not set: arrival counts
        top = message_class("std_msgs/msg/Header")(stamp, "")
        return message_class(STATE)(top, NAMES, self.at(t_s), none, none)


class Graph:
    """A Link to a Robot; time passes while it spins, and when a test lets it."""

    def __init__(self, robot):
        self._robot = robot
        self._told_s = robot.now_s
        self._closed = False

    def subscribe(self, topic, type_name, qos, on_message):
        assert (topic, type_name) == (STATES, STATE)
        self._on_message = on_message

    def advertise(self, topic, type_name, qos):
        def publish(cdr):
            if self._closed:
                raise GraphError("closed")
            if self._robot.is_there and self._robot.listens:
                self._robot.obey(cdr, type_name)

        return publish

    def listeners(self, topic):
        return int(self._robot.is_there and self._robot.listens)

    def spin(self, timeout_s):
        self._robot.now_s += timeout_s
        if self._robot.is_there and self._robot.now_s - self._told_s >= STATE_EVERY_S:
            self._told_s = self._robot.now_s
            self._on_message(encode(self._robot.state(self._told_s), STATE))

    def drain_events(self):
        return []

    def close(self):
        self._closed = True


def driver_before(robot, commands=COMMANDS, **options):
    """A driver of the robot, in virtual time."""
    joints = tuple(Joint(name, 1.0) for name in NAMES)
    return RosJoints(
        commands, joints, STATES, ((-1.5, 1.5), (-1.0, 1.0)),
        open_graph=lambda: Graph(robot), clock=lambda: robot.now_s, **options,
    )  # fmt: skip


def let_pass(robot, seconds):
    assert math.isfinite(seconds)
    robot.now_s += seconds
