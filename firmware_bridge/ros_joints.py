"""A head of two joints of a robot that runs ROS 2: commanded by a topic, and seen by joint states.

Positions are radians as ROS has them (REP 103): of joints about z and y, which turn left and down
with positive angles. So the usual axis has the opposite sign: here pan is positive to the right,
tilt positive up. A minus before a joint's name is for one that turns the other way round.

What takes the commands is a controller of ros2_control, say: of JointTrajectory messages, or, where
the topic's name ends with /commands, of positions (Float64MultiArray, pan and tilt). Opening and
asking publishes nothing. A head that is let go (Relax) is told to stop; ROS knows no torque off.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from firmware_bridge.aim import Axis, Limits, Pair
from firmware_bridge.driver import Command, Hold, Home, Identity, Move, Relax, Report
from firmware_bridge.errors import HeadError, LinkError
from ros2_link.clock import on_our_clock
from ros2_link.errors import MessageError, MissingError, Ros2Error
from ros2_link.link import STATES, USUAL, Link, Publish, domain_id, full_name, open_link
from ros2_link.messages import decode, encode, message_class

TRAJECTORY, POINT = (
    "trajectory_msgs/msg/JointTrajectory",
    "trajectory_msgs/msg/JointTrajectoryPoint",
)
POSITIONS, LAYOUT = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/MultiArrayLayout"
STATE = "sensor_msgs/msg/JointState"

GREET_S = 0.4  # for a controller and joint states to be found, at each try
SILENT_S = 1.0  # without joint states the robot is lost
STEP_RAD = 0.001  # the smallest difference that is worth a command
STILL_RAD_PER_S = 0.02  # sensors of joints flicker
SPEED_OVER_S = 0.05  # shorter differences say nothing of a speed
SOONEST_S = 0.1  # that a controller is given for a way
TRIES, AGAIN_S = 5, 0.5  # of a command that the joints do not follow
FOLLOWED_RAD = 5 * STEP_RAD  # so far from where they were, or this near to the goal
HOME_PART = 0.5  # of the speed, on the way home

Open = Callable[[], Link]


class Joint(NamedTuple):
    """A joint by its name, and whether it turns the other way round."""

    name: str
    sign: float


class Seen(NamedTuple):
    """Where the joints were, (pan, tilt), and when, on the driver's clock."""

    t_s: float
    at: Pair


class Sent(NamedTuple):
    """The command published last."""

    cdr: bytes
    start: Pair  # where the joints were
    lasts_s: float
    tries: int
    again_s: float  # when it is published again, if they are still there


class RosJoints:
    """Driver of two joints of a robot. Positions in rad, speeds in rad/s, as REP 103 has them.

    commands: the topic; states: that of sensor_msgs/JointState. joints: of pan and of tilt.
    limits: (low, high) of pan and of tilt. speed: the most of either axis.
    open_graph: joins the graph of ROS 2. clock: seconds; of Report.t_s, too.
    Raises HeadError.
    """

    def __init__(
        self,
        commands: str,
        joints: tuple[Joint, Joint],
        states: str = "/joint_states",
        limits: Limits = ((-1.5, 1.5), (-1.0, 1.0)),
        speed: float = 1.0,
        open_graph: Open = lambda: open_link("edge_rjepa_head"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._commands, self._states = full_name(commands), full_name(states)
        except Ros2Error as error:
            raise HeadError(str(error)) from error
        if joints[0].name == joints[1].name:
            raise HeadError(f"pan and tilt are two joints, not {joints[0].name} twice")
        if not all(-math.inf < low < high < math.inf for low, high in limits):
            raise HeadError(f"limits are two numbers, the lower first, not {limits}")
        if not 0.0 < speed < math.inf:
            raise HeadError(f"speed is a number above 0, not {speed}")
        self._joints, self._limits, self._speed = joints, limits, speed
        self._home = self._clipped((0.0, 0.0))
        self._open_graph, self._clock = open_graph, clock
        self._link: Link | None = None
        self._publish: Publish
        self._faults = {"silent": 0, "damaged": 0}
        self._seen: deque[Seen] = deque(maxlen=64)
        self._goal: Pair | None = None  # None: nothing was commanded
        self._arrives_s = -math.inf  # when it should be there
        self._let_go = False
        self._sent: Sent | None = None  # None: the joints followed
        self._events: list[str] = []
        self._misfits: list[str] = []  # who is at the other ends, and does not fit

    @staticmethod
    def named(commands: str | None, options: Mapping[str, Any]) -> RosJoints:
        """The joints that a head's name asks for. Raises HeadError.

        options: joints (of pan and tilt, with a minus before one that turns the other way round),
        states, pan_deg and tilt_deg ("low,high", to the right and up), deg_per_s, domain.
        """
        if commands is None:
            raise HeadError("ros2: needs the topic of a controller: ros2:/NAME/joint_trajectory")
        names = options["joints"].split(",")
        if len(names) != 2 or not all(name.removeprefix("-") for name in names):
            raise HeadError(f"joints={options['joints']}: name the joint that pans, and that tilts")
        pan, tilt = (
            Joint(name.removeprefix("-"), -1.0 if name[0] == "-" else 1.0) for name in names
        )
        try:
            domain = domain_id(options["domain"] or None)
        except Ros2Error as error:
            raise HeadError(str(error)) from error
        return RosJoints(
            commands,
            (pan, tilt),
            options["states"],
            (_limits_of("pan_deg", options), _limits_of("tilt_deg", options)),
            math.radians(options["deg_per_s"]),
            lambda: open_link("edge_rjepa_head", domain=domain),
        )

    def open(self) -> Identity:
        """Join the graph and find controller and joints; see Driver.open.

        Raises LinkError while one is missing, HeadError where there is no ROS 2 to be had.
        """
        try:
            if self._link is None:
                self._forget()
                self._join()
            self._greet()
        except MissingError as error:
            raise HeadError(str(error)) from error
        except Ros2Error as error:
            self.close()
            raise LinkError(str(error)) from error
        return Identity(
            name=f"joints {self._joints[0].name} and {self._joints[1].name}",
            port=self._commands,
            unit="rad",
            usual=Axis(zero=0.0, per_rad=-1.0),
            step=STEP_RAD,
            limits=self._limits,
            home=self._home,
            speed=(self._speed, self._speed),
            home_speed=(HOME_PART * self._speed, HOME_PART * self._speed),
            home_after_s=None,
        )

    def request(self, command: Command) -> Report:
        """Publish the command; what joint states say. See Driver.request."""
        if self._link is None:
            raise LinkError(f"{self._commands} is not open")
        try:
            self._listen()
            clipped = self._obey(command)
        except Ros2Error as error:
            self.close()
            raise LinkError(str(error)) from error
        return self._report(clipped)

    def close(self) -> None:
        """Leave the graph."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    # -- the graph --------------------------------------------------------------------------------

    def _join(self) -> None:
        link = self._open_graph()
        try:
            link.subscribe(self._states, STATE, STATES, self._take)
            kind = POSITIONS if self._takes_positions else TRAJECTORY
            self._publish = link.advertise(self._commands, kind, USUAL)
        except BaseException:
            link.close()
            raise
        self._link, self._misfits = link, []

    def _greet(self) -> None:
        """Wait for both. Raises LinkError."""
        assert self._link is not None
        until_s = self._clock() + GREET_S
        while not (self._is_heard() and self._link.listeners(self._commands)):
            if self._clock() > until_s:
                raise LinkError(self._what_is_missing())
            self._link.spin(0.02)

    def _is_heard(self) -> bool:
        return bool(self._seen) and self._clock() - self._seen[-1].t_s < SILENT_S

    def _what_is_missing(self) -> str:
        assert self._link is not None
        self._misfits += self._link.drain_events()
        if self._misfits:
            return "; ".join(self._misfits)
        if not self._is_heard():
            names = " and ".join(joint.name for joint in self._joints)
            return (
                f"{self._states} tells nothing of {names}: is the robot running, and which joints?"
            )
        return f"nobody listens to {self._commands}: is the controller active?"

    def _listen(self) -> None:
        """Take in what has come. Raises LinkError when that is long ago."""
        assert self._link is not None
        self._link.spin(0.0)
        if not self._is_heard():
            self._faults["silent"] += 1
            self.close()  # a graph joined anew knows no dead controller, to which commands would go
            raise LinkError(f"no joint states on {self._states} for {SILENT_S:g} s")

    def _take(self, cdr: bytes) -> None:
        """A message of joint states; what is not about both joints is of no use."""
        try:
            message = decode(cdr, STATE)
        except MessageError:
            self._faults["damaged"] += 1
            return
        told = dict(zip(message.name, message.position.tolist(), strict=False))
        at = [joint.sign * told.get(joint.name, math.nan) for joint in self._joints]
        stamp = message.header.stamp
        t_s = self._clock() - time.monotonic() + on_our_clock(stamp.sec + 1e-9 * stamp.nanosec)
        newer = not self._seen or t_s > self._seen[-1].t_s
        if all(map(math.isfinite, at)) and newer:
            self._seen.append(Seen(t_s, (at[0], at[1])))

    # -- commands ---------------------------------------------------------------------------------

    def _obey(self, command: Command) -> bool:
        """Publish what the command asks for; whether it had to be clipped."""
        here = self._seen[-1].at
        if isinstance(command, Move):
            wanted = command.pan, command.tilt
            goal = self._clipped(wanted)
            self._go(goal, max(command.duration_s, self._way_s(goal, self._speed)))
            return goal != wanted
        if isinstance(command, Home):
            self._go(self._home, self._way_s(self._home, HOME_PART * self._speed))
        elif isinstance(command, Hold):
            self._go(here, SOONEST_S)
        elif isinstance(command, Relax) and not self._let_go:
            self._go(here, SOONEST_S)
            self._let_go = True
        else:
            self._insist()
        return False

    def _go(self, goal: Pair, duration_s: float) -> None:
        self._let_go, self._goal = False, goal
        positions = [joint.sign * at for joint, at in zip(self._joints, goal, strict=True)]
        cdr = (
            _positions(positions)
            if self._takes_positions
            else _trajectory([joint.name for joint in self._joints], positions, duration_s)
        )
        self._send(Sent(cdr, self._seen[-1].at, duration_s, 0, 0.0))

    def _send(self, sent: Sent) -> None:
        now_s = self._clock()
        self._arrives_s = now_s + sent.lasts_s
        self._sent = sent._replace(tries=sent.tries + 1, again_s=now_s + AGAIN_S)
        self._publish(sent.cdr)

    def _insist(self) -> None:
        """Publish the command again while the joints stay where they were.

        A controller that was only just found may not have heard it.
        """
        sent, goal = self._sent, self._goal
        if sent is None or goal is None or self._clock() < sent.again_s:
            return
        here = self._seen[-1].at
        if _way(here, sent.start) > FOLLOWED_RAD or _way(here, goal) <= FOLLOWED_RAD:
            self._sent = None
        elif sent.tries < TRIES:
            self._send(sent)
        else:
            self._sent = None
            self._events.append(f"the joints do not follow {self._commands}: are they blocked?")

    @property
    def _takes_positions(self) -> bool:
        return self._commands.endswith("/commands")

    def _clipped(self, wanted: Pair) -> Pair:
        (pan_low, pan_high), (tilt_low, tilt_high) = self._limits
        return min(max(wanted[0], pan_low), pan_high), min(max(wanted[1], tilt_low), tilt_high)

    def _way_s(self, goal: Pair, speed: float) -> float:
        return max(SOONEST_S, _way(goal, self._seen[-1].at) / speed)

    # -- reports ----------------------------------------------------------------------------------

    def _report(self, clipped: bool) -> Report:
        newest = self._seen[-1]
        left_s = self._arrives_s - self._clock()
        events, self._events = self._events, []
        moving = not self._let_go and (left_s > 0.0 or self._turns())
        return Report(
            t_s=newest.t_s,
            goal=newest.at if self._goal is None else self._goal,
            driven=newest.at,
            moving=moving,
            torque_off=self._let_go,
            remaining_s=max(left_s, SOONEST_S) if moving else 0.0,
            clipped=clipped,
            faults=dict(self._faults),
            events=tuple(events),
        )

    def _turns(self) -> bool:
        """Whether they turn, by the newest report and one that is not too near."""
        newest = self._seen[-1]
        before = next(
            (seen for seen in reversed(self._seen) if newest.t_s - seen.t_s >= SPEED_OVER_S), newest
        )
        return _way(newest.at, before.at) > STILL_RAD_PER_S * (newest.t_s - before.t_s)

    def _forget(self) -> None:
        """What was before it was opened counts no longer."""
        self._seen.clear()
        self._goal, self._arrives_s, self._let_go, self._sent = None, -math.inf, False, None


def _way(one: Pair, other: Pair) -> float:
    """The longer of both axes' ways."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _limits_of(name: str, options: Mapping[str, Any]) -> Pair:
    """(low, high) in rad as REP 103 has them, of "low,high" in degrees to the right and up."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)", options[name])
    if found is None:
        raise HeadError(f"{name}={options[name]}: write it as {name}=-90,90")
    low_deg, high_deg = map(float, found.groups())
    return -math.radians(high_deg), -math.radians(low_deg)


def _trajectory(names: list[str], positions: list[float], duration_s: float) -> bytes:
    """From where they are to these positions, begun at once."""
    import numpy as np

    none = np.empty(0)
    whole_s = int(duration_s)
    duration = message_class("builtin_interfaces/msg/Duration")
    at_once = message_class("std_msgs/msg/Header")(
        message_class("builtin_interfaces/msg/Time")(0, 0), ""
    )
    point = message_class(POINT)(
        np.array(positions), none, none, none, duration(whole_s, int(1e9 * (duration_s - whole_s)))
    )
    return encode(message_class(TRAJECTORY)(at_once, names, [point]), TRAJECTORY)


def _positions(positions: list[float]) -> bytes:
    import numpy as np

    layout = message_class(LAYOUT)([], 0)
    return encode(message_class(POSITIONS)(layout, np.array(positions)), POSITIONS)
