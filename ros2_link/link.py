"""A place in the graph of ROS 2: topics are read and written as CDR bytes, whatever carries them.

Two implementations: `rclpy_link.py`, where a ROS is installed, and `cyclone_link.py`, which needs
none. Both keep to what ROS 2 says on the wire, so that any node can be at the other end.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import NamedTuple, Protocol

from ros2_link.errors import GraphError, MissingError

BY = "ROS2_LINK"  # the variable of the environment that says which implementation is taken
MOST_DOMAIN = 232  # beyond it there are no ports left for a domain of DDS
INSTALL = 'pip install "edge-rjepa[ros2]", or source the setup.bash of a ROS 2'


class Qos(NamedTuple):
    """How messages are kept and delivered; both ends must fit together."""

    reliable: bool  # sent again when one is lost; a reader that asks for it needs such a writer
    depth: int  # so many of the newest are kept
    latched: bool = False  # (transient local) who comes late is told the last ones


SENSOR = Qos(reliable=False, depth=1)  # of a camera: the newest picture, and no waiting
STATES = Qos(reliable=False, depth=100)  # of joints and transforms: each one counts
USUAL = Qos(reliable=True, depth=10)  # what ROS publishers have unless told otherwise
LATCHED = Qos(reliable=True, depth=100, latched=True)  # of what is said once: /tf_static

Publish = Callable[[bytes], None]


class Link(Protocol):
    """A node of ROS 2. It has no thread: messages are handed out while `spin` runs.

    Names of topics are absolute (/camera/image_raw); types are written as sensor_msgs/msg/Image.
    Publishing may be done from any one thread, all else from the thread that calls `spin`.
    Everything raises GraphError for what cannot be done, and MessageError for an unknown type.
    """

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, on_message: Callable[[bytes], None]
    ) -> None:
        """Hand each message of a topic, as CDR with its 4 bytes of header, to `on_message`."""

    def advertise(self, topic: str, type_name: str, qos: Qos) -> Publish:
        """What publishes a message, given as CDR with its header; it returns at once."""

    def listeners(self, topic: str) -> int:
        """How many subscribers of a topic that is advertised here are known and fit."""

    def topics(self) -> Mapping[str, set[str]]:
        """The topics that somebody publishes, as far as known by now, and their types."""

    def spin(self, timeout_s: float) -> None:
        """Hand out what has come, or wait for it, so long at most."""

    def drain_events(self) -> list[str]:
        """What went wrong since the last call, in words: an end whose QoS or type does not fit."""

    def close(self) -> None:
        """Leave the graph; closing again does nothing."""

    def __enter__(self) -> Link: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_link(node: str, namespace: str = "", domain: int | None = None) -> Link:
    """A node of this name in the graph.

    domain: None for that of ROS_DOMAIN_ID, 0 without it. Of the environment, ROS 2's other
    variables count as they do for any node: ROS_AUTOMATIC_DISCOVERY_RANGE and ROS_LOCALHOST_ONLY
    keep it to this machine. ROS2_LINK is "rclpy" or "cyclonedds"; without it rclpy is taken where
    it can be imported. Raises GraphError.
    """
    domain = domain_id() if domain is None else domain
    if which() == "rclpy":
        from ros2_link.rclpy_link import RclpyLink

        return RclpyLink(node, namespace, domain)
    from ros2_link.cyclone_link import CycloneLink

    return CycloneLink(node, namespace, domain)


def which() -> str:
    """Which implementation is taken: "rclpy" or "cyclonedds". Raises MissingError for none."""
    asked = os.environ.get(BY, "")
    if asked not in ("", "rclpy", "cyclonedds"):
        raise GraphError(f"{BY}={asked}: there are rclpy and cyclonedds")
    for name in (asked,) if asked else ("rclpy", "cyclonedds"):
        if importlib.util.find_spec(name) is not None:
            return name
    raise MissingError(f"ROS 2 needs {asked or 'rclpy or cyclonedds'}: {INSTALL}")


def domain_id(text: str | None = None) -> int:
    """The domain that a person wrote, or else that of ROS_DOMAIN_ID, or else 0.

    Raises GraphError for what is none.
    """
    named = text is not None
    text = text if text is not None else os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > MOST_DOMAIN:
        raise GraphError(
            f"{'domain' if named else 'ROS_DOMAIN_ID'}={text}: it must be 0 to {MOST_DOMAIN}"
        )
    return int(text)


def this_machine_only() -> bool:
    """Whether the environment keeps ROS 2 to this machine, in the words of old or new releases."""
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
    return os.environ.get("ROS_LOCALHOST_ONLY") == "1" or reach == "LOCALHOST"


def full_name(name: str, namespace: str = "") -> str:
    """The absolute name of a topic: below `namespace` unless it begins with /.

    Raises GraphError for what ROS 2 does not take as a name.
    """
    whole = name if name.startswith("/") else f"/{namespace.strip('/')}/{name}".replace("//", "/")
    if not re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)+", whole):
        raise GraphError(
            f"{whole!r} is no name in ROS 2: letters, digits and _ between /, no digit first"
        )
    return whole


def qos_does_not_fit(topic: str, other: str, policy: str) -> str:
    """The event that the other end, a publisher or subscriber, was found and does not fit."""
    return (
        f"{topic}: its {other} has another {policy.lower()} than is needed here, so that nothing "
        "comes through: change its QoS"
    )


def type_does_not_fit(topic: str, other: str, found: Collection[str], needed: str) -> str:
    """The event that the other end, a publisher or subscriber, was found and is of other types."""
    return (
        f"{topic}: its {other} has {' and '.join(sorted(found))}, and {needed} is needed here, so "
        "that nothing comes through: name another topic"
    )
