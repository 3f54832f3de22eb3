"""The kinds of head: one record each. A new kind is a driver's module and one record in KINDS.

A head is named `KIND:PORT?option=value&..`; the driver's module is imported when one is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from firmware_bridge.driver import Driver
from firmware_bridge.errors import HeadError

Options = Mapping[str, Any]  # whole numbers and texts
MOST_WHOLE = 2**31 - 1  # of a number in a name: no port can be told a higher rate


@dataclass(frozen=True)
class Kind:
    """What is known of all heads of one kind before any of them is opened."""

    prefix: str
    example: str  # for help: how such a head is named
    driver: Callable[[str | None, Options], Driver]  # of its port, None for the only one
    options: Options = field(default_factory=dict)  # after ?, and what they usually are
    keeps_settings: bool = False  # its driver has `greeting` and `configure`, as ServoBoard


def _servo_board(port: str | None, options: Options) -> Driver:
    from firmware_bridge.link import ServoBoard
    from firmware_bridge.ports import SerialPort

    return ServoBoard(SerialPort(port))


def _sts_bus(port: str | None, options: Options) -> Driver:
    from firmware_bridge.feetech import StsBus
    from firmware_bridge.ports import SerialPort

    line = SerialPort(port, baud=options["baud"])
    return StsBus(line, (options["pan"], options["tilt"]))


def _joints(topic: str | None, options: Options) -> Driver:
    from firmware_bridge.ros_joints import RosJoints

    return RosJoints.named(topic, options)


KINDS = [
    Kind("serial:", "serial: (the only board), serial:PORT", _servo_board, keeps_settings=True),
    Kind(
        "feetech:",
        "feetech:PORT?pan=1&tilt=2&baud=1000000",
        _sts_bus,
        {"pan": 1, "tilt": 2, "baud": 1_000_000},
    ),
    Kind(
        "ros2:",
        "ros2:/CONTROLLER/joint_trajectory?joints=PAN,TILT",
        _joints,
        {
            "joints": "pan_joint,tilt_joint",
            "states": "/joint_states",
            "pan_deg": "-90,90",
            "tilt_deg": "-60,60",
            "deg_per_s": 60,
            "domain": "",
        },
    ),
]


def supported() -> str:
    """How heads are named, for help and for whoever named none."""
    return ", ".join(kind.example for kind in KINDS)


def kind_of(spec: str) -> Kind:
    """The kind of the head that `spec` names. Raises HeadError for an unknown one."""
    for kind in KINDS:
        if spec.startswith(kind.prefix) and (kind.options or "?" not in spec):
            return kind
    raise HeadError(f"unknown head {spec!r}: use {supported()}")


def driver_of(spec: str) -> Driver:
    """The driver that `spec` names, not opened yet.

    spec: `serial:PORT`, a board with this project's firmware; `feetech:PORT?pan=1&tilt=2`, two
    servos of the STS series by their numbers, `&baud=` where it is not 1000000;
    `ros2:/TOPIC?joints=PAN,TILT`, joints of a robot that runs ROS 2, as ros_joints.py has it.
    Without PORT it is the only serial device there is. Raises HeadError for anything else.
    """
    kind = kind_of(spec)
    port, _, query = spec.removeprefix(kind.prefix).partition("?")
    return kind.driver(port or None, _options(kind, spec, query))


def _options(kind: Kind, spec: str, query: str) -> dict[str, Any]:
    """The kind's options with those in `pan=1&tilt=2`. Raises HeadError."""
    usual = kind.options
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        asked = {name: type(usual[name])(value) for name, value in pairs}
        if any(abs(value) > MOST_WHOLE for value in asked.values() if isinstance(value, int)):
            raise ValueError
    except (KeyError, ValueError):
        shown = "&".join(f"{name}={value}" for name, value in usual.items())
        raise HeadError(f"{spec!r}: after ? belongs {shown}, all as you need it") from None
    return {**usual, **asked}
