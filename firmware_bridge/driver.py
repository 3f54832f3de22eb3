"""What a driver is: the one small interface between PanTiltHead and what really turns a camera.

A driver speaks the head's own unit of position: microseconds of pulse width, steps of a bus servo.
It is synchronous and knows no threads: `PanTiltHead` owns the one thread that uses it, and turns
its unit into radians.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from firmware_bridge.aim import Axis, Limits, Pair


@dataclass(frozen=True)
class Status:
    """Only tell the state. It also shows the head that its host lives."""


@dataclass(frozen=True)
class Move:
    """Go to this position, in the driver's unit, within the head's limits.

    Both axes arrive together after duration_s, Identity.longest_s at most, or as soon as the slower
    one can be there.
    """

    pan: float
    tilt: float
    duration_s: float = 0.0


@dataclass(frozen=True)
class Hold:
    """Stop and stay; torque is on again, where the head is as far as it knows that."""


@dataclass(frozen=True)
class Home:
    """Go to the home position, slowly."""


@dataclass(frozen=True)
class Relax:
    """Torque off, until the next Move, Hold or Home."""


Command = Status | Move | Hold | Home | Relax


class Identity(NamedTuple):
    """Who answered, and what it can do. Pairs are (pan, tilt) in `unit`."""

    name: str  # for people: kind, version, number
    port: str  # the path that was opened
    unit: str  # of its positions: "us", "steps"
    usual: Axis  # how such a servo usually turns, where nothing was measured
    step: float  # the smallest difference between two positions, in `unit`
    limits: Limits
    home: Pair
    speed: Pair  # fastest, in unit/s
    home_speed: Pair  # on the way home, in unit/s
    home_after_s: float | None  # of silence it goes home by itself; None: it never does
    longest_s: float = 3600.0  # that a move may be told to take


@dataclass(frozen=True)
class Report:
    """What a driver knows after a request. Positions are (pan, tilt) in the identity's unit."""

    t_s: float  # when this was so, on the driver's clock: the middle of the round trip
    goal: Pair  # where it is going; with torque off: where it would be held
    driven: Pair | None  # where it is or is being driven just now; None: not known
    moving: bool
    torque_off: bool = False  # driven is then None, or what its own sensors tell
    remaining_s: float = 0.0  # until both axes arrive, as far as it is known; 0 unless moving
    homing: bool = False
    host_lost: bool = False  # it had not heard its host for so long that it held or went home
    was_reset: bool = False  # by whatever, since the last report: its commands are forgotten
    clipped: bool = False  # the command was obeyed within the head's own limits only
    uptime_s: float | None = None  # since it was reset; None: it does not tell
    faults: dict[str, int] = field(default_factory=dict)  # how often, since the driver was made
    events: tuple[str, ...] = ()  # what a person should know happened since the last report


class Driver(Protocol):
    """Drives one head. No method may be called while another one runs."""

    def open(self) -> Identity:
        """Find the port, open it, greet; called again after close() or a LinkError.

        Takes half a second at most: a head that boots for longer is greeted again at the next call.
        Raises LinkError where trying again later may help, HeadMismatch where it is of no use.
        """

    def request(self, command: Command) -> Report:
        """Send the command, with bounded retries; what the head answered.

        Raises LinkError when the line is dead, HeadError when the head refuses.
        """

    def close(self) -> None:
        """Let go of the port. Never raises; closing again does nothing."""
