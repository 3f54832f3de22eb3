"""How angles become positions of the servos, and back."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from firmware_bridge.errors import HeadError, HeadMismatch

Pair = tuple[float, float]  # pan, tilt
Limits = tuple[Pair, Pair]  # (lowest, highest) of pan, of tilt


class Aim(Protocol):
    """A head's positions, in its driver's unit, as (pan_rad, tilt_rad), both axes together.

    Where a head stands may depend on where it comes from: servos have backlash. NaN stands for
    angles that are not known.
    """

    def limits_rad(self, of_head: Limits) -> Limits:
        """The angles that can be reached within a head's limits. Raises when there are none."""

    def positions(self, angles_rad: Pair, here_rad: Pair) -> Pair:
        """What brings the head from where it stands to these angles, or as near as it can."""

    def angles_rad(self, positions: Pair, before_rad: Pair) -> Pair:
        """Where the head stands at these positions after it stood at before_rad."""


class Axis(NamedTuple):
    """How an angle becomes a position in the driver's unit: zero + per_rad * angle_rad.

    per_rad is negative for a servo that is mounted the other way round.
    """

    zero: float  # the position at angle 0
    per_rad: float
    low_rad: float = -math.inf
    high_rad: float = math.inf

    def position(self, angle_rad: float) -> float:
        """Position of the angle, in the driver's unit."""
        return self.zero + self.per_rad * angle_rad

    def angle_rad(self, position: float) -> float:
        """Angle at the position."""
        return (position - self.zero) / self.per_rad


PULSES = Axis(zero=1500.0, per_rad=2000.0 / math.pi)  # us: 1000 of them turn a servo by 90 degrees
STEPS = Axis(zero=2048.0, per_rad=4096.0 / math.tau)  # of a bus servo: 4096 of them make a turn


class StraightAim:
    """Each axis for itself, by a straight line, without backlash.

    Raises HeadError for an axis that makes no sense.
    """

    def __init__(self, pan: Axis, tilt: Axis) -> None:
        self._axes = checked(pan), checked(tilt)

    def limits_rad(self, of_head: Limits) -> Limits:
        """As Aim has it. Raises HeadMismatch when there are none."""
        pan, tilt = map(common_limits_rad, self._axes, of_head)
        return pan, tilt

    def positions(self, angles_rad: Pair, here_rad: Pair) -> Pair:
        """As Aim has it; wherever the head stands."""
        pan, tilt = self._axes
        return pan.position(angles_rad[0]), tilt.position(angles_rad[1])

    def angles_rad(self, positions: Pair, before_rad: Pair) -> Pair:
        """As Aim has it; wherever the head stood."""
        pan, tilt = self._axes
        return pan.angle_rad(positions[0]), tilt.angle_rad(positions[1])


def checked(axis: Axis) -> Axis:
    """The axis, if it makes sense. Raises HeadError."""
    fine = math.isfinite(axis.zero) and math.isfinite(axis.per_rad) and axis.per_rad != 0.0
    if not (fine and axis.low_rad < axis.high_rad):
        raise HeadError(f"{axis}: zero and per_rad must be finite, not 0, and low_rad < high_rad")
    return axis


def common_limits_rad(axis: Axis, of_head: Pair) -> Pair:
    """(lowest, highest) angle that both the axis and the head's (low, high) allow.

    Raises HeadMismatch if there is none.
    """
    low_rad, high_rad = sorted(map(axis.angle_rad, of_head))
    low_rad, high_rad = max(low_rad, axis.low_rad), min(high_rad, axis.high_rad)
    if low_rad > high_rad:
        raise HeadMismatch(
            f"the limits ({axis.low_rad:.3f}, {axis.high_rad:.3f}) rad and the head's own, "
            f"{of_head}, have nothing in common: set its limits"
        )
    return low_rad, high_rad
